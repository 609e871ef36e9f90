"""The only door to transformers and the hub: what they raise becomes a CheckpointError, what they log stays inside.

Code that lies beside a checkpoint is never run.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nvcim_jax.llm.config import CheckpointError
from nvcim_jax.llm.folder import one_line

WANTED = ("config.json", "generation_config.json", "quantize_config.json", "*.safetensors", "*.safetensors.index.json",
          "tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")  # fmt: skip


def snapshot(name: str, revision: str | None) -> Path:
    """The folder in the hub's cache of the model `name`, downloaded where it is not there yet."""
    from huggingface_hub import snapshot_download

    with _said_plainly(f"{name} is no folder here, and the hub did not give it"):
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(WANTED)))


def configuration(told: dict) -> Any:
    """What transformers makes of these fields of a config.json: its defaults, and one form of the rope parameters."""
    with _said_plainly("transformers refuses the settings"):
        from transformers import AutoConfig  # 0.5 s, so only when a model is wanted

        return AutoConfig.for_model(**told)


def tokenizer(folder: Path, hf: Any) -> Any:
    """The tokenizer of a folder, for the configuration `hf`."""
    with _said_plainly("the tokenizer cannot be read"):
        from transformers import AutoTokenizer

        # Lengths are ours to check; the tokenizer would warn about texts that are cut before the model reads them.
        # A text that holds the name of a special token, such as "</s>", is text.
        here = {"config": hf, "trust_remote_code": False, "local_files_only": True}
        return AutoTokenizer.from_pretrained(folder, **here, model_max_length=10**9, split_special_tokens=True)


@contextmanager
def _said_plainly(what: str) -> Iterator[None]:
    """Errors of any kind, as a CheckpointError of one line; advice and warnings are not shown.

    Damaged files make these libraries raise nearly everything, the panics of Rust among it.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # every script would be advised to install PyTorch
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{what} ({one_line(error)})") from error
    finally:
        logging.set_verbosity(before)

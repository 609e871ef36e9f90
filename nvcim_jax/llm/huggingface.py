"""The only door to transformers and the hub: what they raise becomes a CheckpointError, what they log stays inside.

Code that lies beside a checkpoint is never run.
"""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nvcim_jax.llm.config import CheckpointError
from nvcim_jax.llm.folder import one_line

WANTED = ("config.json", "generation_config.json", "quantize_config.json", "*.safetensors", "*.safetensors.index.json",
          "tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json",
          "chat_template.jinja")  # fmt: skip

# Lengths are ours to check; the tokenizer would warn about texts that are cut before the model reads them. A text that
# holds the name of a special token, such as "</s>", is text.
_AS_TEXT = {"model_max_length": 10**9, "split_special_tokens": True}


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

        here = {"config": hf, "trust_remote_code": False, "local_files_only": True}
        return AutoTokenizer.from_pretrained(folder, **here, **_AS_TEXT)


def gguf_tokenizer(architecture: str, words: dict, *, digits: bool, whole: bool, spaced: bool, **options: Any) -> Any:
    """The tokenizer that the `words` of a GGUF file make, in the names of transformers' converter.

    With `digits` every digit stands alone, with `whole` a word of the vocabulary is never cut; `spaced` puts the space
    of sentencepiece before a text. `options` are the tokenizer's own.
    """
    with _said_plainly("the tokenizer cannot be read"):
        from tokenizers import pre_tokenizers
        from transformers import PreTrainedTokenizerFast
        from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

        backend = _without_others(convert_gguf_tokenizer(architecture, words)[0], len(words["tokens"]))
        if digits:
            by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), by_bytes])
        if whole:
            backend.model.ignore_merges = True
        if not spaced and isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
        return PreTrainedTokenizerFast(tokenizer_object=backend, **_AS_TEXT, **options)


def _without_others(backend: Any, count: int) -> Any:
    """A tokenizer of its first `count` tokens: the converter adds those that GPT-2 and Llama always have."""
    told = json.loads(backend.to_str())
    told["added_tokens"] = [token for token in told["added_tokens"] if token["id"] < count]
    return type(backend).from_str(json.dumps(told))


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

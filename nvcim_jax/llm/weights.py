"""Hugging Face checkpoints in and out: config.json, safetensors (sharded or not, GPTQ or not), tokenizer."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import DTypeLike, PyTree
from safetensors.numpy import save_file

from nvcim_jax.llm import families, huggingface, names, parameters, tokens
from nvcim_jax.llm.config import CheckpointError, Config
from nvcim_jax.llm.folder import check_links, one_line


class Model(NamedTuple):
    """A frozen language model: weights, sizes, tokenizer, and the tokens that end an answer."""

    params: PyTree
    config: Config
    tokenizer: Any
    ends: tuple[int, ...]


def load(
    path_or_hub_name: Path | str,
    *,
    dtype: DTypeLike | None = None,
    dequantise: Literal["load", "lazy"] = "load",
    revision: str | None = None,
) -> Model:
    """The checkpoint in a folder, or of a Hugging Face hub name such as "google/gemma-2b" (at `revision`).

    Weights become float32 on CPU and bfloat16 elsewhere unless `dtype` names one of the two. GPTQ weights are
    dequantised now ("load"), or kept packed and dequantised layer by layer inside the program ("lazy": less memory,
    slower).

    Raises CheckpointError when there is no checkpoint, or one that is damaged, incomplete or of a family, rope type,
    activation or packing that is not known here. All that is told about sizes is compared before memory is taken. Only
    safetensors are read: a pickle could run code.
    """
    if dequantise not in ("load", "lazy"):
        raise ValueError(f"dequantise {dequantise!r}: 'load' or 'lazy' is needed")
    usual: DTypeLike = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    kind = usual if dtype is None else dtype
    if kind not in ("float32", "bfloat16", jnp.float32, jnp.bfloat16):
        raise ValueError(f"dtype {kind!r}: float32 or bfloat16 is needed (activations can outgrow float16)")
    try:
        folder = _folder(path_or_hub_name, revision)
        return _load(folder, kind, dequantise == "lazy")
    except CheckpointError as error:
        if str(path_or_hub_name) in str(error):
            raise
        raise CheckpointError(f"{path_or_hub_name}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path_or_hub_name} cannot be read ({one_line(error)})") from error


def _load(folder: Path, dtype: DTypeLike, lazy: bool) -> Model:
    check_links(folder)
    config, how, hf = families.read(folder)
    if lazy:
        if how is None:
            raise CheckpointError(f"{folder} is not quantised: it has no packed words to keep")
        config = replace(config, packed=how)
    parts = parameters.planned(folder, hf.model_type, config, how)
    tokenizer, ends = tokens.read(folder, hf, config.vocab_size)
    flat = {part.ours: jax.device_put(parameters.read(part, dtype)) for part in parts}
    return Model(traverse_util.unflatten_dict(flat, sep="/"), config, tokenizer, ends)


def save_weights(path: Path | str, params: PyTree, config: Config, dtype: DTypeLike = np.float16) -> None:
    """Write the `params` of a plain Llama as a Hugging Face safetensors file in `dtype`."""
    flat = traverse_util.flatten_dict(params, sep="/")
    tensors = {
        names.source("llama", config, ours).name: np.ascontiguousarray(leaf, dtype) for ours, leaf in flat.items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def _folder(path_or_hub_name, revision) -> Path:
    folder = Path(path_or_hub_name).expanduser()
    name = str(path_or_hub_name)
    if not folder.is_dir():
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise CheckpointError(f"{name} is neither a folder nor a hub name such as google/gemma-2b")
        folder = huggingface.snapshot(name, revision)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json: give the folder of a Hugging Face checkpoint")
    return folder

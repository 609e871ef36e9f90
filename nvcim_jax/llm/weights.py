"""Checkpoints in: folders of Hugging Face (safetensors, sharded or not, GPTQ or not) and GGUF files. Weights out."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import DTypeLike, PyTree
from safetensors.numpy import save_file

from nvcim_jax.llm import (
    families,
    gguf_config,
    gguf_file,
    gguf_tokens,
    huggingface,
    names,
    nibbles,
    parameters,
    room,
    tensors,
    tokens,
)  # fmt: skip
from nvcim_jax.llm.config import CheckpointError, Config
from nvcim_jax.llm.folder import check_link, check_links, one_line


class Model(NamedTuple):
    """A frozen language model: weights, sizes, tokenizer, and the tokens that end an answer."""

    params: PyTree
    config: Config
    tokenizer: Any
    ends: tuple[int, ...]
    memory: int | None = None  # bytes that the process may take; None for half of what is free
    is_embedded: bool = False  # the toy model that is part of the package


def load(
    path_or_hub_name: Path | str,
    *,
    dtype: DTypeLike | None = None,
    dequantise: Literal["load", "lazy"] = "load",
    revision: str | None = None,
    memory: int | str | None = None,
) -> Model:
    """The checkpoint in a folder, in a GGUF file, or of a Hugging Face hub name such as "google/gemma-2b" (at
    `revision`).

    Weights become float32 on CPU and bfloat16 elsewhere unless `dtype` names one of the two. Those of GPTQ, and those
    of a GGUF file that lie in blocks of 4 bits (`nibbles.KINDS`), are dequantised now ("load"), or kept packed and
    dequantised layer by layer inside the program ("lazy": less memory, slower). `memory`, in bytes or as "6GB", is what
    the process may take when it tunes and answers; half of what is free if none is given.

    Raises CheckpointError when there is no checkpoint, or one that is damaged, incomplete or of a family, rope type,
    activation or packing that is not known here. All that is told about sizes is compared before memory is taken. Only
    safetensors and GGUF files are read: a pickle could run code.
    """
    if dequantise not in ("load", "lazy"):
        raise ValueError(f"dequantise {dequantise!r}: 'load' or 'lazy' is needed")
    usual: DTypeLike = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    kind = usual if dtype is None else dtype
    if kind not in ("float32", "bfloat16", jnp.float32, jnp.bfloat16):
        raise ValueError(f"dtype {kind!r}: float32 or bfloat16 is needed (activations can outgrow float16)")
    memory = room.parse(memory) if isinstance(memory, str) else memory
    try:
        file = Path(path_or_hub_name).expanduser()
        if file.suffix.lower() == ".gguf" and not file.is_dir():
            return _load_gguf(file, kind, dequantise == "lazy")._replace(memory=memory)
        folder = _folder(path_or_hub_name, revision)
        return _load(folder, kind, dequantise == "lazy")._replace(memory=memory)
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
    parts = parameters.planned(folder, tensors.found(folder), names.FAMILIES[hf.model_type], config, how)
    tokenizer, ends = tokens.read(folder, hf, config.vocab_size)
    return Model(_read(parts, dtype, lazy), config, tokenizer, ends)


def _load_gguf(path: Path, dtype, lazy: bool) -> Model:
    check_link(path)
    header = gguf_file.header(path)
    config, weights, called = gguf_config.read(header)
    parts = parameters.planned(path, weights, called, config, None)
    if lazy and not any(map(parameters.is_nibbles, parts)):
        raise CheckpointError(
            f"{path} has no layer in {', '.join(nibbles.KINDS)} to keep packed: choose float32 or bfloat16"
        )
    tokenizer, ends = gguf_tokens.read(header, config.vocab_size)
    return Model(_read(parts, dtype, lazy), config, tokenizer, ends)


def _read(parts: list[parameters.Part], dtype, lazy: bool) -> PyTree:
    flat = {}
    for part in parts:
        packed = lazy and parameters.is_nibbles(part)
        leaves = parameters.read_nibbles(part) if packed else {part.ours: parameters.read(part, dtype)}
        flat |= {ours: jax.device_put(leaf) for ours, leaf in leaves.items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def save_weights(path: Path | str, params: PyTree, config: Config, dtype: DTypeLike = np.float16) -> None:
    """Write the `params` of a plain Llama as a Hugging Face safetensors file in `dtype`."""
    flat = traverse_util.flatten_dict(params, sep="/")
    called = names.FAMILIES["llama"]
    written = {
        names.source(called, config, ours).name: np.ascontiguousarray(leaf, dtype) for ours, leaf in flat.items()
    }
    save_file(written, path, metadata={"format": "pt"})


def _folder(path_or_hub_name, revision) -> Path:
    folder = Path(path_or_hub_name).expanduser()
    name = str(path_or_hub_name)
    if not folder.is_dir():
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise CheckpointError(f"{name} is neither a folder nor a hub name such as google/gemma-2b")
        folder = huggingface.snapshot(name, revision)
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} holds no config.json: give the folder of a Hugging Face checkpoint, or a .gguf file"
        )
    return folder

"""Hugging Face checkpoints in and out: config.json, safetensors (sharded or not, GPTQ or not), tokenizer."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nvcim_jax.llm import gptq, names
from nvcim_jax.llm.config import CheckpointError, Config, Packed, from_hf
from nvcim_jax.llm.decoder import Decoder

_WANTED = ("config.json", "generation_config.json", "quantize_config.json", "*.safetensors", "*.safetensors.index.json",
           "tokenizer*", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")  # fmt: skip
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


class Model(NamedTuple):
    """A frozen language model: weights, sizes, tokenizer, and the tokens that end an answer."""

    params: PyTree
    config: Config
    tokenizer: Any
    ends: tuple[int, ...]


def load(
    path_or_hub_name: Path | str,
    *,
    dtype=None,
    dequantise: Literal["load", "lazy"] = "load",
    revision: str | None = None,
) -> Model:
    """The checkpoint in a folder, or of a Hugging Face hub name such as "google/gemma-2b" (at `revision`).

    Weights become float32 on CPU and bfloat16 elsewhere unless `dtype` names one of the two. GPTQ weights are
    dequantised now ("load"), or kept packed and dequantised layer by layer inside the program ("lazy": less memory,
    slower).

    Raises CheckpointError when there is no checkpoint, or one that is damaged, incomplete or of a family, rope type,
    activation or packing that is not known here. Only safetensors are read: a pickle could run code.
    """
    if dequantise not in ("load", "lazy"):
        raise ValueError(f"dequantise {dequantise!r}: 'load' or 'lazy' is needed")
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    if dtype not in ("float32", "bfloat16", jnp.float32, jnp.bfloat16):
        raise ValueError(f"dtype {dtype!r}: float32 or bfloat16 is needed (activations can outgrow float16)")
    folder = _folder(path_or_hub_name, revision)
    family, config, how = _read_config(folder)
    if dequantise == "lazy":
        if how is None:
            raise CheckpointError(f"{folder} is not quantised: it has no packed words to keep")
        config = replace(config, packed=how)
    tokenizer, ends = _read_tokenizer(folder)
    if len(tokenizer) > config.vocab_size:
        raise CheckpointError(f"{folder}: {len(tokenizer)} tokens, but the embedding has {config.vocab_size} rows")
    return Model(_read_params(folder, family, config, how, dtype), config, tokenizer, ends)


def shapes(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Our name of every parameter -> its shape and type."""
    tree = jax.eval_shape(Decoder(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return traverse_util.flatten_dict(tree, sep="/")


def save_weights(path: Path | str, params: PyTree, config: Config, dtype=np.float16) -> None:
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
        from huggingface_hub import snapshot_download

        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(_WANTED)))
        except Exception as error:  # its errors come from four libraries; what they mean to the user is the same
            raise CheckpointError(
                f"{name} is no folder here, and the hub did not give it ({_first_line(error)})"
            ) from error
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json: give the folder of a Hugging Face checkpoint")
    return folder


def _read_config(folder: Path) -> tuple[str, Config, Packed | None]:
    from transformers import AutoConfig  # 0.5 s, so only when a model is wanted

    try:
        hf = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config = from_hf(hf)
        told = getattr(hf, "quantization_config", None)
        if told is None and (folder / "quantize_config.json").is_file():
            told = json.loads((folder / "quantize_config.json").read_text())
        return hf.model_type, config, gptq.packed(told) if told else None
    except CheckpointError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    except (ValueError, OSError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is of no known model family ({_first_line(error)})") from error


def _read_tokenizer(folder: Path) -> tuple[Any, tuple[int, ...]]:
    from transformers import AutoTokenizer, GenerationConfig

    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise CheckpointError(f"{folder} holds no tokenizer.json: save the tokenizer beside the weights")
    try:
        # Lengths are ours to check; the tokenizer would warn about texts that are cut before the model reads them.
        # A text that holds the name of a special token, such as "</s>", is text.
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, model_max_length=10**9, split_special_tokens=True
        )
    except Exception as error:  # whatever a damaged file makes the tokenizers raise
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({_first_line(error)})") from error
    ends = tokenizer.eos_token_id
    if (folder / "generation_config.json").is_file():
        ends = GenerationConfig.from_pretrained(folder).eos_token_id or ends
    return tokenizer, tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,)


def _read_params(folder: Path, family: str, config: Config, how: Packed | None, dtype) -> PyTree:
    where = _tensor_files(folder)
    wanted = shapes(config)
    sources = {ours: names.source(family, config, ours) for ours in wanted}
    files = _match(folder, where, sources, config.tied, how)
    flat = {}
    # The largest first: what reading needs beside the weights is then never on top of all of them.
    for ours in sorted(wanted, key=lambda ours: -np.prod(wanted[ours].shape)):
        source, expected = sources[ours], wanted[ours]
        kept = expected.dtype if source.leaf in gptq.LEAVES else dtype
        value = _read(ours, source, files, family, how, kept)
        if value.shape != expected.shape:
            raise CheckpointError(
                f"{source.name} has shape {value.shape} as [out, in]; config.json asks for {expected.shape}"
            )
        if value.dtype.kind != "i" and np.isnan(np.min(value)):
            warnings.warn(f"{folder}: {source.name} holds NaN: every answer will be wrong", stacklevel=3)
        flat[ours] = jax.device_put(value)
    return traverse_util.unflatten_dict(flat, sep="/")


def _match(folder, where, sources, tied, how) -> dict[str, tuple[Path, str]]:
    """The file, and the name in it, of every tensor wanted. Raises CheckpointError for missing and unknown ones."""
    full = {name: (path, name) for name, path in where.items()}
    stem = sources["embedding/embedding"].module.split(".")[0]
    if not any(name.startswith(f"{stem}.") for name in where):  # saved from the bare decoder, which has no stem
        full |= {f"{stem}.{name}": found for name, found in full.items()}
    wanted, missing = set(), []
    for source in sources.values():
        packed_names = [f"{source.module}.{leaf}" for leaf in gptq.LEAVES]
        if source.name in full:
            wanted.add(source.name)
        elif how and source.leaf == "weight" and all(name in full for name in packed_names):
            wanted.update(packed_names)
        else:
            missing.append(source.name)
    read = {full[name][1] for name in wanted}
    unused = [name for name in where if name not in read and not name.endswith(names.BUFFERS)]
    unused = [name for name in unused if not (tied and name == "lm_head.weight")]
    if how:  # AutoGPTQ writes a bias of zeros for every layer
        unused = [name for name in unused if not (name.endswith(".bias") and not np.any(_tensor(where[name], name)))]
    if missing or unused:
        raise CheckpointError(
            f"{folder}: tensors missing {sorted(missing)[:3] or 'none'}, tensors unknown {sorted(unused)[:3] or 'none'}"
        )
    return full


def _read(ours, source, files, family, how, dtype) -> np.ndarray:
    """One parameter, turned and cut as ours, as a fresh array in `dtype`."""
    if source.name not in files:
        words = [_tensor(*files[f"{source.module}.{leaf}"]) for leaf in gptq.LEAVES]
        gptq.warn_of_wrapped_zeros(source.module, words[1], how)
        kernel = gptq.dequantise(*words, bits=how.bits, checkpoint_format=how.checkpoint_format)
        return np.asarray(_outputs(kernel, source.outputs).T, dtype, order="C")
    tensor = _tensor(*files[source.name])
    if source.leaf in ("qweight", "scales"):
        return np.asarray(_outputs(tensor, source.outputs), dtype)
    if source.leaf == "qzeros":
        gptq.warn_of_wrapped_zeros(source.module, tensor, how)
        per_word = 32 // how.bits
        words = None if source.outputs is None else source.outputs[::per_word] // per_word
        return np.asarray(_outputs(tensor, words), dtype)
    if names.FAMILIES[family].inputs_first and ours.endswith("weight") and source.module != "lm_head":
        tensor = tensor.T
    if source.outputs is not None and source.leaf != "g_idx":
        tensor = tensor[source.outputs]
    return np.asarray(tensor, dtype, order="C")


def _outputs(tensor, outputs):
    return tensor if outputs is None else tensor[:, outputs]


def _tensor(path: Path, name: str) -> np.ndarray:
    """A tensor alone: the file is closed again, so that its pages do not stay."""
    with safe_open(path, framework="np") as file:
        return file.get_tensor(name)


def _tensor_files(folder: Path) -> dict[str, Path]:
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    others = [path for path in sorted(folder.glob("*.safetensors")) if path != single]
    if index.is_file():
        try:
            told = json.loads(index.read_text())["weight_map"]
            files = {name: folder / Path(file).name for name, file in told.items()}
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index} is damaged: download it again") from error
        absent = sorted({path.name for path in files.values() if not path.is_file()})
        if absent:
            raise CheckpointError(f"{folder}: shard {absent[0]} is missing: download it again")
        inside = {path: set(_names_in(path)) for path in set(files.values())}
        for name, path in files.items():
            if name not in inside[path]:
                raise CheckpointError(f"{path} lacks {name}, which the index places there: download it again")
    elif single.is_file() or len(others) == 1:  # GPTQ editions name their one file after the packing
        single = single if single.is_file() else others[0]
        files = dict.fromkeys(_names_in(single), single)
    else:
        raise CheckpointError(f"{folder} holds no model.safetensors (pickled weights are not read: they can run code)")
    return files


def _names_in(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="np") as file:
            return list(file.keys())
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}): download it again") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

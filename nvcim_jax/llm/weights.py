"""Hugging Face folders in and out: config.json, model.safetensors (sharded or not), tokenizer.json."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nvcim_jax.llm.config import CheckpointError, Config, from_hf

# Our name of a tensor -> its name in the file; a kernel is the transpose of a torch weight.
_LAYER = {
    "attention_norm/scale": "input_layernorm.weight",
    "attention/q/kernel": "self_attn.q_proj.weight",
    "attention/k/kernel": "self_attn.k_proj.weight",
    "attention/v/kernel": "self_attn.v_proj.weight",
    "attention/o/kernel": "self_attn.o_proj.weight",
    "mlp_norm/scale": "post_attention_layernorm.weight",
    "gate/kernel": "mlp.gate_proj.weight",
    "up/kernel": "mlp.up_proj.weight",
    "down/kernel": "mlp.down_proj.weight",
}


class Model(NamedTuple):
    """A frozen language model: weights, sizes, tokenizer."""

    params: PyTree
    config: Config
    tokenizer: Any


def load(folder: Path | str, *, dtype=None) -> Model:
    """The Llama-style checkpoint in `folder`; float32 on CPU and bfloat16 elsewhere unless `dtype` is given.

    Raises CheckpointError when the folder is no checkpoint, of an unknown family, or incomplete. Only safetensors
    are read: a pickle could run code.
    """
    from transformers import AutoConfig, AutoTokenizer  # 0.5 s, so only when a model is wanted

    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json: give the folder of a Hugging Face checkpoint")
    try:
        hf = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        config = from_hf(hf)
    except CheckpointError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    except (ValueError, OSError, KeyError, AttributeError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{folder / 'config.json'} is of no known model family ({first_line})") from error
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder} holds no tokenizer.json: save the tokenizer beside the weights")
    # Lengths are ours to check; the tokenizer would warn about texts that are cut before the model reads them.
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, model_max_length=10**9)
    if len(tokenizer) > config.vocab_size:
        raise CheckpointError(f"{folder}: {len(tokenizer)} tokens, but the embedding has {config.vocab_size} rows")
    dtype = dtype or (jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    return Model(_read_params(folder, config, dtype), config, tokenizer)


def names(config: Config) -> dict[str, str]:
    """Every parameter of the decoder, ours -> the checkpoint's."""
    table = {"embedding/embedding": "model.embed_tokens.weight", "norm/scale": "model.norm.weight"}
    if not config.tied:
        table["head/kernel"] = "lm_head.weight"
    for layer in range(config.layers):
        table |= {f"blocks_{layer}/{ours}": f"model.layers.{layer}.{theirs}" for ours, theirs in _LAYER.items()}
    return table


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Our name of every parameter -> its shape."""
    from nvcim_jax.llm.decoder import Decoder

    tree = jax.eval_shape(Decoder(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    return {name: leaf.shape for name, leaf in traverse_util.flatten_dict(tree, sep="/").items()}


def save_weights(path: Path | str, params: PyTree, config: Config, dtype=np.float16) -> None:
    """Write `params` as a Hugging Face safetensors file in `dtype`."""
    flat = traverse_util.flatten_dict(params, sep="/")
    tensors = {
        theirs: np.ascontiguousarray(_turned(ours, np.asarray(flat[ours], dtype)))
        for ours, theirs in names(config).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def _read_params(folder: Path, config: Config, dtype) -> PyTree:
    where = _tensor_files(folder)
    table, expected = names(config), shapes(config)
    missing = sorted(set(table.values()) - set(where))
    unused = sorted(set(where) - set(table.values()) - ({"lm_head.weight"} if config.tied else set()))
    unused = [name for name in unused if not name.endswith("rotary_emb.inv_freq")]
    if missing or unused:
        raise CheckpointError(
            f"{folder}: tensors missing {missing[:3] or 'none'}, tensors unknown {unused[:3] or 'none'}"
        )
    flat = {}
    for path in sorted(set(where.values())):
        with safe_open(path, framework="np") as file:
            for ours, theirs in table.items():
                if where[theirs] == path:
                    tensor = _turned(ours, file.get_tensor(theirs))
                    if tensor.shape != expected[ours]:
                        raise CheckpointError(
                            f"{path.name}: {theirs} has shape {tensor.shape}; config.json asks for {expected[ours]}"
                        )
                    flat[ours] = jnp.asarray(tensor, dtype)
    return traverse_util.unflatten_dict(flat, sep="/")


def _tensor_files(folder: Path) -> dict[str, Path]:
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.is_file():
        files = {name: folder / Path(file).name for name, file in json.loads(index.read_text())["weight_map"].items()}
        absent = sorted({path.name for path in files.values() if not path.is_file()})
        if absent:
            raise CheckpointError(f"{folder}: shard {absent[0]} is missing: download it again")
        return files
    if not single.is_file():
        raise CheckpointError(f"{folder} holds no model.safetensors (pickled weights are not read: they can run code)")
    try:
        with safe_open(single, framework="np") as file:
            return dict.fromkeys(file.keys(), single)
    except SafetensorError as error:
        raise CheckpointError(f"{single} is damaged ({error}): download it again") from error


def _turned(ours: str, tensor):
    return tensor.T if ours.endswith("kernel") else tensor

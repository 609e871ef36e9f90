"""Checkpoints of random weights in the shapes of real ones, as Hugging Face folders."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from bench.harness import SEED
from nvcim_jax.llm import decoder, families, names, parameters, weights
from nvcim_jax.llm.config import Config

SHARD = 1 << 30  # bytes
CONTEXT = 1024  # of a small Llama


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True}
MODELS = {
    "gemma-2b": {
        "model_type": "gemma", "vocab_size": 256_000, "hidden_size": 2048, "intermediate_size": 16_384,
        "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256,
        "max_position_embeddings": 8192, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True,
        "dtype": "bfloat16",
    },
    "phi-2": {
        "model_type": "phi", "vocab_size": 51_200, "hidden_size": 2560, "intermediate_size": 10_240,
        "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048,
        "tie_word_embeddings": False, "dtype": "float16",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.4},
    },
    "mistral-7b-gptq": {
        "model_type": "mistral", "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32_768,
        "sliding_window": 4096, "tie_word_embeddings": False, "dtype": "float16", "quantization_config": GPTQ,
    },
}  # fmt: skip


def describe(folder: Path, told: dict) -> Config:
    """Write config.json and a tokenizer of two words; gives the config as it is read."""
    (folder / "config.json").write_text(json.dumps(told))
    words = {"type": "WordLevel", "vocab": {"<unk>": 0, "<eos>": 1}, "unk_token": "<unk>"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": words}))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')
    config, packed, _ = families.read(folder)
    return replace(config, packed=packed)


def small_llama(folder: Path, layers: int, dim: int, heads: int, words: int) -> Config:
    """A random Llama: bfloat16 values in float32."""
    told = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": words, "hidden_size": dim,
        "intermediate_size": round(dim * 8 / 3 / 32) * 32, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": heads, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False, "dtype": "float32",
    }  # fmt: skip
    config = describe(folder, told)
    params = decoder.Decoder(config).init(jax.random.key(SEED), jnp.zeros((1, 1), jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), params)
    weights.save_weights(folder / "model.safetensors", params, config, np.float32)
    return config


def write(folder: Path, told: dict) -> None:
    """A random checkpoint with the shapes that its configuration asks for, in shards, of few values over and over."""
    config = describe(folder, told)
    values = _values(told)
    shard, size, where, count = {}, 0, {}, 0
    todo = parameters.shapes(config)
    for number, (ours, leaf) in enumerate(todo.items(), 1):
        name = names.source(names.FAMILIES[told["model_type"]], config, ours).name
        shard[name] = values(ours, leaf.shape)
        size += shard[name].nbytes
        if size >= SHARD or number == len(todo):
            count += 1
            file = f"model-{count:05d}.safetensors"
            save_file(shard, folder / file, {"format": "pt"})
            where |= dict.fromkeys(shard, file)
            shard, size = {}, 0
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def _values(told: dict):
    """The values of a parameter, by its name and shape."""
    rng = np.random.default_rng(SEED)
    kind = ml_dtypes.bfloat16 if told["dtype"] == "bfloat16" else np.float16
    pool = (rng.standard_normal(1 << 22, np.float32) * 0.02).astype(kind)
    packed = rng.integers(-(2**31), 2**31, 1 << 20, dtype=np.int32)

    def values(ours: str, shape: tuple[int, ...]) -> np.ndarray:
        if ours.endswith("qweight"):
            return np.resize(packed, shape)
        if ours.endswith("qzeros"):
            return np.full(shape, 0x77777777, np.int32)
        if ours.endswith("scales"):
            return np.full(shape, 0.004, np.float16)
        if ours.endswith("g_idx"):
            return rng.permutation(np.arange(shape[0], dtype=np.int32) // told["quantization_config"]["group_size"])
        if ours.endswith("scale"):
            return (np.zeros if told["model_type"] == "gemma" else np.ones)(shape, kind)
        return np.resize(pool, shape)

    return values

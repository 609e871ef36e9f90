"""GGUF files written from golden checkpoints as llama.cpp's converter writes them: its names, its turns and shifts."""

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

LETTERS = "abcdefghijklmnopqrstuvwxyz"
_LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up", "self_attn.dense": "attn_output", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
    "attention.query_key_value": "attn_qkv", "attention.dense": "attn_output", "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down", "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
_FOUR_NORMS = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
               "post_feedforward_layernorm": "post_ffw_norm"}  # fmt: skip
_TOP = {"embed_tokens": "token_embd", "embed_in": "token_embd", "wte": "token_embd", "wpe": "position_embd",
        "norm": "output_norm", "final_layernorm": "output_norm", "final_layer_norm": "output_norm",
        "ln_f": "output_norm", "lm_head": "output", "embed_out": "output"}  # fmt: skip
ARCHITECTURES = {"phi": "phi2", "gpt_neox": "gptneox", "mistral": "llama", "gemma3_text": "gemma3"}


def write(path: Path, golden: Path, *, kinds=lambda name: "F32", **changes) -> Path:
    """The checkpoint in the folder `golden` as the GGUF file `path`.

    `kinds` names the type of every tensor of two axes; `changes` are other fields of the header, None for those that
    are left out.
    """
    told = json.loads((golden / "config.json").read_text())
    architecture = ARCHITECTURES.get(told["model_type"], told["model_type"])
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in (_fields(told, architecture) | tokenizer(told) | changes).items():
        _add(writer, name, value)
    for name, values in _tensors(load_file(golden / "model.safetensors"), told).items():
        kind = gguf.GGMLQuantizationType[kinds(name) if values.ndim > 1 else "F32"]
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokenizer(told: dict) -> dict:
    """The words of a small vocabulary of byte pairs."""
    tokens = ["<unk>", "<s>", "</s>", *LETTERS, "Ġ", "th", "the", *(f"[{at}]" for at in range(told["vocab_size"] - 32))]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(tokens) - 3),
        "tokenizer.ggml.merges": ["t h", "th e"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def _add(writer, name, value):
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
             list: writer.add_array}  # fmt: skip
    if value is not None:
        kinds[type(value)](name, value)


def _fields(told: dict, architecture: str) -> dict:
    rope = told.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)
    heads = told.get("num_attention_heads") or told.get("n_head")
    width = told.get("hidden_size") or told.get("n_embd")
    head = told.get("head_dim") or width // heads
    said = {
        "context_length": told.get("max_position_embeddings") or told.get("n_positions"),
        "embedding_length": width,
        "block_count": told.get("num_hidden_layers") or told.get("n_layer"),
        "feed_forward_length": told.get("intermediate_size") or 4 * width,
        "attention.head_count": heads,
        "attention.head_count_kv": told.get("num_key_value_heads"),
        "attention.key_length": told.get("head_dim"),
        "attention.value_length": told.get("head_dim"),
        "attention.layer_norm_rms_epsilon": told.get("rms_norm_eps"),
        "attention.layer_norm_epsilon": told.get("layer_norm_eps") or told.get("layer_norm_epsilon"),
        "attention.sliding_window": told.get("sliding_window"),
        "attn_logit_softcapping": told.get("attn_logit_softcapping"),
        "final_logit_softcapping": told.get("final_logit_softcapping"),
        "use_parallel_residual": told.get("use_parallel_residual"),
        "attention.scale": told.get("attention_multiplier"),
        "embedding_scale": told.get("embedding_multiplier"),
        "residual_scale": told.get("residual_multiplier"),
        "logit_scale": told.get("logits_scaling"),
        "rope.freq_base": rope.get("rope_theta"),
        "rope.dimension_count": int(head * rope.get("partial_rotary_factor", 1.0)) if rope else None,
    }
    if rope.get("rope_type") == "longrope":
        said["rope.scaling.original_context_length"] = told["original_max_position_embeddings"]
    return {f"{architecture}.{name}": value for name, value in said.items()}


def _tensors(given: dict[str, np.ndarray], told: dict) -> dict[str, np.ndarray]:
    family, rope = told["model_type"], told.get("rope_parameters") or {}
    inside = _LAYER | (_FOUR_NORMS if family in ("gemma2", "gemma3_text", "olmo2") else {})
    heads = told.get("num_attention_heads") or told.get("n_head")
    out = {}
    for name, values in given.items():
        *path, leaf = name.split(".")
        at = next((index for index, part in enumerate(path) if part.isdigit()), None)
        called = _TOP[path[-1]] if at is None else f"blk.{path[at]}.{inside['.'.join(path[at + 1 :])]}"
        if family in ("llama", "mistral", "granite", "smollm3") and called.endswith(("attn_q", "attn_k")):
            values = side_by_side(values, told["num_key_value_heads"] if called.endswith("k") else heads)
        if family.startswith("gemma") and called.endswith("norm"):
            values = values + 1
        if family == "gpt2" and values.ndim > 1 and at is not None:
            values = values.T
        if family == "gpt_neox" and called.endswith("attn_qkv"):
            values = values.reshape(heads, 3, -1, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)
        out[f"{called}.{leaf}"] = np.ascontiguousarray(values, np.float32)
    if rope.get("rope_type") == "llama3":
        out["rope_freqs.weight"] = slower(told, rope)
    for length in ("short", "long") if rope.get("rope_type") == "longrope" else ():
        out[f"rope_factors_{length}.weight"] = np.array(rope[f"{length}_factor"], np.float32)
    return out


def side_by_side(values: np.ndarray, heads: int) -> np.ndarray:
    """The first and the second half of every head's outputs, in turns."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def slower(told: dict, rope: dict) -> np.ndarray:
    """What Llama 3's frequencies are divided by: 1 where they are fast, the factor where slow, and between."""
    head = told["hidden_size"] // told["num_attention_heads"]
    waves = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, head, 2) / head)
    turns = rope["original_max_position_embeddings"] / waves
    blend = np.clip((turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"]), 0, 1)
    return np.asarray(1 / ((1 - blend) / rope["factor"] + blend), np.float32)

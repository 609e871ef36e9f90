"""Where each family keeps its weights: our module -> the checkpoint's, `[part]` saying which outputs of it and how."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nvcim_jax.llm.config import Config


class Names(NamedTuple):
    """Modules outside the layers, those inside, and what the file calls a layer."""

    top: dict[str, str]
    layer: str
    inside: dict[str, str]
    inputs_first: bool = False  # torch's Linear keeps [out, in] as we do; GPT-2's Conv1D keeps [in, out]
    unread: tuple[str, ...] = ()  # parts of tensors' names that belong to what is not built here


_TOP = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
_QKVO = {f"attention/{part}": f"self_attn.{part}_proj" for part in "qkvo"}
_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
_QK_NORMS = {f"attention/{part}_norm": f"self_attn.{part}_norm" for part in "qk"}
_OUT_NORMS = {
    "attention_out_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_out_norm": "post_feedforward_layernorm",
}
_GATED = {part: f"mlp.{part}_proj" for part in ("gate", "up", "down")}
_LLAMA = Names(_TOP, "model.layers", _NORMS | _QKVO | _GATED)

FAMILIES = {
    **dict.fromkeys(("llama", "mistral", "gemma", "granite", "qwen2", "smollm3", "stablelm"), _LLAMA),
    "qwen3": _LLAMA._replace(inside=_LLAMA.inside | _QK_NORMS),
    "gemma2": _LLAMA._replace(inside=_LLAMA.inside | _OUT_NORMS),
    **dict.fromkeys(("gemma3_text", "olmo2"), _LLAMA._replace(inside=_LLAMA.inside | _OUT_NORMS | _QK_NORMS)),
    "phi3": _LLAMA._replace(
        inside=_LLAMA.inside
        | {f"attention/{part}": f"self_attn.qkv_proj[{part}]" for part in "qkv"}
        | {part: f"mlp.gate_up_proj[{part}]" for part in ("gate", "up")}
    ),
    "phi": Names(
        _TOP | {"norm": "model.final_layernorm"},
        "model.layers",
        {"attention_norm": "input_layernorm"}
        | _QKVO
        | {"attention/o": "self_attn.dense", "up": "mlp.fc1", "down": "mlp.fc2"},
    ),
    "gpt_neox": Names(
        {"embedding": "gpt_neox.embed_in", "norm": "gpt_neox.final_layer_norm", "head": "embed_out"},
        "gpt_neox.layers",
        _NORMS
        | {f"attention/{part}": f"attention.query_key_value[{part} by head]" for part in "qkv"}
        | {"attention/o": "attention.dense", "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"},
    ),
    "opt": Names(
        {
            "embedding": "model.decoder.embed_tokens",
            "places": "model.decoder.embed_positions",
            "widen": "model.decoder.project_in",
            "narrow": "model.decoder.project_out",
            "norm": "model.decoder.final_layer_norm",
            "head": "lm_head",
        },
        "model.decoder.layers",
        _QKVO
        | {
            "attention_norm": "self_attn_layer_norm",
            "attention/o": "self_attn.out_proj",
            "mlp_norm": "final_layer_norm",
            "up": "fc1",
            "down": "fc2",
        },
    ),
    "gpt2": Names(
        {
            "embedding": "transformer.wte",
            "places": "transformer.wpe",
            "norm": "transformer.ln_f",
            "head": "lm_head",
        },
        "transformer.h",
        {f"attention/{part}": f"attn.c_attn[{part}]" for part in "qkv"}
        | {
            "attention_norm": "ln_1",
            "attention/o": "attn.c_proj",
            "mlp_norm": "ln_2",
            "up": "mlp.c_fc",
            "down": "mlp.c_proj",
        },
        inputs_first=True,
    ),
}

BERT = Names(
    {
        "embedding": "bert.embeddings.word_embeddings",
        "places": "bert.embeddings.position_embeddings",
        "kinds": "bert.embeddings.token_type_embeddings",
        "norm": "bert.embeddings.LayerNorm",
    },
    "bert.encoder.layer",
    {f"attention/{part[0]}": f"attention.self.{part}" for part in ("query", "key", "value")}
    | {
        "attention/o": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "mlp_norm": "output.LayerNorm",
    },
    unread=("pooler.", "cls.", "classifier.", "embeddings.position_ids"),
)

# What llama.cpp calls them, by its name of the architecture. A layer has those of these modules that its family has.
_GGUF = Names(
    {"embedding": "token_embd", "places": "position_embd", "norm": "output_norm", "head": "output"},
    "blk",
    {f"attention/{part}": f"attn_{part}" for part in ("q", "k", "v", "q_norm", "k_norm")}
    | {part: f"ffn_{part}" for part in ("gate", "up", "down")}
    | {
        "attention_norm": "attn_norm",
        "attention/o": "attn_output",
        "attention_out_norm": "post_attention_norm",
        "mlp_norm": "ffn_norm",
        "mlp_out_norm": "post_ffw_norm",
    },
)
_GGUF_PAIRS = _GGUF._replace(inside=_GGUF.inside | {f"attention/{part}": f"attn_{part}[{part} pairs]" for part in "qk"})
_GGUF_FUSED = _GGUF._replace(inside=_GGUF.inside | {f"attention/{part}": f"attn_qkv[{part}]" for part in "qkv"})
GGUF = {
    **dict.fromkeys(("llama", "granite", "smollm3"), _GGUF_PAIRS),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "olmo2", "phi2", "qwen2", "qwen3", "stablelm"), _GGUF),
    **dict.fromkeys(("gpt2", "gptneox"), _GGUF_FUSED),
    "phi3": _GGUF_FUSED._replace(inside=_GGUF_FUSED.inside | {part: f"ffn_up[{part}]" for part in ("gate", "up")}),
}

_LEAVES = {"scale": "weight", "embedding": "weight"}

# Buffers that old files carry and no weight depends on.
BUFFERS = ("rotary_emb.inv_freq", "attention.bias", "attention.masked_bias", "attn.bias", "attn.masked_bias")


class Source(NamedTuple):
    """A tensor of the checkpoint, and which of its outputs are wanted (None: all)."""

    module: str
    leaf: str
    outputs: np.ndarray | None

    @property
    def name(self) -> str:
        return f"{self.module}.{self.leaf}"


def source(names: Names, config: Config, ours: str) -> Source:
    """Where the parameter `ours`, such as `blocks_3/attention/q/weight`, comes from."""
    module, leaf = ours.rsplit("/", 1)
    if module.startswith("blocks_"):
        block, inside = module.split("/", 1)
        theirs = f"{names.layer}.{block.removeprefix('blocks_')}.{names.inside[inside]}"
    else:
        theirs = names.top[module]
    theirs, _, part = theirs.removesuffix("]").partition("[")
    return Source(theirs, _LEAVES.get(leaf, leaf), _outputs(config, part) if part else None)


def layers(names: Names, found: Iterable[str]) -> int:
    """How many layers the tensors of a checkpoint name, with or without the first part of their names."""
    *stem, inside = names.layer.split(".", 1)
    numbers = re.compile("".join(rf"(?:{part}\.)?" for part in stem) + rf"{re.escape(inside)}\.(\d{{1,9}})\.")
    return len({match[1] for match in map(numbers.match, found) if match})


@lru_cache(maxsize=64)  # layers are alike
def _outputs(c: Config, part: str) -> np.ndarray:
    query, key = c.heads * c.head_dim, c.kv_heads * c.head_dim
    if part.endswith("pairs"):  # the two values that turn together stand side by side
        return np.arange(query if part[0] == "q" else key).reshape(-1, c.head_dim // 2, 2).swapaxes(1, 2).reshape(-1)
    if part.endswith("by head"):  # the query, key and value of a head stand together
        return np.arange(3 * query).reshape(c.heads, 3, c.head_dim)[:, "qkv".index(part[0])].reshape(-1)
    spans = {
        "q": (0, query),
        "k": (query, query + key),
        "v": (query + key, query + 2 * key),
        "gate": (0, c.hidden_dim),
        "up": (c.hidden_dim, 2 * c.hidden_dim),
    }
    return np.arange(*spans[part])

"""The configuration of a GGUF file: its fields, as those of a config.json, which are checked as such."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nvcim_jax.llm import families, names
from nvcim_jax.llm.config import CheckpointError, Config
from nvcim_jax.llm.folder import short
from nvcim_jax.llm.gguf_file import Header, Tensor

_NEEDED = {  # field of config.json -> of the file, behind the name of its architecture
    "max_position_embeddings": "context_length",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
}
_NEEDED_GPT2 = {
    "n_positions": "context_length",
    "n_embd": "embedding_length",
    "n_layer": "block_count",
    "n_inner": "feed_forward_length",
    "n_head": "attention.head_count",
    "layer_norm_epsilon": "attention.layer_norm_epsilon",
}
_RMS = _NEEDED | {"rms_norm_eps": "attention.layer_norm_rms_epsilon"}
_LAYER = _NEEDED | {"layer_norm_eps": "attention.layer_norm_epsilon"}
_OPTIONAL = {"num_key_value_heads": "attention.head_count_kv", "head_dim": "attention.key_length"}
_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
_MOST_FACTORS = 2**13


class Architecture(NamedTuple):
    """How a GGUF file names the fields that a config.json of `model_type` has."""

    model_type: str
    needed: dict[str, str]
    more: Callable[["Said"], dict[str, Any]] = lambda said: {}
    shift: float = 0.0  # added to the weights of norms


class Said(NamedTuple):
    """A header with the name of its architecture."""

    header: Header
    architecture: str

    def field(self, name: str, otherwise: Any = None) -> Any:
        return self.header.fields.get(f"{self.architecture}.{name}", otherwise)

    def has(self, tensor: str) -> bool:
        return tensor in self.header.tensors


def read(header: Header) -> tuple[Config, dict[str, Tensor], names.Names]:
    """The Config of a GGUF file, the tensors that are its weights, and what they are called.

    Raises CheckpointError for an architecture, a rope type or a variant that is not built here, and as `families.read`.
    """
    try:
        return _read(header)
    except CheckpointError as error:
        raise CheckpointError(f"{header.path}: {error}") from error


def _read(header: Header) -> tuple[Config, dict[str, Tensor], names.Names]:
    architecture = header.fields.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise CheckpointError(f"architecture {short(architecture)} is not supported; known: {', '.join(ARCHITECTURES)}")
    said, kind = Said(header, architecture), ARCHITECTURES[architecture]
    _check_variant(said)
    config = families.configured(_told(said, kind), header.path)[0]
    weights = {name: tensor for name, tensor in header.tensors.items() if name not in _FACTORS}
    if kind.shift:
        weights |= {
            name: tensor._replace(shift=kind.shift) for name, tensor in weights.items() if name.endswith("norm.weight")
        }
    return _slowed(said, config), weights, names.GGUF[architecture]


def _check_variant(said: Said) -> None:
    if said.header.fields.get("split.count", 1) not in (0, 1):
        raise CheckpointError("it is one of several parts: join them with llama.cpp's gguf-split --merge")
    if said.field("expert_count", 0):
        raise CheckpointError("mixtures of experts are not supported")
    if said.field("attention.value_length") != said.field("attention.key_length"):
        raise CheckpointError("keys and values of different lengths are not supported")
    if not said.has("token_embd.weight"):
        raise CheckpointError("tensors missing: token_embd.weight")


def _told(said: Said, kind: Architecture) -> dict[str, Any]:
    """The fields of a config.json."""
    for needed in kind.needed.values():
        if said.field(needed) is None:
            raise CheckpointError(f"it lacks {said.architecture}.{needed}")
    given = {ours: said.field(theirs) for ours, theirs in (kind.needed | _OPTIONAL).items()}
    told = {name: value for name, value in given.items() if value is not None}
    told |= {
        "model_type": kind.model_type,
        "vocab_size": said.header.tensors["token_embd.weight"].shape[0],
        "tie_word_embeddings": not said.has("output.weight"),
        "attention_bias": said.has("blk.0.attn_q.bias") or said.has("blk.0.attn_qkv.bias"),
        "mlp_bias": said.has("blk.0.ffn_up.bias"),
    }
    if kind.model_type != "gpt2":
        told |= {"rope_parameters": _rope(said, told)}
    return told | kind.more(said)


def _rope(said: Said, told: dict[str, Any]) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": said.field("rope.freq_base", 10000.0)}
    turned = said.field("rope.dimension_count")
    head = told.get("head_dim") or _head_dim(said)
    if turned is not None and type(turned) is int and type(head) is int and 0 < turned <= head:
        rope["partial_rotary_factor"] = math.nextafter(turned / head, 1)  # times the head it is not below `turned`
    factor = said.field("rope.scaling.factor", said.field("rope.scale_linear", 1.0))
    scaling = said.field("rope.scaling.type", "linear" if factor not in (0, 1) else "none")
    if said.has("rope_factors_long.weight"):
        return rope | _longrope(said)
    if scaling == "none" or (scaling == "linear" and factor in (0, 1)):
        return rope
    return rope | {"rope_type": scaling, "factor": factor}


def _longrope(said: Said) -> dict[str, Any]:
    return {
        "rope_type": "longrope",
        "short_factor": _factors(said, "rope_factors_short.weight"),
        "long_factor": _factors(said, "rope_factors_long.weight"),
        "original_max_position_embeddings": said.field("rope.scaling.original_context_length"),
        "attention_factor": said.field("rope.scaling.attn_factor"),
    }


def _slowed(said: Said, config: Config) -> Config:
    """Llama 3's blend of frequencies is not told in words: the file holds what each of them is divided by."""
    if config.rope is None or not said.has("rope_freqs.weight"):
        return config
    divided = np.asarray(config.rope.frequencies, np.float32)
    by = np.asarray(_factors(said, "rope_freqs.weight"), np.float32)
    if by.shape != divided.shape:
        raise CheckpointError(f"rope_freqs.weight has {by.size} values; a head has {divided.size} pairs to turn")
    if not (by.min() >= 0.001 and by.max() <= 1e6):
        raise CheckpointError(f"rope_freqs.weight goes from {by.min():g} to {by.max():g}; allowed: from 0.001 to 1e6")
    return replace(config, rope=replace(config.rope, frequencies=tuple(map(float, divided / by))))


def _factors(said: Said, name: str) -> list[float]:
    tensor = said.header.tensors.get(name)
    if tensor is None:
        raise CheckpointError(f"tensors missing: {name}")
    if len(tensor.shape) != 1 or tensor.shape[0] > _MOST_FACTORS:
        raise CheckpointError(f"{name} has shape {list(tensor.shape)}; a list of at most {_MOST_FACTORS} is needed")
    return tensor.read().tolist()


def _head_dim(said: Said) -> int | None:
    dim, heads = said.field("embedding_length"), said.field("attention.head_count")
    return dim // heads if type(dim) is int and type(heads) is int and heads > 0 else None


def _gemma2(said: Said) -> dict[str, Any]:
    """The scale of attention is in no file: that of the 27B model, which has 46 layers, is known to llama.cpp, too."""
    head, layers = said.field("attention.key_length"), said.field("block_count")
    return {
        "query_pre_attn_scalar": _head_dim(said) if layers == 46 else head,
        "sliding_window": said.field("attention.sliding_window"),
        "attn_logit_softcapping": said.field("attn_logit_softcapping"),
        "final_logit_softcapping": said.field("final_logit_softcapping"),
    }


def _gemma3(said: Said) -> dict[str, Any]:
    """Every sixth layer sees all tokens; the others turn by another base. The scale is that of Gemma 2; the 27B model
    has 62 layers."""
    layers, near = said.field("block_count"), said.field("rope.freq_base_swa", 10000.0)
    rope = _rope(said, {"head_dim": said.field("attention.key_length")})
    return _gemma2(said) | {
        "query_pre_attn_scalar": _head_dim(said) if layers == 62 else said.field("attention.key_length"),
        "rope_parameters": {
            "full_attention": rope,
            "sliding_attention": {"rope_type": "default", "rope_theta": near},
        },
    }


def _granite(said: Said) -> dict[str, Any]:
    names = {"embedding_multiplier": "embedding_scale", "attention_multiplier": "attention.scale",
             "residual_multiplier": "residual_scale", "logits_scaling": "logit_scale"}  # fmt: skip
    return {ours: said.field(theirs) for ours, theirs in names.items() if said.field(theirs)}


def _phi3(said: Said) -> dict[str, Any]:
    original = said.field("rope.scaling.original_context_length")
    told = {"sliding_window": said.field("attention.sliding_window")}
    return told | ({} if original is None else {"original_max_position_embeddings": original})


def _stablelm(said: Said) -> dict[str, Any]:
    return {
        "use_qkv_bias": said.has("blk.0.attn_q.bias"),
        "use_parallel_residual": not said.has("blk.0.ffn_norm.weight"),
    }


def _gptneox(said: Said) -> dict[str, Any]:
    return {"use_parallel_residual": said.field("use_parallel_residual", True)}


ARCHITECTURES = {
    "llama": Architecture("llama", _RMS),  # of Mistral's models, too, whose window no file holds
    "gemma": Architecture("gemma", _RMS, shift=-1.0),
    "gemma2": Architecture("gemma2", _RMS, _gemma2, shift=-1.0),
    "gemma3": Architecture("gemma3_text", _RMS, _gemma3, shift=-1.0),
    "granite": Architecture("granite", _RMS, _granite),
    "olmo2": Architecture("olmo2", _RMS),
    "smollm3": Architecture("smollm3", _RMS),
    "phi2": Architecture("phi", _LAYER),
    "phi3": Architecture("phi3", _RMS, _phi3),
    "gptneox": Architecture("gpt_neox", _LAYER, _gptneox),
    "stablelm": Architecture("stablelm", _LAYER, _stablelm),
    "qwen2": Architecture("qwen2", _RMS),
    "qwen3": Architecture("qwen3", _RMS),
    "gpt2": Architecture("gpt2", _NEEDED_GPT2),
}

"""The fields of config.json that are read here, and what each may hold. All others are left alone.

A value is refused before transformers sees it and before anything is allocated. The ranges are wider than any published
model needs, and so narrow that float32 arithmetic stays finite.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from nvcim_jax.llm.config import CheckpointError
from nvcim_jax.llm.folder import short


class Kind(NamedTuple):
    """What a field may hold: in words, and as a test."""

    allowed: str
    holds: Callable[[Any], bool]


def whole(low: int, high: int) -> Kind:
    return Kind(f"a whole number from {low} to {high}", lambda value: type(value) is int and low <= value <= high)


def real(low: float, high: float) -> Kind:
    return Kind(f"a number from {low:g} to {high:g}", lambda v: type(v) in (int, float) and low <= v <= high)


def or_null(kind: Kind) -> Kind:
    return Kind(f"{kind.allowed} or null", lambda value: value is None or kind.holds(value))


def several(kind: Kind, most: int) -> Kind:
    return Kind(
        f"a list of at most {most}, each {kind.allowed}",
        lambda value: isinstance(value, list) and len(value) <= most and all(map(kind.holds, value)),
    )


FLAG = Kind("true or false", lambda value: type(value) is bool)
WORD = Kind("a text of at most 100 characters", lambda value: isinstance(value, str) and len(value) <= 100)
LAYER_TYPES = ("sliding_attention", "full_attention")
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
EMPTY = Kind("null or empty (layers and modules are all alike here)", lambda value: not value)

MOST_WIDTH = 2**18
_WIDTH, _COUNT, _CONTEXT = whole(1, MOST_WIDTH), whole(1, 2**12), whole(2, 2**28)
_EPSILON, _THETA, _PART, _CAP = real(1e-12, 1), real(1, 1e15), real(0.001, 1), or_null(real(0.01, 1e6))

CONFIG: dict[str, Kind] = {
    **dict.fromkeys(("model_type", "hidden_act", "activation_function"), WORD),
    **dict.fromkeys(("hidden_activation", "tokenizer_class"), or_null(WORD)),
    "vocab_size": whole(1, 2**24),
    "type_vocab_size": whole(1, 2**10),
    "position_embedding_type": or_null(WORD),
    **dict.fromkeys(("hidden_size", "n_embd"), _WIDTH),
    "word_embed_proj_dim": or_null(_WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim"), whole(1, 2**20)),
    "n_inner": or_null(whole(1, 2**20)),
    **dict.fromkeys(("num_hidden_layers", "n_layer"), whole(1, 1000)),
    **dict.fromkeys(("num_attention_heads", "n_head"), _COUNT),
    "num_key_value_heads": or_null(_COUNT),
    "head_dim": or_null(whole(1, 2**14)),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), _CONTEXT),
    "original_max_position_embeddings": _CONTEXT,
    **dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"), _EPSILON),
    **dict.fromkeys(("rope_theta", "rope_local_base_freq", "rotary_emb_base"), _THETA),
    **dict.fromkeys(("partial_rotary_factor", "rotary_pct"), _PART),
    **dict.fromkeys(("rope_parameters", "rope_scaling"), or_null(OBJECT)),
    "sliding_window": or_null(whole(1, 2**31 - 1)),
    "max_window_layers": whole(0, 1000),
    "layer_types": or_null(several(WORD, 1000)),
    "query_pre_attn_scalar": whole(1, 2**20),
    **dict.fromkeys(
        ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"), real(1e-6, 1e6)
    ),
    "no_rope_layers": or_null(several(whole(0, 1), 1000)),
    **dict.fromkeys(("no_rope_layer_interval", "sliding_window_pattern", "_sliding_window_pattern"), whole(1, 1000)),
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping"), _CAP),
    **dict.fromkeys(
        ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_qkv_bias", "enable_bias", "use_parallel_residual",
         "qk_layernorm", "do_layer_norm_before", "layer_norm_elementwise_affine", "_remove_final_layer_norm",
         "scale_attn_by_inverse_layer_idx", "scale_attn_weights", "add_cross_attention", "use_sliding_window",
         "is_decoder"),
        FLAG,
    ),
    "use_bidirectional_attention": or_null(FLAG),
    "quantization_config": or_null(OBJECT),
    "per_layer_config": EMPTY,  # of models whose layers differ
}  # fmt: skip

ROPE: dict[str, Kind] = {
    **dict.fromkeys(("rope_type", "type"), WORD),
    "rope_theta": _THETA,
    "partial_rotary_factor": _PART,
    "factor": or_null(real(1, 1e6)),
    **dict.fromkeys(("low_freq_factor", "high_freq_factor"), real(0.001, 1e6)),
    "original_max_position_embeddings": _CONTEXT,
    "attention_factor": or_null(real(0.001, 1000)),
    **dict.fromkeys(("short_factor", "long_factor"), several(real(0.001, 1e6), 2**13)),
    **dict.fromkeys(LAYER_TYPES, or_null(OBJECT)),  # a rule for each kind of layer (Gemma 3)
}

QUANTISATION: dict[str, Kind] = {
    "quant_method": WORD,
    "checkpoint_format": or_null(WORD),
    "bits": whole(1, 32),
    "group_size": Kind("-1 or a whole number from 1 on", lambda v: type(v) is int and (v == -1 or v > 0)),
    "dynamic": EMPTY,  # settings of single modules
}  # fmt: skip


def checked(told: dict, kinds: dict[str, Kind], within: str = "") -> dict:
    """The fields of `told` that `kinds` names. Raises CheckpointError for one that holds something else."""
    for name, kind in kinds.items():
        if name in told and not kind.holds(told[name]):
            raise CheckpointError(f"{within}{name} is {short(told[name])}; allowed: {kind.allowed}")
    return {name: told[name] for name, kind in kinds.items() if name in told and kind is not EMPTY}


def known(told: dict) -> dict:
    """The fields of a config.json that are read here, every one within its range. Raises CheckpointError."""
    found = checked(told, CONFIG)
    for name in ("rope_parameters", "rope_scaling"):
        if found.get(name):
            found[name] = checked(found[name], ROPE, f"{name}.")
            for kind in LAYER_TYPES:
                if found[name].get(kind):
                    found[name][kind] = checked(found[name][kind], ROPE, f"{name}.{kind}.")
    return found

"""Rotary frequencies of a model, from the rope parameters of its configuration."""

import math
from typing import Any

import numpy as np

from nvcim_jax.llm.config import CheckpointError, Rope, plain_rope


def rope(told: dict, hf: Any, head_dim: int) -> Rope:
    """Frequencies of the rope parameters `told` of a configuration, for the rope types default, linear, llama3 and
    longrope (their papers' rules).

    Raises CheckpointError for other types, and for settings that do not fit each other or the head.
    """
    kind = told.get("rope_type", "default")
    if kind not in _ROPES:
        raise CheckpointError(f"rope_type {kind!r} is not supported; known: {', '.join(_ROPES)}")
    part = told.get("partial_rotary_factor", 1.0)
    plain = np.asarray(plain_rope(told["rope_theta"], int(head_dim * part)).frequencies, np.float32)
    if not 0 < 2 * len(plain) <= head_dim:
        raise CheckpointError(f"rope turns pairs of values: {part:g} of a head of {head_dim} leaves none, or too many")
    return _ROPES[kind](plain, told, hf)


def _default(plain, told, hf):
    return Rope(_floats(plain))


def _linear(plain, told, hf):
    return Rope(_floats(plain / _given(told, "factor")))


def _llama3(plain, told, hf):
    """Slow frequencies are divided by the factor, fast ones kept, those between them blended."""
    context, factor = _given(told, "original_max_position_embeddings"), _given(told, "factor")
    low, high = _given(told, "low_freq_factor"), _given(told, "high_freq_factor")
    if low >= high:
        raise CheckpointError(f"low_freq_factor {low} is not below high_freq_factor {high}")
    turns = context * plain / (2 * np.pi)  # over the original context
    blend = np.clip((turns - low) / (high - low), 0, 1)
    return Rope(_floats((1 - blend) * plain / factor + blend * plain))


def _longrope(plain, told, hf):
    original = _given(told, "original_max_position_embeddings")
    factor = told.get("factor") or hf.max_position_embeddings / original
    scale = told.get("attention_factor")
    if scale is None:
        scale = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    for name in ("short_factor", "long_factor"):
        if len(_given(told, name)) != len(plain):
            raise CheckpointError(f"{name} has {len(told[name])} values; a head has {len(plain)} pairs to turn")
    short, long = (plain / np.asarray(told[name], np.float32) for name in ("short_factor", "long_factor"))
    return Rope(_floats(short), scale, _floats(long), original)


_ROPES = {"default": _default, "linear": _linear, "llama3": _llama3, "longrope": _longrope}


def _given(told: dict, name: str):
    if told.get(name) is None:
        raise CheckpointError(f"rope_type {told['rope_type']!r} lacks {name}")
    return told[name]


def _floats(values) -> tuple[float, ...]:
    return tuple(map(float, values))

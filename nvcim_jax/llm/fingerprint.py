"""What tells one model from another: a short digest, the same in every release."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields

import jax
import numpy as np
from jaxtyping import Array, PyTree

from nvcim_jax.llm.config import Config, Rope
from nvcim_jax.llm.nibbles import Nibbles, dequantise
from nvcim_jax.llm.weights import Model

# Version 1 of the description of a config is the text that the first releases digested, field by field. It is kept to
# the letter, because banks hold its digest; fields of a config that came later are told by names and shapes of weights.
_FIELDS_1 = (
    "vocab_size", "dim", "hidden_dim", "layers", "heads", "kv_heads", "head_dim", "context", "norm_eps", "tied", "rope",
    "position_offset", "norm", "norm_out", "norm_qk", "parallel", "shared_norm", "activation", "gated", "qkv_bias",
    "out_bias", "mlp_bias", "head_bias", "attention_scale", "attention_cap", "logit_cap", "windows", "embedding_scale",
    "packed",
)  # fmt: skip
_LATER = ("residual_scale", "logit_scale", "unturned", "local_rope")  # each described where it is not the default
_ROPE_1 = ("frequencies", "scale", "long_frequencies", "original_context")
_PACKED_1 = ("bits", "group", "checkpoint_format")
SAMPLED = 1024  # values of every weight, evenly spaced


def fingerprint(model: Model) -> str:
    """A digest of a model's sizes and of a sample of every weight: enough to refuse a bank of another model.

    The same whether the weights are held in the checkpoint's type, in a wider one or in blocks of 4 bits.
    """
    near = jax.default_backend() == "cpu"  # where NumPy sees the weights themselves, and compiles nothing
    digest = hashlib.blake2b((description_1(model.config) + later(model.config)).encode(), digest_size=16)
    for name, leaf in _weights(model.params):
        shape = leaf.shape
        is_turned = name.endswith("['weight']")  # version 1 knew it as a kernel, [in, out]
        if is_turned:
            name, shape = name.replace("['weight']", "['kernel']"), shape[::-1]
        at = np.unravel_index(np.arange(0, leaf.size, max(1, leaf.size // SAMPLED)), shape)
        digest.update(f"{name}{shape}".encode())
        values = np.asarray(leaf) if near else leaf
        digest.update(np.asarray(values[at[::-1] if is_turned else at], np.float32).tobytes())
    return digest.hexdigest()


def _weights(params: PyTree) -> Iterator[tuple[str, Array]]:
    """Path and values of every weight; of a kernel in blocks of 4 bits those that it stands for."""
    for path, node in jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_packed):
        name = "".join(f"[{step.key!r}]" for step in path)
        if not _is_packed(node):
            yield name, node
            continue
        plain = {leaf: value for leaf, value in node.items() if leaf not in Nibbles._fields}
        plain["weight"] = dequantise(Nibbles(*map(node.get, Nibbles._fields)))
        yield from ((f"{name}[{leaf!r}]", plain[leaf]) for leaf in sorted(plain))


def _is_packed(node: PyTree) -> bool:
    return isinstance(node, dict) and "nibbles" in node


def description_1(config: Config) -> str:
    """Sizes, constants and variants of a decoder as version 1 writes them."""
    return _written("Config", _FIELDS_1, config)


def later(config: Config) -> str:
    """What came after version 1 and no weight tells; nothing for a model that version 1 knew."""
    plain = {field.name: field.default for field in fields(Config)}
    there = [field for field in _LATER if getattr(config, field) != plain[field]]
    return _written("", tuple(there), config) if there else ""


def _written(name: str, fields: tuple[str, ...], record) -> str:
    return f"{name}({', '.join(f'{field}={_value(getattr(record, field))}' for field in fields)})"


def _value(value) -> str:
    """A field as version 1 writes it: as JSON, but for Python's words, its quotes and its tuples."""
    if isinstance(value, Rope):
        return _written("Rope", _ROPE_1, value)
    if hasattr(value, "checkpoint_format"):
        return _written("Packed", _PACKED_1, value)
    if isinstance(value, tuple):
        inside = ", ".join(map(_value, value))
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if isinstance(value, str):
        return "'" + json.dumps(value)[1:-1] + "'"
    if value is None or isinstance(value, bool):
        return str(value)
    return format(value, "d") if isinstance(value, int) else float.__repr__(float(value))

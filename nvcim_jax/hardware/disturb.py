"""Any tree of arrays put through noisy cells: what if LoRA factors, key and value prefixes, or the model lie there?"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from nvcim_jax.core.quantise import to_codes
from nvcim_jax.hardware.crossbar import write_cells, write_values
from nvcim_jax.hardware.devices import Device

Where = Callable[[str, Array], bool]
MOST_CELLS = 2**21  # of a piece that goes through the arrays at once


def disturb(
    key: PRNGKeyArray,
    tree: PyTree,
    device: Device,
    *,
    sigma: Float[Array, ""] | float,
    seconds: Float[Array, ""] | float | None = None,
    where: str | Where = "",
    write: Callable[..., Float[Array, "rows dim"]] | None = None,
) -> PyTree:
    """`tree` with the leaves that `where` chooses as noisy arrays return them, `seconds` after they were programmed.

    `where` is a regular expression that is searched in a leaf's path, such as `layers/0/attention` (slashes between the
    names), or a function of path and leaf. A leaf is a matrix of its last axis by all others; its int16 codes share one
    step for each row of the last axis but one, as an array has one scale. `write` is how codes are written and read, by
    default `crossbar.write_values`, with `seconds` `crossbar.write_cells`; a mitigation bound by
    `mitigation.write_and_read` fits, too. The draw of a leaf depends on `key` and its path alone.

    ValueError if no leaf of floats is chosen, or a chosen one holds none.
    """
    written = (write_values if seconds is None else write_cells) if write is None else write
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [path_name(path) for path, _ in leaves]
    chosen = [_is_chosen(where, name, leaf) for name, (_, leaf) in zip(names, leaves, strict=True)]
    if not any(chosen):
        shown = ", ".join(names[:8]) + (", ..." if names[8:] else "")
        raise ValueError(f"where={where!r} matches none of the {len(names)} leaves: they are {shown}")
    out = []
    for name, (_, leaf), is_chosen in zip(names, leaves, chosen, strict=True):
        if not is_chosen:
            out.append(leaf)
            continue
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise ValueError(
                f"leaf {name} holds {jnp.result_type(leaf)}, and arrays hold floats: leave it out of where"
            )
        own = jax.random.fold_in(key, _number_of(name))
        out.append(_through(own, jnp.asarray(leaf), device, sigma=sigma, seconds=seconds, write=written))
    return jax.tree.unflatten(structure, out)


def path_name(path: tuple[Any, ...]) -> str:
    """Where a leaf is, such as `layers/0/attention/query`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_chosen(where: str | Where, name: str, leaf) -> bool:
    if callable(where):
        return bool(where(name, leaf))
    is_float = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    return re.search(where, name) is not None and (is_float or where != "")


def _number_of(name: str) -> int:
    """32 bits of a leaf's path, the same in every process (FNV-1a)."""
    number = 2166136261
    for byte in name.encode():
        number = ((number ^ byte) * 16777619) % 2**32
    return number


def _through(key, leaf, device, *, sigma, seconds, write):
    """One leaf, row by row as many at once as room allows."""
    if leaf.size == 0:
        return leaf
    flat = leaf.reshape(-1, leaf.shape[-1] if leaf.ndim else 1).astype(jnp.float32)
    later = {} if seconds is None else {"seconds": seconds}

    def one(at, row):
        codes = to_codes(row[None])
        return (write(jax.random.fold_in(key, at), codes.integers, device, sigma=sigma, **later) * codes.step)[0]

    at_once = max(1, MOST_CELLS // (8 * flat.shape[1]))
    rows = jax.lax.map(
        lambda each: one(*each), (jnp.arange(flat.shape[0]), flat), batch_size=min(at_once, flat.shape[0])
    )
    return rows.reshape(leaf.shape).astype(leaf.dtype)

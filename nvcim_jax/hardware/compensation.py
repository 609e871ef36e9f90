"""What undoes the mean of drift when arrays are read: a digital gain, from sums that are read again.

A compensation is a function of sums of conductances: of the matrix itself and of a reference column, each read right
after programming (that sum is kept digitally) and again now. It returns the gain of every cell's conductance.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nvcim_jax.hardware import ageing, cells
from nvcim_jax.hardware.cells import Held, Levels
from nvcim_jax.hardware.devices import Device


class Pair(NamedTuple):
    """Conductances as reads return them, in levels above the origin: right after programming, and now."""

    fresh: Held
    aged: Held


Compensate = Callable[[Pair, Pair], Float[Array, "..."]]


def global_scale(own: Pair, reference: Pair) -> Float[Array, "1 1 1"]:
    """One gain for the whole matrix: its sum after programming over its sum now."""
    return (jnp.sum(own.fresh) / jnp.sum(own.aged)).reshape(1, 1, 1)


def reference_column(own: Pair, reference: Pair) -> Float[Array, "1 1 1"]:
    """As `global_scale`, from a column of cells that hold every level equally often instead of the data."""
    return global_scale(reference, reference)


def per_column(own: Pair, reference: Pair) -> Float[Array, "rows 1 1"]:
    """One gain for every column of the array, which is a row of the matrix (a virtual token)."""
    return jnp.sum(own.fresh, (1, 2), keepdims=True) / jnp.sum(own.aged, (1, 2), keepdims=True)


COMPENSATIONS: dict[str, Compensate | None] = {
    "none": None, "global": global_scale, "reference": reference_column, "column": per_column,
}  # fmt: skip


def named(name: str) -> Compensate | None:
    """The compensation called `name`. ValueError lists the known names."""
    if name not in COMPENSATIONS:
        raise ValueError(f"unknown compensation {name!r}: choose one of {', '.join(COMPENSATIONS)}")
    return COMPENSATIONS[name]


def compensated(
    key: PRNGKeyArray,
    pair: Pair,
    device: Device,
    *,
    seconds: Float[Array, ""] | float,
    compensate: Compensate,
) -> Held:
    """The aged levels of `pair` (levels, not conductances) with the gain applied; the offset of conductance is known.

    A reference column has as many cells as a column of the matrix. Its own programming does not matter, since its sum
    was read right afterwards.
    """
    offset = (device.levels.shape[0] - 1) * cells.off_share(device)
    own = Pair(pair.fresh + offset, pair.aged + offset)
    rows = pair.fresh.shape[1] * pair.fresh.shape[2]
    life_key, read_key = jax.random.split(key)
    fresh = (jnp.arange(rows) % device.levels.shape[0]).astype(jnp.float32).reshape(1, 1, rows)
    aged = ageing.age(fresh, device, seconds=seconds, life=life_key)
    seen = cells.sense(read_key, aged, device, flicker=ageing.flicker(fresh, aged, device, seconds=seconds))
    gain = compensate(own, Pair(fresh + offset, seen + offset))
    return own.aged * gain - offset


def expected_gain(
    levels: Levels, device: Device, moments: ageing.Moments, fresh: ageing.Moments, *, compensate: Compensate
) -> Float[Array, "..."]:
    """The gain where every sum is its expectation: what closed forms take it for. `levels` are the whole ones."""
    offset = (device.levels.shape[0] - 1) * cells.off_share(device)
    every = jnp.arange(device.levels.shape[0])[None, None, :]
    pairs = (Pair(fresh.mean[each] + offset, moments.mean[each] + offset) for each in (levels, every))
    return compensate(*pairs)

"""What time does to cells: conductances drift, levels lose their distance, cells wander, reads flicker.

Time counts from programming. Whatever a cell's fate is, it is the same at every time: the key that decides it belongs
to the cell (`crossbar.Matrix.life`), not to the read.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nvcim_jax.hardware import cells
from nvcim_jax.hardware.cells import Held
from nvcim_jax.hardware.devices import READ_SECONDS, Device

NODES = 24  # of the quadrature over a cell's pulse, and over its exponent
WIDEST = 0.5  # deviation of a cell's log conductance up to which scores are taken as Gaussian

Scalar = Float[Array, ""] | float


class Moments(NamedTuple):
    """Mean and variance of what a read returns of a cell, by its level, in levels."""

    mean: Float[Array, "levels"]
    variance: Float[Array, "levels"]


def is_by_chance(device: Device) -> bool:
    """Whether cells of one level age differently, so that a key must decide how."""
    return device.drift_std is not None or device.wander is not None


def age(held: Held, device: Device, *, seconds: Scalar, life: PRNGKeyArray | None = None) -> Held:
    """Levels as they are `seconds` after programming.

    Every conductance has decayed as `(seconds / drift_from)^-nu`; nu is the cell's own, never below zero. A conductance
    at the lowest level decays too, and so its level falls below zero. Then levels lose `retention` of their distance
    from the middle for each decade of time, and each cell has wandered by a Gaussian that grows with the root of the
    decades. `life` decides the fates of the cells. ValueError for less than one second, and without `life` for a device
    whose cells age by chance.
    """
    drawn = None
    if is_by_chance(device):
        if life is None:
            raise ValueError("cells of this device age by chance: give the key that decides how (life=)")
        drawn = jax.random.normal(life, (2, *held.shape))
    return _aged(held, device, seconds=seconds, drawn=drawn, at=nearest(held, device))


def nearest(held: Held, device: Device) -> Int[Array, "rows dim cells"]:
    """The level that each cell lies nearest to: what depends on the level is taken from there."""
    where = _places(device)
    return jnp.searchsorted((where[1:] + where[:-1]) / 2, held)


def _aged(
    held: Held,
    device: Device,
    *,
    seconds: Scalar,
    drawn: Float[Array, "2 *cells"] | None,
    at: Int[Array, "rows dim cells"],
) -> Held:
    """`age`, given the level of each cell and the standard normals that decide its exponent and where it wanders."""
    cells.check_known("seconds", seconds, least=1.0)
    full, time = device.levels.shape[0] - 1, elapsed(device, seconds)
    if device.drift is not None or device.drift_std is not None:
        nu = jnp.float32(0) if device.drift is None else _of_level(device.drift, at)
        if device.drift_std is not None and drawn is not None:
            nu = jnp.maximum(nu + _of_level(device.drift_std, at) * drawn[0], 0)
        lost = 1 - time**-nu
        held = held - lost * (held + full * cells.off_share(device))
    if device.retention is not None:
        left = jnp.maximum(1 - device.retention * jnp.log10(time), 0)
        held = full / 2 + left * (held - full / 2)
    if device.wander is not None and drawn is not None:
        decades = jnp.log10(time)
        root = jnp.sqrt(jnp.where(decades > 0, decades, 1)) * (decades > 0)
        held = held + full * _of_level(device.wander, at) * root * drawn[1]
    return held


def elapsed(device: Device, seconds: Scalar) -> Float[Array, ""]:
    """How many times as long ago programming is as when the levels were what they are called; at least once."""
    time = jnp.asarray(seconds, jnp.float32)
    return time if device.drift_from is None else jnp.maximum(time / device.drift_from, 1)


def flicker(written: Held, held: Held, device: Device, *, seconds: Scalar) -> Held | None:
    """Deviation of each cell's 1/f noise in a read, in levels; None for a device that has none.

    `flicker * g * sqrt(ln((t + r) / 2r))` with r the time that a read takes and t that since programming, which is
    when the noise began (Nandakumar et al., 2019). `written` is the cell as it was programmed, `held` as it is.
    """
    if device.flicker is None:
        return None
    full = device.levels.shape[0] - 1
    read = READ_SECONDS if device.read_seconds is None else device.read_seconds
    grown = jnp.sqrt(jnp.log((jnp.asarray(seconds, jnp.float32) + read) / (2 * read)))
    conductance = jnp.abs(held + full * cells.off_share(device))
    return _of_level(device.flicker, nearest(written, device)) * conductance * grown


def moments(device: Device, *, sigma: Scalar, seconds: Scalar | None = None) -> Moments:
    """Moments of a cell of each level when it is read, `seconds` after programming if given.

    By Gauss-Hermite quadrature over its pulse and its exponent; where it wanders to and what a read adds is independent
    of those. What depends on the level is that of its own one, near which it lies as long as pulses err by less than
    half a level. Exact for a cell that does not age. Not for stuck cells.
    """
    levels, centre = jnp.arange(device.levels.shape[0]), _places(device)
    std = cells.spread(levels.reshape(1, 1, -1), device, sigma=sigma)[0, 0]
    if seconds is None and device.flicker is None:
        return Moments(centre, std**2 + cells.read_variance(device))
    seconds = 1.0 if seconds is None else seconds
    at, weight = (jnp.asarray(part, jnp.float32) for part in np.polynomial.hermite_e.hermegauss(NODES))
    weight = weight / jnp.sum(weight)
    shape = (levels.shape[0], NODES, NODES)
    start = jnp.broadcast_to((centre[:, None] + std[:, None] * at[None, :])[..., None], shape)
    own, exponent = jnp.broadcast_to(levels[:, None, None], shape), jnp.broadcast_to(at[None, None, :], shape)
    still = device._replace(wander=None)
    held = _aged(start, still, seconds=seconds, drawn=jnp.stack([exponent, exponent]), at=own)
    added = jnp.broadcast_to(cells.read_variance(device), shape)
    noise = flicker(jnp.broadcast_to(centre[:, None, None], shape), held, device, seconds=seconds)
    if noise is not None:
        added = added + noise**2
    if device.wander is not None:
        full = device.levels.shape[0] - 1
        added = added + (full * _of_level(device.wander, own)) ** 2 * jnp.log10(elapsed(device, seconds))
    mean = jnp.einsum("lpe,p,e->l", held, weight, weight, precision="highest")
    off = held - mean[:, None, None]
    return Moments(mean, jnp.einsum("lpe,p,e->l", off**2 + added, weight, weight, precision="highest"))


def without_gaussian(device: Device, seconds: Scalar | None = None) -> str | None:
    """Why scores of cells of this device follow no Gaussian of independent values; None where they do."""
    if device.stuck is not None:
        return "stuck cells, whose reads follow no Gaussian"
    if device.correlation is not None:
        return "cells that deviate together, so that values of a matrix are not independent"
    if seconds is None or device.drift_std is None or isinstance(seconds, Tracer):
        return None
    if any(isinstance(leaf, Tracer) for leaf in (device.drift_std, device.drift_from)):
        return None
    spread = float(jnp.max(device.drift_std) * jnp.log(elapsed(device, seconds)))
    if spread <= WIDEST:
        return None
    return (
        f"exponents so different that after {float(seconds):g} seconds the log conductance deviates by {spread:.2g} "
        f"between cells, where up to {WIDEST:g} passes as Gaussian"
    )


def _places(device: Device) -> Float[Array, "levels"]:
    """Where each level lies after a pulse without variation, in levels."""
    levels = jnp.arange(device.levels.shape[0]).reshape(1, 1, -1)
    return cells.placed(levels, device)[0, 0].astype(jnp.float32)


def _of_level(values: Float[Array, "*levels"], at: Int[Array, "*cells"]):
    """A quantity that may depend on the level, for cells at these levels."""
    return values if values.ndim == 0 else values[at]

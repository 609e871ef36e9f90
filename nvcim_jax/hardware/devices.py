"""Non-volatile memory devices as the physics computes with them. `catalogue` has them by name.

A device is a record of arrays, and devices stack, so that a grid of devices, sigmas and draws is one vmapped program
(`sweep`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

READ_SECONDS = 250e-9  # of one read, where a device does not say


class Device(NamedTuple):
    """What a cell does. Everything but `levels` may be None: the device then does not do it, at no cost."""

    levels: Float[Array, "levels"]  # programming variation of each level, lowest first; sigma times it is a deviation
    read_noise: Float[Array, ""] | None = None  # deviation of every read; both as a share of the cell's range
    conductance_us: Float[Array, "2"] | None = None  # of the lowest and the highest level
    drift: Float[Array, "*levels"] | None = None  # nu of g(t) = g(1 s) t^-nu: one for all levels, or one for each
    stuck: Float[Array, "2"] | None = None  # shares of cells stuck at the lowest and at the highest level
    means: Float[Array, "levels"] | None = None  # where levels lie after a pulse, as shares of the range
    correlation: Float[Array, ""] | None = None  # share of the variance of programming that a matrix has in common
    drift_std: Float[Array, "*levels"] | None = None  # deviation of nu between cells
    drift_from: Float[Array, ""] | None = None  # seconds at which the conductances are those of the levels; else 1
    retention: Float[Array, ""] | None = None  # share of its way to the middle that a level loses in a decade of time
    wander: Float[Array, "*levels"] | None = None  # deviation that a cell gains over the first decade, of the range
    flicker: Float[Array, "*levels"] | None = None  # 1/f noise of a read, as a share of the cell's own conductance
    read_seconds: Float[Array, ""] | None = None  # that one read takes, which the 1/f noise depends on; else 250 ns

    @property
    def factors(self) -> Float[Array, "4"]:
        """f1 to f4 of Eq. 4, the largest magnitudes first. With another number of levels than four, each is the root
        mean square over a quarter of the levels."""
        if self.levels.shape[0] == 4:
            return self.levels[::-1]
        quarters = jnp.repeat(self.levels, max(1, 4 // self.levels.shape[0])).reshape(4, -1)
        return jnp.sqrt(jnp.mean(quarters**2, axis=1))[::-1]


class Condition(NamedTuple):
    """How cells are written, and how long ago: their device, and its sigma, which scales every level's variation."""

    device: Device
    sigma: Float[Array, ""] | float
    seconds: Float[Array, ""] | float | None = None  # since then; None for at once, as if time did nothing


def stack(devices: Sequence[Device]) -> Device:
    """Devices of equally many levels as one, with a leading axis. An effect that only some have is zero in the others.

    ValueError if the level counts differ, or if only some give conductances (none can be made up).
    """
    counts = {each.levels.shape[0] for each in devices}
    if len(counts) != 1:
        raise ValueError(f"devices of {sorted(counts)} levels do not stack: group them by level count")
    if len({each.conductance_us is None for each in devices}) != 1:
        raise ValueError("only some of the devices give conductances (off_us, on_us): give them for all or none")
    (levels,) = counts
    does_nothing = {"means": jnp.linspace(0, 1, levels), "drift_from": jnp.float32(1), "stuck": jnp.zeros(2),
                    "read_seconds": jnp.float32(READ_SECONDS)}  # fmt: skip
    used = {name: [getattr(each, name) for each in devices] for name in Device._fields}
    used = {name: each for name, each in used.items() if any(leaf is not None for leaf in each)}
    stacked = {}
    for name, leaves in used.items():
        whole = [does_nothing.get(name, jnp.float32(0)) if leaf is None else leaf for leaf in leaves]
        stacked[name] = jnp.stack(jnp.broadcast_arrays(*whole))
    return Device(**stacked)


PER_LEVEL = ("levels", "drift", "means", "drift_std", "wander", "flicker")


def with_levels(device: Device, count: int) -> Device:
    """The device used at `count` levels, evenly spaced over the same range: what it gives for each level is read off
    between the levels that it has. ValueError for less than two."""
    if count < 2:
        raise ValueError(f"a cell of {count} levels holds nothing: at least 2 are needed")
    had = device.levels.shape[-1]
    at, given = jnp.linspace(0, 1, count), jnp.linspace(0, 1, had)
    leaves = {name: getattr(device, name) for name in PER_LEVEL}
    each = {name: leaf for name, leaf in leaves.items() if leaf is not None and leaf.shape == (had,)}
    return device._replace(**{name: jnp.interp(at, given, leaf) for name, leaf in each.items()})


def sweep(
    trial: Callable[[PRNGKeyArray, Device, Float[Array, ""]], PyTree],
    keys: Key[Array, "draws"],
    devices: Device,
    sigmas: Float[Array, "sigmas"],
) -> PyTree:
    """`trial(key, device, sigma)` for every stacked device, sigma and key: leaves are [devices, sigmas, keys, ...].

    Draw k uses the same key, and so the same random numbers, on every device at every sigma: comparisons are paired.
    """
    over_keys = jax.vmap(trial, in_axes=(0, None, None))
    over_sigmas = jax.vmap(over_keys, in_axes=(None, None, 0))
    return jax.vmap(over_sigmas, in_axes=(None, 0, None))(keys, devices, sigmas)

"""Non-volatile memory devices as the physics computes with them. `catalogue` has them by name.

A device is a record of arrays, and devices stack, so that a grid of devices, sigmas and draws is one vmapped program
(`sweep`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree


class Device(NamedTuple):
    """What a cell does. Everything but `levels` may be None: the device then does not do it, at no cost."""

    levels: Float[Array, "levels"]  # programming variation of each level, lowest first; sigma times it is a deviation
    read_noise: Float[Array, ""] | None = None  # deviation of every read; both as a share of the cell's range
    conductance_us: Float[Array, "2"] | None = None  # of the lowest and the highest level
    drift: Float[Array, ""] | None = None  # nu of g(t) = g(1 s) t^-nu
    stuck: Float[Array, "2"] | None = None  # shares of cells stuck at the lowest and at the highest level

    @property
    def factors(self) -> Float[Array, "4"]:
        """f1 to f4 of Eq. 4, the largest magnitudes first. With another number of levels than four, each is the root
        mean square over a quarter of the levels."""
        if self.levels.shape[0] == 4:
            return self.levels[::-1]
        quarters = jnp.repeat(self.levels, max(1, 4 // self.levels.shape[0])).reshape(4, -1)
        return jnp.sqrt(jnp.mean(quarters**2, axis=1))[::-1]


class Condition(NamedTuple):
    """How cells are written: their device, and its sigma, which scales every level's variation."""

    device: Device
    sigma: Float[Array, ""] | float


def stack(devices: Sequence[Device]) -> Device:
    """Devices of equally many levels as one, with a leading axis. An effect that only some have is zero in the others.

    ValueError if the level counts differ, or if only some give conductances (none can be made up).
    """
    counts = {each.levels.shape[0] for each in devices}
    if len(counts) != 1:
        raise ValueError(f"devices of {sorted(counts)} levels do not stack: group them by level count")
    if len({each.conductance_us is None for each in devices}) != 1:
        raise ValueError("only some of the devices give conductances (off_us, on_us): give them for all or none")
    sizes = {"read_noise": (), "drift": (), "stuck": (2,)}
    used = [name for name in sizes if any(getattr(each, name) is not None for each in devices)]
    filled = []
    for each in devices:
        absent = {name: jnp.zeros(sizes[name]) for name in used if getattr(each, name) is None}
        filled.append(each._replace(**absent))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *filled)


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

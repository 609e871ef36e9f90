"""Non-volatile memory devices: how much a programmed level varies (Table II)."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

# The digit in a device's name is the ratio s of its inner levels' variation to that of its outer ones (Table II).
RATIOS = {"NVM-1": 1, "NVM-2": 2, "NVM-3": 3, "NVM-4": 4, "NVM-5": 6}
TECHNOLOGIES = {"NVM-1": "RRAM1", "NVM-2": "FeFET2", "NVM-3": "FeFET3", "NVM-4": "RRAM4", "NVM-5": "FeFET6"}


class Device(NamedTuple):
    """Relative variation of each level, the lowest level first; multiply by sigma for a standard deviation."""

    levels: Float[Array, "4"]

    @property
    def factors(self) -> Float[Array, "4"]:
        """f1 to f4 of Eq. 4: the factor of the largest magnitudes first."""
        return self.levels[::-1]


def device(name: str) -> Device:
    """A device of Table II: `[1, s, s, 1] / sqrt(0.4 s^2 + 0.6)`, which at sigma 0.01 is the table to the last digit.

    Source of the formula: the authors' released device model. ValueError lists the known names.
    """
    if name not in RATIOS:
        raise ValueError(f"unknown device {name!r}: choose one of {', '.join(RATIOS)}")
    s = RATIOS[name]
    return Device(jnp.array([1.0, s, s, 1.0], jnp.float32) / (0.4 * s**2 + 0.6) ** 0.5)

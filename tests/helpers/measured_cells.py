"""Measurements of made-up cells, drawn by NumPy alone: what a fit is held against."""

from typing import NamedTuple

import numpy as np

from nvcim_jax.hardware.measured import Reads

TIMES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
OFF, ON = 2.0, 20.0  # uS


class Truth(NamedTuple):
    """What the cells do, in the units of a sheet."""

    noise: tuple[float, ...] = (0.01, 0.03, 0.02, 0.04)
    exponent: tuple[float, ...] = (0.06, 0.05, 0.05, 0.03)
    spread: tuple[float, ...] = (0.01, 0.008, 0.008, 0.005)
    read: float = 0.004
    correlation: float = 0.1
    stuck_off: float = 0.01
    stuck_on: float = 0.004

    def by_name(self) -> dict[str, float]:
        """The numbers under the names that a fit gives them."""
        of_levels = {"noise": self.noise, "exponent": self.exponent, "spread of exponents": self.spread}
        found = {f"{what} of level {at}": value for what, own in of_levels.items() for at, value in enumerate(own)}
        found |= {f"mean of level {at}": OFF + at / 3 * (ON - OFF) for at in range(4)}
        return found | {
            "read noise": self.read, "correlation": self.correlation, "stuck off": self.stuck_off,
            "stuck on": self.stuck_on,
        }  # fmt: skip


def measure(seed: int, cells: int, truth: Truth = Truth(), *, arrays: int = 25, times=TIMES) -> Reads:  # noqa: B008
    """Reads of `cells` cells of four levels in turn, at each of `times`."""
    drawn, t = np.random.default_rng(seed), np.array(times)
    level, array = np.arange(cells) % 4, np.arange(cells) // 4 % arrays
    common, own = drawn.standard_normal(arrays)[array], drawn.standard_normal(cells)
    unit = np.sqrt(1 - truth.correlation) * own + np.sqrt(truth.correlation) * common
    start = OFF + (level / 3 + np.array(truth.noise)[level] * unit) * (ON - OFF)
    fault = drawn.random(cells)
    is_off, is_on = fault < truth.stuck_off, fault > 1 - truth.stuck_on
    start, at = np.where(is_off, OFF, np.where(is_on, ON, start)), np.where(is_off, 0, np.where(is_on, 3, level))
    nu = np.maximum(np.array(truth.exponent)[at] + np.array(truth.spread)[at] * drawn.standard_normal(cells), 0)
    seen = start[:, None] * t ** -nu[:, None] + truth.read * (ON - OFF) * drawn.standard_normal((cells, len(t)))
    number = np.repeat(np.arange(cells), len(t))
    return Reads(np.maximum(seen, 0).ravel(), np.tile(t, cells), number, level, array)


def missed(found, truth: Truth = Truth()) -> list[str]:  # noqa: B008
    """The numbers that lie outside the intervals of a fit."""
    told = truth.by_name()
    return [name for name, value in told.items() if not found[name].low <= value <= found[name].high]

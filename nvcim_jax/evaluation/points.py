"""Where devices are asked: at which sigmas, how long after programming, and what a reader must know of that."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from nvcim_jax.hardware import mitigation
from nvcim_jax.hardware.catalogue import RATIOS, Sheet, remarks, sheet

SIGMAS = (0.05, 0.1, 0.2, 0.4)
AGEING = {
    "drift": "drift", "drift_std": "spread of drift", "retention": "retention", "wander": "wandering of cells",
}  # fmt: skip
LEFT_OUT = {  # fields of a device that a fidelity does not know
    "value": {
        "read_noise": "read noise", "stuck": "stuck cells", "means": "means of levels", "correlation": "correlation",
        "flicker": "1/f noise", **AGEING,
    },
    "cell": {name: f"{words} after the first second" for name, words in AGEING.items()},
}  # fmt: skip


class Point(NamedTuple):
    """Where a device is asked: its sigma, and the seconds since programming; None for at once."""

    sigma: float
    seconds: float | None = None

    def __str__(self) -> str:
        return f"{self.sigma:g}" if self.seconds is None else f"{self.sigma:g}, {duration(self.seconds)}"


class Row(NamedTuple):
    """A device under the name that tables show, and the sigmas and times at which it is asked."""

    name: str
    sheet: Sheet
    sigmas: tuple[float, ...]
    seconds: tuple[float, ...] = ()

    @property
    def points(self) -> list[Point]:
        """Every sigma at every time."""
        return [Point(sigma, seconds) for sigma in self.sigmas for seconds in self.seconds or (None,)]

    def arrays(self, refresh: float | None = None) -> tuple[Float[Array, "points"], Float[Array, "points"] | None]:
        """The sigmas of the points, and the time since the cells were last written, with a refresh that often."""
        sigmas = jnp.asarray([point.sigma for point in self.points], jnp.float32)
        if not self.seconds:
            return sigmas, None
        seconds = jnp.asarray([point.seconds for point in self.points], jnp.float32)
        return sigmas, seconds if refresh is None else mitigation.refreshes(seconds, refresh)[1]


def duration(seconds: float) -> str:
    """A time as tables show it: 1 s, 1 h, 2.5 d, 10 y."""
    for unit, size in (("y", 365 * 86400), ("d", 86400), ("h", 3600)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def rows(
    names: Sequence[str], sigmas: Sequence[float] = (), seconds: Sequence[float] = (), *, extrapolate: bool = False
) -> list[Row]:
    """One row for each device (of Table II, published, or a .toml file), at those of `sigmas` for which it is known.

    Table II is asked at all of them; `notes` says what lies outside it. Without `sigmas` it is asked at `SIGMAS`, and
    every other device at its own. ValueError for a sigma at which no device is known, for a device that is known at
    none of them, and for `seconds` for which one is not known; none of these with `extrapolate`.
    """
    sheets, sigmas = {name: sheet(name) for name in dict.fromkeys(names)}, sorted(set(sigmas))
    taken = {}
    for name, each in sheets.items():
        own = () if name in RATIOS else tuple(filter(each.covers, sigmas)) if sigmas else (each.own_sigma,)
        if extrapolate and sigmas:
            own = tuple(sigmas)
        taken[name] = own or tuple(sigmas or SIGMAS)
        if name not in RATIOS and not own:
            each.check(sigma=sigmas[0])
        for time in () if extrapolate else seconds:
            each.check(sigma=each.own_sigma, seconds=time)
    for sigma in sigmas:
        if not any(sigma in each for each in taken.values()):
            sheets[names[0]].check(sigma=sigma)
    labels = [each.name for each in sheets.values()]
    times = tuple(sorted(set(seconds)))
    return [
        Row(each.name if labels.count(each.name) == 1 else f"{each.name} ({name})", each, taken[name], times)
        for name, each in sheets.items()
    ]


def notes(rows: Sequence[Row], fidelity: str) -> list[str]:
    """What a reader of the figures must know of the devices."""
    said = remarks([(row.sheet, row.sigmas) for row in rows], rows[0].seconds)
    if fidelity == "cell":
        steps = " or ".join(str(levels - 1) for levels in sorted({row.sheet.levels for row in rows}))
        said.append(f"Sigma is a share of a cell's range; in level steps, as SWIM counts, it is {steps} times as much.")
    for row in rows:
        unknown = {} if row.seconds else LEFT_OUT[fidelity]
        names = [words for field, words in unknown.items() if getattr(row.sheet.device, field) is not None]
        if names:
            said.append(f"{fidelity} fidelity leaves out the {' and the '.join(names)} of {row.name}.")
    return said

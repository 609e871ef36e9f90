"""Devices by name: the five of Table II, published ones, and a user's own from a TOML file, each with its source."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from nvcim_jax.hardware.devices import Condition, Device
from nvcim_jax.hardware.sheet import LARGEST_FILE as LARGEST_FILE
from nvcim_jax.hardware.sheet import Sheet as Sheet
from nvcim_jax.hardware.sheet import load as load
from nvcim_jax.hardware.sheet import to_toml as to_toml

# The digit in a device's name is the ratio s of its inner levels' variation to that of its outer ones (Table II).
RATIOS = {"NVM-1": 1, "NVM-2": 2, "NVM-3": 3, "NVM-4": 4, "NVM-5": 6}
# RRAM1 has one bit a cell in the authors' released code. Table II gives it four levels, which vary alike, and so do we.
TECHNOLOGIES = {"NVM-1": "RRAM1", "NVM-2": "FeFET2", "NVM-3": "FeFET3", "NVM-4": "RRAM4", "NVM-5": "FeFET6"}

PUBLISHED = Path(__file__).parent / "published"  # one TOML file for each device, its comments say what was derived how
LONGEST = 1e12  # seconds that anything is computed for: thirty thousand years


@cache
def published() -> tuple[str, ...]:
    """The names of the published devices beside Table II."""
    return tuple(sorted(path.stem for path in PUBLISHED.glob("*.toml")))


def sheet(name: str) -> Sheet:
    """The record of a device of Table II or of a published one, or the one in a TOML file (`name` ends in .toml).

    Table II is `[1, s, s, 1] / sqrt(0.4 s^2 + 0.6)`, which at sigma 0.01 is the table to the last digit (the authors'
    released device model). It says nothing of the rest; conductances and pulses are NeuroSim's. ValueError for an
    unknown name, and for a file that is no device's.
    """
    if name.endswith(".toml"):
        return load(name)
    if name in published():
        return load(PUBLISHED / f"{name}.toml")
    if name not in RATIOS:
        raise ValueError(
            f"unknown device {name!r}: choose one of {', '.join((*RATIOS, *published()))}, or give the .toml file of "
            "your own"
        )
    s = RATIOS[name]
    unit = np.float32(1) / np.float32((0.4 * s**2 + 0.6) ** 0.5)  # in float32, as results so far were computed
    noise = tuple(float(unit) * factor for factor in (1, s, s, 1))
    return Sheet(
        name=name, levels=4, noise=noise, sigma_range=(0.0, 0.15),
        **(_RRAM if TECHNOLOGIES[name].startswith("RRAM") else _FEFET),
    )  # fmt: skip


# sigma_range of both: Tables II and IV of the paper use 0.01 to 0.15.
_RRAM = {
    "source": "NVCiM-PT, Table II; NeuroSim V1.3 RRAM (6 and 900 kOhm, 2 V, 50 ns); NVMExplorer (0.6 pJ; VLSI'20: 1e5)",
    "on_us": 1e3 / 6, "off_us": 1e3 / 900, "pulse_v": 2.0, "pulse_ns": 50.0, "write_pj": 0.6, "endurance": 1e5,
}  # fmt: skip
_FEFET = {
    "source": "NVCiM-PT, Table II; NeuroSim V2.1 FeFET (240 kOhm and 24 MOhm, 4 V, 50 ns); NVMExplorer (2.9 fJ; 1e7)",
    "on_us": 1e3 / 240, "off_us": 1e3 / 24e3, "pulse_v": 4.0, "pulse_ns": 50.0, "write_pj": 0.0029, "endurance": 1e7,
}  # fmt: skip


def remarks(asked: Sequence[tuple[Sheet, Sequence[float]]], seconds: Sequence[float] = ()) -> list[str]:
    """What a reader must know of figures at sigmas, or `seconds` after programming, that the devices' sources do not
    cover: a sentence for each case."""
    found: dict[tuple, list[str]] = {}
    for each, sigmas in asked:
        for what, (low, high), given in (("Sigma", each.sigma_range, sigmas), ("Seconds", each.seconds_range, seconds)):
            beyond = tuple(value for value in given if not low <= value <= high)
            if beyond:
                found.setdefault((what, (low, high), beyond), []).append(each.name)
    return [
        f"{what} {', '.join(f'{value:g}' for value in beyond)} {'lies' if what == 'Sigma' else 'lie'} outside {low:g} "
        f"to {high:g}, for which {', '.join(names)} {'are' if names[1:] else 'is'} known: figures there are "
        "extrapolated."
        for (what, (low, high), beyond), names in found.items()
    ]


def condition(device_or_name: str | Device, sigma: float, seconds: float | None = None) -> Condition:
    """A device at `sigma`, `seconds` after programming: by its name, as in `device`, or as its arrays.

    ValueError as `device`, and for less than one second.
    """
    own = device(device_or_name) if isinstance(device_or_name, str) else device_or_name
    if seconds is not None and not 1 <= seconds <= LONGEST:
        raise ValueError(f"{seconds:g} seconds after programming: 1 to {LONGEST:g} are possible")
    return Condition(own, sigma, seconds)


def device(name: str) -> Device:
    """A device of Table II or a published one by name, or a user's own by that of its file: `sheet(name).device`."""
    return sheet(name).device

"""Devices by name: the five of Table II, and a user's own from a TOML file, each with the source of its numbers."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from nvcim_jax.hardware.devices import Condition, Device
from nvcim_jax.hardware.sheet_fields import fault, shown

# The digit in a device's name is the ratio s of its inner levels' variation to that of its outer ones (Table II).
RATIOS = {"NVM-1": 1, "NVM-2": 2, "NVM-3": 3, "NVM-4": 4, "NVM-5": 6}
# RRAM1 has one bit a cell in the authors' released code. Table II gives it four levels, which vary alike, and so do we.
TECHNOLOGIES = {"NVM-1": "RRAM1", "NVM-2": "FeFET2", "NVM-3": "FeFET3", "NVM-4": "RRAM4", "NVM-5": "FeFET6"}

LARGEST_FILE = 2**14  # bytes of a device file; 256 levels take a third of it


@dataclass(frozen=True)
class Sheet:
    """A device as one reads it in a paper: numbers with units, their source, and where they hold.

    `noise` gives each level's programming deviation at sigma 1, as a share of the range between the lowest and the
    highest level: with measured deviations use sigma 1. ValueError names what is missing, impossible, or beyond
    `sheet_fields.LIMITS`.
    """

    name: str
    source: str
    levels: int
    noise: tuple[float, ...]
    sigma_range: tuple[float, float]
    seconds_range: tuple[float, float] = (1.0, 1.0)  # after programming; the conductances are those at 1 s
    read_noise: float = 0.0
    off_us: float | None = None
    on_us: float | None = None
    drift_exponent: float = 0.0
    stuck_off: float = 0.0  # share of cells
    stuck_on: float = 0.0
    endurance: float | None = None  # pulses; from here on what `circuit.cell_of` reads, with the conductances
    pulse_v: float | None = None
    pulse_ns: float | None = None
    write_pj: float | None = None  # per pulse and cell; what a read takes follows from conductances and circuit

    def __post_init__(self):
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        left_out = {field.name for field in fields(self) if field.default is None and given[field.name] is None}
        _check_fields(self.name, {name: value for name, value in given.items() if name not in left_out})
        of = f"device {self.name!r}"
        if not self.source.strip():
            raise ValueError(f"{of} has no source: say where its numbers come from")
        if self.levels & (self.levels - 1):
            raise ValueError(f"{of} has {self.levels} levels: a power of two from 2 on is needed")
        if len(self.noise) != self.levels:
            raise ValueError(f"{of} has {self.levels} levels but {len(self.noise)} noise values: give one per level")
        for name in ("sigma_range", "seconds_range"):
            if getattr(self, name)[0] > getattr(self, name)[1]:
                raise ValueError(f"{of}: {name} {getattr(self, name)} is empty: give (low, high)")
        if self.stuck_off + self.stuck_on > 1:
            raise ValueError(f"{of}: {self.stuck_off} stuck off and {self.stuck_on} stuck on exceed 1")
        if (self.off_us is None) != (self.on_us is None):
            raise ValueError(f"{of} gives one of off_us and on_us: give both or neither")
        if self.on_us is not None and np.float32(self.on_us) <= np.float32(self.off_us):
            raise ValueError(f"{of}: on_us {self.on_us} must exceed off_us {self.off_us}, also in float32")

    @property
    def device(self) -> Device:
        """The arrays the physics computes with; what the sheet leaves at zero costs nothing."""
        stuck = (self.stuck_off, self.stuck_on)
        return Device(
            jnp.array(self.noise, jnp.float32),
            read_noise=jnp.float32(self.read_noise) if self.read_noise else None,
            conductance_us=jnp.array([self.off_us, self.on_us], jnp.float32) if self.on_us else None,
            drift=jnp.float32(self.drift_exponent) if self.drift_exponent else None,
            stuck=jnp.array(stuck, jnp.float32) if any(stuck) else None,
        )

    def check(self, *, sigma: float, seconds: float = 1.0) -> None:
        """ValueError if `sigma` or the time since programming lies outside the range the source covers."""
        for what, value, (low, high) in (
            ("sigma", sigma, self.sigma_range),
            ("seconds", seconds, self.seconds_range),
        ):
            if not low <= value <= high:
                raise ValueError(
                    f"{what} {value:g} is outside {low:g} to {high:g}, for which {self.name} is known ({self.source}): "
                    "stay inside, or use a device that covers it"
                )

    def covers(self, sigma: float) -> bool:
        """Whether the source says what the device does at `sigma`."""
        return self.sigma_range[0] <= sigma <= self.sigma_range[1]

    @property
    def own_sigma(self) -> float:
        """1, where `noise` holds as it is written; if the source does not cover that, the sigma nearest to it."""
        low, high = self.sigma_range
        return min(max(1.0, low), high)


def sheet(name: str) -> Sheet:
    """The record of a device of Table II, or the one in a TOML file (`name` ends in .toml). ValueError otherwise.

    Table II is `[1, s, s, 1] / sqrt(0.4 s^2 + 0.6)`, which at sigma 0.01 is the table to the last digit (the authors'
    released device model). It says nothing of the rest; conductances and pulses are NeuroSim's.
    """
    if name.endswith(".toml"):
        return load(name)
    if name not in RATIOS:
        raise ValueError(
            f"unknown device {name!r}: choose one of {', '.join(RATIOS)}, or give the .toml file of your own"
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


def load(path: Path | str) -> Sheet:
    """The record in a TOML file whose keys are the fields of `Sheet`. ValueError says what to change in the file."""
    file = f"device file {path if str(path).isprintable() else repr(str(path))}"
    try:
        if not Path(path).is_file() and Path(path).exists():
            raise ValueError("it is no file")
        with open(path, "rb") as opened:
            data = opened.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read ({getattr(error, 'strerror', error)}): check the path") from error
    if len(data) > LARGEST_FILE:
        raise ValueError(f"{file} is larger than {LARGEST_FILE} bytes: it is no device's")
    try:
        entries = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no TOML ({error}): correct it") from error
    known = {field.name: field for field in fields(Sheet)}
    for name in entries:
        if name not in known:
            raise ValueError(f"{file}: unknown entry {shown(name)}: the entries are {', '.join(known)}")
    missing = [name for name in ("name", "source", "levels", "noise", "sigma_range") if name not in entries]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}: every device needs them")
    given: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in entries.items()}
    try:
        _check_fields(given["name"], given)
        return Sheet(**{name: _as_floats(each) if name != "levels" else each for name, each in given.items()})
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _check_fields(device: object, given: dict[str, object]) -> None:
    for name, value in given.items():
        needed = fault(name, value)
        if needed:
            raise ValueError(f"device {shown(device)}: {name} is {shown(value)}: {needed} needed")


def _as_floats(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return tuple(map(float, value)) if isinstance(value, tuple) else float(value)


def remarks(asked: Sequence[tuple[Sheet, Sequence[float]]]) -> list[str]:
    """What a reader must know of figures at sigmas that the devices' sources do not cover: a sentence for each case."""
    found: dict[tuple, list[str]] = {}
    for each, sigmas in asked:
        beyond = tuple(sigma for sigma in sigmas if not each.covers(sigma))
        if beyond:
            found.setdefault((each.sigma_range, beyond), []).append(each.name)
    return [
        f"Sigma {', '.join(f'{sigma:g}' for sigma in beyond)} lies outside {low:g} to {high:g}, for which "
        f"{', '.join(names)} {'are' if names[1:] else 'is'} known: figures there are extrapolated."
        for ((low, high), beyond), names in found.items()
    ]


def condition(device_or_name: str | Device, sigma: float) -> Condition:
    """A device at `sigma`: one of Table II or in a .toml file by its name, or as its arrays. ValueError as `device`."""
    own = device(device_or_name) if isinstance(device_or_name, str) else device_or_name
    return Condition(own, sigma)


def device(name: str) -> Device:
    """A device of Table II by name, or a user's own by the name of its TOML file: `sheet(name).device`."""
    return sheet(name).device

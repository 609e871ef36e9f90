"""The record of a device as one reads it in a paper, from a TOML file and back."""

import json
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from nvcim_jax.hardware.devices import READ_SECONDS, Device
from nvcim_jax.hardware.sheet_fields import PER_LEVEL, fault, shown

LARGEST_FILE = 2**15  # bytes of a device file; 256 levels of everything take two thirds of it


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
    drift_exponent: float | tuple[float, ...] = 0.0  # one for all levels, or one for each
    stuck_off: float = 0.0  # share of cells
    stuck_on: float = 0.0
    means: tuple[float, ...] | None = None  # where levels lie after a pulse, as shares of the range; else evenly spaced
    correlation: float = 0.0  # share of the variance of programming that the cells of one matrix have in common
    drift_std: float | tuple[float, ...] = 0.0  # deviation of the exponent between cells
    drift_from_s: float = 1.0  # when the conductances are those of the levels
    retention: float = 0.0  # share of its way to the middle that a level loses in a decade of time
    wander: float | tuple[float, ...] = 0.0  # deviation gained over the first decade, as a share of the range
    flicker: float | tuple[float, ...] = 0.0  # 1/f noise of a read, as a share of the cell's own conductance
    read_seconds: float = READ_SECONDS  # that one read takes, which the 1/f noise depends on
    licence: str = ""  # of the numbers
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
        for name in PER_LEVEL:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.levels:
                raise ValueError(f"{of} has {self.levels} levels but {len(value)} values of {name}: give one per level")
        if self.means is not None and any(np.diff(np.asarray(self.means, np.float32)) <= 0):
            raise ValueError(f"{of}: means {self.means} do not rise from level to level")
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
            read_noise=_given(self.read_noise),
            conductance_us=jnp.array([self.off_us, self.on_us], jnp.float32) if self.on_us else None,
            drift=_given(self.drift_exponent),
            stuck=jnp.array(stuck, jnp.float32) if any(stuck) else None,
            means=None if self.means is None else jnp.array(self.means, jnp.float32),
            correlation=_given(self.correlation),
            drift_std=_given(self.drift_std),
            drift_from=jnp.float32(self.drift_from_s) if self.drift_from_s != 1 else None,
            retention=_given(self.retention),
            wander=_given(self.wander),
            flicker=_given(self.flicker),
            read_seconds=jnp.float32(self.read_seconds) if np.any(self.flicker) else None,
        )

    @property
    def ages(self) -> bool:
        """Whether the sheet says that time does anything to the device."""
        return any(np.any(getattr(self, name)) for name in (*PER_LEVEL[:-1], "retention"))

    def check(self, *, sigma: float, seconds: float | None = None) -> None:
        """ValueError if `sigma`, or the seconds since programming, lie outside the range that the source covers."""
        for what, value, (low, high) in (
            ("sigma", sigma, self.sigma_range),
            ("seconds", seconds, self.seconds_range),
        ):
            if value is not None and not low <= value <= high:
                raise ValueError(
                    f"{what} {value:g} is outside {low:g} to {high:g}, for which {self.name} is known ({self.source}): "
                    "stay inside, use a device that covers it, or --extrapolate"
                )

    def covers(self, sigma: float, seconds: float | None = None) -> bool:
        """Whether the source says what the device does at `sigma`, `seconds` after programming if they are given."""
        is_timely = seconds is None or self.seconds_range[0] <= seconds <= self.seconds_range[1]
        return is_timely and self.sigma_range[0] <= sigma <= self.sigma_range[1]

    @property
    def own_sigma(self) -> float:
        """1, where `noise` holds as it is written; if the source does not cover that, the sigma nearest to it."""
        low, high = self.sigma_range
        return min(max(1.0, low), high)


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


def to_toml(sheet: Sheet) -> str:
    """The text of a device file from which `load` reads the same sheet; fields that hold their default are left out."""
    lines = []
    for field in fields(Sheet):
        value = getattr(sheet, field.name)
        if value is None or value == field.default:
            continue
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else _number_text(value)
        lines.append(f"{field.name} = {text}\n")
    return "".join(lines)


def _number_text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_number_text, value))}]"
    return repr(int(value) if isinstance(value, int | np.integer) else float(value))


def _given(value: Any):
    return jnp.array(value, jnp.float32) if np.any(value) else None


def _as_floats(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return tuple(map(float, value)) if isinstance(value, tuple) else float(value)

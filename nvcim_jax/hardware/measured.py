"""Measurements of cells as a file holds them: one line for each read, in CSV."""

import csv
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

NEEDED = ("level", "cell", "seconds", "conductance")
OPTIONAL = ("target", "array")
LARGEST_CSV = 2**28  # bytes
LEAST_CELLS = 8  # of a level


class Reads(NamedTuple):
    """Reads of cells, in any order: conductances in uS, times in seconds after programming.

    A cell holds one level. `cells` and `arrays` are numbered from 0; cells of different arrays may share a name in the
    file, and are different cells. `array_of` is None where the file names no arrays.
    """

    conductance: np.ndarray  # [reads]
    seconds: np.ndarray  # [reads]
    cell: np.ndarray  # [reads]
    level_of: np.ndarray  # [cells]
    array_of: np.ndarray | None  # [cells]
    target_of: np.ndarray | None = None  # [cells], uS


def read_csv(path: Path | str) -> Reads:
    """The reads in a CSV file with the columns level, cell, seconds, conductance, and if it has them target and array.

    ValueError, in one sentence that names the line, for a file that cannot be read, lacks a column, or holds what
    cannot be.
    """
    file = f"measurements {path if str(path).isprintable() else repr(str(path))}"
    try:
        if not Path(path).is_file():
            raise ValueError("there is no such file")
        if Path(path).stat().st_size > LARGEST_CSV:
            raise ValueError(f"it is larger than {LARGEST_CSV >> 20} MB")
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or ("it is no UTF-8 text" if isinstance(error, UnicodeError) else error)
        raise ValueError(f"{file} cannot be read ({why}): check the path") from error
    try:
        rows = csv.DictReader(io.StringIO(text), strict=True)
        names = [str(name).strip().lower() for name in rows.fieldnames or []]
        missing = [name for name in NEEDED if name not in names]
        if missing:
            raise ValueError(
                f"{file} lacks the column{'s' if missing[1:] else ''} {', '.join(missing)}: the first line must name "
                f"{', '.join(NEEDED)}, and may name {', '.join(OPTIONAL)}"
            )
        rows.fieldnames = names
        return _as_reads(file, list(rows), names)
    except csv.Error as error:
        raise ValueError(f"{file} is no CSV ({error}): correct it") from error


def _as_reads(file: str, rows: list[dict], names: list[str]) -> Reads:
    if not rows:
        raise ValueError(f"{file} holds no reads: one line for each is needed")
    numbers = {name: _numbers(file, rows, name) for name in ("level", "seconds", "conductance")}
    target = _numbers(file, rows, "target") if "target" in names else None
    level = numbers["level"]
    _refuse(file, level != np.floor(level), rows, "level", "a whole number from 0 on is needed")
    _refuse(file, (level < 0) | (level > 255), rows, "level", "0 to 255 are possible, the lowest conductance first")
    level = level.astype(int)
    _refuse(file, numbers["seconds"] <= 0, rows, "seconds", "time counts from programming, and must be above 0")
    _refuse(file, numbers["conductance"] < 0, rows, "conductance", "a conductance, in uS, is never below 0")
    arrays = [str(row["array"]).strip() for row in rows] if "array" in names else None
    own = [str(row["cell"] or "").strip() for row in rows]
    _refuse(file, np.array([not each for each in own]), rows, "cell", "a name or a number is needed")
    of = list(zip(arrays, own, strict=True)) if arrays else own
    known: dict[object, int] = {}
    cell = np.array([known.setdefault(each, len(known)) for each in of])
    first = np.unique(cell, return_index=True)[1]
    changed = level != level[first][cell]
    _refuse(file, changed, rows, "level", "this cell holds another level above, and a cell has one")
    array_of = None if arrays is None else np.unique(np.array(arrays)[first], return_inverse=True)[1]
    return checked(
        Reads(numbers["conductance"], numbers["seconds"], cell, level[first], array_of, target if target is None
              else target[first]),
        file,
    )  # fmt: skip


def checked(reads: Reads, file: str = "these measurements") -> Reads:
    """The reads. ValueError unless each level has cells enough, and conducts more than the one before."""
    levels, counts = np.unique(reads.level_of, return_counts=True)
    if len(levels) < 2:
        raise ValueError(f"{file} hold one level only ({levels[0]}): a device has two at least")
    highest = int(levels[-1])
    absent = sorted(set(range(highest + 1)) - set(levels.tolist()))
    if absent:
        raise ValueError(f"{file} hold no cell at level {absent[0]} of {highest + 1}: number them 0, 1, 2, ...")
    if (highest + 1) & highest:
        raise ValueError(f"{file} hold {highest + 1} levels: a power of two is needed to hold codes")
    if counts.min() < LEAST_CELLS:
        few = int(levels[counts.argmin()])
        raise ValueError(
            f"{file} hold {counts.min()} cells at level {few}: {LEAST_CELLS} are the least to tell anything"
        )
    means = np.bincount(reads.level_of[reads.cell], reads.conductance) / np.bincount(reads.level_of[reads.cell])
    if np.any(np.diff(means) <= 0):
        at = int(np.argmax(np.diff(means) <= 0))
        raise ValueError(
            f"{file}: level {at + 1} conducts {means[at + 1]:.3g} uS, no more than level {at} ({means[at]:.3g} uS): "
            "number levels from the lowest conductance"
        )
    return reads


def _numbers(file: str, rows: list[dict], name: str) -> np.ndarray:
    out = np.empty(len(rows))
    for at, row in enumerate(rows):
        try:
            out[at] = float(row[name])
        except (TypeError, ValueError):
            out[at] = np.nan
    _refuse(file, ~np.isfinite(out), rows, name, "a number is needed")
    return out


def _refuse(file: str, wrong: np.ndarray, rows: list[dict], name: str, needed: str) -> None:
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"{file}, line {at + 2}: {name} is {str(rows[at][name])[:40]!r}: {needed}")

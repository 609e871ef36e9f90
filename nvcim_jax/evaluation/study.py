"""The engine of studies: cells in, results in a folder out, which any number of runs may fill and none has to finish.

A cell is a JSON object with all that decides one result; it goes by the digest of its canonical JSON. Each run appends
to files of its own, `results-*.jsonl` and `questions-*.jsonl`, and waits for the disk after every cell: no lock is
needed, on a network either. A line that was half written is dropped when it is read; of two results of one cell the
first counts.
"""

import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from nvcim_jax import files
from nvcim_jax.memory.storage import digests
from nvcim_jax.provenance import peak_bytes, provenance

VERSION = 1  # of what lies in the folder
ABOUT = "study.json"
Json = dict[str, Any]
Keyed = tuple[str, Json]  # a cell and its digest
Span = tuple[int, int]  # users: number of the first, and how many


class Measured(NamedTuple):
    """What a cell came to: its result, and a row for each of its questions, as JSON."""

    result: Json
    questions: Sequence[Json] = ()


Measure = Callable[[Json], Measured]


@dataclass(frozen=True)
class Study:
    """What decides a study.

    `settings` hold for all `cells`. `measure` makes a result from a cell alone; other processes find it by its name.
    Cells that agree in the fields `together` go to one worker, one after the other, which can share work between them.
    A cell's field "users" is the `Span` that it reports on; on those of `chosen_on` settings were chosen, and no cell
    may report on them.
    """

    name: str
    settings: Json
    cells: tuple[Json, ...]
    measure: Measure
    together: tuple[str, ...] = ()
    chosen_on: tuple[Span, ...] = ()


class Results(NamedTuple):
    """What lies in the folder of a study."""

    about: Json  # "study" (its name), "settings", "cells" (how many it has), ...
    cells: dict[str, Json]  # by digest: "at" (the cell), "result", "seconds", "peak_bytes" (of its process), "writer"
    writers: dict[str, Json]  # who wrote them: "started" (seconds since 1970), "provenance"
    dropped: int  # lines that were half written


def run(
    study: Study,
    folder: Path | str,
    *,
    executor: Executor | None = None,
    shard: str = "1/1",
    report: Callable[[int, bool], None] = lambda count, kept: None,
) -> None:
    """Measure those cells of `study` that have no result in `folder` yet.

    `executor` is any of `concurrent.futures`, whose workers see the same folder; without one the cells are measured
    here. `shard` is "2/4" for the second of four runs that share the cells. `report` is told how many cells are done,
    and whether an earlier run had kept them. ValueError for no shard, for what `check` refuses, for a folder of another
    study, and when a worker dies; what is finished is kept whatever ends the run.
    """
    folder, mine = Path(folder), units(study, shard)
    head, kept = begin(study, folder), read(folder).cells
    missing = [[keyed for keyed in unit if keyed[0] not in kept] for unit in mine]
    report(sum(map(len, mine)) - sum(map(len, missing)), True)
    if executor is None:
        for _ in _written(study.measure, folder, head, chain.from_iterable(missing)):
            report(1, False)
    else:
        _spread(executor, study, folder, head, missing, report)


def _spread(executor: Executor, study: Study, folder: Path, head: Json, missing: list[list[Keyed]], report) -> None:
    futures = {}
    try:
        futures |= {executor.submit(_work, study.measure, folder, head, unit): len(unit) for unit in missing if unit}
        for future in as_completed(futures):
            future.result()
            report(futures[future], False)
    except BrokenExecutor as error:
        done = f"{len(read(folder).cells)} of {len(study.cells)} cells"
        raise ValueError(f"a worker died: {done} are kept in {folder}; run it again to go on from there") from error
    finally:
        for future in futures:
            future.cancel()


def units(study: Study, shard: str = "1/1") -> list[list[Keyed]]:
    """The cells of a shard with their digests, those that go together in one list. ValueError as `run` says."""
    part, of = _shard(shard)
    found: dict[str, list[Keyed]] = {}
    for at, each in enumerate(check(study)):
        shared = [each[1].get(field) for field in study.together] or at
        found.setdefault(digests.of_text(shared), []).append(each)
    return list(found.values())[part::of]


def check(study: Study) -> list[Keyed]:
    """The cells with their digests. ValueError for a cell that stands twice, and for users who serve both ends."""
    keyed: dict[str, Json] = {}
    for cell in study.cells:
        name = digests.of_text(cell)
        if name in keyed:
            raise ValueError(f"study {study.name}: the cell {files.as_json(cell)} stands in it twice")
        keyed[name] = cell
        for first, count in study.chosen_on:
            low, many = cell.get("users", (0, 0))
            if max(first, low) < min(first + count, low + many):
                raise ValueError(
                    f"study {study.name}: of users {low} to {low + many - 1}, who are reported, some are among "
                    f"{first} to {first + count - 1}, on whom its settings were chosen; report others"
                )
    return list(keyed.items())


def _shard(shard: str) -> tuple[int, int]:
    part, _, of = shard.partition("/")
    if not (part.isdecimal() and of.isdecimal() and 1 <= int(part) <= int(of)):
        raise ValueError(f"shard {shard!r}: give i/n with i from 1 to n, such as 2/4")
    return int(part) - 1, int(of)


def described(study: Study) -> Json:
    """What `study.json` says: all that decides the results."""
    return {
        "version": VERSION, "study": study.name, "settings": study.settings, "cells": len(study.cells),
        "chosen_on": study.chosen_on, "digest": digests.of_text(sorted(digests.of_text(cell) for cell in study.cells)),
    }  # fmt: skip


def begin(study: Study, folder: Path) -> Json:
    """Begin a folder, or see that it is this study's; the first line of what a run writes there."""
    wanted = json.loads(files.as_json(described(study)))
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ABOUT).exists():
        files.write_json(folder / ABOUT, wanted)
    found = _about(folder)
    if found != wanted:
        raise ValueError(f"{folder} was made with {difference(found, wanted)}: choose another folder")
    return {"study": digests.of_text(wanted), "provenance": provenance()}


def difference(found: Any, wanted: Any, *within: str) -> str:
    """The first value in which two JSON objects differ, in words, such as "settings: draws 3, not 5"."""
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        name = next(name for name in [*wanted, *found] if found.get(name) != wanted.get(name))
        return difference(found.get(name), wanted.get(name), *within, name)
    shown = [said if len(said := files.as_json(value)) <= 60 else f"{said[:60]}..." for value in (found, wanted)]
    return f"{': '.join(within)} {shown[0]}, not {shown[1]}"


def _about(folder: Path) -> Json:
    try:
        about = json.loads(files.read_bytes(folder / ABOUT))
        version = about["version"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder} is no folder of a study: its {ABOUT} cannot be read") from error
    if version != VERSION:
        raise ValueError(f"{folder} is of format {version}, of a newer nvcim_jax (this one knows {VERSION}): update it")
    return about


def _work(*unit: Any) -> int:
    return sum(1 for _ in _written(*unit))


def _written(measure: Measure, folder: Path, head: Json, cells: Iterable[Keyed]) -> Iterator[None]:
    """Measure cells one after the other; when one is yielded, it is on the disk."""
    name, heads = f"{time.time_ns():020d}-{secrets.token_hex(4)}", [{**head, "started": time.time()}]
    for digest, cell in cells:
        began = time.perf_counter()
        measured = measure(cell)
        took = {"seconds": time.perf_counter() - began, "peak_bytes": peak_bytes()}
        line = {"cell": digest, "at": cell, "result": measured.result, **took}
        _append(folder / f"questions-{name}.jsonl", [{"cell": digest, **row} for row in measured.questions])
        _append(folder / f"results-{name}.jsonl", [*heads, line])  # last: a cell with a result has all its rows
        heads = []
        yield


def _append(path: Path, values: Sequence[Json]) -> None:
    data = "".join(f"{files.as_json(value)}\n" for value in values).encode()
    try:
        with open(files.open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(f"{path} cannot be written ({files.reason(error)}): make room, then run it again") from error


def read(folder: Path | str) -> Results:
    """All results in a folder. ValueError for one that holds no study, or what another study wrote."""
    folder = Path(folder)
    about = _about(folder)
    found = Results(about, {}, {}, 0)
    for path in sorted(folder.glob("results-*.jsonl")):
        lines, dropped = _lines(files.read_bytes(path))
        writer = path.stem.removeprefix("results-")
        found = found._replace(dropped=found.dropped + dropped)
        if not lines or "study" not in lines[0]:
            continue  # killed before its first cell
        head, *cells = lines
        if head["study"] != digests.of_text(about):
            raise ValueError(f"{path} was written for other settings than {folder / ABOUT} says: take it away")
        found.writers[writer] = head
        for cell in cells:
            found.cells.setdefault(cell.pop("cell"), cell | {"writer": writer})
    return found


def questions(folder: Path | str, results: Results) -> Iterator[Json]:
    """The rows of all questions of the cells in `results`, file by file."""
    for writer in results.writers:
        path = Path(folder) / f"questions-{writer}.jsonl"
        for row in _lines(files.read_bytes(path))[0] if path.exists() else ():
            if results.cells.get(row["cell"], {}).get("writer") == writer:
                yield row


def _lines(data: bytes) -> tuple[list[Json], int]:
    """The JSON objects in whole lines, and how many lines are none: a line without its end is not whole."""
    *whole, torn = data.split(b"\n")
    values = []
    for line in whole:
        with suppress(ValueError):
            values.append(json.loads(line))
    return values, len(whole) - len(values) + bool(torn)

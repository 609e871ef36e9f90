"""What happened since a version of a bank was saved: lines beside it, each with its digest, one after the other.

A line is on the disk when `append` returns. A line that a killed process left half written is cut off; a damaged one
ends the reading with an error, since what came after it built on it.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from nvcim_jax import files
from nvcim_jax.memory.storage import digests
from nvcim_jax.memory.storage.checkpoint import Damaged, StoreError, path_of
from nvcim_jax.memory.storage.folders import locked, newest

NAME = "journal.jsonl"


class Journal(NamedTuple):
    """The entries beside a version, oldest first, and the bytes that they take."""

    entries: list[Any]
    size: int


def read(folder: Path, version: int) -> Journal:
    """The entries beside a version. Damaged, with the line, if one is not what was written; OSError if unreadable."""
    path = path_of(folder, version) / NAME
    try:
        *whole, _ = files.read_bytes(path).split(b"\n")
    except FileNotFoundError:
        return Journal([], 0)
    entries = []
    for number, line in enumerate(whole, start=1):
        try:
            digest, entry = json.loads(line)
            if digest != digests.of_text(entry):
                raise ValueError("its digest differs")
        except (ValueError, TypeError, RecursionError) as error:
            raise Damaged(
                f"{path}, line {number} is damaged ({files.reason(error)}): cut the file before it to go on from there"
            ) from error
        entries.append(entry)
    return Journal(entries, sum(len(line) + 1 for line in whole))


def append(folder: Path, version: int, entry: Any, *, size: int) -> int:
    """Add an entry to a journal of `size` bytes, all of which the caller knows; its new size.

    StoreError if the bank has another version, or somebody else has added something; OSError if it cannot be written.
    """
    line = files.as_json([digests.of_text(entry), entry])
    path = path_of(folder, version) / NAME
    with locked(folder):
        if newest(folder) != version:
            raise StoreError(f"{folder} holds version {newest(folder)}, not {version} any more: load it again")
        held = path.stat().st_size if path.exists() else 0
        if held < size or (held > size and _is_whole(path, size)):
            raise StoreError(f"{folder} was gone on with by another process: load it again")
        if held > size:
            os.truncate(path, size)  # half a line, of a killed process
        files.append_line(path, line)
    return size + len(line.encode()) + 1


def _is_whole(path: Path, since: int) -> bool:
    """Whether there is a whole line behind so many bytes."""
    return b"\n" in files.read_bytes(path)[since:]

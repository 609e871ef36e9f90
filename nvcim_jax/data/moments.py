"""Moments and questions in time order, from lines of JSON: what has an answer was lived, what has none is asked.

{"time": "2024-05-31T18:30", "question": "which wood for a chair?", "answer": "oak"}
{"question": "and which for a shelf?"}
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nvcim_jax.data import fields, history
from nvcim_jax.data.fields import DataError
from nvcim_jax.data.history import MOST_LINE, Pair


class Mark(NamedTuple):
    """How far a file was read: its lines, a digest of all of them, and the latest time that one named."""

    line: int = 0
    chain: str = ""
    time: float | None = None


START = Mark()


class Line(NamedTuple):
    """A line as it was meant, and where the file stands behind it."""

    pair: Pair
    mark: Mark


def lines(
    data: Iterable[bytes],
    source: str,
    mark: Mark = START,
    *,
    user: str | None = None,
    bad: Callable[[str], None] | None = None,
) -> Iterator[Line]:
    """The lines of `data` behind `mark`, of which `data` is the rest.

    A line is bad if it is no JSON, has no question, names another `user` than the one asked for or than those before,
    or an earlier time than one before it. It is passed over and `bad` is told why, or DataError is raised; both name
    the line. Lines of other users are passed over in silence where a `user` is asked for.
    """
    known = user
    for data_line in data:
        number = mark.line + 1
        mark = mark._replace(line=number, chain=chained(mark.chain, data_line))
        where = f"{source}, line {number}"
        if not data_line.strip():
            continue
        try:
            pair = read_line(data_line, where)
            if pair.time is not None and mark.time is not None and pair.time < mark.time:
                raise DataError(f"{where} is older than a line before it: sort the file by time, or leave the line out")
            if user is None and known is not None and pair.user not in (None, known):
                raise DataError(
                    f"{where} is of user {fields.shown(pair.user)}, those before of {fields.shown(known)}: a life is "
                    "one person's, say whose"
                )
        except DataError as error:
            if bad is None:
                raise
            bad(str(error))
            continue
        if user is not None and pair.user not in (None, user):
            continue
        known = pair.user if known is None else known
        mark = mark._replace(time=mark.time if pair.time is None else pair.time)
        yield Line(pair, mark)


def read_line(line: bytes, where: str) -> Pair:
    """One line. DataError for what is no JSON object with a question."""
    if len(line) > MOST_LINE:
        raise DataError(f"{where} has more than {MOST_LINE // 2**20} MiB: split it, or shorten its texts")
    return history.pair(fields.parse_json(line, where, mend="write one JSON object in each line"), where)


def chained(chain: str, line: bytes) -> str:
    """The digest of all lines up to this one, from that of those before."""
    return hashlib.sha256(chain.encode() + line.rstrip(b"\r\n")).hexdigest()[:32]


def opened(path: Path, mark: Mark) -> tuple[list[bytes], Mark]:
    """The lines of a file that were not read yet: those behind `mark`, if the file begins with what was read then.

    Of another file all lines are new. DataError if it is no file.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing or is no file: give a file with one JSON object in each line")
    data = path.read_bytes().splitlines(keepends=True)
    chain = ""
    for line in data[: mark.line]:
        chain = chained(chain, line)
    if mark.line and len(data) >= mark.line and chain == mark.chain:
        return data[mark.line :], mark
    return data, START


def mark_of(value: Any) -> Mark:
    """A mark from what JSON makes of it; the start of a file where there is none."""
    return Mark(*value) if isinstance(value, list | tuple) and len(value) == len(Mark._fields) else START

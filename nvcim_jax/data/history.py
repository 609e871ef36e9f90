"""People's own histories: lines of JSON, CSV tables and chats, read as a stream.

A sample is a question and its answer. In a chat each turn of the assistant after one of the user's is a sample, whose
question is that turn alone: what was said before it is not carried along, and what the system says is left out. Turns
of one role in a row are one turn. Times only put samples in order.
"""

import csv
import heapq
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import count, groupby
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any, NamedTuple

from nvcim_jax.data import fields
from nvcim_jax.data.fields import DataError
from nvcim_jax.people import Sample, User

LATEST = 1000  # samples that are kept of each user
MOST_USERS = 10_000
MOST_LINE = 4 * 2**20  # bytes of a line
MILLISECONDS = 1e11  # times beyond are in milliseconds, as scripts write them
ONLY = "me"  # the user where none is named
COLUMNS = {  # and their usual names
    "question": ("question", "prompt", "input", "instruction"),
    "answer": ("answer", "response", "output", "completion"),
    "time": ("time", "timestamp", "date", "created_at"),
    "user": ("user", "user_id"),
    "domain": ("domain", "topic", "category"),
}
NEEDED = ("question", "answer")
ROLES = ("user", "assistant", "system")
Bad = Callable[[str], None]  # is told of what is passed over
Given = tuple[tuple[str, str | None], ...]  # the caller's names of columns


class Pair(NamedTuple):
    """A question and its answer as they were found; "" where nothing was said."""

    where: str
    user: str | None
    time: float | None  # seconds since 1970
    question: str
    answer: str
    domain: str | None


class Turn(NamedTuple):
    """What one side of a chat said."""

    role: str
    time: float | None
    text: str


def read(
    paths: Sequence[Path | str],
    *,
    columns: Mapping[str, str | None] | None = None,
    latest: int = LATEST,
    bad: Bad | None = None,
) -> list[User]:
    """The users of files (.jsonl, .ndjson, .csv, .json) and of folders of such, with their histories, oldest first.

    Samples without a time come before the others, in the order of the files. Of each user the `latest` samples are
    kept; a warning says how many were not, and how many were left out because question or answer is empty. `columns`
    names those that have none of the usual names (`COLUMNS`), as in {"question": "Frage"}; None says that there is no
    such column. DataError names the file and the line; where `bad` is given, a line of JSON that cannot be used is
    passed over and `bad` is told so. ValueError for arguments that mean nothing.
    """
    given = _given(columns)
    if latest < 1 or not paths:
        raise ValueError(f"{len(paths)} files, of each user {latest} samples: at least one of both is needed")
    kept: dict[str, list[tuple[float, int, Sample]]] = defaultdict(list)  # heaps, the oldest first
    older = empty = 0
    first = ""
    for number, pair in enumerate(_pairs(paths, given, bad)):
        if not (pair.question and pair.answer):
            empty, first = empty + 1, first or pair.where
            continue
        own = kept[pair.user or ONLY]
        sample = Sample(pair.question, pair.answer, pair.question, pair.domain)
        heapq.heappush(own, (-inf if pair.time is None else pair.time, number, sample))
        if len(own) > latest:
            heapq.heappop(own)
            older += 1
        if len(kept) > MOST_USERS:
            raise DataError(f"{pair.where}: there are more than {MOST_USERS} users: name the column with the user")
    if not kept:
        raise DataError(f"{', '.join(map(str, paths))}: no question has an answer: there is nothing to learn from")
    if empty:
        warnings.warn(f"{empty} without a question or an answer were left out, the first at {first}", stacklevel=3)
    if older:
        warnings.warn(f"{older} samples were left out: of each user the latest {latest} are kept", stacklevel=3)
    return [User(name, tuple(sample for *_, sample in sorted(own)), ()) for name, own in kept.items()]


def pair(value: Any, where: str) -> Pair:
    """One JSON object as a question, with its answer or without, under usual names. DataError if it has no question."""
    entry = fields.record(value, where)
    question = _said(entry, _column("question", entry, where), where)
    if not question:
        raise DataError(f"{where} has an empty question: say what was asked, or take it out")
    has_answer = any(key.strip().casefold() in COLUMNS["answer"] for key in entry)
    answer = _said(entry, _column("answer", entry, where), where) if has_answer else ""
    user, time, domain = _origin(entry, where, ())
    return Pair(where, user, time, question, answer, domain)


def _given(columns: Mapping[str, str | None] | None) -> Given:
    wrong = [name for name in columns or () if name not in COLUMNS]
    if wrong:
        raise ValueError(f"columns name {fields.shown(wrong[0])}: what can be named is {', '.join(COLUMNS)}")
    return tuple((columns or {}).items())


def _pairs(paths: Sequence[Path | str], given: Given, bad: Bad | None) -> Iterator[Pair]:
    """Every pair of every file. Within a file all name their user, or none does."""
    unseen = {column for _, column in given if column}
    for path in (file for given_path in paths for file in _files(Path(given_path))):
        names_user = None
        for where, value in READERS[path.suffix.lower()](path, bad):
            try:
                entry = fields.record(value, where)
                unseen -= entry.keys()
                pairs = list(_of_chat(entry, where, given) if "messages" in entry else _of_line(entry, where, given))
            except DataError as error:
                _refuse(error, bad)
                continue
            for pair in pairs:
                if names_user not in (None, pair.user is not None):
                    told = "no user, but those before do" if names_user else "a user, but those before do not"
                    raise DataError(f"{where} names {told}: name the user everywhere or nowhere in a file")
                names_user = pair.user is not None
                yield pair
    if unseen:
        raise DataError(f"{', '.join(map(str, paths))}: there is no column {', '.join(map(repr, sorted(unseen)))}")


def _files(path: Path) -> list[Path]:
    """The file itself, or those in a folder by name; hidden ones and folders in it are passed over."""
    if path.is_dir():
        found = [each for each in sorted(path.iterdir()) if _is_readable(each) and not each.name.startswith(".")]
        links = [each for each in found if each.is_symlink()]
        if links:
            raise DataError(f"{links[0]} is a link, and none is followed out of a folder: put the file itself there")
        inside = [file for each in found if not each.is_dir() for file in _files(each)]
        if not inside:
            raise DataError(f"{path} holds no file that ends in {', '.join(READERS)}: put your history there")
        return inside
    if not path.is_file():
        raise DataError(f"{path} is missing or is no file: give the file or the folder of your history")
    if not _is_readable(path):
        raise DataError(f"{path} ends in none of {', '.join(READERS)}: name it after what it holds")
    return [path]


def _is_readable(path: Path) -> bool:
    return path.suffix.lower() in READERS


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    with path.open("rb") as file:
        for number in count(1):
            line, where = file.readline(MOST_LINE + 1), f"{path}, line {number}"
            if not line:
                return
            if len(line) > MOST_LINE:
                raise DataError(f"{where} has more than {MOST_LINE // 2**20} MiB: split it, or shorten its texts")
            yield where, line


def _json_lines(path: Path, bad: Bad | None = None) -> Iterator[tuple[str, Any]]:
    for where, line in _lines(path):
        if not line.strip():
            continue
        try:
            value = fields.parse_json(line, where, mend="write one JSON object in each line")
        except DataError as error:
            _refuse(error, bad)
        else:
            yield where, value


def _refuse(error: DataError, bad: Bad | None) -> None:
    if bad is None:
        raise error
    bad(str(error))


def _json_file(path: Path, bad: Bad | None = None) -> Iterator[tuple[str, Any]]:
    value = fields.read_json(path)
    if not isinstance(value, list):
        yield str(path), value
        return
    for at, each in enumerate(value):
        yield f"{path}, entry {at}", each


def _csv_rows(path: Path, bad: Bad | None = None) -> Iterator[tuple[str, dict]]:
    """Rows as objects; NaN, as some programs write what is missing, is no text."""
    reader = csv.reader((fields.decoded(line, where) for where, line in _lines(path)), strict=True)
    header = None
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{where} is not CSV ({error}): mend its quotes, or shorten the cell") from error
        if row is None:
            return
        if header is None:
            header = _header([name.strip() for name in row], where)
        elif row and len(row) != len(header):
            raise DataError(f"{where} has {len(row)} cells, but the header has {len(header)}: mend it or take it out")
        elif row:
            cells = [nan if cell.strip().lower() == "nan" else cell for cell in row]
            yield where, dict(zip(header, cells, strict=True))


def _header(names: list[str], where: str) -> list[str]:
    twice = [name for at, name in enumerate(names) if name in names[:at]]
    if twice:
        raise DataError(f"{where}: the header has {fields.shown(twice[0])} twice: give every column a name of its own")
    return names


READERS = {".jsonl": _json_lines, ".ndjson": _json_lines, ".csv": _csv_rows, ".json": _json_file}


def _of_line(entry: dict, where: str, given: Given) -> Iterator[Pair]:
    question, answer = (_said(entry, _column(name, entry, where, given), where) for name in NEEDED)
    user, time, domain = _origin(entry, where, given)
    yield Pair(where, user, time, question, answer, domain)


def _of_chat(chat: dict, where: str, given: Given) -> Iterator[Pair]:
    user, began, domain = _origin(chat, where, given)
    told = [turn for turn in _turns(chat, where) if turn.role != "system"]
    question, time = "", None
    for role, row in groupby(told, key=lambda turn: turn.role):
        turns = list(row)
        said = "\n".join(turn.text for turn in turns if turn.text)
        if role == "user":
            question, time = said, turns[0].time
        else:
            yield Pair(where, user, began if time is None else time, question, said, domain)
            question, time = "", None
    if told and told[-1].role == "user":
        yield Pair(where, user, began, question, "", domain)


def _turns(chat: dict, where: str) -> Iterator[Turn]:
    for at, value in enumerate(fields.items(chat, "messages", where)):
        here = f"{where}, message {at}"
        message = fields.record(value, here)
        if message.get("role") not in ROLES:
            role = fields.shown(message.get("role"))
            raise DataError(f"{here} has the role {role}; allowed: {', '.join(ROLES)}: {fields.MEND}")
        time = _time(message, _column("time", message, here), here)
        yield Turn(message["role"], time, _said(message, "content", here))


def _origin(entry: dict, where: str, given: Given) -> tuple[str | None, float | None, str | None]:
    """User, time and domain, each None where it is not said."""
    user, time, domain = (_column(name, entry, where, given) for name in ("user", "time", "domain"))
    return _said(entry, user, where) or None, _time(entry, time, where), _said(entry, domain, where) or None


def _column(name: str, entry: dict, where: str, given: Given = ()) -> str | None:
    """The column of `entry` that holds what is called `name`. DataError where it is needed, or cannot be told."""
    try:
        return _find_column(name, tuple(entry), given)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


@lru_cache(256)
def _find_column(name: str, keys: tuple[str, ...], given: Given) -> str | None:
    named = dict(given)
    if name in named and (named[name] is None or named[name] in keys):
        return named[name]
    taken = [column for other, column in given if other != name]
    found = [key for key in keys if key.strip().casefold() in COLUMNS[name] and key not in taken]
    if len(found) == 1 or not (found or name in NEEDED):
        return found[0] if found else None
    remedy = f'name it, as in columns={{"{name}": "..."}} or --column {name}=...'
    if found:
        raise ValueError(f"{' and '.join(map(repr, found))} could both be the {name}: {remedy}")
    known = ", ".join(COLUMNS[name])
    raise ValueError(f"none of its columns {fields.shown(list(keys))} is a {name} ({known}): {remedy}")


def _said(entry: dict, column: str | None, where: str) -> str:
    """A text, or a whole number as text; "" where nothing is said."""
    value = None if column is None else entry.get(column)
    if column is None or value is None or (isinstance(value, str) and not value.strip()):
        return ""
    return fields.name(entry, column, where).strip()


def _time(entry: dict, column: str | None, where: str) -> float | None:
    """Seconds since 1970; without an hour midnight is meant, without a zone UTC."""
    value = None if column is None else entry.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        time = _seconds(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{where}: field {column!r} is {fields.shown(value)}; a time such as 2024-05-31T18:30 or seconds "
            "since 1970 are needed: mend it, or name no time"
        ) from error
    return time / 1000 if abs(time) > MILLISECONDS else time


def _seconds(value: Any) -> float:
    if isinstance(value, str) and ("-" in value.strip()[1:] or len(value.strip()) == 8):
        time = datetime.fromisoformat(value.strip())
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, bool) or not isfinite(float(value)):
        raise ValueError("no finite number")
    return float(value)

"""Checked reading of JSON that others wrote: messages name file, entry and field, what is there, what is allowed."""

import json
import reprlib
from pathlib import Path
from typing import Any

MAX_BYTES = 2 * 2**30  # of a file; its values take several times as much memory
MEND = "mend it or take the entry out"

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 80


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the entry, the field and the remedy."""


def read_json(path: Path) -> Any:
    """The value in the JSON file `path`, in UTF-8. Raises DataError; pipes and devices are not opened."""
    if not path.is_file():
        raise DataError(f"{path} is missing or is no file: put the JSON file there")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DataError(f"{path} has {size / 2**30:.1f} GiB, at most {MAX_BYTES / 2**30:.0f} are read: split it")
    return parse_json(path.read_bytes(), str(path))


def parse_json(data: bytes, where: str, *, mend: str = "download it again") -> Any:
    """The value that `data` from `where` is, JSON in UTF-8. Raises DataError, which ends with what to do."""
    text = decoded(data, where)
    try:
        return _decoder.decode(text)
    except RecursionError as error:
        raise DataError(f"{where} is nested too deeply to be read: {mend}") from error
    except ValueError as error:
        raise DataError(f"{where} is not valid JSON ({error}): {mend}") from error


def decoded(data: bytes, where: str) -> str:
    """`data` from `where` as text, with or without a byte order mark. Raises DataError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error


def record(value: Any, where: str) -> dict:
    """`value` if it is a JSON object."""
    if not isinstance(value, dict):
        raise DataError(f"{where} is {shown(value)}; an object with fields is needed: {MEND}")
    return value


def items(entry: dict, field: str, where: str) -> list:
    """The list in `field`."""
    value = entry.get(field)
    if not isinstance(value, list):
        raise DataError(f"{where}: field {field!r} is {shown(value)}; a list is needed: {MEND}")
    return value


def text(entry: dict, field: str, where: str) -> str:
    """The text in `field`: not blank, and whole characters only."""
    value = entry.get(field)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field {field!r} is {shown(value)}; a text is needed: {MEND}")
    try:
        return whole(value)
    except ValueError as error:
        raise DataError(f"{where}: field {field!r}: {error}") from error


def name(entry: dict, field: str, where: str) -> str:
    """The text or whole number in `field`, as text."""
    value = entry.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where}: field {field!r} is {shown(value)}; a text or a whole number is needed: {MEND}")
    return text(entry, field, where)


def optional_text(entry: dict, field: str, where: str) -> str | None:
    """The text in `field`; None if the field is absent, null or an empty text."""
    return None if entry.get(field) in (None, "") else text(entry, field, where)


def whole(text: str) -> str:
    """`text` if every character is whole. ValueError for half of a surrogate pair, which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise ValueError(
            f"the text holds half of a character, {half!r} at place {error.start}: write the whole character or leave "
            "it out"
        ) from error
    return text


def shown(value: Any) -> str:
    """`value` for a message: what is long is cut, what is deep is left out."""
    return _short.repr(value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object has the field {shown(next(n for n in names if names.count(n) > 1))} twice")
    return found


_decoder = json.JSONDecoder(object_pairs_hook=_object)

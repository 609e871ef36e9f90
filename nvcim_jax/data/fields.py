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
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply to be read: download it again") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}): download it again") from error


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

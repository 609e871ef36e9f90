"""Files are written complete or not at all, and through no link.

What is written lies in a folder of its own, made by `tempfile` beside its place and closed to all others, until it is
whole and on the disk.
"""

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".nvcim-part-"  # begins the name of the folder in which a file is written; only a killed process leaves one


@contextmanager
def replacing(path: Path | str, *, private: bool = False) -> Iterator[Path]:
    """The path at which to write what becomes `path`, in one step, when the block ends without an error.

    It has the name of `path` and does not exist yet, so that any library can write it. A link at `path` is replaced,
    never followed. `private` gives mode 0600, for what is made of a person's texts; else new files have the mode that
    they usually have. Raises OSError, with the reason, if it cannot be written; what was at `path` is then unharmed.
    """
    path = Path(path)
    try:
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=path.parent, ignore_cleanup_errors=True) as folder:
            partial = Path(folder) / path.name
            yield partial
            _to_disk(partial, private)
            os.replace(partial, path)
    except OSError as error:
        raise OSError(f"{path} cannot be written ({reason(error)}): make room, or choose another place") from error


def write_bytes(path: Path | str, data: bytes, *, private: bool = False) -> None:
    """Write `path`, complete or not at all. Raises OSError."""
    with replacing(path, private=private) as partial:
        partial.write_bytes(data)


def write_text(path: Path | str, text: str, *, private: bool = False) -> None:
    """Write `path` in UTF-8, complete or not at all. Raises OSError."""
    write_bytes(path, text.encode("utf-8"), private=private)


def write_json(path: Path | str, value: Any, *, private: bool = False) -> None:
    """Write `value` as JSON to `path`, complete or not at all. Raises OSError."""
    write_text(path, as_json(value, indent=1), private=private)


def append_line(path: Path | str, line: str) -> None:
    """Add a line to `path`, which only its owner may read; a line before it that lacks its end gets one.

    Whole or not at all, also where several write. Raises OSError with the reason; a link is not followed.
    """
    try:
        with open(open_own(path, os.O_RDWR | os.O_APPEND | os.O_CREAT), "rb+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.fchmod(file.fileno(), 0o600)
            size = file.seek(0, os.SEEK_END)
            is_torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            data = ("\n" * is_torn + line + "\n").encode("utf-8")
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(size)
                raise
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(f"{path} cannot be written ({reason(error)}): make room, or choose another place") from error


def as_json(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON, which knows neither NaN nor infinity: they become null."""
    finite = json.loads(json.dumps(value), parse_constant=lambda name: None)
    return json.dumps(finite, indent=indent)


def read_bytes(path: Path | str) -> bytes:
    """What the regular file `path` holds; a link is not followed, a pipe not waited for. Raises OSError."""
    with open(open_own(path), "rb") as file:
        return file.read()


def reason(error: BaseException) -> str:
    """Why something failed, in a few words on one line."""
    said = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "")
    return said[:200] or type(error).__name__


def open_own(path: Path | str, flags: int = os.O_RDONLY) -> int:
    """A descriptor of the regular file `path`; with `os.O_CREAT` a new one has mode 0600.

    Raises OSError for a link, which is not followed, and for a pipe or device, which is not waited for.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is no regular file")
    return descriptor


def _to_disk(partial: Path, private: bool) -> None:
    descriptor = open_own(partial)
    try:
        if private:
            os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

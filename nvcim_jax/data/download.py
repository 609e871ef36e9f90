"""A file from the web: a download that was cut goes on where it was, in this process or in the next.

An unfinished file lies in NAME.part, beside it NAME.part.about: where it comes from, which version it is, its size.
"""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from nvcim_jax import files

BLOCK = 1 << 20  # most bytes that are read at once
SECONDS = 30.0  # without a byte, after which a connection counts as cut
TRIES = 5  # in a row that bring nothing
WAIT = 1.0  # seconds before the second try, twice as many before each further one
GO_ON = "what has come is kept: the same command goes on from there"

Report = Callable[[int, int | None], None]  # bytes that are here, of how many if the server said so


class About(NamedTuple):
    """What an unfinished file is a part of."""

    address: str
    version: dict[str, str]  # the header that asks for the rest of this version, and for the whole of any other
    size: int | None  # in bytes, of the whole


def download(
    address: str, part: Path, *, report: Report = lambda here, whole: None, wait: float = WAIT, seconds: float = SECONDS
) -> None:
    """Fetch `address` to `part`, where an earlier run may have left a beginning of it.

    ValueError if nothing is there, or for an address that is not of the web. OSError in one sentence if the server
    cannot be reached, if no connection brings anything any more, or for a full disk; what has come is kept.
    """
    host = urlsplit(address).hostname
    if urlsplit(address).scheme not in ("http", "https") or not host:
        raise ValueError(f"{address} is no address of the web: it begins with https:// or http://")
    idle, most, is_first = 0, 0, True
    while not _is_whole(address, part):
        most = max(most, _size(part))
        try:
            if _connect(address, part, report, seconds):
                return
            why = "it ended too early"
        except HTTPError as error:
            error.close()
            why = f"the server says {error.code} {error.reason}"
            if error.code == 416:  # what is here is no beginning of what is there
                forget(part)
            elif error.code < 500 and error.code not in (408, 429):
                raise ValueError(f"{address} cannot be had: {why}") from error
        except URLError as error:
            why = files.reason(error.reason) if isinstance(error.reason, Exception) else str(error.reason)
            if is_first:
                raise OSError(f"{host} cannot be reached ({why}): check the network, then try again") from error
        except _Cut as cut:
            why = str(cut)
        idle, is_first = 0 if _size(part) > most else idle + 1, False
        if idle == TRIES:
            raise OSError(f"{address} was cut {idle} times in a row ({why}); {GO_ON}")
        time.sleep(wait * 2**idle)
    report(_size(part), _size(part))


def finish(part: Path, final: Path) -> None:
    """Give a whole file its name, in one step."""
    part.replace(final)
    _beside(part).unlink(missing_ok=True)


def forget(part: Path) -> None:
    """Remove an unfinished file."""
    for each in (part, _beside(part)):
        each.unlink(missing_ok=True)


class _Cut(Exception):
    """A connection that ended before all had come."""


def _connect(address: str, part: Path, report: Report, seconds: float) -> bool:
    """Write what one connection brings behind what is here; whether that was all."""
    here, about = _size(part), _about(address, part)
    headers = {"User-Agent": "nvcim_jax", "Accept-Encoding": "identity"}
    if here and about:
        headers |= {"Range": f"bytes={here}-", **about.version}
    try:
        with urlopen(Request(address, headers=headers), timeout=seconds) as response:
            if about is None or response.status != 206:
                about = _begin(response, address, part)
            elif not _goes_on(response, here, about):
                forget(part)
                raise _Cut("the server went on with something else")
            _require_room(part, about.size)
            report(_size(part), about.size)
            while block := response.read1(BLOCK):
                _append(part, block)
                report(_size(part), about.size)
    except (URLError, _Disk):
        raise
    except (OSError, HTTPException) as error:
        raise _Cut(files.reason(error)) from error
    return about.size is None or _size(part) == about.size


def _goes_on(response: Any, here: int, about: About) -> bool:
    """Whether an answer with a part holds all that is behind the bytes that are here."""
    return (
        about.size is not None
        and response.headers.get("Content-Range") == f"bytes {here}-{about.size - 1}/{about.size}"
    )


class _Disk(OSError):
    """What this machine's disk refused."""


def _begin(response: Any, address: str, part: Path) -> About:
    """Begin a file anew, as the answer describes it."""
    tag, length = response.headers.get("ETag", ""), response.headers.get("Content-Length", "")
    version = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")  # no weak tag: it may not serve
    about = About(address, {"If-Range": version} if version else {}, int(length) if length.isdecimal() else None)
    try:
        files.write_json(_beside(part), about._asdict())
        part.write_bytes(b"")
    except OSError as error:
        raise _Disk(str(error)) from error
    return about


def _append(part: Path, block: bytes) -> None:
    try:
        with part.open("ab") as file:
            file.write(block)
    except OSError as error:
        raise _Disk(f"{part} cannot be written ({files.reason(error)}): make room; {GO_ON}") from error


def _require_room(part: Path, whole: int | None) -> None:
    free, need = shutil.disk_usage(part.parent).free, 0 if whole is None else whole - _size(part)
    if need > free:
        mega = f"{need / 1e6:,.0f} MB are to come and {free / 1e6:,.0f} MB are free"
        raise _Disk(f"{part.parent} has no room: {mega}: make room, or choose another folder")


def _about(address: str, part: Path) -> About | None:
    """What is here of `address`; None, and what is here is removed, if it is of something else."""
    with suppress(OSError, ValueError, TypeError):
        about = About(**json.loads(files.read_bytes(_beside(part))))
        if about.address == address and part.is_file():
            return about
    forget(part)
    return None


def _is_whole(address: str, part: Path) -> bool:
    about = _about(address, part)
    return about is not None and about.size == _size(part)


def _beside(part: Path) -> Path:
    return part.with_name(f"{part.name}.about")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0

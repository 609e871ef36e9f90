"""The folder of a bank: its numbered versions, its lock, and what interrupted saves leave in it."""

import contextlib
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from nvcim_jax import files
from nvcim_jax.memory.storage import checkpoint
from nvcim_jax.memory.storage.checkpoint import StoreError

VERSION = re.compile(r"\d{6,}")
LEFTOVER = re.compile(r"\d{6,}\.(orbax-checkpoint-tmp.*|old\d*)")
LOCK = ".lock"
PATIENCE = 2.0  # seconds to wait for a lock: counting uses holds it for a moment only


def versions(folder: Path | str) -> list[int]:
    """The versions in a folder, oldest first; 0 is a bank of schema 1, which had no versions."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if VERSION.fullmatch(path.name)]
    found = sorted(int(path.name) for path in named if path.is_dir() and not path.is_symlink())
    return found or ([0] if (folder / checkpoint.METADATA).is_file() else [])


def newest(folder: Path | str) -> int:
    """The newest version in a folder. StoreError if there is none."""
    found = versions(folder)
    if not found:
        raise StoreError(f"{folder} is no bank: make one with `nvcim learn --out {shlex.quote(Path(folder).name)}`")
    return found[-1]


def leftovers(folder: Path | str) -> list[str]:
    """Names of the folders that interrupted saves left in a folder. Links and files of such names are not theirs."""
    named = [path for path in Path(folder).iterdir() if LEFTOVER.fullmatch(path.name)]
    return sorted(path.name for path in named if path.is_dir() and not path.is_symlink())


@contextmanager
def locked(folder: Path, *, create: bool = False) -> Iterator[None]:
    """Hold the folder's lock, which the system drops with the process. StoreError if it cannot be had, with the reason.

    The lock is a file that is opened, never written to, and never followed if it is a link.
    """
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        elif not folder.is_dir():
            raise StoreError(f"{folder} is no bank: there is nothing to save over")
        lock = FileLock(folder / LOCK, timeout=PATIENCE, mode=0o600, fallback_to_soft=False)
        lock.acquire()
    except Timeout as error:
        raise StoreError(f"{folder} is being saved by another process: wait for it, then load again") from error
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({files.reason(error)}): choose another folder") from error
    try:
        with contextlib.suppress(PermissionError):  # a folder of somebody else's, in which we may write
            folder.chmod(0o700)
        yield
    finally:
        lock.release()


def sweep(folder: Path, before: int = 0) -> int:
    """Remove leftovers, and the versions below `before`; returns the number of leftovers."""
    found = leftovers(folder)
    for name in found:
        shutil.rmtree(folder / name, ignore_errors=True)
    if before > 0 and (folder / checkpoint.METADATA).is_file():
        shutil.rmtree(aside(folder, 0, "old"), ignore_errors=True)
    for version in versions(folder):
        if 0 < version < before:
            shutil.rmtree(aside(folder, version, "old"), ignore_errors=True)
    return len(found)


def sweep_settled(folder: Path, quiet: float = 1.0, longest: float = 10.0) -> None:
    """Sweep until no leftover has come for `quiet` seconds: an Orbax that failed may write on behind its error."""
    begun = still = time.monotonic()
    while (now := time.monotonic()) - still < quiet and now - begun < longest:
        with contextlib.suppress(OSError):
            if sweep(folder):
                still = time.monotonic()
        time.sleep(quiet / 10)


def aside(folder: Path, version: int, ending: str) -> Path:
    """Take a version out of the bank in one step, to a new name with `ending`, which is returned."""
    path = folder / f"{version:06d}"
    names = (path.with_name(f"{path.name}.{ending}{number or ''}") for number in count())
    to = next(name for name in names if not os.path.lexists(name))
    if version:
        return path.rename(to)
    to.mkdir(mode=0o700)
    for each in sorted(folder.iterdir(), key=lambda each: each.name == checkpoint.METADATA):  # of schema 1, this last
        if each.name not in (LOCK, to.name) and not VERSION.match(each.name):
            each.rename(to / each.name)
    return to

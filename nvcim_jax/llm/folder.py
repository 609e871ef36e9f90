"""Files of a checkpoint folder, which somebody else wrote: nothing outside it is read, and JSON is an object."""

import json
import os
import reprlib
from pathlib import Path
from typing import Any

from nvcim_jax import files
from nvcim_jax.llm.config import CheckpointError

MOST_JSON = 2**28  # bytes; a tokenizer of 256,000 words has 34 million

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 100


def check_links(folder: Path) -> None:
    """Refuse a folder with a link that leads out of it.

    The hub's cache keeps every file of a snapshot as a link into the `blobs` folder of the same model: those are fine.
    Raises CheckpointError.
    """
    for path in sorted(folder.iterdir()):
        check_link(path)


def check_link(path: Path) -> None:
    """Refuse one file of a folder that is a link out of it, as `check_links` does."""
    root = path.parent.resolve()
    if root.parent.name == "snapshots":
        root = root.parent.parent
    try:
        outside = path.is_symlink() and not path.resolve().is_relative_to(root)
    except (OSError, RuntimeError) as error:  # a link to itself
        raise CheckpointError(f"{path} is a link that leads nowhere: put the file in its place") from error
    if outside:
        raise CheckpointError(f"{path} is a link that leads out of the folder: put the file in its place")


def read_object(path: Path) -> dict:
    """The JSON object in a file. Raises CheckpointError for anything else, NaN and infinity among them."""
    told = read_value(path)
    if not isinstance(told, dict):
        raise CheckpointError(f"{path} is damaged: it holds {short(told)}, a JSON object is needed: download it again")
    return told


def read_value(path: Path) -> Any:
    """The JSON value in a file. Raises CheckpointError for what is no JSON, NaN and infinity among it."""
    try:
        with os.fdopen(files.open_own(path.resolve()), "rb") as file:
            data = file.read(MOST_JSON + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or 'no regular file'})") from error
    if len(data) > MOST_JSON:
        raise CheckpointError(f"{path} is larger than {MOST_JSON // 2**20} MiB: no such file of a checkpoint is")
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged, no JSON ({one_line(error)}): download it again") from error


def short(value: object) -> str:
    """A value in a message: its repr, cut in the middle where it is long."""
    return _REPR.repr(value)


def one_line(error: BaseException) -> str:
    """What an error of another library says, as one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def _refuse(constant: str):
    raise ValueError(f"{constant} is no number of JSON")

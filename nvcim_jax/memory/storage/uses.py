"""How often OVTs answered since their bank was saved: a small file beside a version, whose arrays never change.

Loading adds it to `origin.uses`; the next save writes that. What is damaged here harms no OVT, and is left out.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nvcim_jax import files
from nvcim_jax.memory.bank import Bank
from nvcim_jax.memory.storage import digests
from nvcim_jax.memory.storage.checkpoint import path_of

NAME = "uses.json"
MOST = 2**30

Counts = dict[tuple[int, int], int]  # by user and slot


def counted(folder: Path, version: int) -> Counts:
    """What was counted of a version; nothing, with a warning, if the file is damaged. OSError if it cannot be read."""
    path = path_of(folder, version) / NAME
    try:
        told = json.loads(files.read_bytes(path))
        if told["digest"] != digests.of_text(told["uses"]):
            raise ValueError("its digest differs")
        return {(_number(user), _number(slot)): _number(uses) for user, slot, uses in told["uses"]}
    except FileNotFoundError:
        return {}
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        warnings.warn(f"{path} is damaged ({files.reason(error)}): the uses that it counts are left out", stacklevel=2)
        return {}


def count(folder: Path, version: int, user: int, slots: Sequence[int] | np.ndarray) -> None:
    """Count one more use of each of `slots`, while the folder is locked. Raises OSError."""
    counts = counted(folder, version)
    for slot in map(int, slots):
        counts[user, slot] = min(counts.get((user, slot), 0) + 1, MOST)
    told = [[*place, uses] for place, uses in sorted(counts.items())]
    files.write_json(path_of(folder, version) / NAME, {"uses": told, "digest": digests.of_text(told)}, private=True)


def added(bank: Bank, folder: Path, version: int) -> Bank:
    """`bank`, as it was saved in a version, with what was counted since; a warning if that cannot be read.

    A single bank is that of user 0. Uses of slots that it does not have are left out.
    """
    try:
        counts = counted(folder, version)
    except OSError as error:
        warnings.warn(f"{folder}: uses are left out ({files.reason(error)})", stacklevel=2)
        return bank
    if not counts:
        return bank
    held = bank.origin.uses
    more = np.zeros(held.shape if held.ndim == 2 else (1, *held.shape), held.dtype)
    for place, uses in counts.items():
        if all(at < size for at, size in zip(place, more.shape, strict=True)):
            more[place] = uses
    more = whole = more.reshape(held.shape)
    if isinstance(held, jax.Array):  # which may be cut over several devices
        more = jax.make_array_from_callback(held.shape, held.sharding, lambda part: whole[part])
    return bank._replace(origin=bank.origin._replace(uses=held + more))


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MOST:
        raise ValueError(f"it says {str(value)[:40]}")
    return value

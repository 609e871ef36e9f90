"""Put the OVTs of two versions of a bank together: on NumPy arrays with a leading user axis."""

import hashlib
from dataclasses import replace

import jax
import numpy as np

from nvcim_jax.memory.bank import Bank
from nvcim_jax.memory.storage.about import taken
from nvcim_jax.memory.storage.store import Saved


def without(bank: Bank, bad: np.ndarray) -> Bank:
    """Banks without the OVTs of the slots that are `bad` [users, slots]; the others keep their order."""
    kept = taken(bank) & ~bad
    order = np.argsort(~kept, axis=1, kind="stable")
    rows = np.arange(len(order))[:, None]
    count = kept.sum(axis=1).astype(bank.count.dtype)
    moved = Bank(*jax.tree.map(lambda leaf: leaf[rows, order], bank[:3]), count=count, writes=bank.writes)
    return moved._replace(writes=bank.writes + (taken(moved) & (order != np.arange(order.shape[1]))))


def taken_over(saved: Saved, user: int, older: Saved, *, is_new: bool) -> tuple[Saved, int]:
    """`saved`, which is changed in place, with those OVTs of one user that only `older` has, and their number.

    There are none if `older` does not know the user, or coded with another codec; `is_new` takes over the codec, too.
    """
    row = _row_of(saved, user, older)
    if row is None or saved.bank.prompts.shape[2:] != older.bank.prompts.shape[2:]:
        return saved, 0
    if jax.tree.structure(saved.codec) != jax.tree.structure(older.codec):
        return saved, 0
    for own, other in zip(jax.tree.leaves(saved.codec), jax.tree.leaves(older.codec), strict=True):
        if own.shape[1:] != other.shape[1:]:
            return saved, 0
        if is_new:
            own[user] = other[row]
        elif not np.array_equal(own[user], other[row]):
            return saved, 0
    slots = _only_in(older.bank, row, saved.bank, user)
    for slot in slots:
        saved = _appended(saved, user, older, row, int(slot))
    return saved, len(slots)


def _row_of(saved: Saved, user: int, older: Saved) -> int | None:
    """The row that a user has in `older`, by name, or where users have no names by number."""
    names, others = saved.about.users, older.about.users
    if len(names) != len(saved.bank.count) or len(others) != len(older.bank.count):
        return user if user < len(older.bank.count) else None
    return others.index(names[user]) if names[user] in others else None


def _only_in(bank: Bank, row: int, other: Bank, user: int) -> np.ndarray:
    """The slots of `bank[row]` with an OVT that `other[user]` does not hold, judged by prompt and search key."""
    held = {_content(other, user, slot) for slot in range(int(other.count[user]))}
    return np.array([slot for slot in range(int(bank.count[row])) if _content(bank, row, slot) not in held], int)


def _content(bank: Bank, row: int, slot: int) -> bytes:
    return hashlib.sha256(bank.prompts[row, slot].tobytes() + bank.keys[row, slot].tobytes()).digest()


def _appended(saved: Saved, user: int, older: Saved, row: int, slot: int) -> Saved:
    """`saved` with one more OVT of a user, in a bank that grows where it is full."""
    bank, at = saved.bank, int(saved.bank.count[user])
    if at == bank.capacity:
        bank = Bank(*jax.tree.map(_doubled, bank[:3]), count=bank.count, writes=jax.tree.map(_doubled, bank.writes))
    jax.tree.map(lambda leaf, other: leaf[user].__setitem__(at, other[row, slot]), bank[:3], older.bank[:3])
    bank.count[user] += 1
    bank.writes[user, at] += 1
    about = saved.about
    for kind, field in (("users", "user"), ("domains", "domain"), ("devices", "device")):
        name = older.about.name(kind, int(getattr(bank.origin, field)[user, at]))
        if name:
            getattr(bank.origin, field)[user, at], about = about.numbered(kind, name)
    whose = int(bank.origin.user[user, at])
    sample = older.about.sample(int(older.bank.origin.user[row, slot]), int(older.bank.origin.sample[row, slot]))
    if sample is not None:
        samples = [*about.samples, *[()] * (max(len(about.users), whose + 1) - len(about.samples))]
        if sample not in samples[whose]:
            samples[whose] = (*samples[whose], sample)
        bank.origin.sample[user, at] = samples[whose].index(sample)
        about = replace(about, samples=tuple(samples))
    return saved._replace(bank=bank, about=about)


def _doubled(leaf: np.ndarray) -> np.ndarray:
    return np.concatenate([leaf, np.zeros_like(leaf)], axis=1)

"""Mend a damaged bank. Nothing is deleted, and only what differs from its digest, or is not finite, counts as damaged.

A version that cannot be read for another reason (no permission, a disk that is away, a newer schema) may be whole: then
one sentence says so, and nothing is changed.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from nvcim_jax.memory.storage import checkpoint, digests, folders, merge, schema, store, uses
from nvcim_jax.memory.storage.about import taken
from nvcim_jax.memory.storage.checkpoint import Checked
from nvcim_jax.memory.storage.store import Damaged, Saved, StoreError


class Rescued(NamedTuple):
    """What is whole of one version, its bank in NumPy arrays with a leading user axis."""

    saved: Saved
    lost: np.ndarray  # OVTs of each user
    gone: np.ndarray  # users of whom nothing is left, not even the codec
    is_single: bool  # saved without a user axis
    is_whole: bool  # on disk


def repair(folder: Path | str) -> str:
    """Make a damaged bank loadable, and return a sentence on what was done.

    What is whole of the newest version is kept. What it has lost comes from the version before, as far as that has it.
    A damaged version is renamed, not deleted. StoreError, with nothing changed, if a version cannot be read or nothing
    is whole.
    """
    folder = Path(folder).absolute()
    newest = folders.newest(folder)
    with folders.locked(folder):
        found = _readable(folder)
        first = found[0]
        damaged = sorted(set(folders.versions(folder)) - {each.saved.version for each in found if each.is_whole})
        told = [f"version {newest} is whole" if newest not in damaged else f"version {newest} was damaged"]
        if not first.is_whole:
            saved, said = _mended(found)
            about = store.require_sound(folder, saved.bank, saved.codec, saved.about)
            store.write(folder, newest + 1, saved.bank, saved.codec, about, unharmed="nothing was changed")
            told.append(f"{said}: this is version {newest + 1}")
        elif newest in damaged:
            told.append(f"went back to version {first.saved.version}")
        names = [folders.aside(folder, version, "damaged").name for version in damaged]
        told += [f"the damaged one is kept as {name}" for name in names]
        return "; ".join([*told, f"{folders.sweep(folder)} leftovers removed"])


def set_aside(folder: Path | str, version: int) -> str:
    """Rename a version, whatever is wrong with it, so that the newest other one is the bank; returns what was done.

    StoreError if there is no such version, or no other one.
    """
    folder = Path(folder).absolute()
    folders.newest(folder)
    with folders.locked(folder):
        found = folders.versions(folder)
        if version not in found or len(found) == 1:
            raise StoreError(f"{folder} holds version {', '.join(map(str, found))}: name one of several to set aside")
        name = folders.aside(folder, version, "aside").name
        return f"version {version} is kept as {name}; version {folders.newest(folder)} is the bank"


def _readable(folder: Path) -> list[Rescued]:
    """What is whole of every version, newest first. StoreError if one cannot be read, or nothing is whole."""
    found, older, why = [], None, f"{folder}: every OVT is damaged"
    for version in folders.versions(folder):
        try:
            checked = checkpoint.read(folder, version)
            found.append(_rescued(folder, version, _healed(checked, older), is_whole=not checked.damaged))
            older = checked
        except Damaged as error:
            why = str(error)
        except StoreError as error:
            several = len(folders.versions(folder)) > 1
            remedy = f"; if it lasts, `nvcim bank repair --set-aside {version}` renames it" if several else ""
            raise StoreError(f"version {version}: {error}; nothing was changed{remedy}") from error
    if not any(each.is_whole or each.saved.bank.count.any() for each in found):
        raise StoreError(f"{why}; restore it from a copy: nothing was changed")
    return found[::-1]


def _healed(checked: Checked, older: Checked | None) -> Checked:
    """What was read, with its damaged rows from an older version where that holds just what their digests tell."""
    arrays, damaged = dict(checked.arrays), {}
    for name, ranges in checked.damaged.items():
        own = np.array(arrays[name])
        other = np.atleast_1d(0 if older is None else older.arrays.get(name, 0))
        blocks = digests.blocks(np.atleast_1d(own).shape[0])
        expected = dict(zip(blocks, checked.digests.get(name, ()), strict=False))
        for rows in ranges:
            part = other[rows.start : rows.stop]
            if digests.of_rows(part, rows.start) == expected.get(rows):
                np.atleast_1d(own)[rows.start : rows.stop] = part
            else:
                damaged.setdefault(name, []).append(rows)
        arrays[name] = own
    return checked._replace(arrays=arrays, damaged=damaged)


def _rescued(folder: Path, version: int, checked: Checked, *, is_whole: bool) -> Rescued:
    """One version without its damaged rows. Damaged if a row is not all that is; StoreError if it is not sound."""
    bank, codec = schema.from_arrays(jax.tree.map(np.array, checked.arrays))
    is_single, rows = bank.count.ndim == 0, bank.prompts.shape[0]
    bad = np.zeros(rows, bool)
    for name, ranges in checked.damaged.items():
        if is_single and not schema.along_slots(name):
            raise Damaged(f"{folder}: {name} is damaged, without which no OVT can be read")
        for each in ranges:
            bad[each.start : each.stop] = True
    saved = Saved(uses.added(bank, folder, version), codec, checked.about, version).block
    gone = np.zeros(1, bool) if is_single else bad
    for leaf in jax.tree.leaves((saved.bank, saved.codec)):
        leaf[gone] = 0
    bad = (bad[None] if is_single else bad[:, None]) | ~store.finite(saved.bank)
    kept, lost = merge.without(saved.bank, bad), (taken(saved.bank) & bad).sum(axis=1)
    try:
        checked.about.check(kept)
    except ValueError as error:
        raise StoreError(f"{folder}: {error}") from error
    return Rescued(saved._replace(bank=kept), lost, gone, is_single, is_whole and not lost.any())


def _mended(found: list[Rescued]) -> tuple[Saved, str]:
    """The newest version with what an older one has of the users who lost something, and what to say of it."""
    first, *others = found
    saved, back, whole = first.saved, 0, int(first.saved.bank.count.sum())
    for other in others[:1]:
        for user in np.flatnonzero(first.lost.astype(bool) | first.gone) if other.is_single == first.is_single else ():
            saved, more = merge.taken_over(saved, int(user), other.saved, is_new=bool(first.gone[user]))
            back += more
    said = f"{whole} OVTs are whole, {first.lost.sum()} are lost"
    said += f", and everything of {first.gone.sum()} users" if first.gone.any() else ""
    said += f"; {back} OVTs came back from version {others[0].saved.version}" if back else ""
    if first.is_single:
        saved = saved._replace(**jax.tree.map(lambda leaf: leaf[0], {"bank": saved.bank, "codec": saved.codec}))
    return saved, said

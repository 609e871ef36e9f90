"""Banks on disk, in folders that their owner alone can read: they hold the texts of a person's samples in clear.

A bank is a folder of numbered versions, each a checkpoint of its own with digests of everything in it. Saving adds a
version and then removes old ones, so that at every moment the newest whole version is the bank.
"""

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from nvcim_jax import files
from nvcim_jax.core.codec import Codec
from nvcim_jax.memory import sharding
from nvcim_jax.memory.bank import Bank
from nvcim_jax.memory.search import is_searchable
from nvcim_jax.memory.storage import checkpoint, schema, uses
from nvcim_jax.memory.storage.about import About, taken
from nvcim_jax.memory.storage.checkpoint import Damaged as Damaged
from nvcim_jax.memory.storage.checkpoint import StoreError, path_of
from nvcim_jax.memory.storage.folders import LOCK, leftovers, locked, newest, sweep, sweep_settled, versions


class Identity(NamedTuple):
    """What the model of a bank must be: a digest, the width of its embeddings, and where it takes virtual tokens in."""

    fingerprint: str
    dim: int
    prompt_space: str


KEPT = 2  # versions: the newest, and the one before it to fall back on
REMEDY = "take them out, or `nvcim bank repair` does"


class Saved(NamedTuple):
    """A bank, the codec it is coded with, what it says about itself, and its version.

    Codec and bank of a block of users have a leading user axis.
    """

    bank: Bank
    codec: Codec | None
    about: About
    version: int

    @property
    def block(self) -> "Saved":
        """The same with a user axis, as learned banks have it, also if the bank is a single one."""
        if self.bank.count.ndim:
            return self
        return self._replace(**jax.tree.map(lambda leaf: leaf[None], {"bank": self.bank, "codec": self.codec}))


def save(
    folder: Path | str,
    bank: Bank,
    codec: Codec | None = None,
    about: About | Mapping[str, Any] | None = None,
    *,
    over: int = -1,
) -> int:
    """Write a bank to a new `folder`, or over the version that was loaded from it, and return the new version.

    Atomic: at every moment, also after a crash, the folder loads as the old bank or the new one. StoreError if the
    folder holds something else, another version than `over`, if somebody else is saving, if the bank or what is said
    `about` it is not sound, or if it cannot be written.
    """
    folder = Path(folder).absolute()
    if not all(leaf.is_fully_addressable for leaf in jax.tree.leaves(bank) if isinstance(leaf, jax.Array)):
        raise StoreError("the bank is spread over several processes: save it from one that holds all of it")
    about = require_sound(folder, bank, codec, about)
    is_new, version = not folder.is_dir() or not any(folder.iterdir()), max(over, 0) + 1
    with locked(folder, create=over < 0):
        try:
            _require_version(folder, over)
            unharmed = "the bank that was there is unharmed" if over >= 0 else ""
            write(folder, version, bank, codec, about, unharmed=unharmed)
        except StoreError:
            if is_new:  # so that the same command can be given again
                with contextlib.suppress(OSError):
                    (folder / LOCK).unlink()
                    folder.rmdir()
            raise
        sweep(folder, before=version - KEPT + 1)
    return version


def write(folder: Path, version: int, bank: Bank, codec: Codec | None, about: About, *, unharmed: str = "") -> None:
    """Write one version while `folder` is locked. StoreError, with what is `unharmed`, if it cannot be written."""
    for path in folder.glob(f"{version:06d}*"):
        if path.is_symlink() or not path.is_dir():
            raise StoreError(f"{folder} holds {path.name}, which no save has left: remove it")
    try:
        checkpoint.write(path_of(folder, version), schema.to_arrays(bank, codec), about.to_json())
    except Exception as error:  # Orbax and tensorstore raise many kinds; all mean that nothing was committed
        sweep_settled(folder)
        why = "the disk is full" if _is_full(error, folder) else files.reason(error)
        raise StoreError(f"{folder} cannot be written ({why}): {unharmed or 'nothing was saved'}") from error


def load(
    folder: Path | str,
    *,
    model: Identity | None = None,
    codec: Codec | None = None,
    mesh: Mesh | None = None,
    version: int | None = None,
) -> Saved:
    """Read the newest version (or `version`) and check every digest; refuse a bank of another `model` or `codec`.

    With a `mesh` each of its devices reads its own part of the slots. Raises StoreError.
    """
    folder = Path(folder).absolute()
    version = newest(folder) if version is None else version
    try:
        checked = checkpoint.read(folder, version, mesh=mesh)
    except StoreError:
        if versions(folder) and version not in versions(folder):  # somebody saved twice while we read
            return load(folder, model=model, codec=codec, mesh=mesh)
        raise
    if checked.damaged:
        names = ", ".join(sorted(checked.damaged))
        raise Damaged(f"{folder}: the stored arrays are damaged ({names}): try `nvcim bank repair`")
    bank, own = schema.from_arrays(checked.arrays)
    about = require_sound(folder, bank, own, checked.about)
    bank = uses.added(bank, folder, version)
    if model is not None:
        _require_model(folder, model, about, own)
    if codec is not None:
        _require_codec(folder, own, codec, bank)
    return Saved(bank, own, about, version)


def count_uses(folder: Path | str, version: int, user: int, slots: Sequence[int] | np.ndarray) -> str | None:
    """Count one more use of the OVTs in `slots` of a user, in the version that was loaded.

    Returns why that was not possible (the folder cannot be written, somebody is saving or has saved another version),
    else None; nothing is raised, for an answer is worth more than its count. A bank that was loaded before does not
    have these uses: saved over this one, it forgets them.
    """
    folder = Path(folder).absolute()
    try:
        with locked(folder):
            _require_version(folder, version)
            uses.count(folder, version, user, slots)
    except (StoreError, OSError) as error:
        return str(error)
    return None


def require_sound(folder: Path, bank: Bank, codec: Codec | None, about: About | Mapping[str, Any] | None) -> About:
    """What the bank says about itself. StoreError unless bank, codec and description are whole, finite and agree."""
    try:
        about = about if isinstance(about, About) else About.from_json(about or {})
        json.dumps(about.to_json())
        schema.check(schema.SCHEMA, schema.shapes_of(schema.to_arrays(bank, codec)))
        for part in sharding.held(bank):
            about.check(part)
            _require_finite(part, codec)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"{folder}: {files.reason(error)}") from error
    return about


def finite(bank: Bank) -> np.ndarray:
    """Which slots hold numbers that can be searched, none of them NaN, infinite or huge: [users,] slots."""
    prompts, keys = (is_searchable(leaf).all(axis=(-2, -1)) for leaf in (bank.prompts, bank.keys))
    return np.logical_and(prompts, keys)


def _require_finite(bank: Bank, codec: Codec | None) -> None:
    broken = int((~finite(bank) & taken(bank)).sum())
    if broken:
        raise ValueError(f"{broken} OVTs hold NaN, infinite or huge values, which would win every search: {REMEDY}")
    if not all(is_searchable(leaf).all() for leaf in jax.tree.leaves(codec)):
        raise ValueError("the codec holds NaN, infinite or huge values: fit it again")


def _require_version(folder: Path, over: int) -> None:
    """StoreError unless the folder holds version `over`, or with -1 nothing."""
    found = versions(folder)
    if over < 0 and found:
        raise StoreError(f"{folder} exists already: give another folder, or save over the version you loaded from it")
    foreign = sorted({path.name for path in folder.iterdir()} - {LOCK, *leftovers(folder)})
    if over < 0 and foreign:
        raise StoreError(f"{folder} exists already and is no bank (it holds {foreign[0]}): give another folder")
    if over >= 0 and (found or [-1])[-1] != over:
        now = found[-1] if found else "none"
        raise StoreError(f"{folder} holds version {now}, not {over} any more: load it again and repeat your change")


def _require_model(folder: Path, model: Identity, about: About, codec: Codec | None) -> None:
    if about.model is None:
        raise StoreError(f"{folder} does not say which model it is for: save it with the fingerprint of its model")
    if about.model != model.fingerprint:
        raise StoreError(
            f"{folder} was learned with another model (its fingerprint differs): give that one with --model, held as "
            "then with --weights"
        )
    widths = set() if codec is None else {codec.encoder[0][0].shape[-2], codec.decoder[-1][0].shape[-1]}
    if widths - {model.dim}:
        raise StoreError(f"{folder}: its codec is for vectors of {max(widths)} values, the model's have {model.dim}")
    if about.prompt_space != model.prompt_space:
        raise StoreError(
            f"{folder}: its virtual tokens live in {about.prompt_space!r}, the models here take {model.prompt_space!r}"
        )


def _require_codec(folder: Path, own: Codec | None, codec: Codec, bank: Bank) -> None:
    width, given = bank.prompts.shape[-1], codec.encoder[-1][1].shape[-1]
    if width != given:
        raise StoreError(f"{folder} holds codes of {width} values, the codec given makes {given}: use the bank's codec")
    same = jax.tree.structure(own) == jax.tree.structure(codec) and all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(codec), strict=True)
    )
    if not same:
        raise StoreError(f"{folder} was coded with another codec than the one given: use the bank's codec")


def _is_full(error: Exception, folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free < 1 << 20 or "No space left" in str(error)
    return False

"""Banks on disk. The only door to Orbax, which writes atomically but does not notice a flipped bit: we do.

A bank is a folder of numbered versions, each a checkpoint of its own with digests of everything in it. Saving adds a
version and then removes old ones, so that at every moment the newest whole version is the bank.
"""

import fcntl
import hashlib
import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from nvcim_jax import digests, layout, spread
from nvcim_jax.bank import Bank
from nvcim_jax.codec import Codec
from nvcim_jax.llm.config import PROMPT_SPACE
from nvcim_jax.llm.weights import Model

KEPT = 2  # versions: the newest, and the one before it to fall back on
VERSION = re.compile(r"\d{6,}")
LEFTOVER = re.compile(r"\d{6,}\.(orbax-checkpoint-tmp.*|old)")
LOCK = ".lock"


class StoreError(ValueError):
    """A bank that cannot be saved or loaded; the message says why and what to do."""


class Saved(NamedTuple):
    """A bank, the codec it is coded with, what it is about, and its version.

    `about` is JSON: the fingerprint of its model, the lists of users, samples, domains and devices that `bank.origin`
    counts in, settings. Codec and bank of a block of users have a leading user axis.
    """

    bank: Bank
    codec: Codec | None
    about: dict[str, Any]
    version: int


class Checked(NamedTuple):
    """What was read of one version, and which rows of each array differ from their digests."""

    arrays: dict[str, jax.Array]
    metadata: dict[str, Any]
    damaged: dict[str, list[range]]


def fingerprint(model: Model) -> str:
    """A short digest of a model's sizes and of a sample of every weight: enough to refuse a bank of another model.

    The same whether the weights are held in the checkpoint's type or in a wider one.
    """
    digest = hashlib.blake2b(repr(model.config).encode(), digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        name, shape = jax.tree_util.keystr(path), leaf.shape
        turned = name.endswith("['weight']")  # the first banks knew it as a kernel, [in, out]
        if turned:
            name, shape = name.replace("['weight']", "['kernel']"), shape[::-1]
        at = np.unravel_index(np.arange(0, leaf.size, max(1, leaf.size // 1024)), shape)
        digest.update(f"{name}{shape}".encode())
        digest.update(np.asarray(leaf[at[::-1] if turned else at], np.float32).tobytes())
    return digest.hexdigest()


def versions(folder: Path | str) -> list[int]:
    """The versions in a folder, oldest first; 0 is a bank of schema 1, which had no versions."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if VERSION.fullmatch(path.name)]
    found = sorted(int(path.name) for path in named if path.is_dir() and not path.is_symlink())
    return found or ([0] if (folder / "_CHECKPOINT_METADATA").is_file() else [])


def save(
    folder: Path | str, bank: Bank, codec: Codec | None = None, about: dict[str, Any] | None = None, *, over: int = -1
) -> int:
    """Write a bank to a new `folder`, or over the version that was loaded from it, and return the new version.

    Atomic: at every moment, also after a crash, the folder loads as the old bank or the new one. StoreError if the
    folder holds something else, another version than `over`, if somebody else is saving, or if it cannot be written.
    """
    from orbax.checkpoint import v1 as ocp

    folder = Path(folder).absolute()
    _require_whole(bank)
    arrays = layout.to_arrays(bank, codec)
    with locked(folder, create=over < 0):
        _require_version(folder, over)
        version = max(over, 0) + 1
        metadata = {
            "schema": layout.SCHEMA,
            "about": about or {},
            "shapes": {name: [list(leaf.shape), leaf.dtype.name] for name, leaf in arrays.items()},
            "digests": {name: digests.of(leaf) for name, leaf in arrays.items()},
        }
        metadata["digest"] = digests.of_text(metadata)
        try:
            options = ocp.options.ArrayOptions.Saving(
                use_compression=False
            )  # codes shrink by 8 % at six times the time
            with ocp.Context(array_options=ocp.options.ArrayOptions(saving=options)):
                ocp.save(path_of(folder, version), arrays, custom_metadata=metadata)
        except Exception as error:  # Orbax and tensorstore raise many kinds; all mean that nothing was committed
            sweep(folder)
            kept = "the bank that was there is unharmed" if over >= 0 else "nothing was saved"
            raise StoreError(f"{folder} cannot be written ({_reason(error, folder)}): {kept}") from error
        sweep(folder, before=version - KEPT + 1)
    return version


def load(
    folder: Path | str,
    *,
    model: Model | None = None,
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
        checked = read(folder, version, mesh=mesh)
    except StoreError:
        if versions(folder) and version not in versions(folder):  # somebody saved twice while we read
            return load(folder, model=model, codec=codec, mesh=mesh)
        raise
    if checked.damaged:
        names = ", ".join(sorted(checked.damaged))
        raise StoreError(f"{folder}: the stored arrays are damaged ({names}): try `nvcim bank repair`")
    bank, own = layout.from_arrays(checked.arrays)
    about = checked.metadata["about"]
    if model is not None and about.get("model") != fingerprint(model):
        raise StoreError(
            f"{folder} was learned with another model (its fingerprint differs): give that one with --model, held as "
            "then with --weights"
        )
    space = about.get("prompt_space", PROMPT_SPACE)
    if space != PROMPT_SPACE:
        raise StoreError(f"{folder}: its virtual tokens live in {space!r}, the models here take {PROMPT_SPACE!r}")
    if codec is not None:
        _require_codec(folder, own, codec, bank)
    return Saved(bank, own, about, version)


def read(folder: Path, version: int, *, mesh: Mesh | None = None) -> Checked:
    """One version as far as it can be read, with the rows that are damaged. StoreError if there is nothing to read."""
    from orbax.checkpoint import v1 as ocp

    path = path_of(folder, version)
    try:
        metadata = ocp.metadata(path).custom_metadata
        schema = metadata["schema"]
    except Exception as error:  # Orbax raises whatever its layers raise on a folder that is not its own
        raise StoreError(f"{folder} is no bank, or its metadata is damaged: try `nvcim bank repair`") from error
    if not isinstance(schema, int) or schema > layout.SCHEMA:
        raise StoreError(
            f"{folder} has schema {schema}, this program reads up to {layout.SCHEMA}: use a newer nvcim_jax"
        )
    of_metadata = digests.of_text if schema > 1 else layout.digest_1
    if metadata.pop("digest", None) != of_metadata(metadata):
        raise StoreError(f"{folder}: the metadata is damaged (its digest differs): try `nvcim bank repair`")
    abstract = {
        name: jax.ShapeDtypeStruct(shape, np.dtype(dtype), sharding=_sharding(name, shape, mesh))
        for name, (shape, dtype) in metadata["shapes"].items()
    }
    try:
        arrays = ocp.load(path, abstract)
    except Exception as error:
        kind = type(error).__name__
        raise StoreError(f"{folder} is damaged and cannot be read ({kind}): try `nvcim bank repair`") from error
    if schema == 1:
        damaged = layout.damage_1(arrays, metadata["digests"])
        arrays, metadata["about"] = layout.migrated_1(arrays, metadata["about"])
        return Checked(arrays, metadata, damaged)
    damaged = {name: digests.differing(leaf, metadata["digests"][name]) for name, leaf in arrays.items()}
    return Checked(arrays, metadata, {name: rows for name, rows in damaged.items() if rows})


def leftovers(folder: Path | str) -> list[str]:
    """Names of what interrupted saves left in a folder."""
    return sorted(path.name for path in Path(folder).iterdir() if LEFTOVER.fullmatch(path.name))


def _require_whole(bank: Bank) -> None:
    if not all(leaf.is_fully_addressable for leaf in jax.tree.leaves(bank) if isinstance(leaf, jax.Array)):
        raise StoreError("the bank is spread over several processes: save it from one that holds all of it")


def _require_version(folder: Path, over: int) -> None:
    """StoreError unless the folder holds version `over`, or with -1 nothing."""
    found = versions(folder)
    if over < 0 and found:
        raise StoreError(f"{folder} exists already: give another folder, or save over the version you loaded from it")
    foreign = [path.name for path in folder.iterdir() if path.name != LOCK and not LEFTOVER.fullmatch(path.name)]
    if over < 0 and foreign:
        raise StoreError(f"{folder} exists already and is no bank (it holds {foreign[0]}): give another folder")
    if over >= 0 and (found or [-1])[-1] != over:
        now = found[-1] if found else "none"
        raise StoreError(f"{folder} holds version {now}, not {over} any more: load it again and repeat your change")


def _require_codec(folder: Path, own: Codec | None, codec: Codec, bank: Bank) -> None:
    width, given = bank.prompts.shape[-1], codec.encoder[-1][1].shape[-1]
    if width != given:
        raise StoreError(f"{folder} holds codes of {width} values, the codec given makes {given}: use the bank's codec")
    same = jax.tree.structure(own) == jax.tree.structure(codec) and all(
        np.array_equal(a, b) for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(codec), strict=True)
    )
    if not same:
        raise StoreError(f"{folder} was coded with another codec than the one given: use the bank's codec")


def newest(folder: Path) -> int:
    found = versions(folder)
    if not found:
        raise StoreError(f"{folder} is no bank: make one with `nvcim learn --out {folder.name}`")
    return found[-1]


def path_of(folder: Path, version: int) -> Path:
    return folder / f"{version:06d}" if version else folder


@contextmanager
def locked(folder: Path, *, create: bool = False):
    """Hold the folder's lock, which the system drops with the process. StoreError if somebody else holds it."""
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        elif not folder.is_dir():
            raise StoreError(f"{folder} is no bank: there is nothing to save over")
        file = open(folder / LOCK, "w")  # noqa: SIM115
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error.strerror or error}): choose another folder") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(f"{folder} is being saved by another process: wait for it, then load again") from error
        yield


def sweep(folder: Path, before: int = 0) -> int:
    """Remove leftovers, and the versions below `before`; returns the number of leftovers."""
    found = leftovers(folder)
    for name in found:
        shutil.rmtree(folder / name, ignore_errors=True)
    if before > 0 and (folder / "_CHECKPOINT_METADATA").is_file():
        _sweep_schema_1(folder)
    for version in versions(folder):
        if 0 < version < before:
            remove(path_of(folder, version))
    return len(found)


def _sweep_schema_1(folder: Path) -> None:
    old = folder / "000000.old"
    old.mkdir()
    for path in list(folder.iterdir()):
        if path.name not in (LOCK, old.name) and not VERSION.fullmatch(path.name):
            path.rename(old / path.name)
    shutil.rmtree(old, ignore_errors=True)


def remove(path: Path) -> None:
    """Take a version out of sight in one step, then delete it."""
    old = path.with_name(f"{path.name}.old")
    path.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def _reason(error: Exception, folder: Path) -> str:
    if shutil.disk_usage(folder).free < 1 << 20 or "No space left" in str(error):
        return "the disk is full"
    return getattr(error, "strerror", None) or str(error).splitlines()[0][:200]


def _sharding(name: str, shape, mesh: Mesh | None):
    if mesh is None:
        return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if not layout.along_slots(name):
        return spread.sharding(mesh, None)
    if shape[0] % (digests.ROWS * mesh.size):
        fits = spread.capacity(shape[0], mesh)
        raise StoreError(f"a bank of {shape[0]} slots does not cut over {mesh.size} devices: grow it to {fits} first")
    return spread.sharding(mesh, 0)

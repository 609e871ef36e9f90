"""One version of a bank as a checkpoint, in a folder of its own that its owner alone can read.

The only door to Orbax, which writes atomically but does not notice a flipped bit, and believes what a folder says of
itself: we digest what is written, and check what is read before anything of its size is allocated.
"""

import errno
import json
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from nvcim_jax import files
from nvcim_jax.memory import sharding
from nvcim_jax.memory.storage import digests, schema
from nvcim_jax.memory.storage.about import About

METADATA = "_CHECKPOINT_METADATA"  # where Orbax keeps what it is given beside the arrays
SMALL = 256 << 20  # bytes of arrays that are believed whatever the size of the files
BESIDE = 1 << 20  # bytes that a version takes beside its arrays, at most: 0.14 MB were seen while one is written
DENSE = 64  # bytes of arrays for each byte on disk that are believed: the first banks were compressed


class StoreError(ValueError):
    """A bank that cannot be saved or loaded; the message says why and what to do."""


class Damaged(StoreError):
    """What is stored differs from its digest, so it is not what was saved."""


class Checked(NamedTuple):
    """What was read of one version, and which rows of each array differ from their digests."""

    arrays: schema.Arrays
    about: About
    damaged: dict[str, list[range]]
    digests: dict[str, list[str]]  # that each block of rows should have; of schema 1 none


def path_of(folder: Path, version: int) -> Path:
    """The folder of a version; 0 is a bank of schema 1, which had no versions."""
    return folder / f"{version:06d}" if version else folder


def write(path: Path, arrays: schema.Arrays, about: dict[str, Any]) -> None:
    """Write arrays and description to a new folder, in one step.

    ValueError if they are not those of a bank, OSError if there is no room for them, before anything is begun.
    """
    from orbax.checkpoint import v1 as ocp

    shapes = schema.shapes_of(arrays)
    schema.check(schema.SCHEMA, shapes)
    metadata = {
        "schema": schema.SCHEMA,
        "about": about,
        "shapes": {name: [list(shape), dtype.name] for name, (shape, dtype) in shapes.items()},
        "digests": {name: digests.of(leaf) for name, leaf in arrays.items()},
    }
    metadata["digest"] = digests.of_text(metadata)
    _require_room(path.parent, sum(leaf.nbytes for leaf in arrays.values()) + len(json.dumps(metadata)))
    context = ocp.Context()
    context.array.saving.use_compression = False  # codes shrink by 8 % at six times the time
    with context:
        ocp.save(str(path), arrays, custom_metadata=metadata)
    with suppress(OSError):  # of a file system without permissions
        _close(path)


def _require_room(folder: Path, size: int) -> None:
    """OSError unless the disk has room for `size` bytes and what Orbax writes beside them.

    An Orbax that runs out of room on the way is still writing after it has raised, and prints tracebacks of its own.
    """
    if shutil.disk_usage(folder).free < size + BESIDE:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _close(path: Path) -> None:
    """Leave a folder and all that it holds to its owner."""
    for at, _, names in os.walk(path):
        os.chmod(at, 0o700)
        for name in names:
            os.chmod(os.path.join(at, name), 0o600)


def read(folder: Path, version: int, *, mesh: Mesh | None = None) -> Checked:
    """One version as far as it can be read, with the rows that are damaged. StoreError if there is nothing to read."""
    path = path_of(folder, version)
    size = _size(folder, path)
    number, metadata = _metadata(folder, path)
    try:
        about = About.from_json(metadata["about"])
        shapes = schema.shapes_from_json(metadata["shapes"])
        schema.check(number, shapes)
        kept = schema.digests_from_json(metadata["digests"], shapes, number)
    except (KeyError, ValueError) as error:
        raise StoreError(f"{folder} is no bank of this program: {error}") from error
    arrays = _arrays(folder, path, shapes, size, mesh)
    if number == 1:
        damaged = schema.damage_1(arrays, kept)
        return Checked(*schema.migrated_1(arrays, about), damaged, {})
    damaged = {name: digests.differing(leaf, kept[name]) for name, leaf in arrays.items()}
    arrays = schema.migrated_2(arrays) if number == 2 else arrays
    return Checked(arrays, about, {name: rows for name, rows in damaged.items() if rows}, kept)


def _size(folder: Path, path: Path) -> int:
    """Bytes of the files of a version. StoreError if it holds a link or anything else but files and folders."""
    total = 0
    for at, folders, names in os.walk(path):
        for name in folders + names:
            try:
                found = os.lstat(os.path.join(at, name))
            except OSError as error:
                raise _unreadable(folder, error) from error
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
                kind = "a link" if stat.S_ISLNK(found.st_mode) else "no regular file"
                raise StoreError(f"{folder}: {name} is {kind}, which no bank holds: remove it, or get the bank anew")
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def _metadata(folder: Path, path: Path) -> tuple[int, dict[str, Any]]:
    """Schema and metadata of a version, checked against their digest."""
    try:
        whole = json.loads(files.read_bytes(path / METADATA))
    except OSError as error:
        raise _unreadable(folder, error) from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{folder}: the metadata is damaged: try `nvcim bank repair`") from error
    metadata = whole.get("custom_metadata") if isinstance(whole, dict) else None
    number = metadata.get("schema") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or type(number) is not int or number < 1:
        raise StoreError(f"{folder} is no bank")
    if number > schema.SCHEMA:
        raise StoreError(
            f"{folder} has schema {number}, this program reads up to {schema.SCHEMA}: use a newer nvcim_jax"
        )
    of_metadata = digests.of_text if number > 1 else schema.digest_1
    if metadata.pop("digest", None) != of_metadata(metadata):
        raise Damaged(f"{folder}: the metadata is damaged (its digest differs): try `nvcim bank repair`")
    return number, metadata


def _arrays(folder: Path, path: Path, shapes: schema.Shapes, size: int, mesh: Mesh | None) -> schema.Arrays:
    from orbax.checkpoint import v1 as ocp

    told = schema.size_of(shapes)
    if told > max(SMALL, DENSE * size):
        raise StoreError(
            f"{folder} says that it holds {told} bytes of arrays, but its files have {size}: it is no bank"
        )
    abstract = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=_sharding(name, shape, mesh))
        for name, (shape, dtype) in shapes.items()
    }
    try:
        found = ocp.metadata(str(path)).metadata or {}
        if not found:
            raise OSError("its table of arrays cannot be read")
        stored = {name: (tuple(each.shape), each.dtype) for name, each in found.items()}
        if stored != shapes:
            raise StoreError(f"{folder} holds other arrays than its metadata tells: it is no bank of this program")
        return ocp.load(str(path), abstract)
    except StoreError:
        raise
    except Exception as error:  # Orbax and tensorstore raise whatever their layers raise
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: BaseException) -> StoreError:
    while error.__cause__ is not None:  # what Orbax wraps says more than what it says itself
        error = error.__cause__
    return StoreError(f"{folder} cannot be read ({files.reason(error)}): try it again, or restore it from a copy")


def _sharding(name: str, shape, mesh: Mesh | None):
    if mesh is None:
        return jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if not schema.along_slots(name):
        return sharding.sharding(mesh, None)
    if shape[0] % (digests.ROWS * mesh.size):
        fits = sharding.capacity(shape[0], mesh)
        raise StoreError(f"a bank of {shape[0]} slots does not cut over {mesh.size} devices: grow it to {fits} first")
    return sharding.sharding(mesh, 0)

"""Learned banks on disk. The only door to Orbax, which writes atomically but does not notice a flipped bit: we do."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from nvcim_jax.codec import Codec
from nvcim_jax.llm.weights import Model
from nvcim_jax.pipeline import Learned

SCHEMA = 1


class StoreError(ValueError):
    """A bank that cannot be saved or loaded; the message says why and what to do."""


class Saved(NamedTuple):
    """A bank, and what it is about: task, users, the sample in each slot, settings, the model it belongs to."""

    learned: Learned
    about: dict[str, Any]


def fingerprint(model: Model) -> str:
    """A short digest of a model's sizes and of a sample of every weight: enough to refuse a bank of another model."""
    digest = hashlib.blake2b(repr(model.config).encode(), digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.shape}".encode())
        digest.update(np.asarray(leaf.reshape(-1)[:: max(1, leaf.size // 1024)], np.float32).tobytes())
    return digest.hexdigest()


def save(folder: Path | str, learned: Learned, about: dict[str, Any]) -> None:
    """Write a bank to a new `folder`. `about` is JSON. Raises StoreError if the folder exists or cannot be written."""
    from orbax.checkpoint import v1 as ocp

    folder = Path(folder).absolute()
    if folder.exists():
        raise StoreError(f"{folder} exists already: give another folder, or remove it first")
    arrays = _as_dict(learned)
    shapes = {name: [list(leaf.shape), leaf.dtype.name] for name, leaf in arrays.items()}
    metadata = {"schema": SCHEMA, "about": about, "shapes": shapes, "digests": _digests(arrays)}
    metadata["digest"] = _text_digest(metadata)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        ocp.save(folder, arrays, custom_metadata=metadata)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error.strerror or error}): choose another folder") from error


def load(folder: Path | str, *, model: Model | None = None) -> Saved:
    """Read a bank, check every digest, and refuse one of another `model`. Raises StoreError."""
    from orbax.checkpoint import v1 as ocp

    folder = Path(folder).absolute()
    if not folder.is_dir():
        raise StoreError(f"{folder} is no bank: make one with `nvcim learn --out {folder.name}`")
    try:
        metadata = ocp.metadata(folder).custom_metadata
        schema = metadata["schema"]
    except Exception as error:  # Orbax raises whatever its layers raise on a folder that is not its own
        raise StoreError(f"{folder} is no bank, or its metadata is damaged: restore it from a copy") from error
    if schema != SCHEMA:
        raise StoreError(f"{folder} has schema {schema}, this program reads {SCHEMA}: use the version that wrote it")
    digest = metadata.pop("digest", None)
    if digest != _text_digest(metadata):
        raise StoreError(f"{folder}: the metadata is damaged (its digest differs): restore it from a copy")
    about = metadata["about"]
    if model is not None and about["model"] != fingerprint(model):
        raise StoreError(
            f"{folder} was learned with another model (its fingerprint differs): give that one with --model"
        )
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {
        name: jax.ShapeDtypeStruct(shape, np.dtype(dtype), sharding=here)
        for name, (shape, dtype) in metadata["shapes"].items()
    }
    try:
        arrays = ocp.load(folder, abstract)
    except Exception as error:
        raise StoreError(f"{folder} is damaged and cannot be read ({type(error).__name__}): restore a copy") from error
    if _digests(arrays) != metadata["digests"]:
        raise StoreError(f"{folder}: the stored arrays are damaged (a digest differs): restore it from a copy")
    return Saved(_from_dict(arrays), about)


def _as_dict(learned: Learned) -> PyTree:
    return {
        "codes": learned.codes,
        "keys": learned.keys,
        "valid": learned.valid,
        **{
            f"{way}_{at}_{part}": leaf
            for way in Codec._fields
            for at, layer in enumerate(getattr(learned.codec, way))
            for part, leaf in zip(("weight", "bias"), layer, strict=True)
        },
    }


def _from_dict(arrays: PyTree) -> Learned:
    def layers(way: str):
        depth = sum(name.startswith(way) and name.endswith("weight") for name in arrays)
        return tuple((arrays[f"{way}_{at}_weight"], arrays[f"{way}_{at}_bias"]) for at in range(depth))

    codec = Codec(layers("encoder"), layers("decoder"))
    return Learned(codec, arrays["codes"], arrays["keys"], arrays["valid"])


def _digests(arrays: PyTree) -> dict[str, str]:
    def one(leaf) -> str:
        array = np.ascontiguousarray(leaf)
        return hashlib.blake2b(f"{array.dtype}{array.shape}".encode() + array.tobytes(), digest_size=16).hexdigest()

    return {name: one(leaf) for name, leaf in sorted(arrays.items())}


def _text_digest(value) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()

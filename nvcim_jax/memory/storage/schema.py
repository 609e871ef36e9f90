"""A bank as named arrays, the way it lies on disk: this schema, and the migration of those before."""

import hashlib
import json
import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nvcim_jax.core.codec import Codec
from nvcim_jax.memory.bank import Bank, Origin, unknown
from nvcim_jax.memory.storage import digests
from nvcim_jax.memory.storage.about import About

SCHEMA = 3
KINDS = {"valid": jnp.bool_, "count": jnp.integer, "writes": jnp.integer, "origin_loss": jnp.floating} | {
    f"origin_{name}": jnp.integer for name in Origin._fields if name != "loss"
}  # of numbers; all other arrays hold floats
INTEGERS = (jnp.int8, jnp.int16, jnp.int32, jnp.uint8, jnp.uint16, jnp.uint32)
TYPES = {
    jnp.dtype(kind).name: jnp.dtype(kind) for kind in (jnp.bfloat16, jnp.float16, jnp.float32, jnp.bool_, *INTEGERS)
}  # that are read again as they were saved
Arrays = dict[str, Any]  # of JAX or NumPy
Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]


def to_arrays(bank: Bank, codec: Codec | None) -> Arrays:
    """The leaves of a bank and its codec by name."""
    layers = {} if codec is None else codec_to_arrays(codec)
    origin = {f"origin_{name}": leaf for name, leaf in bank.origin._asdict().items()}
    named = {"prompts": bank.prompts, "keys": bank.keys, "count": bank.count, "writes": bank.writes, **origin, **layers}
    return {name: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for name, leaf in named.items()}


def from_arrays(arrays: Arrays) -> tuple[Bank, Codec | None]:
    """The bank and its codec, None if it was saved without one."""
    codec = codec_from_arrays(arrays)
    origin = Origin(**{name: arrays[f"origin_{name}"] for name in Origin._fields})
    bank = Bank(arrays["prompts"], arrays["keys"], origin, arrays["count"], arrays["writes"])
    return bank, codec if codec.encoder else None


def codec_to_arrays(codec: Codec) -> Arrays:
    """The layers of a codec by name."""
    return {
        f"{way}_{at}_{part}": leaf
        for way, layers in codec._asdict().items()
        for at, layer in enumerate(layers)
        for part, leaf in zip(("weight", "bias"), layer, strict=True)
    }


def codec_from_arrays(arrays: Arrays) -> Codec:
    """The codec whose layers are among `arrays`; without layers if none are."""

    def layers(way: str):
        depth = sum(name.startswith(way) and name.endswith("weight") for name in arrays)
        return tuple((arrays[f"{way}_{at}_weight"], arrays[f"{way}_{at}_bias"]) for at in range(depth))

    return Codec(layers("encoder"), layers("decoder"))


def along_slots(name: str) -> bool:
    """Whether the first axis of this array is the bank's slots, where there is no block of users."""
    return name in ("prompts", "keys", "writes") or name.startswith("origin")


def damage_1(arrays: Arrays, kept: dict[str, str]) -> dict[str, list[range]]:
    """The arrays of schema 1, which had one digest each, that differ from it."""

    def one(leaf) -> str:
        data = np.ascontiguousarray(leaf)
        return hashlib.blake2b(f"{data.dtype}{data.shape}".encode() + data.tobytes(), digest_size=16).hexdigest()

    return {name: [range(len(leaf))] for name, leaf in arrays.items() if one(leaf) != kept[name]}


def digest_1(metadata: dict[str, Any]) -> str:
    """The digest that schema 1 keeps of its metadata."""
    return hashlib.blake2b(json.dumps(metadata, sort_keys=True).encode(), digest_size=16).hexdigest()


def shapes_from_json(value: Any) -> Shapes:
    """Shape and type of every array, as metadata tells them. ValueError for anything else."""
    try:
        told = {name: (tuple(shape), TYPES[dtype]) for name, (shape, dtype) in value.items()}
        if any(type(size) is not int or not 0 < size < 2**40 for shape, _ in told.values() for size in shape):
            raise ValueError
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError("its table of arrays holds something else than shapes and types") from error
    return told


def digests_from_json(value: Any, shapes: Shapes, schema: int) -> dict[str, Any]:
    """The digests of every array: one for each block of rows, in schema 1 one. ValueError for anything else."""
    if not isinstance(value, dict) or value.keys() != shapes.keys():
        raise ValueError("its table of digests does not list its arrays")
    for name, own in value.items():
        blocks = len(digests.blocks(*shapes[name][0][:1] or (1,))) if schema > 1 else 1
        told = own if schema > 1 else [own]
        if not isinstance(told, list) or len(told) != blocks or not all(isinstance(each, str) for each in told):
            raise ValueError(f"its table of digests holds something else for {name}")
    return value


def size_of(shapes: Shapes) -> int:
    """Bytes of all arrays."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes.values())


def shapes_of(arrays: Arrays) -> Shapes:
    """Shape and type of every array. ValueError for a type that would not be read again as it is."""
    for name, leaf in arrays.items():
        if leaf.dtype.name not in TYPES:
            raise ValueError(f"{name} holds {leaf.dtype.name}: numbers of at most 32 bits are kept")
    return {name: (leaf.shape, leaf.dtype) for name, leaf in arrays.items()}


def check(schema: int, shapes: Shapes) -> None:
    """ValueError unless these are exactly the arrays of one bank, with shapes that fit each other."""
    codes = "prompts" if schema > 1 else "codes"
    if len(shapes.get(codes, ((), None))[0]) not in (3, 4):
        raise ValueError(f"{codes} is missing, or no array of [users,] slots, rows and values")
    *users, slots, rows, dim = shapes[codes][0]
    expected: dict[str, tuple[int, ...]] = {codes: (*users, slots, rows, dim), "keys": (*users, slots, rows, dim)}
    if schema > 1:
        expected |= {"count": (*users,)} | {f"origin_{name}": (*users, slots) for name in Origin._fields}
        expected["origin_key"] = (*users, slots, 2)
        expected |= {"writes": (*users, slots)} if schema > 2 else {}
    else:
        expected["valid"] = (*users, slots)
    expected |= _expected_layers(shapes, users, dim)
    if shapes.keys() != expected.keys():
        raise ValueError(f"{min(shapes.keys() ^ expected.keys())} is missing, or no array of a bank")
    for name, (shape, dtype) in shapes.items():
        if shape != expected[name] or 0 in shape:
            raise ValueError(f"{name} is of shape {list(shape)}, beside {codes} of {list(shapes[codes][0])}")
        if not jnp.issubdtype(dtype, KINDS.get(name, jnp.floating)):
            raise ValueError(f"{name} holds values of type {dtype}")


def _expected_layers(shapes: Shapes, users: list[int], dim: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the codec's arrays: every layer as wide as the one before, to `dim` and back. None without a codec."""
    outside, *_ = *shapes.get("encoder_0_weight", ((),))[0][-2:], 0
    expected, width = {}, outside
    for way, end in (("encoder", dim), ("decoder", outside)):
        depth = sum(name.startswith(f"{way}_") and name.endswith("_weight") for name in shapes)
        depth = depth or bool(outside)  # both ways or none
        for at in range(depth):
            before, (*_, width) = width, (0, *shapes.get(f"{way}_{at}_bias", ((),))[0])
            width = end if at == depth - 1 else width
            expected |= {f"{way}_{at}_weight": (*users, before, width), f"{way}_{at}_bias": (*users, width)}
    return expected


def migrated_1(arrays: Arrays, about: About) -> tuple[Arrays, About]:
    """Schema 1 called the prompts codes, had a mask instead of a count, and knew origins only from `about`."""
    names = sorted({sample.domain for row in about.samples for sample in row if sample and sample.domain})
    valid = np.asarray(arrays["valid"])
    users, slots = np.indices(valid.shape, np.int32)
    domain = np.full(valid.shape, -1, np.int32)
    for user, row in enumerate(about.samples[: len(valid)]):
        for slot, sample in enumerate(row[: valid.shape[1]]):
            if sample and sample.domain:
                domain[user, slot] = names.index(sample.domain)
    origin = unknown(valid.shape)._replace(user=users, sample=slots, domain=domain)
    count = valid.sum(axis=1, dtype=np.int32)
    bank = Bank(arrays["codes"], arrays["keys"], origin, count, writes=jnp.asarray(valid, jnp.int32))
    layers = {name: leaf for name, leaf in arrays.items() if name not in ("codes", "keys", "valid")}
    devices = (about.device,) if about.device else ()
    return to_arrays(bank, None) | layers, replace(about, domains=tuple(names), devices=devices)


def migrated_2(arrays: Arrays) -> Arrays:
    """Schema 2 did not count writes: each taken slot was written once at least."""
    slots, count = arrays["prompts"].shape[-3], np.asarray(arrays["count"])
    writes, cut = (np.arange(slots) < count[..., None]).astype(np.int32), arrays["origin_uses"].sharding
    return {**arrays, "writes": jax.make_array_from_callback(writes.shape, cut, lambda part: writes[part])}

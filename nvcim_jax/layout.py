"""A bank as named arrays, the way it lies on disk: this schema, and the migration of the one before."""

import hashlib
import json
from typing import Any

import jax
import numpy as np

from nvcim_jax.bank import Bank, Origin, unknown
from nvcim_jax.codec import Codec

SCHEMA = 2
Arrays = dict[str, jax.Array]


def to_arrays(bank: Bank, codec: Codec | None) -> Arrays:
    """The leaves of a bank and its codec by name."""
    layers = {
        f"{way}_{at}_{part}": leaf
        for way in Codec._fields
        for at, layer in enumerate(getattr(codec, way, ()))
        for part, leaf in zip(("weight", "bias"), layer, strict=True)
    }
    origin = {f"origin_{name}": leaf for name, leaf in bank.origin._asdict().items()}
    named = {"prompts": bank.prompts, "keys": bank.keys, "count": bank.count, **origin, **layers}
    return {name: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for name, leaf in named.items()}


def from_arrays(arrays: Arrays) -> tuple[Bank, Codec | None]:
    """The bank and its codec, None if it was saved without one."""

    def layers(way: str):
        depth = sum(name.startswith(way) and name.endswith("weight") for name in arrays)
        return tuple((arrays[f"{way}_{at}_weight"], arrays[f"{way}_{at}_bias"]) for at in range(depth))

    codec = Codec(layers("encoder"), layers("decoder"))
    origin = Origin(**{name: arrays[f"origin_{name}"] for name in Origin._fields})
    return Bank(arrays["prompts"], arrays["keys"], origin, arrays["count"]), codec if codec.encoder else None


def along_slots(name: str) -> bool:
    """Whether the first axis of this array is the bank's slots, where there is no block of users."""
    return name in ("prompts", "keys") or name.startswith("origin")


def damage_1(arrays: Arrays, digests: dict[str, str]) -> dict[str, list[range]]:
    """The arrays of schema 1, which had one digest each, that differ from it."""

    def one(leaf) -> str:
        data = np.ascontiguousarray(leaf)
        return hashlib.blake2b(f"{data.dtype}{data.shape}".encode() + data.tobytes(), digest_size=16).hexdigest()

    return {name: [range(len(leaf))] for name, leaf in arrays.items() if one(leaf) != digests[name]}


def digest_1(metadata: dict[str, Any]) -> str:
    """The digest that schema 1 keeps of its metadata."""
    return hashlib.blake2b(json.dumps(metadata, sort_keys=True).encode(), digest_size=16).hexdigest()


def migrated_1(arrays: Arrays, about: dict[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """Schema 1 called the prompts codes, had a mask instead of a count, and knew origins only from `about`."""
    samples = about.get("samples", ())
    names = sorted({sample["domain"] for row in samples for sample in row if sample and sample["domain"]})
    valid = np.asarray(arrays["valid"])
    users, slots = np.indices(valid.shape, np.int32)
    domain = np.full(valid.shape, -1, np.int32)
    for user, row in enumerate(samples):
        for slot, sample in enumerate(row):
            if sample and sample["domain"]:
                domain[user, slot] = names.index(sample["domain"])
    origin = unknown(valid.shape)._replace(user=users, sample=slots, domain=domain)
    bank = Bank(arrays["codes"], arrays["keys"], origin, valid.sum(axis=1, dtype=np.int32))
    layers = {name: leaf for name, leaf in arrays.items() if name not in ("codes", "keys", "valid")}
    device = about.get("settings", {}).get("device")
    return to_arrays(bank, None) | layers, {**about, "domains": names, "devices": [device]}

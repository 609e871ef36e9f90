"""A device's bank of OVTs: a record of fixed capacity, and the changes that it goes through, as pure functions.

An OVT and the search key it is found by are kept apart.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, UInt32

from nvcim_jax.core.similarity import SCALES
from nvcim_jax.hardware.crossbar import PAPER_TILE, check_fits


class Origin(NamedTuple):
    """Where an OVT comes from. User, sample, domain and device are indices into the lists of a bank's `about`.

    In a bank every field has the leading axis of slots.
    """

    user: Int[Array, "*slots"]
    sample: Int[Array, "*slots"]  # of the user's
    domain: Int[Array, "*slots"]  # -1 where unknown
    device: Int[Array, "*slots"]  # that it was trained for
    loss: Float[Array, "*slots"]  # of its last training step; NaN where unknown
    time: UInt32[Array, "*slots"]  # seconds since 1970
    key: UInt32[Array, "*slots 2"]  # of its training
    uses: Int[Array, "*slots"]  # times that it answered


class Ovt(NamedTuple):
    """One set of virtual tokens as its code, the search key that it is found by, and its origin."""

    prompt: Float[Array, "rows dim"]
    key: Float[Array, "rows dim"]  # the search key
    origin: Origin


class Bank(NamedTuple):
    """OVTs in slots 0 to `count` - 1 of a fixed capacity, so that nothing recompiles as it grows.

    Free slots may hold anything. A block of users has banks with a leading user axis.
    """

    prompts: Float[Array, "*users slots rows dim"]
    keys: Float[Array, "*users slots rows dim"]  # search keys
    origin: Origin
    count: Int[Array, "*users"]
    writes: Int[Array, "*users slots"]  # times that the cells of a slot were written

    @property
    def capacity(self) -> int:
        return self.prompts.shape[-3]

    @property
    def valid(self) -> Bool[Array, "*users slots"]:
        """Which slots are taken."""
        slots = jnp.arange(self.capacity).reshape(*[1] * jnp.ndim(self.count), -1)
        return slots < jnp.expand_dims(self.count, -1)


def unknown(slots: tuple[int, ...] = ()) -> Origin:
    """The origin of OVTs of which nothing is known."""
    whole = partial(jnp.zeros, slots, jnp.int32)
    nothing = jnp.full(slots, -1, jnp.int32)
    seconds, key = jnp.zeros(slots, jnp.uint32), jnp.zeros((*slots, 2), jnp.uint32)
    return Origin(whole(), whole(), nothing, whole(), jnp.full(slots, jnp.nan), seconds, key, whole())


def empty(capacity: int, rows: int, dim: int) -> Bank:
    """A bank of free slots for codes of `rows` x `dim`. ValueError for no slots, and for a code that fits no array."""
    if capacity < 1:
        raise ValueError(f"a capacity of {capacity}: a bank needs at least one slot")
    check_fits(rows, dim)
    codes = jnp.zeros((capacity, rows, dim))
    return new(codes, jnp.zeros_like(codes), unknown((capacity,)), jnp.int32(0))


def new(
    prompts: Float[Array, "*users slots rows dim"],
    keys: Float[Array, "*users slots rows dim"],
    origin: Origin,
    count: Int[Array, "*users"],
) -> Bank:
    """A bank as it is first written: each taken slot once."""
    bank = Bank(prompts, keys, origin, count, jnp.zeros(prompts.shape[:-2], jnp.int32))
    return bank._replace(writes=bank.valid.astype(jnp.int32))


def rewritten(before: Bank, after: Bank) -> Bank:
    """`after`, which counts one more write than `before` of each taken slot whose codes changed."""
    changed = jnp.any((before.prompts != after.prompts) | (before.keys != after.keys), axis=(-2, -1))
    return after._replace(writes=before.writes + (changed & after.valid))


def arrays(ovts: int, rows: int, *, scales: tuple[int, ...] = SCALES) -> int:
    """Crossbar arrays that `ovts` OVTs of `rows` virtual tokens take: one set for prompts, one for each scale's copies.

    A virtual token is a column; an OVT does not straddle two arrays.
    """
    columns = [rows, *(-(-rows // scale) for scale in scales)]
    return sum(-(-ovts // (PAPER_TILE.columns // each)) for each in columns)


def replace(bank: Bank, slot: Int[Array, ""] | int, ovt: Ovt) -> Bank:
    """`bank` with `ovt` in `slot`."""
    put = partial(jax.tree.map, lambda leaf, new: leaf.at[slot].set(new))
    return bank._replace(
        prompts=put(bank.prompts, ovt.prompt), keys=put(bank.keys, ovt.key), origin=put(bank.origin, ovt.origin),
        writes=bank.writes.at[slot].add(1),
    )  # fmt: skip


def append(bank: Bank, ovt: Ovt) -> Bank:
    """`bank` with `ovt` in its first free slot. ValueError if it is full; under jit it then comes back unchanged."""
    if not isinstance(bank.count, Tracer):
        require_room(bank)
    full = bank.count >= bank.capacity
    slot = jnp.where(full, bank.capacity, bank.count)  # a slot past the end is not written
    return replace(bank, slot, ovt)._replace(count=bank.count + ~full)


def require_room(bank: Bank) -> None:
    """ValueError if the bank is full."""
    if int(bank.count) >= bank.capacity:
        raise ValueError(f"all {bank.capacity} slots are taken: evict an OVT, or make room with bank.grown")


def remove(bank: Bank, slot: Int[Array, ""] | int) -> Bank:
    """`bank` without the OVT in `slot`, into which the last one moves. An empty slot changes nothing."""
    taken = (slot >= 0) & (slot < bank.count)
    last = Ovt(*jax.tree.map(lambda leaf: leaf[bank.count - 1], bank[:3]))
    to = jnp.where(taken & (slot != bank.count - 1), slot, bank.capacity)  # a slot past the end is not written
    return replace(bank, to, last)._replace(count=bank.count - taken)


def drop(bank: Bank, which: Bool[Array, "slots"]) -> Bank:
    """`bank` without the OVTs for which `which` is true, such as `bank.origin.domain == 3`; the others keep order."""
    kept = bank.valid & ~which
    order = jnp.argsort(~kept, stable=True)
    ordered = jax.tree.map(lambda leaf: leaf[order], bank[:3])
    return rewritten(bank, Bank(*ordered, count=jnp.sum(kept, dtype=bank.count.dtype), writes=bank.writes))


def grown(bank: Bank, capacity: int) -> Bank:
    """`bank` with more slots; what is compiled for the old capacity is compiled anew. ValueError if it would shrink."""
    if capacity < bank.capacity:
        raise ValueError(f"a capacity of {capacity}, but the bank has {bank.capacity} slots: a bank does not shrink")
    more = capacity - bank.capacity
    pad = lambda leaf: jnp.pad(leaf, [(0, more)] + [(0, 0)] * (leaf.ndim - 1))  # noqa: E731
    return Bank(*jax.tree.map(pad, bank[:3]), count=bank.count, writes=pad(bank.writes))


def used(bank: Bank, slots: Int[Array, "uses"]) -> Bank:
    """`bank` with one more use counted for each of `slots`."""
    return bank._replace(origin=bank.origin._replace(uses=bank.origin.uses.at[slots].add(1)))


def oldest(bank: Bank) -> Int[Array, ""]:
    """The slot of the OVT with the earliest time."""
    return _earliest(bank, bank.valid)


def least_used(bank: Bank) -> Int[Array, ""]:
    """The slot of the OVT that answered least often, the oldest of several."""
    uses = jnp.where(bank.valid, bank.origin.uses, jnp.iinfo(jnp.int32).max)
    return _earliest(bank, uses == jnp.min(uses))


def oldest_of_fullest_domain(bank: Bank) -> Int[Array, ""]:
    """The slot of the oldest OVT among those whose domain has most of them."""
    domains = jnp.where(bank.valid, bank.origin.domain, jnp.iinfo(jnp.int32).max)
    ordered = jnp.sort(domains)
    sizes = jnp.searchsorted(ordered, domains, side="right") - jnp.searchsorted(ordered, domains, side="left")
    sizes = jnp.where(bank.valid, sizes, 0)
    return _earliest(bank, bank.valid & (sizes == jnp.max(sizes)))


def most_redundant(bank: Bank) -> Int[Array, ""]:
    """The slot of the older OVT of those two whose search keys are most alike, by the cosine of all their values."""
    flat = bank.keys.reshape(bank.capacity, -1)
    norm = jnp.linalg.norm(flat, axis=1, keepdims=True)
    unit = flat / jnp.where(norm > 0, norm, 1)
    alike = jnp.dot(unit, unit.T, precision="highest")
    is_pair = bank.valid[:, None] & bank.valid[None, :] & ~jnp.eye(bank.capacity, dtype=bool)
    alike = jnp.where(is_pair, alike, -jnp.inf)
    pair = jnp.stack(jnp.unravel_index(jnp.argmax(alike), alike.shape))
    return _earliest(bank, bank.valid & jnp.isin(jnp.arange(bank.capacity), pair))


VICTIMS: dict[str, Callable[[Bank], Int[Array, ""]]] = {  # who makes room in a full bank
    "oldest": oldest,
    "least-used": least_used,
    "fullest-domain": oldest_of_fullest_domain,
    "redundant": most_redundant,
}


def add(bank: Bank, ovt: Ovt, *, victim: Callable[[Bank], Int[Array, ""]] = oldest) -> Bank:
    """`bank` with `ovt` in its first free slot, or in a full bank in the place of `victim(bank)`."""
    slot = jax.lax.cond(bank.count < bank.capacity, lambda bank: bank.count, lambda bank: victim(bank), bank)
    return replace(bank, slot, ovt)._replace(count=jnp.minimum(bank.count + 1, bank.capacity))


def evict(bank: Bank, *, victim: Callable[[Bank], Int[Array, ""]] = oldest) -> Bank:
    """`bank` without the OVT in slot `victim(bank)`; an empty bank stays empty."""
    return remove(bank, victim(bank))


def take_in(
    bank: Bank,
    ovts: Ovt,
    new: Bool[Array, "ovts"],
    gone: Bool[Array, "slots"],
    *,
    victim: Callable[[Bank], Int[Array, ""]] = oldest,
) -> Bank:
    """`bank` without the OVTs that are `gone`, and with those of `ovts` that are `new`, which go into free slots.

    Where these are too few `victim(bank)` makes room first, again and again: new OVTs do not drive each other out. More
    new ones than slots do not fit, and the last of them are lost. All is written at once: a slot at most once.
    """
    needed = jnp.sum(new, dtype=bank.count.dtype)

    def lacks_room(bank: Bank) -> Bool[Array, ""]:
        return (bank.count + needed > bank.capacity) & (bank.count > 0)

    left = jax.lax.while_loop(lacks_room, partial(evict, victim=victim), drop(bank, gone))
    slots = jnp.where(new, left.count + jnp.cumsum(new) - 1, bank.capacity)
    filled = jax.tree.map(lambda leaf, own: leaf.at[slots].set(own, mode="drop"), left[:3], tuple(ovts))
    count = jnp.minimum(left.count + needed, bank.capacity)
    return rewritten(bank, Bank(*filled, count=count, writes=bank.writes))


def _earliest(bank: Bank, among: Bool[Array, "slots"]) -> Int[Array, ""]:
    times = jnp.where(among, bank.origin.time, jnp.uint32(2**32 - 1))
    first = jnp.argmax(among & (times == jnp.min(times)))
    return first.astype(jnp.int32)

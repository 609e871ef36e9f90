"""Policies: what becomes of a moment that arrives, `push(buffer, item) -> (buffer, decision)`.

While there is room every policy stores. Shapes are fixed and nothing depends on values, so a push takes constant time,
runs under `lax.scan`, and maps over users. What a policy can vary is keyword-only: give it by `functools.partial`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nvcim_jax.stream import buffer as buffers
from nvcim_jax.stream.buffer import NOWHERE, Buffer, Decision, Item, Scores

Policy = Callable[[Buffer, Item], tuple[Buffer, Decision]]
Value = Callable[[Scores], Array]


def all_three(buffer: Buffer, item: Item, *, same_domain: bool = False, stale: bool = False) -> tuple[Buffer, Decision]:
    """The printed policy: a moment takes the place of one that is below it in EOE, DSS and IDD, else it is dropped.

    Of several the one with the smallest sum of ranks goes, of equals the oldest: the paper does not say which. With
    `same_domain` it must be of the newcomer's domain. Stored IDDs are those of now, or with `stale` those of arrival.
    """
    new, stored = buffers.arriving(buffer, item), buffer.scores if stale else buffers.refreshed(buffer)
    below = buffer.held & (stored.eoe < new.eoe) & (stored.dss < new.dss) & (stored.idd < new.idd)
    below &= (buffer.domain == item.domain) if same_domain else True
    ranks = _ranks(stored.eoe, buffer.held) + _ranks(stored.dss, buffer.held) + _ranks(stored.idd, buffer.held)
    lowest = below & (ranks == jnp.min(jnp.where(below, ranks, 4 * ranks.shape[0])))
    victim = jnp.where(jnp.any(below), _oldest(buffer, lowest), NOWHERE)
    passes = new.eoe > _smallest(stored.eoe, buffer.held)
    refused = jnp.where(passes, buffers.ABOVE_NONE, buffers.EOE_TOO_SMALL)
    reason = jnp.where(victim == NOWHERE, refused, buffers.ABOVE_IN_ALL)
    return buffers.settle(buffer, item, new, *buffers.room_or(buffer, victim, reason))


def highest(buffer: Buffer, item: Item, *, value: Value) -> tuple[Buffer, Decision]:
    """One number alone: a moment whose `value` exceeds the smallest stored takes its place, of equals the oldest's."""
    return _higher(buffer, item, value(buffers.refreshed(buffer)), value(buffers.arriving(buffer, item)))


def longest(buffer: Buffer, item: Item) -> tuple[Buffer, Decision]:
    """As `highest`, of the number of tokens: shows what of EOE is more than length."""
    return _higher(buffer, item, buffer.length.astype(jnp.float32), item.length.astype(jnp.float32))


def released(buffer: Buffer, item: Item, *, value: Value) -> tuple[Buffer, Decision]:
    """The released scripts' rule, one number alone: within the newcomer's domain the smallest goes if it is *larger*.

    Numbers are those of arrival. A domain without a slot when the buffer fills can never get one. Their IDD is a
    similarity: `value=similarity`.
    """
    new, stored = buffers.arriving(buffer, item), value(buffer.scores)
    own = buffer.held & (buffer.domain == item.domain)
    smallest = _smallest(stored, own)
    is_below = jnp.any(own) & (value(new) < smallest)
    victim = jnp.where(is_below, _oldest(buffer, own & (stored == smallest)), NOWHERE)
    reason = jnp.where(is_below, buffers.BELOW_IN_DOMAIN, buffers.NOT_BELOW_IN_DOMAIN)
    return buffers.settle(buffer, item, new, *buffers.room_or(buffer, victim, reason))


def fifo(buffer: Buffer, item: Item) -> tuple[Buffer, Decision]:
    """Every moment enters, and the oldest goes."""
    oldest = _oldest(buffer, buffer.held)
    return buffers.settle(
        buffer, item, buffers.arriving(buffer, item), *buffers.room_or(buffer, oldest, buffers.OLDEST)
    )


def random(buffer: Buffer, item: Item) -> tuple[Buffer, Decision]:
    """Every moment enters, into a slot drawn with equal chances: what is old fades."""
    next_key, slot_key = jax.random.split(buffer.key)
    slot = jax.random.randint(slot_key, (), 0, buffer.arrival.shape[0])
    return _drawn(buffer, item, next_key, slot)


def reservoir(buffer: Buffer, item: Item) -> tuple[Buffer, Decision]:
    """The t-th moment enters with probability slots / t: each so far is stored with equal chances (Vitter, 1985)."""
    next_key, slot_key = jax.random.split(buffer.key)
    slots = buffer.arrival.shape[0]
    drawn = jax.random.randint(slot_key, (), 0, buffer.seen + 1)
    return _drawn(buffer, item, next_key, jnp.where(drawn < slots, drawn, NOWHERE))


def k_center(buffer: Buffer, item: Item) -> tuple[Buffer, Decision]:
    """Of all stored and the newcomer the closest two are found; the one of them that is nearer to the rest goes.

    Of equals the older one. What stays covers the stream widely (after Sener and Savarese, 2018).
    """
    slots = buffer.arrival.shape[0]
    apart = jnp.where(jnp.eye(slots + 1, dtype=bool), jnp.inf, buffers.squared_distances(buffer, item))
    pair = jnp.stack(jnp.unravel_index(jnp.argmin(apart), apart.shape))
    columns = jnp.arange(slots + 1)
    rest = (columns != pair[0]) & (columns != pair[1])
    nearest = jnp.min(jnp.where(rest[None, :], apart[pair], jnp.inf), axis=1)
    age = jnp.append(buffer.arrival, buffer.seen)[pair]
    goes = pair[jnp.where(nearest[0] == nearest[1], jnp.argmin(age), jnp.argmin(nearest))]
    victim = jnp.where(goes == slots, NOWHERE, goes)
    reason = jnp.where(victim == NOWHERE, buffers.NEARER, buffers.FARTHER)
    return buffers.settle(buffer, item, buffers.arriving(buffer, item), *buffers.room_or(buffer, victim, reason))


def keep_all(buffer: Buffer, item: Item) -> tuple[Buffer, Decision]:
    """Nothing goes, and nothing enters a full buffer: give it a slot for every moment."""
    new = buffers.arriving(buffer, item)
    return buffers.settle(buffer, item, new, *buffers.room_or(buffer, jnp.int32(NOWHERE), buffers.NO_ROOM))


def push_all(buffer: Buffer, items: Item, *, policy: Policy) -> tuple[Buffer, Decision]:
    """Push moments one after the other; gives the buffer after all and the decision on each."""
    return jax.lax.scan(policy, buffer, items)


def eoe(scores: Scores) -> Float[Array, "*slots"]:
    """The EOE, as a `value`."""
    return scores.eoe


def dss(scores: Scores) -> Float[Array, "*slots"]:
    """The DSS, as a `value`."""
    return scores.dss


def idd(scores: Scores) -> Float[Array, "*slots"]:
    """The IDD, as a `value`."""
    return scores.idd


def similarity(scores: Scores) -> Float[Array, "*slots"]:
    """What the released scripts call IDD, as a `value`: the mean cosine, 0 for a domain with nothing stored."""
    return 1 - scores.idd


POLICIES: dict[str, Policy] = {
    "all-three": all_three,
    "all-three-same-domain": partial(all_three, same_domain=True),
    "all-three-stale": partial(all_three, stale=True),
    "eoe": partial(highest, value=eoe),
    "dss": partial(highest, value=dss),
    "idd": partial(highest, value=idd),
    "released-eoe": partial(released, value=eoe),
    "released-dss": partial(released, value=dss),
    "released-idd": partial(released, value=similarity),
    "fifo": fifo,
    "random": random,
    "reservoir": reservoir,
    "k-center": k_center,
    "length": longest,
    "keep-all": keep_all,
}


def _higher(buffer, item, stored, new):
    smallest = _smallest(stored, buffer.held)
    is_above = new > smallest
    victim = jnp.where(is_above, _oldest(buffer, buffer.held & (stored == smallest)), NOWHERE)
    reason = jnp.where(is_above, buffers.ABOVE_SMALLEST, buffers.NOT_ABOVE_SMALLEST)
    return buffers.settle(buffer, item, buffers.arriving(buffer, item), *buffers.room_or(buffer, victim, reason))


def _drawn(buffer, item, next_key, slot):
    reason = jnp.where(slot == NOWHERE, buffers.NOT_DRAWN, buffers.DRAWN)
    place = buffers.room_or(buffer, slot, reason)
    buffer = buffer._replace(key=jnp.where(item.present, next_key, buffer.key))  # what fills up draws nothing
    return buffers.settle(buffer, item, buffers.arriving(buffer, item), *place)


def _oldest(buffer, among):
    """The slot of the oldest moment among some; any slot if there are none."""
    return jnp.argmin(jnp.where(among, buffer.arrival, jnp.iinfo(jnp.int32).max)).astype(jnp.int32)


def _smallest(values, among):
    return jnp.min(jnp.where(among, values, jnp.inf))


def _ranks(values, held):
    """How many of those held are smaller."""
    return jnp.sum(held[None, :] & (values[None, :] < values[:, None]), axis=1)

"""The buffer that a stream of moments runs through: records of fixed shape, and what every policy does with them.

A buffer keeps the inner products of all that it stores. A push then needs one row of them, and refreshed IDDs and
distances follow without going through the embeddings again.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from nvcim_jax.stream import metrics

NOWHERE = -1  # no slot, no moment

# Why a moment was stored or not, as a number; the words are for people.
REASONS = (
    "no moment",
    "there was room",
    "above the displaced in all three",
    "its EOE is not above the smallest",
    "above no stored one in all three",
    "above the smallest",
    "not above the smallest",
    "the oldest makes room",
    "drawn",
    "not drawn",
    "farther from the rest than its nearest",
    "nearer to the rest than its nearest",
    "below the smallest of its domain",
    "not below the smallest of its domain",
    "no room",
)
(
    ABSENT, ROOM, ABOVE_IN_ALL, EOE_TOO_SMALL, ABOVE_NONE, ABOVE_SMALLEST, NOT_ABOVE_SMALLEST, OLDEST, DRAWN, NOT_DRAWN,
    FARTHER, NEARER, BELOW_IN_DOMAIN, NOT_BELOW_IN_DOMAIN, NO_ROOM,
) = range(len(REASONS))  # fmt: skip


class Scores(NamedTuple):
    """The three numbers, of one moment or of a buffer's slots."""

    eoe: Float[Array, "*slots"]
    dss: Float[Array, "*slots"]
    idd: Float[Array, "*slots"]


class Item(NamedTuple):
    """A moment as a policy sees it: all that can be said of it without a buffer."""

    embedding: Float[Array, "*items dim"]
    eoe: Float[Array, "*items"]
    dss: Float[Array, "*items"]
    domain: Int[Array, "*items"]  # `metrics.NONE` where no lexicon has a word of it
    length: Int[Array, "*items"]  # tokens
    present: Bool[Array, "*items"]  # False fills streams up to one length: nothing happens


class Buffer(NamedTuple):
    """Stored moments in slots of a fixed number, filled from the first on."""

    embeddings: Float[Array, "*users slots dim"]
    products: Float[Array, "*users slots slots"]  # inner products of the embeddings
    scores: Scores  # as they were on arrival
    domain: Int[Array, "*users slots"]
    length: Int[Array, "*users slots"]
    arrival: Int[Array, "*users slots"]  # the number of the moment; NOWHERE in a free slot
    seen: Int[Array, "*users"]  # moments so far
    key: Key[Array, "*users"]  # of the policies that draw

    @property
    def held(self) -> Bool[Array, "*users slots"]:
        """Which slots hold a moment."""
        return self.arrival != NOWHERE


class Decision(NamedTuple):
    """What became of one moment, and why."""

    arrival: Int[Array, "*items"]  # its number in the stream; NOWHERE for no moment
    scores: Scores  # when it arrived
    domain: Int[Array, "*items"]
    slot: Int[Array, "*items"]  # NOWHERE if it was dropped
    reason: Int[Array, "*items"]  # of `REASONS`
    displaced: Int[Array, "*items"]  # the number of the moment that made room, or NOWHERE
    displaced_scores: Scores  # its scores at that time, 0 where there is none


def empty(key: PRNGKeyArray, slots: int, dim: int) -> Buffer:
    """A buffer of `slots` free slots. ValueError if that is less than one."""
    if slots < 1:
        raise ValueError(f"a buffer of {slots} moments: at least one is needed")
    zeros = jnp.zeros(slots)
    free = jnp.full(slots, NOWHERE, jnp.int32)
    scores = Scores(zeros, zeros, zeros)
    none = jnp.zeros((slots, dim)), jnp.zeros((slots, slots))
    return Buffer(*none, scores, free, jnp.zeros(slots, jnp.int32), free, jnp.int32(0), key)


def arriving(buffer: Buffer, item: Item) -> Scores:
    """The scores of a moment that arrives."""
    products, norm = _products(buffer, item), jnp.linalg.norm(item.embedding)
    same = buffer.held & (buffer.domain == item.domain)
    return Scores(item.eoe, item.dss, metrics.mean_dissimilarity(_over(products, norm * _norms(buffer)), same))


def refreshed(buffer: Buffer) -> Scores:
    """The scores of what is stored, each IDD taken over the others of its domain that are stored now."""
    norms = _norms(buffer)
    cosine = jnp.clip(_over(buffer.products, norms[:, None] * norms[None, :]), -1, 1)
    same = buffer.held[:, None] & buffer.held[None, :] & (buffer.domain[:, None] == buffer.domain[None, :])
    same &= ~jnp.eye(norms.shape[0], dtype=bool)
    count = jnp.sum(same, axis=1)
    mean = jnp.sum(jnp.where(same, 1 - cosine, 0), axis=1) / jnp.maximum(count, 1)
    return buffer.scores._replace(idd=jnp.where(count > 0, mean, 1))


def squared_distances(buffer: Buffer, item: Item) -> Float[Array, "slots_and_one slots_and_one"]:
    """Squared Euclidean distances between all that is stored and, last, the moment that arrives."""
    products = _products(buffer, item)
    square = jnp.vdot(item.embedding, item.embedding, precision="highest")
    whole = jnp.block([[buffer.products, products[:, None]], [products[None, :], square[None, None]]])
    own = jnp.diagonal(whole)
    return jnp.maximum(own[:, None] + own[None, :] - 2 * whole, 0)


def room_or(buffer: Buffer, slot: Int[Array, ""], reason: Int[Array, ""] | int) -> tuple[Int[Array, ""], Array]:
    """The first free slot while there is one; in a full buffer `slot`, for `reason`."""
    is_full = jnp.all(buffer.held)
    free = jnp.argmin(buffer.held)
    return jnp.where(is_full, slot, free).astype(jnp.int32), jnp.where(is_full, reason, ROOM).astype(jnp.int32)


def settle(
    buffer: Buffer, item: Item, scores: Scores, slot: Int[Array, ""], reason: Int[Array, ""]
) -> tuple[Buffer, Decision]:
    """Put the moment into `slot`, or drop it at `NOWHERE`, and say so."""
    slot = jnp.where(item.present, slot, NOWHERE)
    slots, number = buffer.arrival.shape[0], jnp.where(item.present, buffer.seen, NOWHERE)
    is_stored = slot != NOWHERE
    at = jnp.where(is_stored, slot, slots)  # behind the last slot, where nothing is written

    def put(old, new):
        return old.at[at].set(new, mode="drop")

    own = jnp.vdot(item.embedding, item.embedding, precision="highest")
    row = put(_products(buffer, item), own)
    after = Buffer(
        put(buffer.embeddings, item.embedding),
        put(buffer.products, row).at[:, at].set(row, mode="drop"),
        Scores(*map(put, buffer.scores, scores)),
        put(buffer.domain, item.domain),
        put(buffer.length, item.length),
        put(buffer.arrival, number),
        buffer.seen + item.present,
        buffer.key,
    )
    displaced = jnp.where(is_stored, buffer.arrival[slot], NOWHERE)
    theirs = Scores(*(jnp.where(displaced != NOWHERE, each, 0) for each in _scores_of(buffer, slot)))
    reason = jnp.where(item.present, reason, ABSENT)
    return after, Decision(number, scores, item.domain, slot, reason, displaced, theirs)


def _scores_of(buffer, slot):
    """Of one slot, refreshed."""
    norms = _norms(buffer)
    cosine = _over(buffer.products[slot], norms[slot] * norms)
    slots = jnp.arange(norms.shape[0])
    same = buffer.held & (buffer.domain == buffer.domain[slot]) & (slots != slot)
    return Scores(buffer.scores.eoe[slot], buffer.scores.dss[slot], metrics.mean_dissimilarity(cosine, same))


def _products(buffer, item):
    return jnp.dot(buffer.embeddings, item.embedding, precision="highest")


def _norms(buffer):
    return jnp.sqrt(jnp.diagonal(buffer.products))


def _over(products, norms):
    return products / jnp.where(norms > 0, norms, 1)

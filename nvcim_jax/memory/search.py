"""Search over many OVTs at the speed of memory: every stored key folded into one vector, one product per question.

The definition (`similarity.wmsdp`), the folded form (`similarity.fold`) and the physical form, three noisy copies
(`similarity.stored_wmsdp`), are functions of one query and one prompt; this room runs them over a whole bank.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, Num, PyTree

from nvcim_jax.core import similarity
from nvcim_jax.core.quantise import largest

BLOCK = 1024  # OVTs that are decoded at once
GROUP = 64  # scores per maximum in the first pass of `_best`, at most; blocks are multiples of it
SCORES = 2**23  # that are held at once (32 MB): so many fit a cache, more are slower
TOGETHER = 64, 256  # questions that are scored at once, at least and at most, where there are as many
LARGEST = 1e15  # of a stored value: products of two, summed over an array, stay within float32
FORMATS = ("float32", "bfloat16", "int16", "int8")

Fold = Callable[[Float[Array, "rows dim"]], Float[Array, "rows dim"]]
Score = Callable[[Float[Array, "rows dim"], PyTree], Float[Array, ""]]


class Index(NamedTuple):
    """Folded keys in blocks, the value of one step of each OVT's code (1 for floats), and how many slots are taken.

    bfloat16 is held as its 16 bits: the CPU compiler slices those without copying.
    """

    values: Num[Array, "blocks block width"]
    steps: Float[Array, "blocks block"]
    count: Int[Array, ""]


class Found(NamedTuple):
    """The best slots of each query, best first, equal scores by slot; by how much the first leads the second."""

    slots: Int[Array, "queries k"]
    scores: Float[Array, "queries k"]
    margins: Float[Array, "queries"]


class Measured(NamedTuple):
    """A format on one machine: seconds of a search, bytes held, and how far the ranking is that of float32."""

    format: str
    seconds: float
    bytes: int
    same_best: float  # share of queries with the same first slot
    same_k: float  # share of the k best slots that are the same


def pairwise(prompt: Float[Array, "rows dim"]) -> Float[Array, "rows dim"]:
    """As `fold`, for `similarity.pairwise_mean`: the mean row in every row."""
    return jnp.broadcast_to(jnp.mean(prompt, axis=0) / prompt.shape[0], prompt.shape)


def flat(prompt: Float[Array, "rows dim"]) -> Float[Array, "rows dim"]:
    """As `fold`, for single-scale MIPS: the prompt as it is."""
    return prompt


def build(
    keys: PyTree,
    count: Int[Array, ""] | int,
    *,
    fold: Fold = similarity.fold,
    format: str = "bfloat16",
) -> Index:
    """The index of `keys`, [slots, rows, dim] or with `fold=similarity.fold_copies` the noisy copies of a read.

    `fold` turns one key into the matrix whose dot product with a query is the score. Raises ValueError for a key that
    holds NaN, infinite or huge values, which would win every search, and for an unknown `format`, of which `compare`
    tells speed and ranking difference.
    """
    _require_searchable(keys, count)
    return _build(keys, count, fold=fold, format=format)


@partial(jax.jit, static_argnames=("fold", "format"))
def _build(keys: PyTree, count: Int[Array, ""] | int, *, fold: Fold, format: str) -> Index:
    slots = jax.tree.leaves(keys)[0].shape[0]
    block = min(BLOCK, -(-slots // GROUP) * GROUP)
    folded = jax.vmap(fold)(keys).reshape(slots, -1)
    values, steps = _encode(jnp.pad(folded, ((0, -slots % block), (0, 0))), format)
    return Index(values.reshape(-1, block, values.shape[1]), steps.reshape(-1, block), jnp.asarray(count, jnp.int32))


def put(
    index: Index, slot: Int[Array, ""] | int, key: PyTree, count: Int[Array, ""] | int, *, fold: Fold = similarity.fold
) -> Index:
    """`index` with `key` in `slot`, in time that does not depend on its size. The given index is donated.

    Raises ValueError for a key that holds NaN, infinite or huge values.
    """
    _require_searchable(jax.tree.map(lambda leaf: leaf[None], key), 1)
    return _put(index, slot, key, count, fold=fold)


@partial(jax.jit, static_argnames=("fold",), donate_argnames=("index",))
def _put(index: Index, slot, key: PyTree, count, *, fold: Fold) -> Index:
    value, step = _encode(fold(key).reshape(1, -1), format_of(index))
    at = jnp.divmod(jnp.asarray(slot), index.values.shape[1])
    return Index(
        index.values.at[at].set(value[0]), index.steps.at[at].set(step[0]), jnp.asarray(count, index.count.dtype)
    )


def top_k(index: Index, queries: Float[Array, "queries rows dim"], *, k: int = 1, mesh: Mesh | None = None) -> Found:
    """The `k` best slots for every query; on a `mesh`, over whose one axis the index is spread, the same bits.

    Raises ValueError for an empty bank, a k it cannot fill, a query that is not finite or not as wide as the keys.
    """
    _check(queries, k, int(index.count))
    width = index.values.shape[2]
    if queries.shape[1] * queries.shape[2] != width:
        raise ValueError(
            f"queries of {queries.shape[1]} x {queries.shape[2]} values, but the bank's keys have {width}: "
            "encode the query with the bank's codec, in as many rows"
        )
    return _top_k(index, queries, k=k, mesh=mesh)


def top_k_by(
    score: Score, copies: PyTree, count: Int[Array, ""] | int, queries: Float[Array, "queries rows dim"], *, k: int = 1
) -> Found:
    """As `top_k` with any `score(query, copies of a key)`: the definition, the physical form, MaxSim.

    `copies` has the leading axis of slots. One OVT after the other per query: for checking, not for speed.
    """
    _check(queries, k, int(count))
    return _top_k_by(copies, count, queries, score=score, k=k)


def compare(
    keys: PyTree, count: int, queries: Float[Array, "queries rows dim"], *, k: int = 10, fold: Fold = similarity.fold
) -> list[Measured]:
    """Every format on these keys, this number of queries and this machine, the fastest first."""
    k = min(k, count)
    exact = np.asarray(top_k(build(keys, count, fold=fold, format="float32"), queries, k=k).slots)
    measured = []
    for format in FORMATS:
        index = build(keys, count, fold=fold, format=format)
        slots = np.asarray(top_k(index, queries, k=k).slots)
        seconds = []
        for _ in range(7):
            start = time.perf_counter()
            jax.block_until_ready(top_k(index, queries, k=k))
            seconds.append(time.perf_counter() - start)
        size = index.values.nbytes + index.steps.nbytes
        measured.append(Measured(format, min(seconds), size, *agreement(exact, slots)))
    return sorted(measured, key=lambda each: each.seconds)


def agreement(exact: np.ndarray, slots: np.ndarray) -> tuple[float, float]:
    """The ranking difference of two searches [queries, k]: shares of the same best slot and of the same best k."""
    same = np.mean(exact[:, 0] == slots[:, 0])
    return float(same), float(np.mean([np.isin(a, b).mean() for a, b in zip(exact, slots, strict=True)]))


def format_of(index: Index) -> str:
    """The format that an index was built in."""
    return "bfloat16" if index.values.dtype == jnp.uint16 else index.values.dtype.name


def scores(index: Index, queries: Float[Array, "queries rows dim"]) -> Float[Array, "queries slots"]:
    """The score of every slot, empty ones and padding to whole blocks at -inf."""
    found, _ = _scores(index, queries, 0, GROUP)
    return found.reshape(-1, queries.shape[0]).T


def is_searchable(values: Any) -> np.ndarray:
    """Which values are numbers whose products stay within float32; NaN, infinity and huge ones would win any search."""
    return np.abs(np.asarray(values, np.float32)) < LARGEST


def _require_searchable(keys: PyTree, count: Int[Array, ""] | int) -> None:
    """ValueError if a taken slot's key is not searchable. Traced keys are taken as they are."""
    for leaf in jax.tree.leaves(keys):
        if isinstance(leaf, Tracer) or isinstance(count, Tracer):
            return
        parts = leaf.addressable_shards if isinstance(leaf, jax.Array) else [None]
        for part in parts:
            fine = is_searchable(leaf if part is None else part.data)
            first = 0 if part is None else part.index[0].start or 0
            slots = first + np.flatnonzero(~fine.reshape(len(fine), -1).all(axis=1))
            if (slots < int(count)).any():
                raise ValueError(
                    f"the key of slot {slots[0]} holds NaN, infinite or huge values: take that OVT out first"
                )


def _check(queries, k: int, count: int) -> None:
    if queries.ndim != 3 or not queries.shape[0]:
        raise ValueError(f"queries of shape {queries.shape}: [queries, rows, dim] with at least one query is needed")
    if not count:
        raise ValueError("the bank is empty: add an OVT before searching it")
    if not 1 <= k <= count:
        raise ValueError(f"k = {k}, but the bank holds {count} OVTs: ask for 1 to {count}")
    if not np.isfinite(np.asarray(queries)).all():
        raise ValueError("a query holds NaN or infinite values: check the text or the codec that it came from")


def _encode(folded, format: str):
    ones = jnp.ones(folded.shape[0], jnp.float32)
    if format == "float32":
        return folded.astype(jnp.float32), ones
    if format == "bfloat16":
        return jax.lax.bitcast_convert_type(folded.astype(jnp.bfloat16), jnp.uint16), ones
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}: choose one of {', '.join(FORMATS)}")
    top = largest(16 if format == "int16" else 8)
    peak = jnp.max(jnp.abs(folded), axis=1)
    steps = jnp.where(peak > 0, peak, 1) / top
    return jnp.round(folded / steps[:, None]).astype(format), steps


def _decode(values, single: bool):
    """A block as the product wants it: one query reads float32, several multiply in bfloat16 where the codes fit."""
    if values.dtype == jnp.uint16:
        wide = jax.lax.bitcast_convert_type(values.astype(jnp.uint32) << 16, jnp.float32)
        return wide if single else jax.lax.bitcast_convert_type(values, jnp.bfloat16)
    if values.dtype == jnp.int8:
        return values.astype(jnp.float32 if single else jnp.bfloat16)
    return values.astype(jnp.float32)


def _group(slots: int, k: int) -> int:
    """How many scores share a maximum, so that there are about as many maxima as candidates in k groups."""
    return min(GROUP, 1 << round(math.log2(max(slots / k, 1)) / 2))


def _scores(index: Index, queries, first, group: int):
    """Scores and their maxima by group of the blocks of `index`, the first of which holds slot `first`."""
    asked = queries.reshape(queries.shape[0], -1)
    single = asked.shape[0] == 1

    def one(part):
        values, steps, start = part
        block = values.shape[0]
        stored = _decode(values, single)
        dims = (((1,), (1,)), ((), ()))
        product = jax.lax.dot_general(stored, asked.astype(stored.dtype), dims, preferred_element_type=jnp.float32)
        taken = start + jnp.arange(block) < index.count
        found = jnp.where(taken[:, None], product * steps[:, None], -jnp.inf).reshape(-1, group, asked.shape[0])
        return found, jnp.max(found, axis=1)

    blocks, block, width = index.values.shape
    if blocks == 1 or index.values.dtype == jnp.float32:  # nothing to decode, or little: stream it in one product
        whole = one((index.values.reshape(-1, width), index.steps.reshape(-1), first))
        return jax.tree.map(lambda leaf: leaf[None], whole)
    starts = first + block * jnp.arange(blocks)
    return jax.lax.map(one, (index.values, index.steps, starts))


def _best(found, maxima, k: int):
    """The k best of scores [blocks, groups, group, queries]: they lie in the k groups with the largest maxima."""
    blocks, groups, group, queries = found.shape
    ranked = maxima.reshape(-1, queries).T
    _, chosen = jax.lax.top_k(ranked, min(k, blocks * groups))
    chosen = jnp.sort(chosen, axis=1)  # so that equal scores are taken by slot
    candidates = found.reshape(-1, group, queries)[chosen, :, jnp.arange(queries)[:, None]].reshape(queries, -1)
    slots = (chosen[:, :, None] * group + jnp.arange(group)[None, None]).reshape(queries, -1)
    best, at = jax.lax.top_k(candidates, k)
    return best, jnp.take_along_axis(slots, at, axis=1)


def _found(best, slots, k: int) -> Found:
    """From the best two or more, without slices: merged with one, `top_k` is compiled to a full sort."""
    first = jnp.arange(best.shape[1])[None] == 0
    leader = jnp.max(best, axis=1, keepdims=True)
    margins = leader[:, 0] - jnp.max(jnp.where(first, -jnp.inf, best), axis=1)
    if k == 1:
        best, slots = leader, jnp.sum(jnp.where(first, slots, 0), axis=1, keepdims=True)
    return Found(slots, best, margins)


def _together(index: Index) -> int:
    """How many questions are scored at once: the wider the keys, the more it costs to read all of them again."""
    fewest, most = TOGETHER
    return min(max(SCORES // index.steps.size, index.values.shape[2] // 3, fewest), most)


@partial(jax.jit, static_argnames=("k", "mesh"))
def _top_k(index: Index, queries, *, k: int, mesh: Mesh | None = None) -> Found:
    """All questions, in equal parts one after the other; the last is filled up."""
    count = queries.shape[0]
    parts = -(-count // _together(index))
    if parts == 1:
        return _best_of(index, queries, k=k, mesh=mesh)
    size = -(-count // parts)
    filled = jnp.pad(queries, ((0, parts * size - count), (0, 0), (0, 0))).reshape(parts, size, *queries.shape[1:])
    found = jax.lax.map(lambda part: _best_of(index, part, k=k, mesh=mesh), filled)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], found)


def _best_of(index: Index, queries, *, k: int, mesh: Mesh | None) -> Found:
    most = max(k, 2)  # the runner-up is wanted for the margin
    group = _group(index.steps.size, most)
    if mesh is None:
        return _found(*_best(*_scores(index, queries, 0, group), k=most), k=k)
    (axis,) = mesh.axis_names

    def local(values, steps, count, queries):
        first = jax.lax.axis_index(axis) * steps.size
        best, slots = _best(*_scores(Index(values, steps, count), queries, first, group), k=min(most, steps.size))
        gather = partial(jax.lax.all_gather, axis_name=axis, axis=1, tiled=True)  # by device, so by slot
        best, slots = gather(best), gather(slots + first)
        best, at = jax.lax.top_k(best, most)
        return _found(best, jnp.take_along_axis(slots, at, axis=1), k)

    along, whole = PartitionSpec(axis), PartitionSpec()
    specs = (along, along, whole, whole)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=False)(*index, queries)


@partial(jax.jit, static_argnames=("score", "k"))
def _top_k_by(copies, count, queries, *, score: Score, k: int) -> Found:
    def one(query):
        each = jax.vmap(score, in_axes=(None, 0))(query, copies)
        each = jnp.where(jnp.arange(each.shape[0]) < count, each, -jnp.inf)
        return jax.lax.top_k(each, min(max(k, 2), each.shape[0]))

    return _found(*jax.lax.map(one, queries), k=k)

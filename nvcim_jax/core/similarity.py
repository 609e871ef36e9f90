"""How well a stored prompt fits a query: MIPS, and the weighted multi-scale dot product (Eq. 5).

`Pool(e) . Pool(p)` multiplies two matrices and must end in one number; the paper does not say how. Each reading is
a function of one query and one prompt, passed as `reduce`.
"""

from collections.abc import Callable
from functools import reduce as accumulate

import jax.numpy as jnp
from jaxtyping import Array, Float

from nvcim_jax.core.pooling import pyramid

SCALES = (1, 2, 4)
WEIGHTS = (1.0, 0.8, 0.6)


def aligned(query: Float[Array, "rows dim"], prompt: Float[Array, "others dim"]) -> Float[Array, ""]:
    """The plain dot product: row i with row i, summed. ValueError if the row counts differ."""
    if query.shape != prompt.shape:
        raise ValueError(
            f"query {query.shape} and prompt {prompt.shape} differ: resample the query to the prompt's rows"
        )
    return jnp.vdot(query, prompt, precision="highest")


def aligned_mean(query: Float[Array, "rows dim"], prompt: Float[Array, "others dim"]) -> Float[Array, ""]:
    """The dot product averaged over rows, so that a coarse scale weighs as much as a fine one."""
    return aligned(query, prompt) / query.shape[0]


def pairwise_mean(query: Float[Array, "rows dim"], prompt: Float[Array, "others dim"]) -> Float[Array, ""]:
    """The mean over all pairs of rows, which is the dot product of the two means."""
    return jnp.vdot(jnp.mean(query, axis=0), jnp.mean(prompt, axis=0), precision="highest")


def maxsim(query: Float[Array, "rows dim"], prompt: Float[Array, "others dim"]) -> Float[Array, ""]:
    """For each query row its best prompt row, averaged over query rows (ColBERT's MaxSim)."""
    return jnp.mean(jnp.max(jnp.dot(query, prompt.T, precision="highest"), axis=1))


def cosine_of_means(query: Float[Array, "rows dim"], prompt: Float[Array, "others dim"]) -> Float[Array, ""]:
    """The cosine between the mean query row and the mean prompt row; zero for a zero mean."""
    norms = jnp.linalg.norm(jnp.mean(query, axis=0)) * jnp.linalg.norm(jnp.mean(prompt, axis=0))
    return pairwise_mean(query, prompt) / jnp.where(norms > 0, norms, 1)


Reduce = Callable[[Float[Array, "rows dim"], Float[Array, "others dim"]], Float[Array, ""]]


def mips(
    query: Float[Array, "rows dim"], prompt: Float[Array, "others dim"], *, reduce: Reduce = aligned
) -> Float[Array, ""]:
    """The inner product that maximum inner product search maximises, at one scale.

    Flat with `reduce=aligned`, mean-pooled with `reduce=pairwise_mean`.
    """
    return reduce(query, prompt)


def wmsdp(
    query: Float[Array, "rows dim"],
    prompt: Float[Array, "others dim"],
    *,
    scales: tuple[int, ...] = SCALES,
    weights: tuple[float, ...] = WEIGHTS,
    reduce: Reduce = aligned,
) -> Float[Array, ""]:
    """Weighted multi-scale dot product: `sum_i w_i reduce(Pool_i(e), Pool_i(p)) / sum_i w_i` (Eq. 5)."""
    return stored_wmsdp(query, pyramid(prompt, scales=scales), scales=scales, weights=weights, reduce=reduce)


def stored_wmsdp(
    query: Float[Array, "rows dim"],
    copies: tuple[Float[Array, "_ dim"], ...],
    *,
    scales: tuple[int, ...] = SCALES,
    weights: tuple[float, ...] = WEIGHTS,
    reduce: Reduce = aligned,
) -> Float[Array, ""]:
    """Eq. 5 against the pooled copies as they are stored, each with a noise of its own (Fig. 4)."""
    if not len(scales) == len(weights) == len(copies):
        raise ValueError(f"{len(scales)} scales, {len(weights)} weights, {len(copies)} copies: one of each per scale")
    pooled = pyramid(query, scales=scales)
    terms = (weight * reduce(q, p) for weight, q, p in zip(weights, pooled, copies, strict=True))
    return accumulate(jnp.add, terms) / sum(weights)


def fold(
    prompt: Float[Array, "tokens dim"],
    *,
    scales: tuple[int, ...] = SCALES,
    weights: tuple[float, ...] = WEIGHTS,
) -> Float[Array, "tokens dim"]:
    """The matrix whose plain dot product with a query is Eq. 5: three scales for the price of one.

    Holds for `aligned` and an ideal read.
    """
    return fold_copies(pyramid(prompt, scales=scales), scales=scales, weights=weights)


def fold_copies(
    copies: tuple[Float[Array, "_ dim"], ...],
    *,
    scales: tuple[int, ...] = SCALES,
    weights: tuple[float, ...] = WEIGHTS,
) -> Float[Array, "tokens dim"]:
    """The matrix whose plain dot product with a query is `stored_wmsdp` of these copies, whatever noise is in them.

    Pooling is linear, so `sum_i w_i <A_i e, c_i> = <e, sum_i w_i A_i' c_i>`; `A'` spreads a pooled row evenly over its
    window. The first scale must be 1, so that the rows of a prompt can be counted.
    """
    if scales[0] != 1:
        raise ValueError(f"scales {scales}: the folded form needs 1 as the first scale")
    tokens = copies[0].shape[0]
    spread = []
    for scale, weight, copy in zip(scales, weights, copies, strict=True):
        held = jnp.minimum(scale, tokens - scale * jnp.arange(copy.shape[0])).astype(copy.dtype)
        spread.append(weight * jnp.repeat(copy / held[:, None], scale, axis=0)[:tokens])
    return accumulate(jnp.add, spread) / sum(weights)

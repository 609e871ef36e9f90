"""Who is among the first k under device variation, in closed form, and what a ranking is expected to be worth.

The scores are independent Gaussians (`variation.score_law`). Given that a document scores x, the others beat it
independently, each with a probability of its own: how many do follows the product of their generating polynomials,
`prod_i (F_i(x) + (1 - F_i(x)) z)`, of which k coefficients are enough. Differentiable.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nvcim_jax.memory.variation import RESOLUTION, panels


class Worth(NamedTuple):
    """What the first k of a ranking are expected to be worth, as sentence-transformers and pytrec_eval define it.

    `success` is the probability that any right document is among them (also called accuracy@k, and for k = 1
    precision); zero for a question that has no right document.
    """

    success: Float[Array, "..."]
    recall: Float[Array, "..."]
    precision: Float[Array, "..."]
    ndcg: Float[Array, "..."]
    mrr: Float[Array, "..."]


def rank_probabilities(
    mean: Float[Array, "documents"], variance: Float[Array, "documents"], *, k: int
) -> Float[Array, "documents {k}"]:
    """The probability that a document is the first, the second, ... the k-th: each rank's sum to one.

    Documents of mean minus infinity have no rank. Without variance the order is that of the means, equal ones share.
    ValueError for a k below 1 or above the number of documents.
    """
    _require(mean, variance, k)
    nothing = jnp.zeros(mean.shape, bool)
    return _ranks(mean, variance, nothing, k)


def top_probabilities(
    mean: Float[Array, "documents"], variance: Float[Array, "documents"], *, k: int
) -> Float[Array, "documents"]:
    """The probability that each document is among the first k; they sum to k."""
    return jnp.sum(rank_probabilities(mean, variance, k=k), axis=1)


def expected(
    mean: Float[Array, "documents"],
    variance: Float[Array, "documents"],
    right: Bool[Array, "documents"],
    *,
    k: int,
) -> Worth:
    """The expected success, recall, precision, nDCG and MRR at k, over all programmings of the device."""
    ranks = rank_probabilities(mean, variance, k=k)
    first = _ranks(mean, variance, right, k)  # of right documents: with no right one above, so many others are
    return _worth(jnp.where(right[:, None], ranks, 0), jnp.where(right[:, None], first, 0), right, k)


def measured(order: Int[Array, "draws k"], right: Bool[Array, "documents"]) -> Worth:
    """The same of rankings that were drawn: slots of the first k documents, best first, averaged over the draws."""
    k = order.shape[1]
    hit = right[order].astype(jnp.float32)
    is_first = (jnp.cumsum(hit, axis=1) == 1) * hit
    total = jnp.maximum(jnp.sum(right), 1)
    gains, ideal = _gains(k), _ideal(right, k)
    return Worth(
        jnp.mean(jnp.max(hit, axis=1)), jnp.mean(jnp.sum(hit, axis=1)) / total, jnp.mean(hit),
        jnp.mean(hit @ gains) / ideal, jnp.mean(is_first @ (1 / jnp.arange(1, k + 1))),
    )  # fmt: skip


def _worth(ranks, first, right, k: int) -> Worth:
    total = jnp.maximum(jnp.sum(right), 1)
    at_rank = jnp.sum(ranks, axis=0)
    first_at = jnp.sum(first, axis=0)
    found = jnp.sum(at_rank)
    return Worth(
        jnp.sum(first_at), found / total, found / k, jnp.vdot(at_rank, _gains(k)) / _ideal(right, k),
        jnp.vdot(first_at, 1 / jnp.arange(1, k + 1)),
    )  # fmt: skip


def _gains(k: int):
    return jnp.asarray(1 / np.log2(np.arange(2, k + 2)), jnp.float32)


def _ideal(right, k: int):
    """DCG of a perfect ranking; one where nothing is right."""
    there = jnp.arange(k) < jnp.sum(right)
    return jnp.maximum(jnp.sum(jnp.where(there, _gains(k), 0)), jnp.where(jnp.any(right), 0, 1))


def _ranks(mean, variance, barred, k: int) -> Float[Array, "documents k"]:
    """P(document j is at rank r, and none that is `barred` lies above it)."""
    takes_part = mean > -jnp.inf
    mean = jnp.where(takes_part, mean, 0)
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(mean)))
    mean = mean - jax.lax.stop_gradient(jnp.max(jnp.where(takes_part, mean, -jnp.inf)))  # floats are finest near zero
    std = jnp.sqrt(jnp.maximum(variance, (RESOLUTION * size + 1e-15) ** 2))
    x, weight = panels(*jax.lax.stop_gradient((mean, std)), takes_part, k)
    z = jnp.clip((x[None, :] - mean[:, None]) / std[:, None], -40, 40)
    below = jnp.where(takes_part[:, None], jax.scipy.special.ndtr(z), 1)
    above = jnp.where(takes_part[:, None] & ~barred[:, None], jax.scipy.special.ndtr(-z), 0)
    density = jnp.exp(-0.5 * (z**2 + np.log(2 * np.pi))) / std[:, None]
    before, behind = _products(below, above, k), _products(below[::-1], above[::-1], k)[::-1]
    beaten_by = [jnp.sum(before[..., :r] * behind[..., :r][..., ::-1], axis=-1) for r in range(1, k + 1)]
    ranks = jnp.stack([jnp.dot(density * each, weight, precision="highest") for each in beaten_by], axis=1)
    return jnp.where(takes_part[:, None], ranks, 0)


def _products(below, above, k: int) -> Float[Array, "documents nodes k"]:
    """For every document the product of the polynomials of those before it, to k coefficients."""
    one = jnp.zeros((below.shape[1], k)).at[:, 0].set(1.0)

    def times(sofar, own):
        stay, rise = own
        up = jnp.pad(sofar[:, :-1], ((0, 0), (1, 0)))
        return sofar * stay[:, None] + up * rise[:, None], sofar

    return jax.lax.scan(times, one, (below, above))[1]


def _require(mean, variance, k: int) -> None:
    if mean.shape != variance.shape or mean.ndim != 1 or not mean.size:
        raise ValueError(f"means {mean.shape} and variances {variance.shape}: one of each per document, at least one")
    if not 1 <= k <= mean.size:
        raise ValueError(f"k = {k}, but there are {mean.size} documents: ask for 1 to {mean.size}")

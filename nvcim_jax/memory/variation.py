"""Retrieval under device variation in closed form; `monte_carlo` draws it.

Every fidelity of writing adds independent Gaussian noise to what is stored. A score that is linear in the stored
values is then Gaussian, independently for each OVT, so the probability that an OVT wins the search is an integral over
one variable, and the scores of many queries against one programmed chip are jointly Gaussian. No draws are needed, and
gradients flow: `score_law` -> `win_probabilities`, or `chip_law` -> `chip_scores`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nvcim_jax.core.noise import noise_std
from nvcim_jax.core.pooling import pyramid
from nvcim_jax.core.quantise import from_codes, from_levels, signs_of, to_codes, to_levels
from nvcim_jax.core.similarity import SCALES
from nvcim_jax.hardware import ageing, cells
from nvcim_jax.hardware.compensation import Compensate, expected_gain
from nvcim_jax.hardware.crossbar import check_fits
from nvcim_jax.hardware.devices import Device
from nvcim_jax.memory import programming

REACH = 6.0  # standard deviations beyond which a Gaussian is taken as zero: 1e-9 of it
PANELS, NODES = 32, 6  # of the quadrature: panels of each kind, nodes in a panel
RESOLUTION = 1e-6  # of float32 scores; no score is held to be more certain than that


class Gaussian(NamedTuple):
    """Independent normal values: of what is read back, or of the scores of the OVTs."""

    mean: Float[Array, "..."]
    variance: Float[Array, "..."]


class ChipLaw(NamedTuple):
    """The scores of many queries on one programmed chip: `mean + root @ standard normal`, each OVT on its own."""

    mean: Float[Array, "ovts queries"]
    root: Float[Array, "ovts queries queries"]


Law = Callable[..., Gaussian]


def value_law(values: Float[Array, "rows dim"], device: Device, *, sigma: Float[Array, ""] | float) -> Gaussian:
    """What `crossbar.write_values` returns of a matrix, in the matrix's own unit (Eq. 4).

    The mean is the int16 code, its gradient straight-through. ValueError if the matrix does not fit an array.
    """
    check_fits(*values.shape)
    codes = to_codes(values)
    std = noise_std(codes.integers.astype(jnp.float32), sigma=sigma, factors=device.factors)
    return Gaussian(_unrounded(values, from_codes(codes)), (std * codes.step) ** 2)


def cell_law(
    values: Float[Array, "rows dim"],
    device: Device,
    *,
    sigma: Float[Array, ""] | float,
    seconds: Float[Array, ""] | float | None = None,
    compensate: Compensate | None = None,
) -> Gaussian:
    """What `crossbar.write_cells` returns of a matrix: every cell's variance by its level and of its read, weighted by
    its place; `seconds` after programming if given, with the gain of a compensation.

    The moments of an aged cell are exact but for quadrature (`ageing.moments`); a gain is taken for its expectation,
    which sums of hundreds of cells hold. ValueError if the matrix does not fit an array, and for devices whose reads
    are not Gaussian and independent (`ageing.without_gaussian`).
    """
    check_fits(*values.shape)
    why = ageing.without_gaussian(device, seconds)
    if why:
        raise ValueError(
            f"this device has {why}: draw it with monte_carlo (`nvcim vary --draws 2000`), or leave it out of its sheet"
        )
    layout = cells.layout_of(device)
    codes = to_codes(values)
    places = jnp.array(layout.places, jnp.float32)
    levels = to_levels(codes.integers, layout)
    if seconds is None and device.means is None and device.flicker is None:
        written = cells.spread(levels, device, sigma=sigma) ** 2
        variance = (written + cells.read_variance(device)) * (places[None, None] * codes.step) ** 2
        return Gaussian(_unrounded(values, from_codes(codes)), jnp.sum(variance, axis=-1))
    law = ageing.moments(device, sigma=sigma, seconds=seconds)
    held, spread = law.mean[levels], law.variance[levels]
    if compensate is not None and seconds is not None:
        fresh = ageing.moments(device._replace(flicker=None), sigma=sigma)
        gain = expected_gain(levels, device, law, fresh, compensate=compensate)
        offset = layout.full * cells.off_share(device)
        held, spread = gain * (held + offset) - offset, gain**2 * spread
    variance = spread * (places[None, None] * codes.step) ** 2
    mean = from_levels(held, layout, signs_of(codes.integers, layout)) * codes.step
    return Gaussian(_unrounded(values, mean), jnp.sum(variance, axis=-1))


def bank_law(
    keys: Float[Array, "ovts rows dim"],
    device: Device,
    *,
    sigma: Float[Array, ""] | float,
    scales: tuple[int, ...] = SCALES,
    law: Law = value_law,
) -> tuple[Gaussian, ...]:
    """What the arrays return of the pooled copies of every key, as `program` writes them: one law per scale."""
    each = partial(law, device=device, sigma=sigma)
    return jax.vmap(lambda key: tuple(each(copy) for copy in pyramid(key, scales=scales)))(keys)


def score_law(
    query: Float[Array, "rows dim"],
    copies: tuple[Gaussian, ...],
    valid: Bool[Array, "ovts"],
    *,
    score: programming.Score,
) -> Gaussian:
    """Score of one query against every OVT of a `bank_law`: `N(sum w P, sum w^2 std^2)`, w the score's gradient.

    Slots that are not valid score minus infinity. ValueError unless `score` is linear in the stored values.
    """
    means = tuple(copy.mean for copy in copies)
    weights = _weights(query, means, score=score)
    mean = jax.vmap(score, in_axes=(None, 0))(query, means)
    parts = (_of_each_ovt(jnp.square(w), c.variance) for w, c in zip(weights, copies, strict=True))
    variance = sum(parts)
    return Gaussian(jnp.where(valid, mean, -jnp.inf), jnp.where(valid, variance, 0))


def win_probabilities(mean: Float[Array, "ovts"], variance: Float[Array, "ovts"]) -> Float[Array, "ovts"]:
    """The probability that each of several independent Gaussian scores is the largest.

    `P_j = integral of f_j(x) prod_{i != j} F_i(x) dx`, by Gauss-Legendre quadrature on panels that follow the scores
    that can win. Scores of mean minus infinity never win. Without variance the largest mean wins, equal ones share.
    ValueError if there is no OVT or the shapes differ.
    """
    if mean.shape != variance.shape or mean.ndim != 1 or not mean.size:
        raise ValueError(f"means {mean.shape} and variances {variance.shape}: one of each per OVT, at least one OVT")
    takes_part = mean > -jnp.inf
    mean = jnp.where(takes_part, mean, 0)
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(mean)))
    mean = mean - jax.lax.stop_gradient(jnp.max(jnp.where(takes_part, mean, -jnp.inf)))  # floats are finest near zero
    std = jnp.sqrt(jnp.maximum(variance, (RESOLUTION * size + 1e-15) ** 2))
    x, weight = panels(*jax.lax.stop_gradient((mean, std)), takes_part)
    z = jnp.clip((x[None, :] - mean[:, None]) / std[:, None], -40, 40)
    log_below = jnp.where(takes_part[:, None], jax.scipy.special.log_ndtr(z), 0)
    log_density = -0.5 * (z**2 + np.log(2 * np.pi)) - jnp.log(std)[:, None]
    density = jnp.exp(log_density + jnp.sum(log_below, axis=0)[None, :] - log_below)
    wins = jnp.dot(density, weight, precision="highest")
    return jnp.where(takes_part, wins, 0)


def win_table(
    queries: Float[Array, "queries rows dim"],
    keys: Float[Array, "ovts rows dim"],
    valid: Bool[Array, "ovts"],
    device: Device,
    *,
    sigma: Float[Array, ""] | float,
    score: programming.Score,
    scales: tuple[int, ...] = SCALES,
    law: Law = value_law,
) -> Float[Array, "queries ovts"]:
    """For every query the probability that each stored OVT is the one retrieved, over all draws of the device."""
    copies = bank_law(keys, device, sigma=sigma, scales=scales, law=law)
    scores = jax.vmap(lambda query: score_law(query, copies, valid, score=score))(queries)
    return jax.lax.map(lambda one: win_probabilities(*one), scores, batch_size=16)


def expected_accuracy(
    wins: Float[Array, "queries ovts"], right: Bool[Array, "queries ovts"]
) -> Float[Array, "queries"]:
    """The probability that a query is answered with one of its right OVTs."""
    return jnp.sum(jnp.where(right, wins, 0), axis=-1)


def chip_law(
    queries: Float[Array, "queries rows dim"],
    copies: tuple[Gaussian, ...],
    valid: Bool[Array, "ovts"],
    *,
    score: programming.Score,
) -> ChipLaw:
    """The joint law of all queries' scores on one chip: they read the same programmed noise.

    For each OVT the covariance of queries q and r is `sum w_q w_r std^2` over its stored values. ValueError unless
    `score` is linear in them.
    """
    marginal = jax.vmap(lambda query: score_law(query, copies, valid, score=score))(queries)
    means = tuple(copy.mean for copy in copies)
    weights = jax.vmap(lambda query: _flat(_weights(query, means, score=score)))(queries)

    def root(variance: Float[Array, "values"]) -> Float[Array, "queries queries"]:
        covariance = jnp.dot(weights * variance[None, :], weights.T, precision="highest")
        spread, axes = jnp.linalg.eigh(covariance)  # singular when queries repeat, so no Cholesky factor
        noise_floor = spread.size * jnp.finfo(spread.dtype).eps * spread[-1]
        return axes * jnp.sqrt(jnp.where(spread > noise_floor, spread, 0))[None, :]

    roots = jax.vmap(root)(jax.vmap(lambda each: _flat(tuple(copy.variance for copy in each)))(copies))
    return ChipLaw(marginal.mean.T, roots)


def chip_scores(key: PRNGKeyArray, law: ChipLaw) -> Float[Array, "queries ovts"]:
    """One chip drawn in score space: the scores of every query against every OVT of it."""
    normal = jax.random.normal(key, law.mean.shape)
    return (law.mean + jnp.einsum("oqr,or->oq", law.root, normal, precision="highest")).T


def _weights(query: Array, means: tuple[Array, ...], *, score: programming.Score) -> tuple[Array, ...]:
    """The weight of every stored value in the score: its gradient, which must be the same for every OVT."""
    jax.eval_shape(score, query, tuple(mean[0] for mean in means))  # errors of the score itself are said as they are
    try:
        return jax.vmap(jax.grad(score, argnums=1), in_axes=(None, 0), out_axes=None)(query, means)
    except ValueError as error:  # the gradient depends on what is stored
        name = getattr(getattr(score, "func", score), "__name__", "this score")
        raise ValueError(
            f"{name} with these settings is not linear in the stored values, so its law is no Gaussian: use aligned, "
            "aligned_mean or pairwise_mean, or draw it with monte_carlo"
        ) from error


def _of_each_ovt(weights: Float[Array, "_ dim"], values: Float[Array, "ovts _ dim"]) -> Float[Array, "ovts"]:
    return jax.vmap(lambda own: jnp.vdot(weights, own, precision="highest"))(values)


def panels(mean: Array, std: Array, takes_part: Array) -> tuple[Array, Array]:
    """Nodes and weights over the scores at which the search can be decided.

    Half of the panels are equal; the others end at quantiles of the points that cut every Gaussian there into single
    standard deviations, so a narrow Gaussian among wide ones gets panels of its own.
    """
    low = jnp.max(jnp.where(takes_part, mean - REACH * std, -jnp.inf))  # below it somebody is surely ahead
    high = jnp.max(jnp.where(takes_part, mean + REACH * std, -jnp.inf))
    cuts = mean[:, None] + std[:, None] * jnp.linspace(-REACH, REACH, int(2 * REACH) + 1)[None, :]
    cuts = jnp.sort(jnp.where(takes_part[:, None], jnp.clip(cuts, low, high), low).reshape(-1))
    unused = jnp.searchsorted(cuts, low, side="right") - 1
    rank = unused + (cuts.size - 1 - unused) * jnp.linspace(0, 1, PANELS + 1)
    quantiles = jnp.interp(rank, jnp.arange(cuts.size, dtype=cuts.dtype), cuts)
    ends = jnp.sort(jnp.concatenate([low + (high - low) * jnp.linspace(0, 1, PANELS + 1), quantiles]))
    at, weight = (jnp.asarray(part, mean.dtype) for part in np.polynomial.legendre.leggauss(NODES))
    half = jnp.diff(ends)[:, None] / 2
    return (ends[:-1, None] + half * (1 + at)[None, :]).reshape(-1), (half * weight[None, :]).reshape(-1)


def _unrounded(values: Array, rounded: Array) -> Array:
    return values + jax.lax.stop_gradient(rounded - values)


def _flat(parts: tuple[Array, ...]) -> Array:
    return jnp.concatenate([part.reshape(-1) for part in parts])

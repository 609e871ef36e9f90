"""What a projection is trained by: questions beside the laws of what arrays return of right and wrong documents."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nvcim_jax.memory.variation import Gaussian

Codes = Float[Array, "batch code"]
Loss = Callable[[PRNGKeyArray, Codes, Gaussian, Gaussian, Float[Array, "batch"]], Float[Array, ""]]


def drawn(key: PRNGKeyArray, law: Gaussian) -> Float[Array, "batch code"]:
    """One read of what was programmed; gradients flow through its deviation, too."""
    return law.mean + jnp.sqrt(law.variance + 1e-20) * jax.random.normal(key, law.mean.shape)


def margin_triplet(
    key: PRNGKeyArray,
    questions: Codes,
    right: Gaussian,
    wrong: Gaussian,
    weight: Float[Array, "batch"],
    *,
    margin: float = 1.0,
    push: float = 0.0,
    least: float = 0.5,
) -> Float[Array, ""]:
    """`max(0, d(a, p) - d(a, n) + margin)` with Euclidean distances, as RoCR's released code, under one draw of noise.

    Its second term, `push` times `max(0, least - d(a, p))`, keeps the right document away; released with push 1.
    """
    right_key, wrong_key = jax.random.split(key)
    to_right = _distance(questions, drawn(right_key, right))
    to_wrong = _distance(questions, drawn(wrong_key, wrong))
    each = jax.nn.relu(to_right - to_wrong + margin) + push * jax.nn.relu(least - to_right)
    return _mean(each, weight)


def info_nce(
    key: PRNGKeyArray,
    questions: Codes,
    right: Gaussian,
    wrong: Gaussian,
    weight: Float[Array, "batch"],
    *,
    scale: float = 20.0,
) -> Float[Array, ""]:
    """The right document against all others of the batch (van den Oord et al., 2018), under one draw of the noise."""
    right_key, wrong_key = jax.random.split(key)
    stored = jnp.concatenate([drawn(right_key, right), drawn(wrong_key, wrong)])
    logits = scale * jnp.dot(questions, stored.T, precision="highest")
    there = jnp.concatenate([weight, weight]) > 0
    logits = jnp.where(there[None], logits, -1e9)
    return _mean(jax.nn.logsumexp(logits, axis=1) - jnp.diagonal(logits), weight)


def expected_hinge(
    key: PRNGKeyArray,
    questions: Codes,
    right: Gaussian,
    wrong: Gaussian,
    weight: Float[Array, "batch"],
    *,
    margin: float = 0.05,
) -> Float[Array, ""]:
    """The hinge of the score's lead over every other document of the batch, in expectation over all programmings.

    A lead is Gaussian, so `E max(0, m - lead) = (m - mu) Phi(z) + s phi(z)`, `z = (m - mu) / s`: nothing is drawn.
    """
    squares = questions**2
    mean, variance = _score(questions, right.mean), _score(squares, right.variance)
    wrong_mean, wrong_variance = _score(questions, wrong.mean), _score(squares, wrong.variance)
    means, variances = jnp.concatenate([mean, wrong_mean], axis=1), jnp.concatenate([variance, wrong_variance], axis=1)
    lead = jnp.diagonal(mean)[:, None] - means
    spread = jnp.diagonal(variance)[:, None] + variances
    batch = questions.shape[0]
    is_other = (jnp.concatenate([1 - jnp.eye(batch), jnp.ones((batch, batch))], axis=1) > 0) & (
        jnp.concatenate([weight, weight])[None] > 0
    )
    each = jnp.sum(jnp.where(is_other, hinge(lead, spread, margin), 0), axis=1)
    return _mean(each, weight)


def hinge(mean: Float[Array, "*shape"], variance: Float[Array, "*shape"], margin: float) -> Float[Array, "*shape"]:
    """The expectation of `max(0, margin - x)` for a Gaussian x; of no variance the hinge itself."""
    deviation = jnp.sqrt(variance + 1e-14)
    z = (margin - mean) / deviation
    return (margin - mean) * jax.scipy.special.ndtr(z) + deviation * jax.scipy.stats.norm.pdf(z)


def _distance(one: Codes, other: Codes) -> Float[Array, "batch"]:
    return jnp.sqrt(jnp.sum((one - other) ** 2, axis=1) + 1e-12)


def _score(one: Codes, other: Codes) -> Float[Array, "batch batch"]:
    return jnp.dot(one, other.T, precision="highest")


def _mean(each: Float[Array, "batch"], weight: Float[Array, "batch"]) -> Float[Array, ""]:
    return jnp.sum(each * weight) / jnp.maximum(jnp.sum(weight), 1)

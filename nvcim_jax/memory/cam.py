"""Content-addressable search: FeFET cells that answer "nearest" in one step, by a distance that saturates.

Words as in CAMASim: the distance of a row is the sum over its cells; a sense amplifier finds the best row of an array,
and cannot tell rows closer than its sensing limit; the winners of several arrays are merged by another one.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nvcim_jax.memory import variation

NODES = 16  # of the quadrature over how a tie is broken


def cam_distance(
    query: Int[Array, "dim"] | Float[Array, "dim"], stored: Float[Array, "rows dim"], *, most: float
) -> Float[Array, "rows"]:
    """Distance of a query from every stored row: the sum over cells of `min(|query - stored|, most)^2`.

    Both are in levels, as the cells hold them. ValueError unless `most`, where a cell's current saturates, is above 0.
    """
    if not most > 0:
        raise ValueError(f"cells that saturate at {most:g} levels tell nothing: give a number above 0")
    return jnp.sum(jnp.minimum(jnp.abs(query[None] - stored), most) ** 2, axis=-1)


def sensed(key: PRNGKeyArray, scores: Float[Array, "rows"], limit: Float[Array, ""] | float) -> Int[Array, ""]:
    """The row that a sense amplifier takes for the best: any of those within `limit` of the highest score, as likely as
    another.

    For a distance, give its negative. Scores of minus infinity are never taken.
    """
    is_alike = scores >= jnp.max(scores) - limit
    return jnp.argmax(jnp.where(is_alike & (scores > -jnp.inf), jax.random.uniform(key, scores.shape), -1.0))


def merged(
    key: PRNGKeyArray, scores: Float[Array, "arrays rows"], limit: Float[Array, ""] | float
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """The array and the row that are found when every array senses its own best, and their winners are sensed again."""
    own_key, last_key = jax.random.split(key)
    rows = jax.vmap(sensed, in_axes=(0, 0, None))(jax.random.split(own_key, scores.shape[0]), scores, limit)
    winners = jnp.take_along_axis(scores, rows[:, None], axis=1)[:, 0]
    array = sensed(last_key, winners, limit)
    return array, rows[array]


def sensed_probabilities(
    mean: Float[Array, "ovts"], variance: Float[Array, "ovts"], limit: Float[Array, ""] | float
) -> Float[Array, "ovts"]:
    """The probability that each of several independent Gaussian scores is taken for the best by `sensed`.

    With the highest score x at row i, each other row k lies within the limit with probability
    `w_k = F_k(x) - F_k(x - limit)` and below it with `F_k(x - limit)`. One over the number of rows alike is
    `integral_0^1 u^(rows - 1) du`, so that all rows enter as the product of `F_k(x - limit) + u w_k`. Both integrals
    are by Gauss-Legendre quadrature. Without a limit this is `variation.win_probabilities`. ValueError as there.
    """
    if mean.shape != variance.shape or mean.ndim != 1 or not mean.size:
        raise ValueError(f"means {mean.shape} and variances {variance.shape}: one of each per OVT, at least one OVT")
    takes_part = mean > -jnp.inf
    mean = jnp.where(takes_part, mean, 0)
    mean = mean - jax.lax.stop_gradient(jnp.max(jnp.where(takes_part, mean, -jnp.inf)))
    std = jnp.sqrt(jnp.maximum(variance, 1e-12))
    x, weight = variation.panels(*jax.lax.stop_gradient((mean, std)), takes_part)
    at, half = np.polynomial.legendre.leggauss(NODES)
    u, share = jnp.asarray((at + 1) / 2, mean.dtype), jnp.asarray(half / 2, mean.dtype)
    z = (x[None, :] - mean[:, None]) / std[:, None]
    below = jax.scipy.special.ndtr(z - limit / std[:, None])
    within = jnp.maximum(jax.scipy.special.ndtr(z) - below, 0)
    density = jnp.exp(-0.5 * jnp.clip(z, -13, 13) ** 2) / (std[:, None] * (2 * np.pi) ** 0.5)
    density, within = (jnp.where(takes_part[:, None], each, 0) for each in (density, within))
    below = jnp.where(takes_part[:, None], below, 1)

    def at_u(u):
        each = jnp.maximum(below + u * within, 1e-30)
        whole = jnp.exp(jnp.sum(jnp.log(each), axis=0))[None]
        highest = density / each  # as the highest row
        others = jnp.sum(highest, axis=0, keepdims=True) - highest
        return whole * (highest + u * within / each * others)

    taken = jnp.einsum("uox,x,u->o", jax.vmap(at_u)(u), weight, share, precision="highest")
    return jnp.where(takes_part, taken, 0)

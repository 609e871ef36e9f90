"""Representative selection: how many domains, which samples belong together, which one speaks for each (Eqs. 1-3)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray


class Clusters(NamedTuple):
    """A partition of the points. Clusters beyond the number that was asked for are empty."""

    assignment: Int[Array, "points"]
    centroids: Float[Array, "clusters dim"]
    inertia: Float[Array, ""]


def cluster_count(buffer_size: int, *, base: int = 10, scale: float = 3.0, minimum: int = 3, maximum: int = 10) -> int:
    """`k = min(max(floor(n_min + s log2(b_s / b_0)), n_min), n_max)` (Eq. 2), and never more than there are samples.

    The paper gives no constants: the defaults are ours. ValueError for an empty buffer.
    """
    if buffer_size < 1:
        raise ValueError("the buffer is empty: at least one sample is needed")
    count = math.floor(minimum + scale * math.log2(buffer_size / base))
    return min(max(count, minimum), maximum, buffer_size)


def kmeans(
    key: PRNGKeyArray,
    points: Float[Array, "points dim"],
    valid: Bool[Array, "points"],
    count: Int[Array, ""] | int,
    *,
    most: int,
    restarts: int = 5,
    iterations: int = 25,
) -> Clusters:
    """Lloyd's algorithm from k-means++ seeds, the best of `restarts` (Eq. 1).

    There is room for `most` clusters, of which `count` are used; `count` may be traced. Points that are not `valid`
    are left out.
    """
    runs = jax.vmap(lambda k: _kmeans_once(k, points, valid, count, most, iterations))(jax.random.split(key, restarts))
    return jax.tree.map(lambda leaf: leaf[jnp.argmin(runs.inertia)], runs)


def representatives(
    points: Float[Array, "points dim"],
    valid: Bool[Array, "points"],
    clusters: Clusters,
    *,
    pick: Callable = jnp.argmax,
) -> tuple[Int[Array, "clusters"], Bool[Array, "clusters"]]:
    """Per cluster the sample whose embedding is most like the centroid by cosine, and which clusters have one (Eq. 3).

    The paper prints argmin for "the most representative"; the nearest is meant. `pick=jnp.argmin` reads it literally.
    """
    unit = _unit(points)
    member = (clusters.assignment[None, :] == jnp.arange(clusters.centroids.shape[0])[:, None]) & valid[None, :]
    cosine = jnp.dot(_unit(clusters.centroids), unit.T, precision="highest")
    outside = -jnp.inf if pick is jnp.argmax else jnp.inf
    return pick(jnp.where(member, cosine, outside), axis=1), jnp.any(member, axis=1)


def _kmeans_once(key, points, valid, count, most, iterations):
    squares = jnp.sum(points**2, axis=1)

    def distances(centroids):
        cross = jnp.dot(points, centroids.T, precision="highest")
        return jnp.maximum(squares[:, None] - 2 * cross + jnp.sum(centroids**2, axis=1)[None, :], 0)

    def seed(centroids, at_and_key):
        at, step_key = at_and_key
        chosen = jnp.arange(most) < at
        nearest = jnp.min(jnp.where(chosen[None, :], distances(centroids), jnp.inf), axis=1)
        chance = jnp.where(at == 0, 1.0, nearest + 1e-12)
        drawn = jax.random.categorical(step_key, jnp.where(valid, jnp.log(chance), -jnp.inf))
        return centroids.at[at].set(points[drawn]), None

    active = jnp.arange(most) < count
    seeds = (jnp.arange(most), jax.random.split(key, most))
    centroids, _ = jax.lax.scan(seed, jnp.zeros((most, points.shape[1]), points.dtype), seeds)

    def assign(centroids):
        return jnp.argmin(jnp.where(active[None, :], distances(centroids), jnp.inf), axis=1)

    def update(centroids, _):
        member = (assign(centroids)[None, :] == jnp.arange(most)[:, None]) & valid[None, :]
        size = jnp.sum(member, axis=1, keepdims=True).astype(points.dtype)
        means = jnp.dot(member.astype(points.dtype), points, precision="highest") / jnp.maximum(size, 1)
        return jnp.where(size > 0, means, centroids), None

    centroids, _ = jax.lax.scan(update, centroids, None, length=iterations)
    nearest = jnp.min(jnp.where(active[None, :], distances(centroids), jnp.inf), axis=1)
    return Clusters(assign(centroids), centroids, jnp.sum(jnp.where(valid, nearest, 0)))


def _unit(x):
    norm = jnp.linalg.norm(x, axis=1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1)

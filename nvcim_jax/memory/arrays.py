"""Vectors of any length cut over as many arrays as they take, with one largest value for each vector or for each array.

A vector is a column. What is programmed as one matrix shares the step of its codes and the largest value that noise is
relative to: a vector of its own (`each_vector`), or all that lies in one array (`each_array`).
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from nvcim_jax.core.quantise import SIGN_MAGNITUDE, Layout
from nvcim_jax.hardware.crossbar import PAPER_TILE, Tile, plan

Matrix = Float[Array, "columns values"]
Treat = Callable[[PRNGKeyArray, Matrix], PyTree]  # every leaf as large as the matrix
Cut = Callable[[PRNGKeyArray, Treat, Float[Array, "vectors dim"]], PyTree]


def each_vector(key: PRNGKeyArray, treat: Treat, vectors: Float[Array, "vectors dim"]) -> PyTree:
    """`treat(key, matrix)` of every vector by itself; what it draws depends on `key` and the vector's number alone."""
    treated = jax.vmap(treat)(_keys(key, vectors.shape[0]), vectors[:, None, :])
    return jax.tree.map(lambda leaf: leaf[:, 0], treated)


def each_array(
    key: PRNGKeyArray,
    treat: Treat,
    vectors: Float[Array, "vectors dim"],
    *,
    layout: Layout = SIGN_MAGNITUDE,
    tile: Tile = PAPER_TILE,
) -> PyTree:
    """`treat(key, matrix)` of what lies in one array, [columns, values], array by array.

    Vectors longer than a column go on in the next array down; the last arrays are filled up with zeros.
    """
    count, dim = vectors.shape
    held, columns = min(tile.values(layout), dim), min(tile.columns, count)
    down, across = -(-dim // held), -(-count // columns)
    padded = jnp.pad(vectors, ((0, across * columns - count), (0, down * held - dim)))
    cut = padded.reshape(across, columns, down, held).swapaxes(1, 2).reshape(-1, columns, held)
    treated = jax.vmap(treat)(_keys(key, down * across), cut)

    def joined(leaf: Array) -> Array:
        whole = leaf.reshape(across, down, columns, held).swapaxes(1, 2).reshape(across * columns, down * held)
        return whole[:count, :dim]

    return jax.tree.map(joined, treated)


def arrays(vectors: int, dim: int, *, layout: Layout, tile: Tile = PAPER_TILE) -> int:
    """How many arrays so many vectors take: down as many as a vector is long, across as many as there are vectors.

    A sign that is kept digitally takes arrays for values above zero and others for those below.
    """
    needed = plan(vectors, dim, layout=layout, tile=tile)
    return needed.down * needed.across


def _keys(key: PRNGKeyArray, count: int):
    return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(count))

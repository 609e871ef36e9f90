"""Data dependencies that a compiler keeps, so that work is done when it is due.

The compiler of a CPU drops `jax.lax.optimization_barrier`, and with it that of jax.checkpoint, before it looks for work
done twice and puts it in order. What must wait for a value has to depend on it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PyTree, Shaped


def nought(value: PyTree, dtype: DTypeLike) -> Shaped[Array, ""]:
    """Zero whatever the value holds, NaN included, though a compiler cannot know: what adds it waits for the value."""
    first = jax.tree.leaves(value)[0].reshape(-1)[0]
    return ((first < 0) & (first > 0)).astype(dtype)


def recomputed(function: Callable[[PyTree, Array], PyTree]) -> Callable[[PyTree, Array], PyTree]:
    """`function(beside, x)` under remat: its arguments are its only residuals, backward computes it again from them."""

    def backward(residuals, cotangent):
        beside, x = residuals
        return jax.vjp(function, beside, x + nought(cotangent, x.dtype))[1](cotangent)

    again = jax.custom_vjp(function)
    again.defvjp(lambda beside, x: (function(beside, x), (beside, x)), backward)
    return again


def product_of_packed(
    unpacked: Callable[[PyTree, Any], Float[Array, "in out"]],
) -> Callable[[Float[Array, "*rows in"], PyTree, Any], Float[Array, "*rows out"]]:
    """`(x, words, how) -> x @ unpacked(words, how)`, whose kernel lives only while it is used.

    The backward pass unpacks again; the words themselves get no gradient.
    """

    def kernel(beside, words, how):
        """Made to depend on what it is multiplied with: a compiler would unpack all layers at once, or keep them from
        the forward to the backward pass."""
        zero = nought(beside, jnp.int32)
        tied = jax.tree.map(lambda leaf: leaf | zero.astype(leaf.dtype) if _is_whole(leaf) else leaf, words)
        return unpacked(tied, how).astype(beside.dtype)

    def forward(x, words, how):
        return product(x, words, how), words

    def backward(how, words, slope):
        none = lambda leaf: np.zeros(leaf.shape, jax.dtypes.float0) if _is_whole(leaf) else leaf * 0  # noqa: E731
        return slope @ kernel(slope, words, how).T, jax.tree.map(none, words)

    product = jax.custom_vjp(lambda x, words, how: x @ kernel(x, words, how), nondiff_argnums=(2,))
    product.defvjp(forward, backward)
    return product


def _is_whole(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.integer)

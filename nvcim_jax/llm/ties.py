"""Data dependencies that a compiler keeps, so that work is done when it is due.

The compiler of a CPU drops `jax.lax.optimization_barrier`, and with it that of jax.checkpoint, before it looks for work
done twice and puts it in order. What must wait for a value has to depend on it.
"""

from collections.abc import Callable

import jax
from jaxtyping import Array, DTypeLike, PyTree, Shaped


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

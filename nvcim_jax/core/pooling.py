"""Average pooling over tokens, and bringing two token sequences to one length (Section III-D)."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def avg_pool(x: Float[Array, "tokens dim"], scale: int) -> Float[Array, "pooled dim"]:
    """`Pool_i`: means of `scale` neighbouring tokens, `ceil(tokens / scale)` of them (Eq. 5).

    A last window that is not full is the mean of what it holds. ValueError if `scale` is below one.
    """
    if scale < 1:
        raise ValueError(f"a pooling scale of {scale}: scales are whole numbers from 1 on")
    tokens, dim = x.shape
    windows = -(-tokens // scale)
    padded = jnp.pad(x, ((0, windows * scale - tokens), (0, 0)))
    held = jnp.minimum(scale, tokens - scale * jnp.arange(windows)).astype(x.dtype)
    return jnp.sum(padded.reshape(windows, scale, dim), axis=1) / held[:, None]


def pyramid(x: Float[Array, "tokens dim"], *, scales: tuple[int, ...] = (1, 2, 4)) -> tuple[Float[Array, "_ dim"], ...]:
    """The pooled versions of `x`, one per scale: what the three blocks of Fig. 4 store."""
    return tuple(avg_pool(x, scale) for scale in scales)


def resample(
    x: Float[Array, "tokens dim"], rows: int, *, length: Int[Array, ""] | int | None = None
) -> Float[Array, "{rows} dim"]:
    """The first `length` tokens of `x` stretched or shrunk to `rows` rows, keeping their mean.

    Row r is the mean of the tokens over the r-th of `rows` equal stretches of the sequence, a token that two
    stretches share counting for the part that lies in each. ValueError if `rows` is below one.
    """
    if rows < 1:
        raise ValueError(f"resampling to {rows} rows: at least one row is needed")
    tokens = x.shape[0]
    stretch = jnp.asarray(tokens if length is None else length, x.dtype) / rows
    start = stretch * jnp.arange(rows, dtype=x.dtype)[:, None]
    token = jnp.arange(tokens, dtype=x.dtype)[None, :]
    overlap = jnp.minimum(start + stretch, token + 1) - jnp.maximum(start, token)
    return jnp.dot(jnp.maximum(overlap, 0) / jnp.maximum(stretch, 1e-9), x, precision="highest")

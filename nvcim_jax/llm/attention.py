"""Attention whose weights are not kept for the backward pass.

The weights of a long text are the largest thing in a layer: one for every head and pair of tokens. Backward computes
them again from queries and keys (as FlashAttention does, Dao et al., 2022), which is one product more: of a text of 256
tokens that leaves less than half of the memory, and takes no longer, as nothing needs to be written and read.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nvcim_jax.llm.ties import recomputed

UNSEEN = -1e30  # score of a token that a query must not see


def attend(
    query: Float[Array, "n queries head_dim"],
    key: Float[Array, "n slots head_dim"],
    value: Float[Array, "n slots head_dim"],
    allowed: Bool[Array, "batch tokens slots"],
    cap: float | None = None,
) -> Float[Array, "n queries head_dim"]:
    """softmax(query key^T) value for every key head of every row, n of them, weighed in float32.

    The queries of a key head are those of all heads that share it, one head after the other. `cap` bounds the scores:
    cap tanh(score / cap).
    """

    def mixed(beside, key):
        query, value, allowed = beside
        scores = jnp.einsum("nqh,nsh->nqs", query, key)
        if cap is not None:
            scores = jnp.tanh(scores / cap) * cap
        by_head = scores.reshape(allowed.shape[0], -1, *allowed.shape[1:]).astype(jnp.float32)
        by_head = jnp.where(allowed[:, None], by_head, UNSEEN)
        largest = jax.lax.stop_gradient(jnp.max(by_head, axis=-1, keepdims=True))
        # The second `where` changes nothing, but parts the exponentials, which XLA would work out inside the product,
        # from it: with that, and with weights divided before they mix, a CPU takes half as long again.
        weights = jnp.where(allowed[:, None], jnp.exp(by_head - largest), 0).reshape(scores.shape)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        return jnp.einsum("nqs,nsh->nqh", weights.astype(query.dtype), value) / total.astype(query.dtype)

    return recomputed(mixed)((query, value, allowed), key)

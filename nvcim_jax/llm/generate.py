"""Answers from a frozen decoder: prefill, then one compiled loop over a static key/value cache."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from nvcim_jax.llm import decoder
from nvcim_jax.llm.config import Config


@partial(jax.jit, static_argnames=("config", "new_tokens", "end", "pad"))
def greedy(
    params: PyTree,
    config: Config,
    embeddings: Float[Array, "batch tokens dim"],
    positions: Int[Array, "batch tokens"],
    *,
    new_tokens: int,
    end: int,
    pad: int,
) -> Int[Array, "batch {new_tokens}"]:
    """The likeliest continuation of every row, `pad` after its `end`.

    `positions` are `decoder.NOWHERE` at padding, which may stand anywhere but is usually on the right. The loop ends
    when every row has met `end`.
    """
    batch, tokens, _ = embeddings.shape
    cache = decoder.empty_cache(config, batch, tokens + new_tokens, embeddings.dtype)
    real = positions != decoder.NOWHERE
    last = jnp.argmax(jnp.where(real, positions, -1), axis=1)
    states, cache = decoder.hidden(params, config, embeddings, positions, cache)
    first = _likeliest(params, config, jnp.take_along_axis(states, last[:, None, None], axis=1))

    def unfinished(carry):
        at, *_, done = carry
        return (at < new_tokens) & ~jnp.all(done)

    def step(carry):
        at, token, answer, cache, done = carry
        token = jnp.where(done, pad, token)
        answer = answer.at[:, at].set(token)
        done = done | (token == end)
        position = jnp.where(done, decoder.NOWHERE, positions[rows, last] + 1 + at)
        x = decoder.embed(params, config, token[:, None])
        states, cache = decoder.hidden(params, config, x, position[:, None], cache, tokens + at)
        return at + 1, _likeliest(params, config, states), answer, cache, done

    rows = jnp.arange(batch)
    answer = jnp.full((batch, new_tokens), pad, jnp.int32)
    done = jnp.zeros(batch, bool)
    return jax.lax.while_loop(unfinished, step, (jnp.int32(0), first, answer, cache, done))[2]


def _likeliest(params, config, states):
    return jnp.argmax(decoder.unembed(params, config, states)[:, 0], axis=-1).astype(jnp.int32)

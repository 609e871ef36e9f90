"""Answers from a frozen decoder: prefill, then one compiled loop over a static key/value cache.

A row's answer depends on its own prompt, length and key alone, whoever its neighbours in the batch are. Lengths are
told by positions, so prompts of any length share the program of their bucket (`text.questions` pads).
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, PyTree

from nvcim_jax.llm import decoder
from nvcim_jax.llm.config import Config
from nvcim_jax.llm.decoder import Cache, Inputs


class Sampling(NamedTuple):
    """How the next token is drawn. Temperature 0 takes the likeliest; the paper draws at 0.1."""

    temperature: float = 0.0
    top_k: int | None = None  # draw among the k likeliest
    top_p: float | None = None  # draw among the fewest that hold this much probability


GREEDY = Sampling()


class State(NamedTuple):
    """Where the loop stands: what is written, whose answer has ended, and the cache behind it."""

    written: Int[Array, ""]
    answer: Int[Array, "batch new_tokens"]
    done: Bool[Array, "batch"]
    place: Int[Array, "batch"]  # position of the token written last
    cache: Cache


def generate(
    params: PyTree,
    config: Config,
    inputs: Inputs,
    *,
    new_tokens: int = 100,
    end: tuple[int, ...] = (),
    pad: int = 0,
    sampling: Sampling = GREEDY,
    keys: Key[Array, "batch"] | None = None,
) -> Int[Array, "batch {new_tokens}"]:
    """The continuation of every row, at most `new_tokens` tokens, `pad` after the first of its `end` tokens.

    Padding may stand anywhere but is usually on the right; without positions all rows are full. `keys` holds one typed
    key per row and is needed when the temperature is above 0. The loop ends when every row has met an end. Raises
    ValueError for a prompt whose answer may not fit the model's context.
    """
    inputs, keys = _checked(config, inputs, new_tokens, sampling, keys)
    return _whole(params, config, inputs, keys, new_tokens=new_tokens, end=end, pad=pad, sampling=sampling)


def stream(
    params: PyTree,
    config: Config,
    inputs: Inputs,
    *,
    new_tokens: int = 100,
    end: tuple[int, ...] = (),
    pad: int = 0,
    sampling: Sampling = GREEDY,
    keys: Key[Array, "batch"] | None = None,
) -> Iterator[np.ndarray]:
    """The tokens of `generate`, [batch] at a time, as soon as each is known; ends when every row has met an end."""
    inputs, keys = _checked(config, inputs, new_tokens, sampling, keys)
    state = _start(params, config, inputs, keys, new_tokens=new_tokens, end=end, pad=pad, sampling=sampling)
    yield np.asarray(state.answer[:, 0])
    for at in range(1, new_tokens):
        if np.all(state.done):
            return
        state = _advance(params, config, state, keys, at + 1, end=end, pad=pad, sampling=sampling)
        yield np.asarray(state.answer[:, at])


def choose(key: PRNGKeyArray, scores: Float[Array, "vocab"], sampling: Sampling) -> Int[Array, ""]:
    """One token: the likeliest at temperature 0, else drawn from the tempered scores that top-k and top-p leave."""
    if sampling.temperature == 0:
        return _likeliest(scores)
    scores = scores.astype(jnp.float32) / sampling.temperature
    if sampling.top_k is not None:
        scores = jnp.where(scores < jax.lax.top_k(scores, sampling.top_k)[0][-1], -jnp.inf, scores)
    if sampling.top_p is not None:
        ordered = jnp.sort(scores, descending=True)
        before = jnp.cumsum(jax.nn.softmax(ordered)) - jax.nn.softmax(ordered)
        least = jnp.min(jnp.where(before < sampling.top_p, ordered, jnp.inf))
        scores = jnp.where(scores < least, -jnp.inf, scores)
    return jax.random.categorical(key, scores).astype(jnp.int32)


def _likeliest(scores):
    """The first of the largest. A maximum and a look for it are vectorised; argmax on a CPU is six times as slow."""
    index = jnp.arange(scores.shape[0], dtype=jnp.int32)
    found = jnp.min(jnp.where(scores == jnp.max(scores), index, scores.shape[0]))
    return jnp.minimum(found, scores.shape[0] - 1)  # NaN is nowhere found


_FIXED = ("config", "end", "pad", "sampling")


@partial(jax.jit, static_argnames=("new_tokens", *_FIXED))
def _whole(params, config, inputs, keys, *, new_tokens, end, pad, sampling):
    state = _start(params, config, inputs, keys, new_tokens=new_tokens, end=end, pad=pad, sampling=sampling)
    return _advance(params, config, state, keys, new_tokens, end=end, pad=pad, sampling=sampling).answer


@partial(jax.jit, static_argnames=("new_tokens", *_FIXED))
def _start(params, config, inputs, keys, *, new_tokens, end, pad, sampling) -> State:
    """Read the prompts, and write the first token of every answer."""
    embeddings, positions, prefix = inputs
    batch, tokens, _ = embeddings.shape
    cache = decoder.empty_cache(config, batch, tokens + new_tokens - 1, embeddings.dtype, prefix)
    last = jnp.argmax(jnp.where(positions == decoder.NOWHERE, -1, positions), axis=1)[:, None]
    states, cache = decoder.hidden(params, config, embeddings, positions, cache, inputs.first, at=last)
    token = _next(params, config, states, keys, 0, sampling)
    answer = jnp.full((batch, new_tokens), pad, jnp.int32).at[:, 0].set(token)
    place = jnp.take_along_axis(positions, last, axis=1)[:, 0] + 1
    return State(jnp.int32(1), answer, _ends(token, end), place, cache)


@partial(jax.jit, static_argnames=_FIXED, donate_argnames=("state",))
def _advance(params, config, state, keys, until, *, end, pad, sampling) -> State:
    """Write on until `until` tokens are written, or every row is done."""
    behind = state.cache.positions.shape[1] - state.answer.shape[1]  # the slot before the first answer's

    def step(state: State) -> State:
        at, token = state.written, jnp.take(state.answer, state.written - 1, axis=1)
        positions = jnp.where(state.done, decoder.NOWHERE, state.place)[:, None]
        x = decoder.embed(params, config, token[:, None]).astype(state.cache.keys[0].dtype)
        states, cache = decoder.hidden(params, config, x, positions, state.cache, behind + at)
        token = jnp.where(state.done, pad, _next(params, config, states, keys, at, sampling))
        answer = state.answer.at[:, at].set(token)
        return State(at + 1, answer, state.done | _ends(token, end), state.place + 1, cache)

    return jax.lax.while_loop(lambda state: (state.written < until) & ~jnp.all(state.done), step, state)


def _next(params, config, states, keys, at, sampling):
    scores = decoder.unembed(params, config, states)[:, 0]
    own = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, at)
    return jax.vmap(partial(choose, sampling=sampling))(own, scores)


def _ends(token, end):
    return jnp.any(token[:, None] == jnp.array(end, jnp.int32)[None], axis=1)


def _checked(config, inputs: Inputs, new_tokens, sampling, keys):
    batch, tokens, _ = inputs.embeddings.shape
    if new_tokens < 1:
        raise ValueError(f"{new_tokens} new tokens: ask for at least one")
    top_k, top_p = (1 if limit is None else limit for limit in (sampling.top_k, sampling.top_p))
    if sampling.temperature < 0 or top_k < 1 or not 0 < top_p <= 1:
        raise ValueError(f"{sampling}: temperature from 0 on, top_k from 1 on, top_p above 0 and up to 1 are allowed")
    positions = inputs.positions
    if positions is None:
        positions = decoder.causal_positions((batch, tokens), inputs.first)
    if keys is None:
        if sampling.temperature > 0:
            raise ValueError("a temperature above 0 draws tokens: give `keys`, one typed key per row")
        keys = jax.random.split(jax.random.key(0), batch)  # never drawn from
    if not isinstance(positions, Tracer):
        _check_room(config, np.asarray(positions), new_tokens)
    return inputs._replace(positions=jnp.asarray(positions)), keys


def _check_room(config, positions, new_tokens):
    lengths = np.max(np.where(positions == decoder.NOWHERE, -1, positions), axis=1) + 1
    longest = int(lengths.max())
    if longest + new_tokens > config.context:
        raise ValueError(
            f"a prompt of {longest} tokens and {new_tokens} new ones are more than the model's context of "
            f"{config.context}: shorten the prompt or ask for fewer"
        )
    if config.rope and config.rope.long_frequencies:
        crossing = (lengths <= config.rope.original_context) & (lengths + new_tokens > config.rope.original_context)
        if crossing.any():
            raise ValueError(
                f"the answer to a prompt of {int(lengths[crossing][0])} tokens could cross token "
                f"{config.rope.original_context}, where longrope turns all keys anew: ask for fewer new tokens"
            )

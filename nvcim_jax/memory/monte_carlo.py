"""Retrieval under device variation by keyed Monte Carlo: any score, any way of writing, any number of draws."""

from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from nvcim_jax.hardware.crossbar import write_values
from nvcim_jax.hardware.devices import Device
from nvcim_jax.memory import programming


def retrieve_once(
    key: PRNGKeyArray,
    queries: Float[Array, "queries rows dim"],
    keys: Float[Array, "ovts rows dim"],
    valid: Bool[Array, "ovts"],
    device: Device,
    sigma: Float[Array, ""],
    *,
    score: programming.Score,
    write: programming.Write = write_values,
    seconds: Float[Array, ""] | float | None = None,
) -> Int[Array, "queries"]:
    """A trial for `monte_carlo`: program the bank once, cell by cell, and retrieve for every query, `seconds` later."""
    stored = programming.program(key, keys, keys, valid, device, sigma=sigma, write=write, seconds=seconds)
    return jax.vmap(lambda query: programming.retrieve(stored, query, score=score).index)(queries)


def monte_carlo(
    key: PRNGKeyArray,
    trial: Callable[..., PyTree],
    arguments: tuple[PyTree, ...] = (),
    *,
    draws: int,
    chunk: int = 256,
    start: int = 0,
) -> Iterator[PyTree]:
    """Results of trials `start` to `draws`, on the host, in chunks of [at most `chunk`, ...].

    Trial i is `trial(fold_in(key, i), *arguments)` and is computed alone, so the bits depend neither on the chunk nor
    on where a study was resumed, and memory holds one trial and one chunk of results. What has been yielded is
    finished, whatever comes after. Pass the same function object again to use its compiled program again.
    ValueError unless chunk and draws are at least one.
    """
    if chunk < 1 or draws < 1 or start < 0:
        raise ValueError(f"{draws} draws from {start} in chunks of {chunk}: draws and chunk are 1 or more, start 0")
    for first in range(start, draws, chunk):
        count = min(chunk, draws - first)
        done = _run_trials(key, jnp.int32(first), jnp.int32(count), arguments, trial=trial, room=chunk)
        yield jax.tree.map(lambda leaf, count=count: np.asarray(leaf[:count]), done)


@partial(jax.jit, static_argnames=("trial", "room"))
def _run_trials(key, first, count, arguments, *, trial, room):
    shapes = jax.eval_shape(trial, key, *arguments)
    empty = jax.tree.map(lambda leaf: jnp.zeros((room, *leaf.shape), leaf.dtype), shapes)

    def one(at, results):  # a loop of traced length: the body compiles to the same code for every chunk
        result = trial(jax.random.fold_in(key, first + at), *arguments)
        return jax.tree.map(lambda rows, row: rows.at[at].set(row), results, result)

    return jax.lax.fori_loop(0, count, one, empty)

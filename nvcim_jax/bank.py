"""A user's bank of OVTs in noisy arrays: program, search, read back.

An OVT and the key it is found by are stored apart. The key lies in the arrays three times, pooled by each scale of
Eq. 5, and every copy is programmed with a noise of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nvcim_jax.crossbar import check_fits, write_values
from nvcim_jax.devices import Device
from nvcim_jax.pooling import pyramid
from nvcim_jax.quantise import to_codes
from nvcim_jax.similarity import SCALES

Write = Callable[..., Float[Array, "rows dim"]]
Score = Callable[[Float[Array, "rows dim"], tuple[Float[Array, "_ dim"], ...]], Float[Array, ""]]


class Bank(NamedTuple):
    """What the arrays return after programming: the noisy prompts and the noisy pooled copies of the keys."""

    prompts: Float[Array, "ovts rows dim"]
    keys: tuple[Float[Array, "ovts _ dim"], ...]
    valid: Bool[Array, "ovts"]


class Match(NamedTuple):
    """The best OVT for a query, the prompt read back, and the score of every OVT."""

    index: Int[Array, ""]
    prompt: Float[Array, "rows dim"]
    scores: Float[Array, "ovts"]


def store(
    key: PRNGKeyArray,
    values: Float[Array, "rows dim"],
    device: Device,
    *,
    sigma: Float[Array, ""] | float,
    write: Write = write_values,
) -> Float[Array, "rows dim"]:
    """Round one matrix to int16, program it, read it back in its own unit (the step is kept digitally)."""
    check_fits(*values.shape)
    codes = to_codes(values)
    return write(key, codes.integers, device, sigma=sigma) * codes.step


def program(
    key: PRNGKeyArray,
    prompts: Float[Array, "ovts rows dim"],
    keys: Float[Array, "ovts rows dim"],
    valid: Bool[Array, "ovts"],
    device: Device,
    *,
    sigma: Float[Array, ""] | float,
    scales: tuple[int, ...] = SCALES,
    write: Write = write_values,
) -> Bank:
    """Program the code of every OVT and the three pooled copies of its key (Fig. 4).

    The draw of OVT i depends on `key` and i alone. ValueError if a matrix does not fit one array.
    """
    put = partial(store, device=device, sigma=sigma, write=write)

    def one(at, prompt, search_key):
        prompt_key, *copy_keys = jax.random.split(jax.random.fold_in(key, at), 1 + len(scales))
        copies = pyramid(search_key, scales=scales)
        return put(prompt_key, prompt), tuple(put(k, copy) for k, copy in zip(copy_keys, copies, strict=True))

    stored, copies = jax.vmap(one)(jnp.arange(prompts.shape[0]), prompts, keys)
    return Bank(stored, copies, valid)


def retrieve(bank: Bank, query: Float[Array, "rows dim"], *, score: Score) -> Match:
    """The OVT with the highest `score(query, copies of its key)`; slots that are not valid never win."""
    scores = jax.vmap(score, in_axes=(None, 0))(query, bank.keys)
    scores = jnp.where(bank.valid, scores, -jnp.inf)
    index = jnp.argmax(scores)
    return Match(index, bank.prompts[index], scores)

"""What noisy arrays return after a bank was programmed into them, and the OVT that a query finds there (Fig. 4).

A search key lies in the arrays three times, pooled by each scale of Eq. 5, and every copy is programmed with a noise of
its own.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nvcim_jax.core.pooling import pyramid
from nvcim_jax.core.quantise import Step, peak_step, to_codes
from nvcim_jax.core.similarity import SCALES
from nvcim_jax.hardware.crossbar import check_fits, write_values
from nvcim_jax.hardware.devices import Device

Write = Callable[..., Float[Array, "rows dim"]]
Score = Callable[[Float[Array, "rows dim"], tuple[Float[Array, "_ dim"], ...]], Float[Array, ""]]


class Programmed(NamedTuple):
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
    seconds: Float[Array, ""] | float | None = None,
    bits: int = 16,
    step: Step = peak_step,
) -> Float[Array, "rows dim"]:
    """Round one matrix to codes of `bits` bits, program them, read them back in the matrix's own unit.

    The step, one for the matrix, is kept digitally. A `write` by cell must be given the layout of these bits. With
    `seconds` the matrix is read so long after programming; ValueError for a `write` that knows no time.
    """
    codes = to_codes(values, bits=bits, step=step)
    later = {} if seconds is None else {"seconds": seconds}
    return write(key, codes.integers, device, sigma=sigma, **later) * codes.step


def program_one(
    key: PRNGKeyArray,
    prompt: Float[Array, "rows dim"],
    search_key: Float[Array, "rows dim"],
    device: Device,
    *,
    sigma: Float[Array, ""] | float,
    write: Write = write_values,
    scales: tuple[int, ...] = SCALES,
    sensitivity: Float[Array, "rows dim"] | None = None,
    seconds: Float[Array, ""] | float | None = None,
) -> tuple[Float[Array, "rows dim"], tuple[Float[Array, "_ dim"], ...]]:
    """Program the code of one OVT and the pooled copies of its key (Fig. 4): what reads return of them.

    `sensitivity` is the prompt's, for a `write` that takes one. A score is linear in the copies of the key, so none of
    their values matters more than another. ValueError if a matrix does not fit one array.
    """
    check_fits(*prompt.shape)
    prompt_key, *copy_keys = jax.random.split(key, 1 + len(scales))
    put = partial(store, device=device, sigma=sigma, seconds=seconds)
    own = write if sensitivity is None else partial(write, sensitivity=sensitivity)
    copies = pyramid(search_key, scales=scales)
    return (
        put(prompt_key, prompt, write=own),
        tuple(put(k, copy, write=write) for k, copy in zip(copy_keys, copies, strict=True)),
    )


def program(
    key: PRNGKeyArray,
    prompts: Float[Array, "ovts rows dim"],
    keys: Float[Array, "ovts rows dim"],
    valid: Bool[Array, "ovts"],
    device: Device,
    *,
    sigma: Float[Array, ""] | float,
    write: Write = write_values,
    scales: tuple[int, ...] = SCALES,
    seconds: Float[Array, ""] | float | None = None,
) -> Programmed:
    """Program a whole bank, and read it `seconds` later if given; the draw of OVT i depends on `key` and i alone.

    The same key gives the same cells at every time: `jax.vmap` over `seconds` is one chip growing old.
    """
    each = partial(program_one, device=device, sigma=sigma, write=write, scales=scales, seconds=seconds)
    own_keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(prompts.shape[0]))
    return Programmed(*jax.vmap(each)(own_keys, prompts, keys), valid)


def retrieve(bank: Programmed, query: Float[Array, "rows dim"], *, score: Score) -> Match:
    """The OVT with the highest `score(query, copies of its key)`; slots that are not valid never win."""
    scores = jax.vmap(score, in_axes=(None, 0))(query, bank.keys)
    scores = jnp.where(bank.valid, scores, -jnp.inf)
    index = jnp.argmax(scores)
    return Match(index, bank.prompts[index], scores)

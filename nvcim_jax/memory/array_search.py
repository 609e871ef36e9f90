"""A search as the arrays make it: queries cut to few bits and fed bit by bit, a converter behind every column.

What costs count (`cost.mean`, `cost.aligned`, `cost.pairs`) is what is multiplied here, so that the answers at some
converter and query bits can be held against what these bits cost.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nvcim_jax.core.pooling import pyramid
from nvcim_jax.core.quantise import OFFSET_BINARY, Layout, to_codes
from nvcim_jax.core.similarity import SCALES, WEIGHTS
from nvcim_jax.hardware import crossbar
from nvcim_jax.hardware.adc import Traced, ideal
from nvcim_jax.hardware.cost import Product, aligned, mean
from nvcim_jax.hardware.crossbar import PAPER_TILE, Converter, Tile
from nvcim_jax.hardware.devices import Device


class Copy(NamedTuple):
    """A pooled key as it lies in an array, and the value of one step of its code."""

    held: crossbar.Matrix
    step: Float[Array, ""]


def write(
    key: PRNGKeyArray,
    search_key: Float[Array, "rows dim"],
    device: Device,
    *,
    sigma: Float[Array, ""] | float,
    layout: Layout = OFFSET_BINARY,
) -> tuple[Copy, ...]:
    """The pooled copies of one key in cells, by default of two bits (Fig. 4), each programmed with a noise of its own.

    In offset binary: one array per copy multiplies values of both signs, which is what `cost` counts.
    """
    copies = []
    for own, pooled in zip(jax.random.split(key, len(SCALES)), pyramid(search_key), strict=True):
        codes = to_codes(pooled)
        copies.append(Copy(crossbar.program(own, codes.integers, device, sigma=sigma, layout=layout), codes.step))
    return tuple(copies)


def score(
    key: PRNGKeyArray,
    query: Float[Array, "rows dim"],
    copies: tuple[Copy, ...],
    device: Device,
    *,
    product: Product = mean,
    query_bits: int = 8,
    convert: Converter = ideal,
    layout: Layout = OFFSET_BINARY,
    tile: Tile = PAPER_TILE,
) -> Float[Array, ""]:
    """Eq. 5 of one query and one key from the products that `product` names, averaged: `similarity.aligned_mean` for
    rows that are aligned, else `similarity.pairwise_mean`, but for what converters and query bits take away."""
    total = jnp.float32(0)
    for own, weight, rows, copy in zip(
        jax.random.split(key, len(SCALES)), WEIGHTS, pyramid(query), copies, strict=True
    ):
        fed = to_codes(jnp.mean(rows, axis=0, keepdims=True) if product is mean else rows, bits=query_bits)
        one = partial(crossbar.multiply, layout=layout, input_bits=query_bits, convert=convert, tile=tile)
        keys = jax.random.split(own, fed.integers.shape[0])
        sums = jax.vmap(one, in_axes=(0, 0, None, None))(keys, fed.integers, copy.held, device)
        total += weight * jnp.mean(jnp.diagonal(sums) if product is aligned else sums) * fed.step * copy.step
    return total / sum(WEIGHTS)


@partial(jax.jit, static_argnames=("layout",))
def program(
    key: PRNGKeyArray,
    keys: Float[Array, "ovts rows dim"],
    device: Device,
    *,
    sigma: Float[Array, ""] | float = 0.0,
    layout: Layout = OFFSET_BINARY,
) -> tuple[Copy, ...]:
    """`write` for every key of a bank; the draw of OVT i depends on `key` and i alone."""
    each = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(keys.shape[0]))
    return jax.vmap(partial(write, device=device, sigma=sigma, layout=layout))(each, keys)


@partial(jax.jit, static_argnames=("product", "query_bits", "convert"))
def find(
    key: PRNGKeyArray,
    queries: Float[Array, "queries rows dim"],
    copies: tuple[Copy, ...],
    valid: Bool[Array, "ovts"],
    device: Device,
    *,
    product: Product = mean,
    query_bits: int = 8,
    convert: Converter = ideal,
) -> Int[Array, "queries"]:
    """The OVT that each query finds in what `program` left; slots that are not valid are never found."""
    of = partial(score, device=device, product=product, query_bits=query_bits, convert=convert)

    def one(key, query):
        scores = jax.vmap(of, in_axes=(0, None, 0))(jax.random.split(key, valid.shape[0]), query, copies)
        return jnp.argmax(jnp.where(valid, scores, -jnp.inf))

    return jax.lax.map(lambda each: one(*each), (jax.random.split(key, queries.shape[0]), queries))


def find_with_each(
    key: PRNGKeyArray,
    queries: Float[Array, "queries rows dim"],
    keys: Float[Array, "ovts rows dim"],
    valid: Bool[Array, "ovts"],
    device: Device,
    sigma: Float[Array, ""],
    converters: Traced,
    *,
    product: Product = mean,
    query_bits: int = 8,
    layout: Layout = OFFSET_BINARY,
    tile: Tile = PAPER_TILE,
) -> Int[Array, "converters queries"]:
    """Program a bank once and search it through each of the `converters`, whose leaves have a leading axis.

    All of them see the same cells and the same reads, so that what they find differs by the converter alone.
    """
    write_key, read_key = jax.random.split(key)
    copies = program(write_key, keys, device, sigma=sigma, layout=layout)
    of = partial(score, device=device, product=product, query_bits=query_bits, layout=layout, tile=tile)

    def one(key, query):
        keys = jax.random.split(key, valid.shape[0])

        def through(convert):
            scores = jax.vmap(lambda key, copy: of(key, query, copy, convert=convert))(keys, copies)
            return jnp.argmax(jnp.where(valid, scores, -jnp.inf))

        return jax.vmap(through)(converters)

    return jax.lax.map(lambda each: one(*each), (jax.random.split(read_key, queries.shape[0]), queries)).T

"""Kernels of 4 bits: blocks of 32 inputs share a scale and an offset, as in GGUF's Q4_0, Q4_1 and Q4_K."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from nvcim_jax.llm.ties import product_of_packed

KINDS = {"Q4_0": 1, "Q4_1": 2, "Q4_K": 2}  # numbers that every block has
BLOCK = 32  # inputs
PER_SUPERBLOCK = 8  # blocks of Q4_K


class Nibbles(NamedTuple):
    """A kernel [out, in], whose values are `nibble * scale + offset`, or without offsets `(nibble - 8) * scale`.

    Byte j of a block's 16 holds input j in its low half and input j + 16 in its high half.
    """

    nibbles: UInt8[Array | np.ndarray, "out blocks 16"]
    scales: Float[Array | np.ndarray, "out blocks"]  # float16; float32 of Q4_K, whose scales are products
    offsets: Float[Array | np.ndarray, "out blocks"] | None = None


def dequantise(kernel: Nibbles) -> Float[Array, "out in"]:
    """Weights in float32, as the package `gguf` makes them."""
    nibbles, scales, offsets = kernel
    values = jnp.concatenate([nibbles & 15, nibbles >> 4], axis=-1).astype(jnp.float32)
    scales = scales.astype(jnp.float32)[..., None]
    wide = (values - 8) * scales if offsets is None else values * scales + offsets.astype(jnp.float32)[..., None]
    return wide.reshape(len(nibbles), -1)


product = product_of_packed(lambda kernel, _: dequantise(kernel).T)


def of_bytes(kind: str, data: UInt8[np.ndarray, "out bytes"]) -> Nibbles:
    """The kernel in the rows of a GGUF tensor of one of `KINDS`."""
    if kind == "Q4_K":
        return _of_superblocks(data)
    numbers = 2 * KINDS[kind]  # bytes of them
    blocks = data.reshape(len(data), -1, numbers + BLOCK // 2)
    told = np.split(blocks[..., :numbers].copy().view(np.float16), KINDS[kind], axis=-1)
    return Nibbles(blocks[..., numbers:].copy(), *(each[..., 0] for each in told))


def _of_superblocks(data):
    """A superblock has a scale and an offset in float16, then 12 bytes of 6-bit factors of both, one of each for each
    block, then 32 bytes for every two blocks."""
    from gguf.quants import Q4_K

    blocks = data.reshape(-1, 4 + Q4_K.K_SCALE_SIZE + PER_SUPERBLOCK * BLOCK // 2)
    both, factors, packed = np.split(blocks, [4, 4 + Q4_K.K_SCALE_SIZE], axis=1)
    scale, offset = (part.astype(np.float32) for part in both.copy().view(np.float16).T[..., None])
    of_scale, of_offset = (part.astype(np.float32) for part in Q4_K.get_scale_min(factors.copy()))
    pairs = packed.reshape(-1, PER_SUPERBLOCK // 2, BLOCK)
    values = np.stack([pairs & 15, pairs >> 4], axis=2)  # [superblocks, pairs, 2, 32]
    low, high = np.split(values.reshape(len(data), -1, BLOCK), 2, axis=-1)
    by_row = lambda numbers: numbers.reshape(len(data), -1)  # noqa: E731
    return Nibbles(low | high << 4, by_row(scale * of_scale), by_row(-(offset * of_offset)))

"""Signed fixed-point codes, and the levels of the cells that hold them."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Codes(NamedTuple):
    """A matrix of signed integers and the value of one step."""

    integers: Int[Array, "rows dim"]
    step: Float[Array, ""]


def largest(bits: int) -> int:
    """The largest magnitude of a symmetric signed code: 32767 for 16 bits. ValueError outside 2 to 16 bits."""
    if not 2 <= bits <= 16:
        raise ValueError(f"codes of {bits} bits: 2 to 16 are allowed")
    return 2 ** (bits - 1) - 1


def to_codes(values: Float[Array, "rows dim"], *, bits: int = 16) -> Codes:
    """Round to signed integers of `bits` bits whose largest magnitude stands for max|values|."""
    peak = jnp.max(jnp.abs(values))
    step = jnp.where(peak > 0, peak, 1) / largest(bits)
    return Codes(jnp.round(values / step).astype(jnp.int16), step)


def from_codes(codes: Codes) -> Float[Array, "rows dim"]:
    """The values that the codes stand for."""
    return codes.integers.astype(codes.step.dtype) * codes.step


def slices(bits: int, cell_bits: int) -> int:
    """Cells per code: 8 for 16 bits in 2-bit cells. ValueError unless `cell_bits` divides `bits`."""
    if cell_bits < 1 or bits % cell_bits:
        raise ValueError(
            f"{bits}-bit codes do not cut into {cell_bits}-bit cells: the cell's bits must divide the code's"
        )
    return bits // cell_bits


def to_levels(integers: Int[Array, "rows dim"], *, bits: int = 16, cell_bits: int = 2) -> Int[Array, "rows dim slices"]:
    """Cell levels of each code in offset binary, the most significant cell first."""
    count = slices(bits, cell_bits)
    offset = integers.astype(jnp.int32) + 2 ** (bits - 1)
    shifts = cell_bits * jnp.arange(count - 1, -1, -1)
    return (offset[..., None] >> shifts[None, None, :]) & (2**cell_bits - 1)


def from_levels(
    levels: Float[Array, "rows dim slices"] | Int[Array, "rows dim slices"], *, bits: int = 16, cell_bits: int = 2
) -> Float[Array, "rows dim"]:
    """Shift-and-add of cell levels, which noise may have moved off the integers, back to a signed code."""
    count = slices(bits, cell_bits)
    place = (2.0**cell_bits) ** jnp.arange(count - 1, -1, -1, dtype=jnp.float32)
    return jnp.sum(levels.astype(jnp.float32) * place[None, None, :], axis=-1) - 2.0 ** (bits - 1)

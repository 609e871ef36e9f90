"""Signed fixed-point codes, and the levels of the cells that hold them."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
    """Round to signed integers of `bits` bits whose largest magnitude stands for max|values|.

    ValueError for values that are not finite, where they are known at trace time.
    """
    if not isinstance(values, jax.core.Tracer):
        broken = np.sum(~np.isfinite(np.asarray(values)))  # a constant inside a trace stays one
        if broken:
            raise ValueError(f"a matrix to store holds {broken} NaN or infinite values: remove them")
    peak = jnp.max(jnp.abs(values))
    step = jnp.where(peak > 0, peak, 1) / largest(bits)
    return Codes(jnp.round(values / step).astype(jnp.int16), step)


def from_codes(codes: Codes) -> Float[Array, "rows dim"]:
    """The values that the codes stand for."""
    return codes.integers.astype(codes.step.dtype) * codes.step


@dataclass(frozen=True)
class Layout:
    """How a signed code lies in cells: `code = offset + sum place * level`. Static; 16 bits in 2-bit cells by default.

    In offset binary one run of cells holds the code plus `2^(bits - 1)`. A differential pair holds the magnitude,
    in one run of cells if the code is positive and in another if it is negative: twice the cells, no offset.
    ValueError outside 2 to 24 bits (float32 sums the cells exactly) and for cells wider than 8 bits or the code.
    """

    bits: int = 16
    cell_bits: int = 2
    differential: bool = False

    def __post_init__(self):
        if not 2 <= self.bits <= 24:
            raise ValueError(f"codes of {self.bits} bits: 2 to 24 are allowed")
        if not 1 <= self.cell_bits <= min(8, self.bits):
            raise ValueError(
                f"{self.bits}-bit codes in {self.cell_bits}-bit cells: 1 to {min(8, self.bits)} are allowed"
            )

    @property
    def full(self) -> int:
        """The highest level of a cell."""
        return 2**self.cell_bits - 1

    @property
    def offset(self) -> int:
        """What the code is when every cell is at level zero."""
        return 0 if self.differential else -(2 ** (self.bits - 1))

    @property
    def places(self) -> tuple[int, ...]:
        """What one level of each cell is worth, the most significant cell first."""
        held = self.bits - self.differential
        run = tuple(2**shift for shift in reversed(range(0, held, self.cell_bits)))
        return (*run, *(-place for place in run)) if self.differential else run

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and the highest code."""
        top = 2 ** (self.bits - 1) - 1
        return (-top if self.differential else self.offset), top


OFFSET_BINARY = Layout()
DIFFERENTIAL = Layout(differential=True)


def check_codes(integers: Int[Array, "..."], low: int, high: int) -> None:
    """ValueError for no codes at all, and for codes outside `low` to `high` where they are known at trace time."""
    if integers.size == 0:
        raise ValueError(f"an empty matrix of codes, {integers.shape}: at least one row and one dimension are needed")
    if isinstance(integers, jax.core.Tracer):
        return
    known = np.asarray(integers)  # a constant inside a trace stays one
    least, most = int(known.min()), int(known.max())
    if least < low or most > high:
        wrong = least if least < low else most
        raise ValueError(f"code {wrong} lies outside {low} to {high}: quantise to fewer bits, or give more")


def saturated(integers: Int[Array, "..."], low: int, high: int) -> Int[Array, "..."]:
    """Codes within `low` to `high` as int32: ValueError where they are known to lie outside, else cut off there."""
    check_codes(integers, low, high)
    known = jnp.iinfo(integers.dtype)
    return jnp.clip(integers, max(low, known.min), min(high, known.max)).astype(jnp.int32)


def to_levels(integers: Int[Array, "rows dim"], layout: Layout = OFFSET_BINARY) -> Int[Array, "rows dim cells"]:
    """Cell levels of each code. Under a trace, codes outside the layout's limits saturate; else ValueError."""
    held = saturated(integers, *layout.limits) - layout.offset
    signs = jnp.array([1 if place > 0 else -1 for place in layout.places])
    shifts = jnp.array([abs(place).bit_length() - 1 for place in layout.places])
    return (jnp.maximum(held[..., None] * signs[None, None], 0) >> shifts[None, None]) & layout.full


def from_levels(
    levels: Float[Array, "rows dim cells"] | Int[Array, "rows dim cells"],
    layout: Layout = OFFSET_BINARY,
) -> Float[Array, "rows dim"]:
    """Shift-and-add of cell levels, which noise may have moved off the integers, back to a signed code."""
    places = jnp.array(layout.places, jnp.float32)
    return jnp.sum(levels.astype(jnp.float32) * places[None, None], axis=-1) + layout.offset

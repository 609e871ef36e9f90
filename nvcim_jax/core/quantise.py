"""Signed fixed-point codes, and the levels of the cells that hold them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Int8


class Codes(NamedTuple):
    """A matrix of signed integers and the value of one step."""

    integers: Int[Array, "rows dim"]
    step: Float[Array, ""]


Step = Callable[[Float[Array, "rows dim"], int], Float[Array, ""]]


def largest(bits: int) -> int:
    """The largest magnitude of a symmetric signed code: 32767 for 16 bits, 1 for two and for one.

    Two bits hold -1, 0 and 1, one bit holds the sign alone. ValueError outside 1 to 16 bits.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"codes of {bits} bits: 1 to 16 are allowed")
    return max(2 ** (bits - 1) - 1, 1)


def peak_step(values: Float[Array, "rows dim"], bits: int) -> Float[Array, ""]:
    """The step with which the largest code stands for max|values|, so that nothing is clipped."""
    peak = jnp.max(jnp.abs(values))
    return jnp.where(peak > 0, peak, 1) / largest(bits)


SHARES = 32  # of max|values|, at which `least_error_step` looks


def least_error_step(values: Float[Array, "rows dim"], bits: int) -> Float[Array, ""]:
    """The step whose codes err least in the sum of squares: few bits clip the largest values to resolve the others.

    The best of those with which the largest code stands for 1/32, 2/32, ... of max|values|; of one bit the exact best,
    mean|values|.
    """
    if bits == 1:
        mean = jnp.mean(jnp.abs(values))
        return jnp.where(mean > 0, mean, 1)
    steps = peak_step(values, bits) * (jnp.arange(SHARES, 0, -1) / SHARES)  # of equal ones the first, which clips least
    error = jax.vmap(lambda step: jnp.sum((_rounded(values, step, bits) * step - values) ** 2))(steps)
    return steps[jnp.argmin(error)]


def to_codes(values: Float[Array, "rows dim"], *, bits: int = 16, step: Step = peak_step) -> Codes:
    """Round to signed integers of `bits` bits, each of which stands for so many times `step(values, bits)`.

    By default the largest code stands for max|values|. ValueError for values that are not finite, where they are known
    at trace time.
    """
    if not isinstance(values, Tracer):
        broken = np.sum(~np.isfinite(np.asarray(values)))  # a constant inside a trace stays one
        if broken:
            raise ValueError(f"a matrix to store holds {broken} NaN or infinite values: remove them")
    size = step(values, bits)
    return Codes(_rounded(values, size, bits).astype(jnp.int16), size)


def _rounded(values, step, bits: int):
    if bits == 1:
        return jnp.where(values < 0, -1.0, 1.0)
    top = largest(bits)
    return jnp.clip(jnp.round(values / step), -top, top)


def from_codes(codes: Codes) -> Float[Array, "rows dim"]:
    """The values that the codes stand for."""
    return codes.integers.astype(codes.step.dtype) * codes.step


@dataclass(frozen=True)
class Layout:
    """How a signed code lies in cells: `code = sign (offset + sum place * level)`. Static; 16 bits, 2-bit cells.

    `sign` says how the sign is held. "digital" (default, as in the authors' released code): the cells hold the
    magnitude, shifted up so that the largest code fills them, and the sign is one bit of digital memory. "offset": one
    run of cells holds the code plus `2^(bits - 1)`. "pair": a run of cells each for codes above and below zero.
    ValueError outside 2 to 24 bits (float32 sums the cells exactly), for cells wider than 8 bits or the code, and for
    another `sign`.
    """

    bits: int = 16
    cell_bits: int = 2
    sign: str = "digital"

    def __post_init__(self):
        if not 2 <= self.bits <= 24:
            raise ValueError(f"codes of {self.bits} bits: 2 to 24 are allowed")
        if not 1 <= self.cell_bits <= min(8, self.bits):
            raise ValueError(
                f"{self.bits}-bit codes in {self.cell_bits}-bit cells: 1 to {min(8, self.bits)} are allowed"
            )
        if self.sign not in ("digital", "offset", "pair"):
            raise ValueError(f"a sign held by {self.sign!r}: digital, offset or pair is allowed")

    @property
    def full(self) -> int:
        """The highest level of a cell."""
        return 2**self.cell_bits - 1

    @property
    def offset(self) -> int:
        """What the code is when every cell is at level zero."""
        return -(2 ** (self.bits - 1)) if self.sign == "offset" else 0

    @property
    def spare(self) -> int:
        """Bits by which a magnitude is shifted up to fill its cells: each level is then worth so much less."""
        return -(self.bits - 1) % self.cell_bits if self.sign == "digital" else 0

    @property
    def runs(self) -> tuple[tuple[int, ...], ...]:
        """By how many bits what each cell holds is shifted, the most significant cell first; two runs in a pair."""
        held = self.bits - (self.sign != "offset")
        run = tuple(reversed(range(0, held, self.cell_bits)))
        return (run, run) if self.sign == "pair" else (run,)

    @property
    def places(self) -> tuple[float, ...]:
        """What one level of each cell is worth, the most significant first; the second run of a pair counts off."""
        each = [[2.0 ** (shift - self.spare) for shift in run] for run in self.runs]
        return tuple(way * place for way, run in zip((1, -1), each, strict=False) for place in run)

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and the highest code."""
        top = 2 ** (self.bits - 1) - 1
        return self.offset or -top, top


SIGN_MAGNITUDE = Layout()
OFFSET_BINARY = Layout(sign="offset")
DIFFERENTIAL = Layout(sign="pair")


def check_codes(integers: Int[Array, "..."], low: int, high: int) -> None:
    """ValueError for no codes at all, and for codes outside `low` to `high` where they are known at trace time."""
    if integers.size == 0:
        raise ValueError(f"an empty matrix of codes, {integers.shape}: at least one row and one dimension are needed")
    if isinstance(integers, Tracer):
        return
    known = np.asarray(integers)  # a constant inside a trace stays one
    least, most = int(known.min()), int(known.max())
    if least < low or most > high:
        wrong = least if least < low else most
        raise ValueError(f"code {wrong} lies outside {low} to {high}: quantise to fewer bits, or give more")


def saturated(integers: Int[Array, "..."], low: int, high: int) -> Int[Array, "..."]:
    """Codes as int32, clipped to `low` to `high`. Outside these, known codes raise ValueError; traced ones saturate."""
    check_codes(integers, low, high)
    known = jnp.iinfo(integers.dtype)
    return jnp.clip(integers, max(low, known.min), min(high, known.max)).astype(jnp.int32)


def to_levels(integers: Int[Array, "rows dim"], layout: Layout = SIGN_MAGNITUDE) -> Int[Array, "rows dim cells"]:
    """Cell levels of each code. Under a trace, codes outside the layout's limits saturate; else ValueError."""
    codes = saturated(integers, *layout.limits)
    if layout.sign == "pair":
        held = (jnp.maximum(codes, 0), jnp.maximum(-codes, 0))
    else:
        held = (jnp.abs(codes) << layout.spare if layout.sign == "digital" else codes - layout.offset,)
    cells = [each[..., None] >> jnp.array(run)[None, None] for each, run in zip(held, layout.runs, strict=True)]
    return jnp.concatenate(cells, axis=-1) & layout.full


def signs_of(integers: Int[Array, "rows dim"], layout: Layout = SIGN_MAGNITUDE) -> Int8[Array, "rows dim"] | None:
    """1 or -1 for each code, to be kept digitally; None where the cells hold the sign."""
    return jnp.where(integers < 0, -1, 1).astype(jnp.int8) if layout.sign == "digital" else None


def from_levels(
    levels: Float[Array, "rows dim cells"] | Int[Array, "rows dim cells"],
    layout: Layout = SIGN_MAGNITUDE,
    signs: Int8[Array, "rows dim"] | None = None,
) -> Float[Array, "rows dim"]:
    """Shift-and-add of cell levels, which noise may have moved off the integers, back to a signed code.

    ValueError unless the `signs` are given that the layout keeps digitally, or are left out where it keeps none.
    """
    if (layout.sign == "digital") != (signs is not None):
        raise ValueError(
            f"a sign held by {layout.sign!r} and {'no ' if signs is None else ''}signs: give `signs_of` codes"
        )
    places = jnp.array(layout.places, jnp.float32)
    codes = jnp.sum(levels.astype(jnp.float32) * places[None, None], axis=-1) + layout.offset
    return codes if signs is None else codes * signs

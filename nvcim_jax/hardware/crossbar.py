"""Matrices of codes in arrays of noisy cells, at three fidelities that agree where they must.

`value` (`write_values`): one Gaussian per stored value. `cell` (`write_cells`): one per cell, then shift-and-add.
`array` (`multiply`): cells in tiles, inputs bit by bit, rows in passes, converters, wires. Tests pin where they meet.
Where no `layout` is given, 16-bit codes lie in cells of as many levels as the device has, their sign kept digitally
(`cells.layout_of`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8, Key, PRNGKeyArray

from nvcim_jax.core.noise import inject
from nvcim_jax.core.quantise import SIGN_MAGNITUDE, Layout, from_levels, saturated, signs_of, to_levels
from nvcim_jax.hardware import ageing, cells
from nvcim_jax.hardware.adc import ideal
from nvcim_jax.hardware.compensation import Compensate, Pair, compensated
from nvcim_jax.hardware.devices import Device
from nvcim_jax.hardware.wires import lost_to_wires

DIM, TOKENS = 48, 128  # values of one virtual token, and virtual tokens, that one subarray of the paper holds

Converter = Callable[[Float[Array, "..."], int], Float[Array, "..."]]


@dataclass(frozen=True)
class Tile:
    """A subarray: the cells of a value go down a column, its tokens along. 48 x 8 rows of 128 columns by default.

    `wire_ohm` is the resistance of a wire between neighbouring cells; None for wires without any.
    """

    rows: int = DIM * len(SIGN_MAGNITUDE.places)
    columns: int = TOKENS
    wire_ohm: Float[Array, ""] | float | None = None

    def values(self, layout: Layout) -> int:
        """Values that one column holds. ValueError if not even one fits."""
        held = self.rows // len(layout.places)
        if held < 1 or self.columns < 1:
            raise ValueError(
                f"a tile of {self.rows} x {self.columns} cells cannot hold one {layout.bits}-bit value, which takes "
                f"{len(layout.places)} rows of {layout.cell_bits}-bit cells: use a larger tile or wider cells"
            )
        return held


PAPER_TILE = Tile()


class Matrix(NamedTuple):
    """A matrix as it is held: the levels of its cells and, where the layout keeps it digitally, each value's sign."""

    levels: Float[Array, "rows dim cells"]
    signs: Int8[Array, "rows dim"] | None
    life: Key[Array, ""] | None = None  # decides how its cells age; None where they age alike
    flicker: Float[Array, "rows dim cells"] | None = None  # deviation of each cell's 1/f noise in a read


class Plan(NamedTuple):
    """What one product needs: tiles down and across, rows fired at once, and passes for each bit of the input."""

    down: int
    across: int
    rows: int
    passes: int


def plan(tokens: int, dim: int, *, layout: Layout = SIGN_MAGNITUDE, tile: Tile = PAPER_TILE) -> Plan:
    """How a matrix of [tokens, dim] lies in tiles: 8 passes of 48 rows for the paper's.

    A sign that is kept digitally takes tiles for values above zero and others for those below.
    """
    rows = min(tile.values(layout), dim)
    across = -(-tokens // tile.columns) * (2 if layout.sign == "digital" else 1)
    return Plan(-(-dim // rows), across, rows, len(layout.places))


def check_fits(tokens: int, dim: int, *, layout: Layout = SIGN_MAGNITUDE, tile: Tile = PAPER_TILE) -> None:
    """ValueError unless `tokens` columns of `dim` values fit one tile."""
    needed = dim * len(layout.places)
    if tokens > tile.columns:
        raise ValueError(
            f"{tokens} virtual tokens, but an array has {tile.columns} columns: use at most {tile.columns}"
        )
    if needed > tile.rows:
        raise ValueError(
            f"{dim} dimensions need {needed} rows of cells, but an array has {tile.rows}: use a smaller code"
        )


def write_values(
    key: PRNGKeyArray,
    integers: Int[Array, "rows dim"],
    device: Device,
    *,
    sigma: Float[Array, ""] | float,
    seconds: Float[Array, ""] | float | None = None,
) -> Float[Array, "rows dim"]:
    """What a read returns under one Gaussian per stored value, relative to the largest code of the matrix (Eq. 4).

    ValueError if `seconds` are given: Eq. 4 knows no time.
    """
    if seconds is not None:
        raise ValueError("one Gaussian per stored value (Eq. 4) knows no time: write by cells (write_cells)")
    return inject(key, integers.astype(jnp.float32), sigma=sigma, factors=device.factors)


def write_cells(
    key: PRNGKeyArray,
    integers: Int[Array, "rows dim"],
    device: Device,
    *,
    sigma: Float[Array, ""] | float,
    layout: Layout | None = None,
    seconds: Float[Array, ""] | float | None = None,
    convert: Converter = ideal,
) -> Float[Array, "rows dim"]:
    """What a read returns under one Gaussian per cell, its deviation set by the cell's level; `seconds` later if given.

    A cell deviates by `sigma * level factor` of its whole range, and shift-and-add collects the cells, so a code in
    2-bit cells deviates by `sigma * sqrt(sum 16^i) / sum 4^i = 0.775 sigma` of the largest one where all factors are
    one. The authors' `set_four` and SWIM count sigma in level steps, of which a 2-bit cell's range has three: the
    same deviation reads 0.258 there.
    """
    write_key, read_key = jax.random.split(key)
    matrix = program(write_key, integers, device, sigma=sigma, layout=layout)
    return read(read_key, matrix, device, layout=layout, seconds=seconds, convert=convert)


def program(
    key: PRNGKeyArray,
    integers: Int[Array, "rows dim"],
    device: Device,
    *,
    sigma: Float[Array, ""] | float,
    layout: Layout | None = None,
) -> Matrix:
    """Cut codes into cells and give each cell one pulse. ValueError if the device's levels are not the layout's."""
    layout = layout or cells.layout_of(device)
    cells.check_device(device, layout)
    write_key, life = born(key, device)
    levels = cells.program(write_key, to_levels(integers, layout), device, sigma=sigma)
    return Matrix(levels, signs_of(integers, layout), life)


def born(key: PRNGKeyArray, device: Device) -> tuple[PRNGKeyArray, PRNGKeyArray | None]:
    """The key that cells are written with, and the one that decides how they age, if chance does."""
    if not ageing.is_by_chance(device):
        return key, None
    write_key, life = jax.random.split(key)
    return write_key, life


def aged(matrix: Matrix, device: Device, *, seconds: Float[Array, ""] | float) -> Matrix:
    """A matrix `seconds` after it was programmed. Give the one that `program` returned, for every time."""
    levels = ageing.age(matrix.levels, device, seconds=seconds, life=matrix.life)
    return matrix._replace(
        levels=levels, flicker=ageing.flicker(matrix.levels, levels, device, seconds=seconds), life=None
    )


def read(
    key: PRNGKeyArray,
    matrix: Matrix,
    device: Device,
    *,
    layout: Layout | None = None,
    seconds: Float[Array, ""] | float | None = None,
    convert: Converter = ideal,
    compensate: Compensate | None = None,
) -> Float[Array, "rows dim"]:
    """Codes read back cell by cell, each through the converter, and added in their places; `seconds` after programming.

    With a compensation (`compensation`), conductances are multiplied by its gain. A device whose reads flicker is read
    one second after programming if `seconds` are not given.
    """
    layout = layout or cells.layout_of(device)
    if seconds is None and device.flicker is not None and matrix.flicker is None:
        seconds = 1.0
    now = matrix if seconds is None else aged(matrix, device, seconds=seconds)
    if compensate is None or seconds is None:
        seen = cells.sense(key, now.levels, device, flicker=now.flicker)
    else:
        read_key, fresh_key, reference_key = jax.random.split(key, 3)
        fresh = cells.sense(fresh_key, matrix.levels, device)
        late = cells.sense(read_key, now.levels, device, flicker=now.flicker)
        seen = compensated(reference_key, Pair(fresh, late), device, seconds=seconds, compensate=compensate)
    return from_levels(convert(seen, layout.full), layout, matrix.signs)


def multiply(
    key: PRNGKeyArray,
    query: Int[Array, "dim"],
    matrix: Matrix,
    device: Device,
    *,
    layout: Layout | None = None,
    input_bits: int = 16,
    convert: Converter = ideal,
    tile: Tile = PAPER_TILE,
) -> Float[Array, "tokens"]:
    """The product of a signed query with every stored token, as the arrays compute it.

    The query goes in bit by bit (two's complement). Of each bit the rows of one cell place fire together, tile by
    tile; the converter turns each column's sum into a number, and shift-and-add collects them digitally. Where the
    sign is kept digitally, one sum cannot hold values of both signs: values below zero lie in arrays of their own,
    whose sums count off, and in either array the cells of the other's values are cut off. Read noise is drawn per
    sum: as many independent Gaussians as cells fire make one. Ideal devices, converters and wires give the exact
    integer product, rounded to float32 once. ValueError for sizes whose product could not be exact, for queries outside
    `input_bits` (which saturate under a trace) and for tiles that hold no value.
    """
    layout = layout or cells.layout_of(device)
    cells.check_device(device, layout)
    tokens, dim, _ = matrix.levels.shape
    down, _, rows, _ = plan(tokens, dim, layout=layout, tile=tile)
    _check_exact(dim, rows, layout, input_bits)
    asked = saturated(query, -(2 ** (input_bits - 1)), 2 ** (input_bits - 1) - 1)
    pad = down * rows - dim
    bits = _planes(jnp.pad(asked, (0, pad)), input_bits).reshape(input_bits, down, rows)
    laid = lambda each: jnp.pad(each, ((0, 0), (0, pad), (0, 0))).reshape(tokens, down, rows, -1)  # noqa: E731
    levels, flicker = laid(matrix.levels), None if matrix.flicker is None else laid(matrix.flicker)
    of_array = partial(_digits, bits=bits, device=device, layout=layout, convert=convert, tile=tile, flicker=flicker)
    if matrix.signs is None:
        digits = of_array(key, levels, None)
    else:
        signs = jnp.pad(matrix.signs, ((0, 0), (0, pad))).reshape(tokens, down, rows)
        above, below = (of_array(k, levels, signs == s) for k, s in zip(jax.random.split(key), (1, -1), strict=True))
        digits = jnp.concatenate([above, -below], axis=2)
    offsets = jnp.broadcast_to(layout.offset * jnp.sum(bits, axis=-1)[..., None, None], (input_bits, down, 1, tokens))
    terms = jnp.concatenate([digits, offsets], axis=2) * _worths(input_bits)[:, None, None, None]
    return _add_exactly(terms.reshape(-1, tokens))


def _digits(
    key: PRNGKeyArray,
    levels: Float[Array, "tokens down rows cells"],
    present: Bool[Array, "tokens down rows"] | None,
    *,
    bits: Float[Array, "inputs down rows"],
    device: Device,
    layout: Layout,
    convert: Converter,
    tile: Tile,
    flicker: Float[Array, "tokens down rows cells"] | None,
) -> Float[Array, "inputs down cells tokens"]:
    """What the converters of one array make of each pass, times the worth of its cell place."""
    held = levels if present is None else levels * present[..., None]
    sums = jnp.einsum("bdr,tdrc->bdct", bits, held, precision="highest")
    if tile.wire_ohm is not None:
        sums = sums - lost_to_wires(bits, levels, device, present=present, ohm=tile.wire_ohm, columns=tile.columns)
    if device.read_noise is not None or flicker is not None:
        there = jnp.ones(levels.shape[:-1]) if present is None else present.astype(jnp.float32)
        fired = jnp.einsum("bdr,tdr->bdt", bits, there, precision="highest")[:, :, None]
        std = jnp.sqrt(fired) if device.read_noise is None else layout.full * device.read_noise * jnp.sqrt(fired)
        if flicker is not None:
            own = jnp.einsum("bdr,tdrc->bdct", bits, flicker**2 * there[..., None], precision="highest")
            std = jnp.sqrt(own + (0.0 if device.read_noise is None else std**2))
        sums = sums + std * jax.random.normal(key, sums.shape)
    return convert(sums, levels.shape[2] * layout.full) * jnp.array(layout.places, jnp.float32)[None, None, :, None]


def _check_exact(dim: int, rows: int, layout: Layout, input_bits: int) -> None:
    """ValueError unless sums of one pass fit the 24 bits of a float32 and sums of all passes the 48 bits of a pair."""
    if not 1 <= input_bits <= 32:
        raise ValueError(f"inputs of {input_bits} bits: 1 to 32 are allowed")
    if rows * layout.full >= 2**24:
        raise ValueError(
            f"{rows} rows of {layout.cell_bits}-bit cells fire at once, whose sum float32 does not hold exactly: use a "
            f"tile with at most {(2**24 - 1) // layout.full} values per column"
        )
    largest = layout.full * sum(map(abs, layout.places)) + abs(layout.offset)
    reach = int(dim * (2**input_bits - 1) * largest * 2**layout.spare)
    if reach >= 2**48:
        raise ValueError(
            f"{dim} values of {layout.bits} bits times inputs of {input_bits} bits take {reach.bit_length()} bits, but "
            "48 are summed exactly: use fewer bits, or multiply parts of the values and add those"
        )


def _planes(query, bits: int):
    """The bits of signed integers in two's complement, the least significant first: [bits, dim] of 0 and 1."""
    shifts = jnp.arange(bits)
    return ((query[None, :] >> shifts[:, None]) & 1).astype(jnp.float32)


def _worths(bits: int):
    return jnp.array([2.0**at for at in range(bits - 1)] + [-(2.0 ** (bits - 1))], jnp.float32)


def _add_exactly(terms: Float[Array, "terms tokens"]) -> Float[Array, "tokens"]:
    """Sum over the first axis, rounded to float32 once: whole terms are exact while their sums stay below 2^48.

    The sum so far is a pair of floats. The lower one is at most half of the upper one's last place, so that it is a
    whole number of 24 bits, as is what the next term leaves over.
    """

    def add(state, term):
        high, low = state
        total, left = _two_sum(high, term)
        return _two_sum(total, low + left), None

    zero = jnp.zeros(terms.shape[1:], terms.dtype)
    (high, _), _ = jax.lax.scan(add, (zero, zero), terms)
    return high


def _two_sum(a, b):
    """The rounded sum of two floats and what rounding took from it (Knuth)."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)

"""Matrices of codes in arrays of noisy cells, at three fidelities that agree where they must.

`value` (`write_values`): one Gaussian per stored value. `cell` (`write_cells`): one per cell, then shift-and-add.
`array` (`multiply`): cells in tiles, inputs bit by bit, rows in passes, converters, wires. Tests pin where they meet.
Where no `layout` is given, 16-bit codes lie in cells of as many levels as the device has (`cells.layout_of`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nvcim_jax import cells
from nvcim_jax.adc import ideal
from nvcim_jax.devices import Device
from nvcim_jax.noise import inject
from nvcim_jax.quantise import OFFSET_BINARY, Layout, from_levels, saturated, to_levels
from nvcim_jax.wires import lost_to_wires

DIM, TOKENS = 48, 128  # values of one virtual token, and virtual tokens, that one subarray of the paper holds

Converter = Callable[[Float[Array, "..."], int], Float[Array, "..."]]


@dataclass(frozen=True)
class Tile:
    """A subarray: the cells of a value go down a column, its tokens along. 48 x 8 rows of 128 columns by default."""

    rows: int = DIM * len(OFFSET_BINARY.places)
    columns: int = TOKENS

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


class Plan(NamedTuple):
    """What one product needs: tiles down and across, rows fired at once, and passes for each bit of the input."""

    down: int
    across: int
    rows: int
    passes: int


def plan(tokens: int, dim: int, *, layout: Layout = OFFSET_BINARY, tile: Tile = PAPER_TILE) -> Plan:
    """How a matrix of [tokens, dim] lies in tiles: 8 passes of 48 rows for the paper's."""
    rows = min(tile.values(layout), dim)
    return Plan(-(-dim // rows), -(-tokens // tile.columns), rows, len(layout.places))


def check_fits(tokens: int, dim: int, *, layout: Layout = OFFSET_BINARY, tile: Tile = PAPER_TILE) -> None:
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
    key: PRNGKeyArray, integers: Int[Array, "rows dim"], device: Device, *, sigma: Float[Array, ""] | float
) -> Float[Array, "rows dim"]:
    """What a read returns under one Gaussian per stored value, relative to the largest code of the matrix (Eq. 4)."""
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

    A cell deviates by `sigma * level factor` of its whole range, and shift-and-add collects the cells, so the code
    deviates by `sigma * sqrt(sum 16^i) / sum 4^i = 0.775 sigma` of the code range where all factors are one.
    """
    write_key, read_key = jax.random.split(key)
    held = program(write_key, integers, device, sigma=sigma, layout=layout)
    return read(read_key, held, device, layout=layout, seconds=seconds, convert=convert)


def program(
    key: PRNGKeyArray,
    integers: Int[Array, "rows dim"],
    device: Device,
    *,
    sigma: Float[Array, ""] | float,
    layout: Layout | None = None,
) -> Float[Array, "rows dim cells"]:
    """Cut codes into cells and give each cell one pulse. ValueError if the device's levels are not the layout's."""
    layout = layout or cells.layout_of(device)
    cells.check_device(device, layout)
    return cells.program(key, to_levels(integers, layout), device, sigma=sigma)


def read(
    key: PRNGKeyArray,
    held: Float[Array, "rows dim cells"],
    device: Device,
    *,
    layout: Layout | None = None,
    seconds: Float[Array, ""] | float | None = None,
    convert: Converter = ideal,
) -> Float[Array, "rows dim"]:
    """Codes read back cell by cell, each through the converter, and added in their places."""
    layout = layout or cells.layout_of(device)
    aged = held if seconds is None else cells.age(held, device, seconds=seconds)
    return from_levels(convert(cells.sense(key, aged, device), layout.full), layout)


def multiply(
    key: PRNGKeyArray,
    query: Int[Array, "dim"],
    held: Float[Array, "tokens dim cells"],
    device: Device,
    *,
    layout: Layout | None = None,
    input_bits: int = 16,
    convert: Converter = ideal,
    tile: Tile = PAPER_TILE,
    wire_ohm: Float[Array, ""] | float | None = None,
) -> Float[Array, "tokens"]:
    """The product of a signed query with every stored token, as the arrays compute it.

    The query goes in bit by bit (two's complement). Of each bit the rows of one cell place fire together, tile by
    tile; the converter turns each column's sum into a number, and shift-and-add collects them digitally. Read noise
    is drawn per sum: as many independent Gaussians as rows fire make one. `wire_ohm` is the resistance of a wire
    between neighbouring cells. Ideal devices, converters and wires give the exact integer product, rounded to float32
    once. ValueError for sizes whose product could not be exact, for queries outside `input_bits` (which saturate
    under a trace) and for tiles that hold no value.
    """
    layout = layout or cells.layout_of(device)
    cells.check_device(device, layout)
    tokens, dim, _ = held.shape
    down, _, rows, _ = plan(tokens, dim, layout=layout, tile=tile)
    _check_exact(dim, rows, layout, input_bits)
    asked = saturated(query, -(2 ** (input_bits - 1)), 2 ** (input_bits - 1) - 1)
    pad = down * rows - dim
    bits = _planes(jnp.pad(asked, (0, pad)), input_bits).reshape(input_bits, down, rows)
    held = jnp.pad(held, ((0, 0), (0, pad), (0, 0))).reshape(tokens, down, rows, -1)
    sums = jnp.einsum("bdr,tdrc->bdct", bits, held, precision="highest")
    if wire_ohm is not None:
        sums = sums - lost_to_wires(bits, held, device, ohm=wire_ohm, columns=tile.columns)
    fired = jnp.sum(bits, axis=-1)[:, :, None, None]
    if device.read_noise is not None:
        sums = sums + layout.full * device.read_noise * jnp.sqrt(fired) * jax.random.normal(key, sums.shape)
    digits = convert(sums, rows * layout.full) * jnp.array(layout.places, jnp.float32)[None, None, :, None]
    offsets = jnp.broadcast_to(layout.offset * fired, (input_bits, down, 1, tokens))
    terms = jnp.concatenate([digits, offsets], axis=2) * _worths(input_bits)[:, None, None, None]
    return _add_exactly(terms.reshape(-1, tokens))


def _check_exact(dim: int, rows: int, layout: Layout, input_bits: int) -> None:
    """ValueError unless sums of one pass fit the 24 bits of a float32 and sums of all passes the 48 bits of a pair."""
    if not 1 <= input_bits <= 32:
        raise ValueError(f"inputs of {input_bits} bits: 1 to 32 are allowed")
    if rows * layout.full >= 2**24:
        raise ValueError(
            f"{rows} rows of {layout.cell_bits}-bit cells fire at once, whose sum float32 does not hold exactly: use a "
            f"tile with at most {(2**24 - 1) // layout.full} values per column"
        )
    reach = dim * (2**input_bits - 1) * (layout.full * sum(map(abs, layout.places)) + abs(layout.offset))
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

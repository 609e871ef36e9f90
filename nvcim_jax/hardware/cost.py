"""Latency, energy and area of storing and searching OVTs in arrays, by component (Fig. 5; `cpu` is their rival)."""

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

from nvcim_jax.core.quantise import Layout
from nvcim_jax.hardware.circuit import Array, Cell, Components, Cost, Reading, check_range, line_fF, read_planes
from nvcim_jax.hardware.crossbar import Tile

Product = Callable[[int], tuple[int, int]]


def pairs(rows: int) -> tuple[int, int]:
    """(query vectors, columns converted for each): every query row with every stored one, the matrix product."""
    return rows, rows


def aligned(rows: int) -> tuple[int, int]:
    """(query vectors, columns converted for each): row i with row i only."""
    return rows, 1


def mean(rows: int) -> tuple[int, int]:
    """(query vectors, columns converted for each): the mean query row with every stored row."""
    return 1, rows


class Workload(NamedTuple):
    """One search through `ovts` stored OVTs, each with a pooled copy per scale (Eq. 5)."""

    ovts: int
    tokens: int = 128  # the columns of one array
    dim: int = 48
    code_bits: int = 16
    query_bits: int = 8
    scales: tuple[int, ...] = (1, 2, 4)
    product: Product = mean

    @property
    def rows_of_scales(self) -> list[int]:
        """Stored rows of one OVT, by scale."""
        return [ceil(self.tokens / scale) for scale in self.scales]

    @property
    def bytes(self) -> int:
        """Bytes that all codes take."""
        return self.ovts * sum(self.rows_of_scales) * self.dim * self.code_bits // 8


class Fit(NamedTuple):
    """How codes lie in arrays."""

    cells: int  # of one value
    down: int  # arrays that one virtual token spans
    rows: int  # of cells in each of these arrays
    at_once: int  # of the rows, which fire together


def fit(workload: Workload, cell: Cell, array: Array = Array()) -> Fit:  # noqa: B008
    """The fit of the workload's codes in such cells. ValueError if an array cannot hold one code."""
    layout = Layout(workload.code_bits, cell.bits, sign="offset")  # one array per matrix multiplies both signs
    cells, room = len(layout.places), Tile(array.rows, array.columns).values(layout)
    down = ceil(workload.dim / room)
    held = ceil(workload.dim / down)
    rows = held * cells
    at_once = rows if array.rows_at_once >= rows else min(array.rows_at_once, held)  # of one slice: places are kept
    return Fit(cells, down, rows, at_once)


def check(workload: Workload, cell: Cell, reading: Reading) -> Fit:
    """How the codes lie in the arrays. ValueError, naming what does not fit together and what is possible."""
    array = reading.array
    for name, value, low, high in (
        ("OVTs", workload.ovts, 1, 10**7),
        ("virtual tokens", workload.tokens, 1, array.columns),
        ("query bits", workload.query_bits, 1, 16),
        ("ADC bits", reading.bits, 1, 12),
        ("rows at once", array.rows_at_once, 1, array.rows),
    ):
        if not low <= value <= high:
            raise ValueError(f"{value} {name}: {low} to {high} are possible")
    return fit(workload, cell, array)


def search_array(workload: Workload, cell: Cell, reading: Reading = Reading()) -> Components:  # noqa: B008
    """A search, array scope: arrays and their periphery. ValueError if the workload does not fit.

    Columns of one scale share arrays; all arrays work at the same time, so latency is that of the finest scale.
    """
    _, down, rows, at_once = check(workload, cell, reading)
    array, parts = reading.array, []
    firing = reading._replace(array=array._replace(rows_at_once=at_once))
    for tokens in workload.rows_of_scales:
        vectors, converted = workload.product(tokens)
        arrays, columns = down * arrays_for(workload.ovts, tokens, array), down * workload.ovts * converted
        steps, planes = min(array.columns_per_adc, ceil(columns / arrays)), vectors * workload.query_bits
        read = read_planes(cell, firing, planes=planes, arrays=arrays, rows=rows, columns=columns, steps=steps)
        summed = vectors * columns * reading.circuit.add_fJ / 1e3  # over rows, and over arrays that lie down
        tree = read["adder tree"]
        read["adder tree"] = tree._replace(energy_pj=tree.energy_pj + summed)
        parts.append(read)
    return {name: _together([part[name] for part in parts]) for name in parts[0]}


# One chip of NeuroSim V1.4: 16 arrays of 384 x 128, one input vector of 8 bits, H-tree. What its total holds beyond
# the arrays is taken per 16 arrays and per bit-plane of a vector.
CHIP_ARRAYS, CHIP_PLANES = 16, 8
CHIP = {
    "buffer": Cost(12_200, 120, 0),
    "interconnect": Cost(170, 2_700, 0),
    "accumulation": Cost(0, 300, 0),
    "chip, undivided": Cost(0, 0, 970_000 - 16 * 14_302),
}


def search_chip(workload: Workload, cell: Cell, reading: Reading = Reading()) -> Components:  # noqa: B008
    """A search, chip scope: the arrays plus buffer, interconnect and accumulation.

    Every 16 arrays have a buffer and a tree of their own, as on the chip that was simulated, and work at the same time.
    """
    out = search_array(workload, cell, reading)
    down = fit(workload, cell, reading.array).down
    rounds = [workload.product(rows)[0] * workload.query_bits / CHIP_PLANES for rows in workload.rows_of_scales]
    groups = [down * arrays_for(workload.ovts, rows, reading.array) / CHIP_ARRAYS for rows in workload.rows_of_scales]
    for name, one in CHIP.items():
        parts = [
            Cost(one.latency_ns * r, one.energy_pj * r * g, one.area_um2 * g)
            for r, g in zip(rounds, groups, strict=True)
        ]
        out[name] = _together(parts)
    return out


def store_array(workload: Workload, cell: Cell, reading: Reading = Reading(), *, pulses: float = 1) -> Components:  # noqa: B008
    """Writing every copy of every OVT, row by row, one array after the other, `pulses` write pulses per cell."""
    place = check(workload, cell, reading)
    check_range("the number of write pulses per cell", pulses, 1e-3, 1e4)
    arrays = place.down * sum(arrays_for(workload.ovts, rows, reading.array) for rows in workload.rows_of_scales)
    cells = workload.ovts * sum(workload.rows_of_scales) * workload.dim * place.cells
    rows = arrays * place.rows
    line_fJ = line_fF(cell, reading) * cell.write_volt**2
    return {
        "write": Cost(rows * pulses * cell.write_ns, cells * pulses * cell.write_pj),
        "word-line drivers": Cost(0, rows * pulses * line_fJ / 1e3),
    }


def arrays_for(ovts: int, rows: int, array: Array) -> int:
    """Arrays that hold `rows` columns of each OVT, no OVT being cut in two."""
    return ceil(ovts / (array.columns // rows))


def _together(costs: list[Cost]) -> Cost:
    """Of parts that work at the same time; the first is the longest."""
    return Cost(costs[0].latency_ns, sum(c.energy_pj for c in costs), sum(c.area_um2 for c in costs))

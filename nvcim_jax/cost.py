"""Latency, energy and area of storing and searching OVTs in arrays at 22 nm, by component (Fig. 5; `cpu` is its rival).

Plain arithmetic on published or measured constants; each record names the unit in the field and the source beside the
value. "Rows" are the NeuroSim runs that the constants were calibrated on: one 384 x 128 array, 22 nm LSTP, inputs half
active, one bit-plane of the input; `tests/test_cost.py` lists them with what the model says.
"""

from collections.abc import Callable
from math import ceil
from typing import NamedTuple


class Cell(NamedTuple):
    """A memory cell with its access transistor."""

    name: str
    on_kohm: float
    on_off: float
    write_volt: float
    write_ns: float
    write_pj: float
    source: str


RRAM = Cell(
    "RRAM", 100, 17, 2.0, 50, 0.6, "read: NeuroSim V1.4; 50 ns, 2 V: NeuroSim V1.3; 0.6 pJ: NVSim's RRAM default"
)
FEFET = Cell(
    "FeFET", 240, 100, 4.0, 50, 0.0029, "read, 4 V, 50 ns: NeuroSim V2.1; 2.9 fJ: NVMExplorer, BEOL FeFET at 2 V, 20 ns"
)


class Circuit(NamedTuple):
    """The array's periphery. The access transistor widens as the cell's resistance falls: terms in kohm."""

    read_volt: float
    access_share: float  # resistance of the access transistor as a share of the cell's on-resistance
    select_ns: float  # word line and mux, beside the converter's time
    select_ns_kohm: float
    line_fF: float  # of a word line, per cell
    line_fF_kohm: float
    driver_fJ: float  # of the word-line switch matrix, per driven row
    driver_fJ_kohm: float
    flash_column_V2: float  # static power of a flash converter's column is this over the column's resistance
    periphery_um2: float  # of one 384 x 128 array: everything but the cells
    source: str
    clock: float = 1.4  # cycle over the sum of its stages; NeuroSim
    access_volt: float = 1.1  # NeuroSim, 22 nm
    shift_fJ: float = 18.0  # of the shift-and-add over input bits, per column: 2.3 pJ of the V1.4 row's 128
    mux_fJ: float = 5.1  # per conversion: 0.65 pJ of the same row's 128
    add_fJ: float = 8.0  # of a digital addition: what 8 passes cost beyond one in the V1.4 rows
    cell_F2: float = 48.0  # 1T1R of 4 F x 12 F; NeuroSim
    feature_um: float = 0.022


V14 = Circuit(0.55, 0.25, 0.084, 3.19, 0.0601, 1.43, 6.84, 162.0, 0.0, 13_160, "NeuroSim V1.4 rows")
V13 = Circuit(0.50, 0.25, 0.500, 2.00, 0.0787, 0.139, 8.95, 15.8, 0.0631, 45_900, "NeuroSim V1.3 rows")


class Array(NamedTuple):
    """An array and how it is read. 384 rows are 48 dimensions by 8 two-bit slices (Fig. 4)."""

    rows: int = 384
    columns: int = 128
    rows_at_once: int = 48  # one slice: 8 passes, added with their place value. 384 adds slices without it
    columns_per_adc: int = 8  # NeuroSim
    activity: float = 0.5  # share of the input bits that are one


class Cost(NamedTuple):
    """What one component takes. Latencies of components that are listed follow one another."""

    latency_ns: float = 0.0
    energy_pj: float = 0.0
    area_um2: float = 0.0


Components = dict[str, Cost]
Converter = Callable[[int, float, Circuit], tuple[float, float]]


def total(components: Components) -> Cost:
    """The sum over components."""
    return Cost(*(sum(column) for column in zip(*components.values(), strict=True)))


def column_ohm(cell: Cell, circuit: Circuit, array: Array) -> float:
    """Resistance of one column with active rows in parallel, the four levels being equally frequent."""
    on, off = 1 / cell.on_kohm, 1 / (cell.on_kohm * cell.on_off)
    levels = [off + at / 3 * (on - off) for at in range(4)]
    siemens = [1 / (1 / level + circuit.access_share * cell.on_kohm) for level in levels]
    return 4e3 / (sum(siemens) * array.rows_at_once * array.activity)


def sar(bits: int, ohm: float, circuit: Circuit) -> tuple[float, float]:
    """(ns, fJ) of a successive-approximation conversion: NeuroSim's formulas at 22 nm."""
    ns = bits + 1
    return ns, (0.538 * bits + 4.3753 + 72_341 * circuit.read_volt / 0.5 / ohm) * ns


def flash(bits: int, ohm: float, circuit: Circuit) -> tuple[float, float]:
    """(ns, fJ) of a flash conversion: comparators on a column line and a ladder, fitted to the rows."""
    levels = 2**bits
    ns = 1.07 + 1.0e-5 * levels**2 + 2.19e-6 * levels * ohm
    return ns, (1.55 * (levels - 1) + 1e6 * circuit.flash_column_V2 / ohm) * ns


class Reading(NamedTuple):
    """How arrays are read: their shape, the converter and its bits, the periphery."""

    array: Array = Array()
    converter: Converter = sar
    bits: int = 6
    circuit: Circuit = V14


def read_planes(
    cell: Cell,
    reading: Reading,
    *,
    planes: int = 1,
    arrays: int = 1,
    columns: int | None = None,
    steps: int | None = None,
) -> Components:
    """`planes` bit-planes of input, one after the other, on `arrays` arrays at the same time: array scope.

    `columns` counts the columns converted in all arrays together (all of them if None), `steps` the positions of the
    mux that this takes.
    """
    array, circuit = reading.array, reading.circuit
    columns = arrays * array.columns if columns is None else columns
    steps = array.columns_per_adc if steps is None else steps
    passes = ceil(array.rows / array.rows_at_once)
    sense_ns, convert_fJ = reading.converter(reading.bits, column_ohm(cell, circuit, array), circuit)
    cycles = planes * passes * steps * circuit.clock
    driven = planes * arrays * array.rows * array.activity * steps  # rows, over all passes
    line_fF = array.columns * (circuit.line_fF + circuit.line_fF_kohm / cell.on_kohm)
    conversions = planes * columns * passes
    select_ns = circuit.select_ns + circuit.select_ns_kohm / cell.on_kohm
    added = conversions if passes > 1 else 0
    cells_um2 = array.rows * array.columns * circuit.cell_F2 * circuit.feature_um**2
    return {
        "word-line drivers": Cost(0, driven * (circuit.driver_fJ + circuit.driver_fJ_kohm / cell.on_kohm) / 1e3),
        "array": Cost(cycles * select_ns, driven * line_fF * circuit.access_volt**2 / 1e3, arrays * cells_um2),
        "mux": Cost(0, conversions * circuit.mux_fJ / 1e3),
        "ADC": Cost(cycles * sense_ns, conversions * convert_fJ / 1e3),
        "shift-add": Cost(0, planes * columns * circuit.shift_fJ / 1e3),
        "adder tree": Cost(0, added * circuit.add_fJ / 1e3),
        "periphery, undivided": Cost(0, 0, arrays * circuit.periphery_um2),
    }


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
    cell_bits: int = 2
    query_bits: int = 8
    scales: tuple[int, ...] = (1, 2, 4)
    product: Product = pairs

    @property
    def rows_of_scales(self) -> list[int]:
        """Stored rows of one OVT, by scale."""
        return [ceil(self.tokens / scale) for scale in self.scales]

    @property
    def bytes(self) -> int:
        """Of all codes."""
        return self.ovts * sum(self.rows_of_scales) * self.dim * self.code_bits // 8


def check(workload: Workload, reading: Reading) -> None:
    """ValueError, naming what does not fit together and what to change."""
    array = reading.array
    cells = workload.dim * workload.code_bits // workload.cell_bits
    for name, value, low, high in (
        ("OVTs", workload.ovts, 1, 10**7),
        ("virtual tokens", workload.tokens, 1, array.columns),
        ("query bits", workload.query_bits, 1, 16),
        ("ADC bits", reading.bits, 1, 12),
        ("rows at once", array.rows_at_once, 1, array.rows),
    ):
        if not low <= value <= high:
            raise ValueError(f"{value} {name}: {low} to {high} are possible")
    if cells > array.rows:
        raise ValueError(
            f"{workload.dim} values of {cells // workload.dim} cells need {cells} rows, the array has {array.rows}"
        )


def search_array(workload: Workload, cell: Cell, reading: Reading = Reading()) -> Components:  # noqa: B008
    """A search, array scope: arrays and their periphery. ValueError if the workload does not fit.

    Columns of one scale share arrays; all arrays work at the same time, so latency is that of the finest scale.
    """
    check(workload, reading)
    array, parts = reading.array, []
    for rows in workload.rows_of_scales:
        vectors, columns = workload.product(rows)
        arrays = arrays_for(workload.ovts, rows, array)
        steps = min(array.columns_per_adc, ceil(workload.ovts * columns / arrays))
        planes = vectors * workload.query_bits
        read = read_planes(cell, reading, planes=planes, arrays=arrays, columns=workload.ovts * columns, steps=steps)
        summed = vectors * workload.ovts * columns * reading.circuit.add_fJ / 1e3
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
    rounds = [workload.product(rows)[0] * workload.query_bits / CHIP_PLANES for rows in workload.rows_of_scales]
    groups = [arrays_for(workload.ovts, rows, reading.array) / CHIP_ARRAYS for rows in workload.rows_of_scales]
    for name, one in CHIP.items():
        parts = [
            Cost(one.latency_ns * r, one.energy_pj * r * g, one.area_um2 * g)
            for r, g in zip(rounds, groups, strict=True)
        ]
        out[name] = _together(parts)
    return out


def store_array(workload: Workload, cell: Cell, reading: Reading = Reading(), *, pulses: float = 1) -> Components:  # noqa: B008
    """Writing every copy of every OVT, row by row, one array after the other, `pulses` write pulses per cell."""
    check(workload, reading)
    array, circuit = reading.array, reading.circuit
    if pulses <= 0:
        raise ValueError(f"{pulses} write pulses: more than zero are needed")
    arrays = sum(arrays_for(workload.ovts, rows, array) for rows in workload.rows_of_scales)
    cells = workload.bytes * 8 // workload.cell_bits
    rows = arrays * workload.dim * workload.code_bits // workload.cell_bits
    line_fF = array.columns * (circuit.line_fF + circuit.line_fF_kohm / cell.on_kohm)
    return {
        "write": Cost(rows * pulses * cell.write_ns, cells * pulses * cell.write_pj),
        "word-line drivers": Cost(0, rows * pulses * line_fF * cell.write_volt**2 / 1e3),
    }


def arrays_for(ovts: int, rows: int, array: Array) -> int:
    """Arrays that hold `rows` columns of each OVT, no OVT being cut in two."""
    return ceil(ovts / (array.columns // rows))


def _together(costs: list[Cost]) -> Cost:
    """Of parts that work at the same time; the first is the longest."""
    return Cost(costs[0].latency_ns, sum(c.energy_pj for c in costs), sum(c.area_um2 for c in costs))

"""What reading one array takes at 22 nm, by component: a cell, the periphery around it, a converter.

Plain arithmetic on published or measured constants; each record names the unit in the field and the source beside the
value. What a device gives stands in its `catalogue.Sheet`, what the periphery takes in `Circuit`. "Rows" are the
NeuroSim runs that `Circuit` was calibrated on: one 384 x 128 array, 22 nm LSTP, inputs half active, one bit-plane of
the input; `tests/hardware/test_cost.py` lists them with what the model says.
"""

from collections.abc import Callable
from math import ceil, inf
from typing import NamedTuple

from nvcim_jax.hardware.catalogue import Sheet


class Cell(NamedTuple):
    """A memory cell with its access transistor: a `Sheet` in the quantities that costs are computed from."""

    name: str
    on_kohm: float
    on_off: float  # off- over on-resistance
    write_volt: float = 0.0
    write_ns: float = 0.0
    write_pj: float = 0.0
    levels: int = 4

    @property
    def bits(self) -> int:
        """What one cell holds."""
        return self.levels.bit_length() - 1


# What a sheet must give, and between which values. 10 mS is 0.1 kohm, 0.01 uS is 100 Mohm.
NEEDED = {"off_us": (0, 1e4), "on_us": (1e-2, 1e4), "pulse_v": (0, 100), "pulse_ns": (0, 1e12), "write_pj": (0, 1e9)}


def cell_of(sheet: Sheet) -> Cell:
    """The cell of a device. ValueError names what its sheet lacks, or what in it is out of range."""
    lacking = [name for name in NEEDED if getattr(sheet, name) is None]
    if lacking:
        raise ValueError(
            f"device {sheet.name!r} gives no {', '.join(lacking)}: costs need {', '.join(NEEDED)}; add them to its file"
        )
    for name, bounds in NEEDED.items():
        check_range(f"{name} of device {sheet.name!r}", getattr(sheet, name), *bounds)
    off_us, on_us, *pulse = (getattr(sheet, name) for name in NEEDED)
    return Cell(sheet.name, 1e3 / on_us, on_us / off_us if off_us else inf, *pulse, levels=sheet.levels)


def check_range(what: str, value: float, low: float, high: float) -> None:
    """ValueError unless `value` lies between `low` and `high`; NaN does not."""
    if not low <= value <= high:
        raise ValueError(f"{what} is {value:g}: {low:g} to {high:g} are possible")


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
    kohm: tuple[float, ...]  # on-resistances of the cells in the rows that the constants were calibrated on
    on_off: tuple[float, ...]  # and their ratios of off- to on-resistance
    clock: float = 1.4  # cycle over the sum of its stages; NeuroSim
    access_volt: float = 1.1  # NeuroSim, 22 nm
    shift_fJ: float = 18.0  # of the shift-and-add over input bits, per column: 2.3 pJ of the V1.4 row's 128
    mux_fJ: float = 5.1  # per conversion: 0.65 pJ of the same row's 128
    add_fJ: float = 8.0  # of a digital addition: what 8 passes cost beyond one in the V1.4 rows
    cell_F2: float = 48.0  # 1T1R of 4 F x 12 F; NeuroSim
    feature_um: float = 0.022


V14 = Circuit(
    0.55, 0.25, 0.084, 3.19, 0.0601, 1.43, 6.84, 162.0, 0.0, 13_160, "NeuroSim V1.4 rows", (6, 100, 240), (17, 100)
)
V13 = Circuit(
    0.50, 0.25, 0.500, 2.00, 0.0787, 0.139, 8.95, 15.8, 0.0631, 45_900, "NeuroSim V1.3 rows", (6, 100, 240), (100, 150)
)


def calibrated(cell: Cell, circuit: Circuit) -> bool:
    """Whether the cell's resistances lie among those that the circuit's constants were calibrated on."""
    pairs = ((cell.on_kohm, circuit.kohm), (cell.on_off, circuit.on_off))
    return all(min(known) <= round(value, 6) <= max(known) for value, known in pairs)


class Array(NamedTuple):
    """An array and how it is read. 384 rows are 48 dimensions by 8 two-bit slices (Fig. 4)."""

    rows: int = 384
    columns: int = 128
    rows_at_once: int = 48  # at most. One slice: 8 passes, added with their place value; 384 add slices without it
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
    """Resistance of one column with active rows in parallel, all levels being equally frequent."""
    on, off = 1 / cell.on_kohm, 1 / (cell.on_kohm * cell.on_off)
    levels = [off + at / (cell.levels - 1) * (on - off) for at in range(cell.levels)]
    siemens = [level / (1 + level * circuit.access_share * cell.on_kohm) for level in levels]
    return 1e3 * cell.levels / (sum(siemens) * array.rows_at_once * array.activity)


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
    rows: int | None = None,
    columns: int | None = None,
    steps: int | None = None,
) -> Components:
    """`planes` bit-planes of input, one after the other, on `arrays` arrays at the same time: array scope.

    `rows` counts the rows of an array that hold cells (all of them if None), `columns` the columns converted in all
    arrays together (all of them if None), `steps` the positions of the mux that this takes.
    """
    array, circuit = reading.array, reading.circuit
    rows = array.rows if rows is None else rows
    columns = arrays * array.columns if columns is None else columns
    steps = array.columns_per_adc if steps is None else steps
    passes = ceil(rows / array.rows_at_once)
    sense_ns, convert_fJ = reading.converter(reading.bits, column_ohm(cell, circuit, array), circuit)
    cycles = planes * passes * steps * circuit.clock
    driven = planes * arrays * rows * array.activity * steps  # rows, over all passes
    conversions = planes * columns * passes
    select_ns = circuit.select_ns + circuit.select_ns_kohm / cell.on_kohm
    added = conversions if passes > 1 else 0
    cells_um2 = array.rows * array.columns * circuit.cell_F2 * circuit.feature_um**2
    line_fJ = line_fF(cell, reading) * circuit.access_volt**2
    return {
        "word-line drivers": Cost(0, driven * (circuit.driver_fJ + circuit.driver_fJ_kohm / cell.on_kohm) / 1e3),
        "array": Cost(cycles * select_ns, driven * line_fJ / 1e3, arrays * cells_um2),
        "mux": Cost(0, conversions * circuit.mux_fJ / 1e3),
        "ADC": Cost(cycles * sense_ns, conversions * convert_fJ / 1e3),
        "shift-add": Cost(0, planes * columns * circuit.shift_fJ / 1e3),
        "adder tree": Cost(0, added * circuit.add_fJ / 1e3),
        "periphery, undivided": Cost(0, 0, arrays * circuit.periphery_um2),
    }


def line_fF(cell: Cell, reading: Reading) -> float:
    """Capacitance of one word line."""
    return reading.array.columns * (reading.circuit.line_fF + reading.circuit.line_fF_kohm / cell.on_kohm)

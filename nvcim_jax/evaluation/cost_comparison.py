"""Figs. 2 and 5 of the paper: what storing, moving and searching OVTs takes in memory arrays and on a CPU.

Arrays are held first against the least that makes a CPU rank as they do (`cpu.equivalent`), then against the paper's
mode: all pairs of rows multiplied on both sides (`cpu.published`). What the converters and query bits that are costed
do to the answers stands in `converter_bits.json` beside this file, which experiments/converter_bits.py measured.
"""

import json
from collections.abc import Callable, Sequence
from itertools import product
from math import inf, nan
from pathlib import Path
from typing import NamedTuple

from nvcim_jax.evaluation.figures import Line, Panel
from nvcim_jax.hardware import cost, cpu
from nvcim_jax.hardware.circuit import Cell, Components, Reading, calibrated, total
from nvcim_jax.hardware.cost import Product, Workload
from nvcim_jax.hardware.cpu import Cpu, Work

SCOPES = {"array": cost.search_array, "chip": cost.search_chip}
SOURCES = {"DRAM": cpu.dram, "cache": cpu.cache, "SSD": cpu.ssd}
CLAIMED = {"latency": 120.0, "energy": 60.0}  # the paper's "up to", over the Orin CPU
COUNTS = tuple(round(10 ** (at / 4)) for at in range(21))  # OVTs from 1 to 100,000
WIDTHS = {"Phi-2": 2560, "Gemma-2B": 2048, "Mistral-7B": 4096}  # of an embedding: their public configurations
MEASURED = Path(__file__).with_name("converter_bits.json")


class Rival(NamedTuple):
    """A baseline for the arrays: the CPU's work, the products of the arrays (None: as asked), where the CPU reads.

    What is searched often stays in DRAM; caches are the model's, whose weights pass through between two searches.
    """

    title: str
    work_of: Callable[[Workload], Work]
    product: Product | None
    sources: tuple[str, ...]

    def of(self, workload: Workload) -> Workload:
        """The workload in this mode."""
        return workload if self.product is None else workload._replace(product=self.product)


RIVALS = {
    "equivalent": Rival("the CPU's best equivalent product", cpu.equivalent, None, ("DRAM",)),
    "published": Rival(
        "the CPU as published: all pairs of rows, on both sides", cpu.published, cost.pairs, tuple(SOURCES)
    ),
}


class Ratio(NamedTuple):
    """How many times less the arrays take than the CPU; below one the CPU takes less."""

    latency: float
    energy: float  # at the board's power
    cores: float  # energy at the power of the CPU's own rail


class Reached(NamedTuple):
    """The ratio at the count asked for, and from how many OVTs on the arrays are as fast as the CPU, and the paper's
    ratios are met (None: not up to the last count)."""

    against: str
    scope: str
    cell: str
    source: str
    ratio: Ratio
    level_from: int | None
    latency_from: int | None
    energy_from: int | None


def ratio(workload: Workload, cell: Cell, reading: Reading, of: Cpu, *, against: str, scope: str, source: str) -> Ratio:
    """CPU over arrays; not a number where the CPU's source cannot hold the OVTs."""
    workload = RIVALS[against].of(workload)
    ours = total(SCOPES[scope](workload, cell, reading))
    theirs = total(cpu.search(RIVALS[against].work_of(workload), of, source=SOURCES[source]))
    if theirs.latency_ns == inf:
        return Ratio(nan, nan, nan)
    energy = theirs.energy_pj / ours.energy_pj
    return Ratio(theirs.latency_ns / ours.latency_ns, energy, energy * of.cores_watt / of.watt)


def verdict(
    workload: Workload, cells: Sequence[Cell], reading: Reading, of: Cpu, counts: Sequence[int] = COUNTS
) -> list[Reached]:
    """Where the paper's 120 times in latency and 60 times in energy are reached, the equivalent product first."""
    out = []
    for against, rival in RIVALS.items():
        for cell, scope, source in product(cells, SCOPES, rival.sources):
            bound = {"against": against, "scope": scope, "source": source}
            curve = [ratio(workload._replace(ovts=n), cell, reading, of, **bound) for n in counts]
            bars = (("latency", 1.0), *CLAIMED.items())
            firsts = (_first(counts, [getattr(each, what) for each in curve], bar) for what, bar in bars)
            here = ratio(workload, cell, reading, of, **bound)
            out.append(Reached(against, scope, cell.name, source, here, *firsts))
    return out


def _first(counts: Sequence[int], values: Sequence[float], bar: float) -> int | None:
    return next((n for n, value in zip(counts, values, strict=True) if value >= bar), None)


def jobs(
    workload: Workload, cells: Sequence[Cell], reading: Reading, of: Cpu, *, pulses: float
) -> dict[str, Components]:
    """What is costed, by name: storing and searching on every device, and searching on the CPU from DRAM."""
    out = {}
    for cell in cells:
        out[f"{cell.name}: storing"] = cost.store_array(workload, cell, reading, pulses=pulses)
        out |= {f"{cell.name}: search, {name}": find(workload, cell, reading) for name, find in SCOPES.items()}
    out[f"{of.name}: equivalent"] = cpu.search(cpu.equivalent(workload), of)
    out[f"{of.name}: same, 8 bits"] = cpu.search(cpu.equivalent(workload, bits=8), of)
    return out


def published(workload: Workload, cells: Sequence[Cell], reading: Reading, of: Cpu) -> dict[str, Components]:
    """The searches in the paper's mode."""
    workload = RIVALS["published"].of(workload)
    out = {f"{c.name}: {s}, published": find(workload, c, reading) for c in cells for s, find in SCOPES.items()}
    return out | {f"{of.name}: published": cpu.search(cpu.published(workload), of)}


def answers(workload: Workload, reading: Reading) -> dict | None:
    """How often a search with these products, converters and query bits finds an OVT of the question's domain, and
    what is lost against ideal converters and 16-bit queries: a row of `MEASURED`. None if it was not measured."""
    if not MEASURED.exists() or reading.array.rows_at_once > workload.dim:
        return None
    asked = {"product": workload.product.__name__, "adc_bits": reading.bits, "query_bits": workload.query_bits}
    rows = json.loads(MEASURED.read_text(encoding="utf-8"))["rows"]
    return next((row for row in rows if row.items() >= asked.items()), None)


def fig5(
    workload: Workload, cells: Sequence[Cell], reading: Reading, of: Cpu, counts: Sequence[int] = COUNTS
) -> list[Panel]:
    """Latency, then energy, as the number of stored OVTs grows (Fig. 5), the CPU reading DRAM: for each rival what
    both sides take, and the ratio with the paper's figure as a dotted line."""
    panels = []
    for what, field, unit, step in (("latency", "latency_ns", "us", 1e3), ("energy", "energy_pj", "uJ", 1e6)):
        for rival in RIVALS.values():
            works = [rival.of(workload._replace(ovts=n)) for n in counts]
            theirs = [getattr(total(cpu.search(rival.work_of(work), of)), field) / step for work in works]
            lines, ratios = {}, {}
            for (cell, scope), look in zip(product(cells, SCOPES), _looks(len(cells)), strict=True):
                ours = [getattr(total(SCOPES[scope](work, cell, reading)), field) / step for work in works]
                lines[f"{cell.name}, {scope}"] = Line(counts, ours, **look)
                ratios[f"{cell.name}, {scope}"] = Line(
                    counts, [b / a for a, b in zip(ours, theirs, strict=True)], **look
                )
            lines[of.name] = Line(counts, theirs, style="-", colour="black")
            panels.append(Panel(f"{what}, {rival.title}", "stored OVTs", unit, lines, "log"))
            marks = [1.0, CLAIMED[what]]
            panels.append(Panel(f"{what}: CPU over arrays", "stored OVTs", "times less", ratios, "log", marks))
    return panels


def _looks(cells: int) -> list[dict]:
    """A colour for each device, a style for each scope; devices drawn first are wide, so that none hides another."""
    colours = ("tab:orange", "tab:blue", "tab:green", "tab:red", "tab:purple")
    return [
        {"style": style, "colour": colours[at % len(colours)], "width": 1.2 + 1.8 * (cells - 1 - at)}
        for at in range(cells)
        for style in ("-", "--")
    ]


def fig2(workload: Workload, of: Cpu, counts: Sequence[int] = COUNTS) -> list[Panel]:
    """Memory that OVTs take, and the time to bring them to the CPU (Fig. 2)."""
    sizes = {
        f"{name}, 16 bits ({width} wide)": Line(counts, [n * workload.tokens * width * 2 / 2**20 for n in counts])
        for name, width in WIDTHS.items()
    }
    codes = [workload._replace(ovts=n).bytes for n in counts]
    sizes["codes, all scales"] = Line(counts, [size / 2**20 for size in codes], style=".--")
    least = [cpu.equivalent(workload._replace(ovts=n)).bytes for n in counts]
    sizes["what a CPU must read to search"] = Line(counts, [size / 2**20 for size in least], style=".:")
    whole = [n * workload.tokens * WIDTHS["Phi-2"] * 2 for n in counts]
    times = {}
    for label, all_bytes, style in (("Phi-2's OVTs", whole, "-"), ("codes", codes, "--")):
        for name in ("DRAM", "SSD"):
            times[f"{label} from {name}"] = Line(
                counts, [SOURCES[name](b, of) / 1e6 for b in all_bytes], style=f".{style}"
            )
    return [
        Panel("a) memory", "stored OVTs", "MiB", sizes, "log"),
        Panel("b) moving all of them", "stored OVTs", "ms", times, "log"),
    ]


def assumptions(workload: Workload, cells: Sequence[Cell], reading: Reading, of: Cpu) -> list[str]:
    """What the figures rest on, one sentence each."""
    array, circuit = reading.array, reading.circuit
    rows = max(cost.fit(workload, cell, array).rows for cell in cells)
    stacked = (
        f"at most {array.rows_at_once} rows of one slice fire together; slices are added with their place value"
        if array.rows_at_once < rows
        else "ALL rows fire at once: slices are added WITHOUT their place value, which needs weighted inputs"
    )
    known = (
        f"{c.name} ({c.on_kohm:.3g} kohm, off/on {c.on_off:.3g}, {c.bits}-bit cells) lies "
        f"{'inside' if calibrated(c, circuit) else 'OUTSIDE: its figures are extrapolated'}"
        for c in cells
    )
    least, same = cpu.equivalent(workload), cpu.published(RIVALS["published"].of(workload))
    return [
        f"Search: {workload.tokens} virtual tokens of {workload.dim} x {workload.code_bits} bits, scales "
        f"{workload.scales}, {workload.query_bits}-bit query fed bit by bit, products: {workload.product.__name__}.",
        f"Arrays: {array.rows} x {array.columns} cells, 22 nm; {stacked}; {reading.converter.__name__.upper()} of "
        f"{reading.bits} bits, {array.columns_per_adc} columns each; {circuit.source}.",
        f"These were simulated for cells of {_listed(circuit.kohm)} kohm with off/on of {_listed(circuit.on_off)}; "
        f"{'; '.join(known)}.",
        "Array scope: all arrays work at once, so latency does not grow with the OVTs; no buffer, bus or host.",
        "Chip scope: adds buffer, interconnect, accumulation of a simulated 16-array chip, one such per 16 arrays.",
        f"Best equivalent on the CPU: {least.name}: {least.operations:,} operations, {least.bytes:,} bytes in all.",
        f"As published on the CPU: {same.name}: {same.operations:,} operations, {same.bytes:,} bytes in all.",
        f"{of.name}: {of.cores} cores at {of.ghz} GHz, {of.flop_per_cycle} float32 or {of.int8_per_cycle} 8-bit "
        f"operations per cycle and core, DRAM {of.dram_gb_s} GB/s, {of.cache_mb} MiB cache, SSD {of.ssd_gb_s} GB/s "
        f"after {of.ssd_us} us.",
        f"To its advantage: full rates, nothing woken or called. To its disadvantage: its whole board's {of.watt} W; "
        f"the CPU's own rail takes {of.cores_watt} W under load, without DRAM (a user's reading in NVIDIA's forum).",
    ]


def _listed(numbers: Sequence[float]) -> str:
    *most, last = (f"{number:g}" for number in numbers)
    return f"{', '.join(most)} and {last}"

"""Figs. 2 and 5 of the paper: what storing, moving and searching OVTs takes in memory arrays and on a CPU."""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from nvcim_jax import cost
from nvcim_jax.cost import FEFET, RRAM, Cell, Reading, Workload
from nvcim_jax.cpu import Cpu, cache, dram, ssd
from nvcim_jax.cpu import search as cpu_search
from nvcim_jax.figures import Line, Panel

CELLS = (RRAM, FEFET)
SCOPES = {"array": cost.search_array, "chip": cost.search_chip}
SOURCES = {"DRAM": dram, "cache": cache, "SSD": ssd}
CLAIMED = {"latency": 120.0, "energy": 60.0}  # the paper's "up to", over the Orin CPU
COUNTS = tuple(round(10 ** (at / 4)) for at in range(21))  # OVTs from 1 to 100,000
WIDTHS = {"Phi-2": 2560, "Gemma-2B": 2048, "Mistral-7B": 4096}  # of an embedding: their public configurations


class Ratio(NamedTuple):
    """How many times less the arrays take than the CPU."""

    latency: float
    energy: float


class Reached(NamedTuple):
    """From how many OVTs on a claim is met (None: not up to the last count), and the ratio at the count asked for."""

    scope: str
    cell: str
    source: str
    ratio: Ratio
    latency_from: int | None
    energy_from: int | None


def ratio(workload: Workload, cell: Cell, reading: Reading, cpu: Cpu, *, scope: str, source: str) -> Ratio:
    """CPU over arrays; not a number where the CPU's source cannot hold the OVTs."""
    ours = cost.total(SCOPES[scope](workload, cell, reading))
    theirs = cost.total(cpu_search(workload, cpu, source=SOURCES[source]))
    if theirs.latency_ns == inf:
        return Ratio(float("nan"), float("nan"))
    return Ratio(theirs.latency_ns / ours.latency_ns, theirs.energy_pj / ours.energy_pj)


def verdict(workload: Workload, reading: Reading, cpu: Cpu, counts: Sequence[int] = COUNTS) -> list[Reached]:
    """Where the paper's 120 times in latency and 60 times in energy are reached."""
    out = []
    for scope in SCOPES:
        for cell in CELLS:
            for source in SOURCES:
                bound = {"scope": scope, "source": source}
                curve = {n: ratio(workload._replace(ovts=n), cell, reading, cpu, **bound) for n in counts}
                firsts = (
                    next((n for n in counts if getattr(curve[n], what) >= bar), None) for what, bar in CLAIMED.items()
                )
                here = ratio(workload, cell, reading, cpu, **bound)
                out.append(Reached(scope, cell.name, source, here, *firsts))
    return out


def fig5(workload: Workload, reading: Reading, cpu: Cpu, counts: Sequence[int] = COUNTS) -> list[Panel]:
    """The ratios over the CPU as the number of stored OVTs grows (Fig. 5), with the paper's figures as dotted lines."""
    panels = []
    for what, bar in CLAIMED.items():
        lines = {}
        for cell, colour in zip(CELLS, ("tab:red", "tab:blue"), strict=True):
            for scope, style in zip(SCOPES, ("-", "--"), strict=True):
                for source, marker in zip(SOURCES, (".", "x", "^"), strict=True):
                    bound = {"scope": scope, "source": source}
                    y = [getattr(ratio(workload._replace(ovts=n), cell, reading, cpu, **bound), what) for n in counts]
                    name = f"{cell.name}, {scope}, CPU from {source}"
                    lines[name] = Line(counts, y, style=f"{marker}{style}", colour=colour)
        title = f"{what}: times less than {cpu.name}"
        panels.append(Panel(title, "stored OVTs", f"CPU {what} / array {what}", lines, "log", [bar]))
    return panels


def fig2(workload: Workload, cpu: Cpu, counts: Sequence[int] = COUNTS) -> list[Panel]:
    """Memory that OVTs take, and the time to bring them to the CPU (Fig. 2)."""
    sizes = {
        f"{name}, 16 bits ({width} wide)": Line(counts, [n * workload.tokens * width * 2 / 2**20 for n in counts])
        for name, width in WIDTHS.items()
    }
    codes = [workload._replace(ovts=n).bytes for n in counts]
    sizes["codes, all scales"] = Line(counts, [size / 2**20 for size in codes], style=".--")
    whole = [n * workload.tokens * WIDTHS["Phi-2"] * 2 for n in counts]
    times = {}
    for label, all_bytes, style in (("Phi-2's OVTs", whole, "-"), ("codes", codes, "--")):
        for name in ("DRAM", "SSD"):
            times[f"{label} from {name}"] = Line(
                counts, [SOURCES[name](b, cpu) / 1e6 for b in all_bytes], style=f".{style}"
            )
    return [
        Panel("a) memory", "stored OVTs", "MiB", sizes, "log"),
        Panel("b) moving all of them", "stored OVTs", "ms", times, "log"),
    ]


def assumptions(workload: Workload, reading: Reading, cpu: Cpu) -> list[str]:
    """What the figures rest on, one sentence each."""
    array = reading.array
    stacked = (
        f"slices are read {array.rows_at_once} rows at a time and added with their place value"
        if array.rows_at_once < array.rows
        else "ALL rows fire at once: slices are added WITHOUT their place value, which needs weighted inputs"
    )
    return [
        f"Search: {workload.tokens} virtual tokens of {workload.dim} x {workload.code_bits} bits, scales "
        f"{workload.scales}, {workload.query_bits}-bit query fed bit by bit, products: {workload.product.__name__}.",
        f"Arrays: {array.rows} x {array.columns} of {workload.cell_bits}-bit cells, 22 nm; {stacked}; "
        f"{reading.converter.__name__.upper()} of {reading.bits} bits, {array.columns_per_adc} columns each; "
        f"{reading.circuit.source}.",
        "Array scope: all arrays work at once, so latency does not grow with the OVTs; no buffer, bus or host.",
        "Chip scope: adds buffer, interconnect, accumulation of a simulated 16-array chip, one such per 16 arrays.",
        f"{cpu.name}: {cpu.cores} cores at {cpu.ghz} GHz, {cpu.flop_per_cycle} float32 operations per cycle and core, "
        f"DRAM {cpu.dram_gb_s} GB/s, {cpu.cache_mb} MiB cache, SSD {cpu.ssd_gb_s} GB/s after {cpu.ssd_us} us.",
        f"CPU at full rates without software overhead; energy is its whole board's {cpu.watt} W, against arrays alone.",
    ]

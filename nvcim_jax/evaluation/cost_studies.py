"""Figs. 2 and 5 as studies: a cell is one panel, which follows from the cost model, without a model or users."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from nvcim_jax.evaluation import cost_comparison
from nvcim_jax.evaluation.cost_comparison import CLAIMED, RIVALS
from nvcim_jax.evaluation.figures import Line, Panel
from nvcim_jax.evaluation.study import Json, Measured, Results, Study
from nvcim_jax.evaluation.tables import Figure, Grid, Group, Row
from nvcim_jax.hardware import catalogue, circuit, cost, cpu

TITLES = {
    "fig2": "Fig. 2: memory for virtual tokens, and moving them",
    "fig5": "Fig. 5: search in memory arrays and on a CPU that reads DRAM",
}
DEVICES = ("NVM-3", "NVM-4")  # a FeFET and an RRAM of two bits
PANELS = {"fig2": 2, "fig5": 8}
OVTS, TOKENS = 100, 128  # of which the ratios are told; an OVT fills an array
SHOWN = (1, 100, 10_000, 100_000)  # OVTs, in tables
WORKLOAD = cost.Workload(OVTS, TOKENS, query_bits=8, product=cost.mean)
READING = circuit.Reading(circuit.Array(rows_at_once=48), circuit.sar, 6)


def plan(name: str, devices: Sequence[str] = DEVICES) -> Study:
    """The study called `name`, "fig2" or "fig5". ValueError for a device that Table II does not have."""
    if unknown := [each for each in devices if each not in catalogue.RATIOS]:
        raise ValueError(f"unknown device {unknown[0]!r}: Table II has {', '.join(catalogue.RATIOS)}")
    own = {"figure": name} if name == "fig2" else {"figure": name, "devices": list(dict.fromkeys(devices))}
    cells: list[Json] = [{**own, "panel": at} for at in range(PANELS[name])]
    if name == "fig5":
        cells.append({**own, "panel": None})
    notes = cost_comparison.assumptions(WORKLOAD, _cells(devices), READING, cpu.ORIN_30W)
    told = [notes[0], notes[7]] if name == "fig2" else notes
    return Study(name, {**own, "cpu": cpu.ORIN_30W.name, "assumptions": told}, tuple(cells), measure)


def measure(cell: Json) -> Measured:
    """A panel with its lines; without a number of one, where the arrays reach the paper's ratios."""
    if cell["figure"] == "fig2":
        return Measured(_as_json(cost_comparison.fig2(WORKLOAD, cpu.ORIN_30W)[cell["panel"]]))
    devices = tuple(cell["devices"])
    if cell["panel"] is None:
        reached = cost_comparison.verdict(WORKLOAD, _cells(devices), READING, cpu.ORIN_30W)
        return Measured({"reached": [_row(each) for each in reached]})
    return Measured(_as_json(_fig5(devices)[cell["panel"]]))


@lru_cache(maxsize=1)
def _fig5(devices: tuple[str, ...]) -> list[Panel]:
    return cost_comparison.fig5(WORKLOAD, _cells(devices), READING, cpu.ORIN_30W)


def grids(results: Results) -> list[Grid]:
    """What the lines come to at some numbers of OVTs, and the ratios beside the paper's."""
    columns = [f"{count:,}" for count in SHOWN]
    groups = [Group(f"{panel.title} ({panel.ylabel})", _lines(panel)) for panel in panels(results)]
    name = results.about["study"]
    caption = "By the cost model, at numbers of stored OVTs; nothing is measured, so there are no intervals."
    out = [Grid(TITLES[name], caption, "OVTs", columns, groups)]
    reached = [each for cell in results.cells.values() for each in cell["result"].get("reached", ())]
    return [*out, _reached(reached)] if name == "fig5" else out


def panels(results: Results) -> list[Panel]:
    """The panels that are done, in their order."""
    done = sorted(
        (cell["at"]["panel"], cell["result"]) for cell in results.cells.values() if cell["at"]["panel"] is not None
    )
    return [
        Panel(**{**told, "lines": {name: Line(**line) for name, line in told["lines"].items()}}) for _, told in done
    ]


def rows(results: Results) -> list[dict[str, Any]]:
    """A row for each point of each line."""
    return [
        {"panel": panel.title, "line": name, "unit": panel.ylabel, "ovts": x, "value": y}
        for panel in panels(results)
        for name, line in panel.lines.items()
        for x, y in zip(line.x, line.y, strict=True)
    ]


def _cells(devices: Sequence[str]) -> list[circuit.Cell]:
    return [circuit.cell_of(catalogue.sheet(name)) for name in devices]


def _as_json(panel: Panel) -> Json:
    lines = {name: line._asdict() for name, line in panel.lines.items()}
    return {**panel._asdict(), "lines": lines}


def _row(each: cost_comparison.Reached) -> Json:
    return {**each._asdict(), "ratio": each.ratio._asdict()}


def _lines(panel: Panel) -> list[Row]:
    return [
        Row(name, [_number(dict(zip(line.x, line.y, strict=True)).get(count)) for count in SHOWN])
        for name, line in panel.lines.items()
    ]


def _reached(reached: list[Json]) -> Grid:
    """How many times less the arrays take than the CPU, and from how many OVTs on the paper's ratios are met."""
    columns = ["latency", "energy, board", "energy, CPU's rail", "as fast from", "120x from", "60x from"]
    ends = (f"paper: up to {CLAIMED['latency']:g}", f"paper: up to {CLAIMED['energy']:g}")
    groups: dict[str, list[Row]] = {}
    for each in reached:
        ratio = each["ratio"]
        figures = [
            _number(ratio["latency"], ends[0]), _number(ratio["energy"], ends[1]), _number(ratio["cores"]),
            *(_count(each[name]) for name in ("level_from", "latency_from", "energy_from")),
        ]  # fmt: skip
        name = f"{each['cell']}, {each['scope']}, {each['source']}"
        groups.setdefault(RIVALS[each["against"]].title, []).append(Row(name, figures))
    caption = (
        f"How many times less the arrays take than the CPU with {OVTS} OVTs of {TOKENS} virtual tokens (below one: "
        "more), and from how many OVTs on they are as fast, 120 times faster, and at the board's power 60 times more "
        "frugal."
    )
    return Grid(
        "Arrays against the CPU", caption, "device, scope, where the CPU reads", columns,
        [Group(*each) for each in groups.items()],
    )  # fmt: skip


def _number(value: float | None, *notes: str) -> Figure | None:
    return None if value is None else Figure(f"{value:,.0f}" if value >= 100 else f"{value:.3g}", notes)


def _count(value: int | None) -> Figure:
    return Figure("never" if value is None else f"{value:,}")

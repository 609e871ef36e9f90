"""`nvcim cost`: what storing and searching takes, beside a CPU."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nvcim_jax.cli.shared import (
    Json,
    Refresh,
    console,
    device_name,
    number,
    path,
    plain_errors,
    prepare,
    print_json,
)
from nvcim_jax.cli.terminal import plain

app = typer.Typer()
DEVICES = ("NVM-3", "NVM-4")  # a FeFET and an RRAM of two bits; what Table II's others cost follows from these
RESULTS = ("cost.json", "fig2.png", "fig5.png")


def _whole(option: str, low: int, high: int, told: str) -> object:
    return typer.Option(option, parser=number(int, low, high), metavar=f"{low}..{high}", help=told)


@app.command(
    epilog="Examples:\n\n  nvcim cost\n\n  nvcim cost --ovts 1000 --tokens 16 --products aligned\n\n"
    "  nvcim cost --device NVM-1 --device my.toml --adc flash --adc-bits 5 --out out/cost"
)
def cost(
    ovts: Annotated[int, _whole("--ovts", 1, 10**7, "Stored OVTs.")] = 100,
    tokens: Annotated[int, _whole("--tokens", 1, 128, "Virtual tokens of an OVT; 128 fill an array.")] = 128,
    query_bits: Annotated[int, _whole("--query-bits", 1, 16, "Of a query value, fed one after the other.")] = 8,
    products: Annotated[
        str, typer.Option(help="mean: the mean query row with all stored rows; aligned: row by row; pairs: all rows.")
    ] = "mean",
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            parser=device_name,
            metavar="NAME",
            show_default="NVM-3, NVM-4",
            help="NVM-1 to NVM-5 (Table II), or the .toml file of your own; may be repeated.",
        ),
    ] = None,
    adc: Annotated[str, typer.Option(help="sar or flash.")] = "sar",
    adc_bits: Annotated[int, _whole("--adc-bits", 1, 12, "Of the converters.")] = 6,
    rows_at_once: Annotated[
        int, _whole("--rows-at-once", 1, 384, "48: one slice a pass. 384: all, which ignores place values.")
    ] = 48,
    pulses: Annotated[
        float,
        typer.Option(
            parser=number(float, 1e-3, 1e4),
            metavar="0.001..10000",
            help="Write pulses per cell, such as program-and-verify needs.",
        ),
    ] = 1.0,
    refresh: Refresh = None,
    power: Annotated[str, typer.Option(help="Of the Orin: 30W or MAXN.")] = "30W",
    out: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="FOLDER", help="For cost.json, fig2.png and fig5.png.", show_default="none"),
    ] = None,
    json: Json = False,
) -> None:
    """Latency, energy and area of storing and searching by component, and against a Jetson AGX Orin (Figs. 2 and 5)."""
    with plain_errors():
        from nvcim_jax import files
        from nvcim_jax.evaluation import cost_comparison, figures
        from nvcim_jax.hardware import cam_cost, catalogue, circuit
        from nvcim_jax.hardware import cost as model
        from nvcim_jax.hardware import cpu as orin
        from nvcim_jax.provenance import provenance

        product = _chosen("--products", products, {f.__name__: f for f in (model.pairs, model.aligned, model.mean)})
        converter = _chosen("--adc", adc, {f.__name__: f for f in (circuit.sar, circuit.flash)})
        of = _chosen("--power", power, {"30W": orin.ORIN_30W, "MAXN": orin.ORIN_MAXN})
        sheets = _distinct([catalogue.sheet(name) for name in device or DEVICES])
        cells = [circuit.cell_of(sheet) for sheet in sheets]
        workload = model.Workload(ovts, tokens, query_bits=query_bits, product=product)
        _check_slices(rows_at_once, workload.dim, circuit.Array().rows)
        reading = circuit.Reading(circuit.Array(rows_at_once=rows_at_once), converter, adc_bits)
        prepare(out, *RESULTS)
        jobs = cost_comparison.jobs(workload, cells, reading, of, pulses=pulses)
        jobs["FeFET CAM: by content"] = cam_cost.search_content(ovts, workload.dim)
        published = cost_comparison.published(workload, cells, reading, of)
        verdict = cost_comparison.verdict(workload, cells, reading, of)
        console.print(_costs(jobs, published, f"{ovts:,} OVTs of {tokens} virtual tokens"))
        _show_verdict(verdict, of)
        notes = [
            *cost_comparison.assumptions(workload, cells, reading, of),
            *(_endurance(sheet, pulses) for sheet in sheets if sheet.endurance),
            *(
                _refreshed(*each, workload, reading, pulses, refresh)
                for each in zip(sheets, cells, strict=True)
                if refresh
            ),
            _answers(found := cost_comparison.answers(workload, reading), workload, reading),
            "By content: Eva-CAM's arrays of 2FeFET cells that match exactly, at 45 nm; without sensing a distance.",
        ]
        for note in notes:
            console.print(note)
        settings = {
            "ovts": ovts, "tokens": tokens, "query_bits": query_bits, "products": products, "adc": adc,
            "adc_bits": adc_bits, "rows_at_once": rows_at_once, "pulses": pulses, "refresh": refresh, "power": power,
            "seed": None,
        }  # fmt: skip
        report = {
            "settings": settings,
            "provenance": provenance(),
            "assumptions": notes,
            "devices": [asdict(sheet) for sheet in sheets],
            "cpu": {
                name: rival.work_of(rival.of(workload))._asdict() for name, rival in cost_comparison.RIVALS.items()
            },
            "costs": _totalled(jobs | published),
            "ratios": [_row(row) for row in verdict],
            "answers": found,
        }
        if json:
            print_json(report)
        if out:
            files.write_json(out / "cost.json", report)
            title = "search in memory arrays and on a CPU that reads DRAM (Fig. 5)"
            figures.curves(
                out / "fig5.png", cost_comparison.fig5(workload, cells, reading, of), title=title, notes=notes
            )
            title = "memory for virtual tokens, and moving them (Fig. 2)"
            figures.curves(
                out / "fig2.png", cost_comparison.fig2(workload, of), title=title, notes=[notes[0], notes[7]]
            )
            console.print(f"cost.json, fig2.png and fig5.png are in {out}", soft_wrap=True)


def _chosen(option: str, name: str, known: dict):
    if name not in known:
        raise ValueError(f"{option} {name!r}: choose one of {', '.join(known)}")
    return known[name]


def _check_slices(rows: int, one: int, all_rows: int) -> None:
    if one < rows < all_rows:
        raise ValueError(
            f"--rows-at-once {rows}: slices that fire together are added without their place value; choose 1 to {one} "
            f"rows, of one slice, or {all_rows}, all of them"
        )


def _distinct(sheets: Sequence) -> Sequence:
    names = [sheet.name for sheet in sheets]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--device: {names.count(name)} devices are called {name!r}; give each once, by its name")
    return sheets


def _totalled(jobs: dict) -> dict:
    """Components and totals as JSON values."""
    from nvcim_jax.hardware.circuit import total

    return {
        name: {part: value._asdict() for part, value in {**parts, "total": total(parts)}.items()}
        for name, parts in jobs.items()
    }


def _row(row) -> dict:
    """A row of the verdict as JSON values; null where the CPU's source cannot hold the OVTs."""
    ratio = {name: None if value != value else value for name, value in row.ratio._asdict().items()}
    return {**row._asdict(), "ratio": ratio}


def _costs(jobs: dict, published: dict, title: str) -> Table:
    """A section for each of `jobs`, its total and its components; then totals in the paper's mode."""
    from nvcim_jax.hardware.circuit import total

    table = _table(title, "", "latency", "energy", "area")
    for name, parts in jobs.items():
        table.add_row(plain(name, "bold"), *_cells(total(parts)))
        for part, value in parts.items():
            if any(value):
                table.add_row(f"  {part}", *_cells(value))
        table.add_section()
    for name, parts in published.items():
        table.add_row(plain(name, "bold"), *_cells(total(parts)))
    return table


def _show_verdict(verdict: Sequence, of) -> None:
    from nvcim_jax.evaluation.cost_comparison import RIVALS

    for name, rival in RIVALS.items():
        console.print()
        console.print(_ratios([row for row in verdict if row.against == name], rival.title, of))
    console.print(
        f"{of.watt:g} W: {of.name}'s board; {of.cores_watt:g} W: its CPU's own rail. level, 120x, 60x: the first of 1, "
        "2, 3, 6, 10, 18 ... 100,000 OVTs at which the arrays are as fast, or reach the paper's ratio; not named where "
        "they do not."
    )


def _ratios(rows: Sequence, title: str, of) -> Table:
    """One mode of the verdict, a section for each device."""
    powers = (f"energy, {of.watt:g} W", f"{of.cores_watt:g} W")
    table = _table(f"Arrays against {title}", "", "latency", *powers)
    for at, row in enumerate(rows):
        if not at or rows[at - 1].cell != row.cell:
            table.add_section()
            table.add_row(plain(row.cell, "bold"))
        bars = (("level", row.level_from if row.ratio.latency < 1 else None), ("120x", row.latency_from))
        firsts = (bars, (("60x", row.energy_from),), ())
        shown = (_times(value, *each) for value, each in zip(row.ratio, firsts, strict=True))
        table.add_row(f"  {row.scope}, {row.source}", *shown)
    return table


def _table(title: str, *columns: str) -> Table:
    """A table that folds rather than cuts where the terminal is narrow."""
    table = Table(title=title, show_edge=False, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _endurance(sheet, pulses: float) -> str:
    times = f"{sheet.endurance / pulses:,.0f}"
    return f"{sheet.name} endures {sheet.endurance:,.0f} pulses: its cells can be rewritten {times} times."


def _refreshed(sheet, cell, workload, reading, pulses: float, refresh: float) -> str:
    """What writing all OVTs anew every `refresh` seconds takes, and how long the cells last."""
    from nvcim_jax.hardware import circuit, wear
    from nvcim_jax.hardware import cost as model

    once = circuit.total(model.store_array(workload, cell, reading, pulses=pulses))
    energy = _scaled(once.energy_pj * wear.DAY / refresh, ("pJ", "nJ", "uJ", "mJ", "J"))
    said = f"A refresh of {sheet.name} every {refresh:g} s takes {energy} a day, in which it writes for "
    said += f"{100 * min(once.latency_ns / 1e9 / refresh, 1):.2g} % of the time"
    if not sheet.endurance:
        return f"{said}."
    lived = wear.life(sheet.endurance, writes=[1] * workload.ovts, learned=(), pulses=pulses, refresh=refresh)
    return f"{said}; its cells last {0.0 if lived is None else lived.years:.3g} years."


def _answers(found: dict | None, workload, reading) -> str:
    """The accuracy at the converter and query bits that are costed."""
    bits = f"{workload.product.__name__} products, {reading.bits}-bit converters, {workload.query_bits}-bit queries"
    if found is None:
        return f"Answers with {bits}: not measured (experiments/converter_bits.py)."
    share, lost = (
        f"{each['mean']:.3f} [{each['low']:.3f}, {each['high']:.3f}]" for each in (found["found"], found["lost"])
    )
    another = 1 - found["same_as_ideal"]["mean"]
    return (
        f"Answers with {bits}: an OVT of the question's domain is found for {share} of {found['questions']} questions "
        f"of {found['found']['users']} embedded users; against ideal converters and 16-bit queries {lost} are lost, "
        f"and {another:.3f} find another OVT (16 virtual tokens, preset {found['preset']}, no variation; "
        "experiments/converter_bits.py)."
    )


def _cells(value) -> tuple[str, str, str]:
    latency = _scaled(value.latency_ns, ("ns", "us", "ms", "s"))
    energy = _scaled(value.energy_pj, ("pJ", "nJ", "uJ", "mJ", "J"))
    return latency, energy, f"{value.area_um2 / 1e6:.3f} mm2" if value.area_um2 else ""


def _scaled(number: float, units: tuple[str, ...]) -> str:
    if not number:
        return ""
    step = next((at for at in range(len(units)) if number < 999.5 * 1000**at), len(units) - 1)
    return f"{number / 1000**step:.3g} {units[step]}"


def _times(value: float, *firsts: tuple[str, int | None]):
    """How many times less, or more; under it what is reached, with the number of OVTs from which it is."""
    if value != value:
        return plain("does not fit")
    size = max(value, 1 / value)
    shown = f"{size:,.0f}" if size >= 100 else f"{size:.3g}"
    lines = [f"{shown}x {'less' if value >= 1 else 'more'}", *(f"{bar}: {first:,}" for bar, first in firsts if first)]
    return plain("\n".join(lines), keep="\n")

"""`nvcim cost`: what storing and searching takes, beside a CPU."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nvcim_jax.cli.shared import console, plain_errors, prepare
from nvcim_jax.terminal import plain

app = typer.Typer()


@app.command(
    epilog="Examples:\n\n  nvcim cost\n\n  nvcim cost --ovts 1000 --tokens 16 --products mean\n\n"
    "  nvcim cost --adc flash --adc-bits 5 --rows-at-once 384 --out out/cost"
)
def cost(
    ovts: Annotated[int, typer.Option(help="Stored OVTs.")] = 100,
    tokens: Annotated[int, typer.Option(help="Virtual tokens of an OVT; 128 fill an array.")] = 128,
    query_bits: Annotated[int, typer.Option(help="Bits of a query value, fed one after the other.")] = 8,
    products: Annotated[
        str, typer.Option(help="pairs: all query rows with all stored rows; aligned: row by row; mean: of query rows.")
    ] = "pairs",
    adc: Annotated[str, typer.Option(help="sar or flash.")] = "sar",
    adc_bits: Annotated[int, typer.Option(help="Bits of the converters.")] = 6,
    rows_at_once: Annotated[int, typer.Option(help="48: one slice a pass. 384: all, which ignores place values.")] = 48,
    pulses: Annotated[float, typer.Option(help="Write pulses per cell, such as program-and-verify needs.")] = 1.0,
    power: Annotated[str, typer.Option(help="Of the Orin: 30W or MAXN.")] = "30W",
    out: Annotated[
        Path | None, typer.Option(help="Folder for cost.json, fig2.png and fig5.png.", show_default="none")
    ] = None,
) -> None:
    """Latency, energy and area of storing and searching by component, and against a Jetson AGX Orin (Figs. 2 and 5)."""
    with plain_errors():
        from nvcim_jax import comparison, figures, files, job
        from nvcim_jax import cost as model
        from nvcim_jax import cpu as orin

        product = _chosen("--products", products, {f.__name__: f for f in (model.pairs, model.aligned, model.mean)})
        converter = _chosen("--adc", adc, {f.__name__: f for f in (model.sar, model.flash)})
        cpu = _chosen("--power", power, {"30W": orin.ORIN_30W, "MAXN": orin.ORIN_MAXN})
        workload = model.Workload(ovts, tokens, query_bits=query_bits, product=product)
        reading = model.Reading(model.Array(rows_at_once=rows_at_once), converter, adc_bits)
        model.check(workload, reading)
        prepare(out)
        jobs = {}
        for cell in comparison.CELLS:
            jobs[f"{cell.name}: storing"] = model.store_array(workload, cell, reading, pulses=pulses)
            jobs[f"{cell.name}: search, array scope"] = model.search_array(workload, cell, reading)
            jobs[f"{cell.name}: search, chip scope"] = model.search_chip(workload, cell, reading)
        for name, source in comparison.SOURCES.items():
            jobs[f"{cpu.name}: search, {name}"] = orin.search(workload, cpu, source=source)
        table = Table("", "latency", "energy", "area", title=f"{ovts} OVTs of {tokens} virtual tokens")
        for name, parts in jobs.items():
            table.add_section()
            table.add_row(plain(name, "bold"), *_cells(model.total(parts)))
            for part, value in parts.items():
                if any(value):
                    table.add_row(f"  {part}", *_cells(value))
        console.print(table)
        verdict = comparison.verdict(workload, reading, cpu)
        ratios = Table(
            "scope", "cell", "CPU reads", f"latency, {ovts} OVTs", "120x from", f"energy, {ovts} OVTs", "60x from",
            title="times less than the CPU, and from how many OVTs on the paper's figures are reached",
        )  # fmt: skip
        for row in verdict:
            pairs = zip(row.ratio, (row.latency_from, row.energy_from), strict=True)
            shown = [text for value, first in pairs for text in (_times(value), f"{first:,}" if first else "never")]
            ratios.add_row(row.scope, row.cell, row.source, *shown)
        console.print(ratios)
        notes = comparison.assumptions(workload, reading, cpu)
        for note in notes:
            console.print(note)
        if out:
            settings = {
                "ovts": ovts, "tokens": tokens, "query_bits": query_bits, "products": products, "adc": adc,
                "adc_bits": adc_bits, "rows_at_once": rows_at_once, "pulses": pulses, "power": power, "seed": None,
            }  # fmt: skip
            report = {
                "settings": settings,
                "provenance": job.provenance(),
                "assumptions": notes,
                "sources": {record.name: record.source for record in comparison.CELLS},
                "costs": {
                    name: {part: value._asdict() for part, value in {**parts, "total": model.total(parts)}.items()}
                    for name, parts in jobs.items()
                },
                "ratios": [{**row._asdict(), "ratio": row.ratio._asdict()} for row in verdict],
            }
            files.write_json(out / "cost.json", report)
            title = "search in memory arrays and on a CPU (Fig. 5)"
            figures.curves(out / "fig5.png", comparison.fig5(workload, reading, cpu), title=title, notes=notes)
            title = "memory for virtual tokens, and moving them (Fig. 2)"
            figures.curves(out / "fig2.png", comparison.fig2(workload, cpu), title=title, notes=[notes[0], *notes[4:]])
            console.print(f"cost.json, fig2.png and fig5.png are in {out}")


def _chosen(option: str, name: str, known: dict):
    if name not in known:
        raise ValueError(f"{option} {name!r}: choose one of {', '.join(known)}")
    return known[name]


def _cells(value) -> tuple[str, str, str]:
    latency = _scaled(value.latency_ns, ("ns", "us", "ms", "s"))
    energy = _scaled(value.energy_pj, ("pJ", "nJ", "uJ", "mJ", "J"))
    return latency, energy, f"{value.area_um2 / 1e6:.3f} mm2" if value.area_um2 else ""


def _scaled(number: float, units: tuple[str, ...]) -> str:
    if not number:
        return ""
    if number == float("inf"):
        return "does not fit"
    step = next((at for at in range(len(units)) if number < 1000 ** (at + 1)), len(units) - 1)
    return f"{number / 1000**step:.3g} {units[step]}"


def _times(value: float) -> str:
    return "does not fit" if value != value else f"{value:.3g}"

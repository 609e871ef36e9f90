"""`nvcim vary`: retrieval against device variation."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nvcim_jax.cli import banks, vary_arrays
from nvcim_jax.cli.shared import (
    EMBEDDED,
    MOST_HOURS,
    Budget,
    Compensation,
    Data,
    DeviceNames,
    Extrapolate,
    Hours,
    Json,
    MemorySize,
    Mitigation,
    Model,
    Refresh,
    Seed,
    Weights,
    announce,
    console,
    load,
    mitigating,
    number,
    numbers,
    path,
    plain_errors,
    prepare,
    print_json,
    progress_bar,
)

app = typer.Typer()
RESULTS = ("vary.json", "vary.png")
LONGEST = 1e12  # seconds


@app.command(
    epilog="Examples:\n\n  nvcim vary\n\n  nvcim vary --preset paper --device NVM-1 --device NVM-5 --sigma 0.1 --sigma "
    "0.3\n\n  nvcim vary out/bank --fidelity cell --out out/vary\n\n  nvcim vary --device NVM-3 --device mine.toml\n\n"
    "  nvcim vary --draws 2000 --out out/vary\n\n"
    "  nvcim vary --device PCM-Joshi --seconds 1,3600,86400 --compensation global\n\n"
    "  nvcim vary --adc 3,4,6,8 --cell-bits 1,2,4 --rows-at-once 12,48 --out out/arrays"
)
def vary(
    bank: Annotated[
        Path | None,
        typer.Argument(
            parser=path, metavar="[BANK]", help="A folder written by learn or run.", show_default="embedded users"
        ),
    ] = None,
    device: DeviceNames = None,
    sigma: Annotated[
        list[float] | None,
        typer.Option(
            "--sigma",
            parser=number(float, 0, 10),
            metavar="0..10",
            help="May be repeated; a device of your own is asked at those that its file covers.",
            show_default="0.05, 0.1, 0.2, 0.4; a device of your own at its own",
        ),
    ] = None,
    seconds: Annotated[
        str | None,
        typer.Option(
            "--seconds",
            metavar="T,T,...",
            show_default="at once, as if time did nothing",
            help="Read the arrays these many seconds after programming, such as 1,3600,86400; by cells.",
        ),
    ] = None,
    compensation: Compensation = "none",
    refresh: Refresh = None,
    extrapolate: Extrapolate = False,
    adc: Annotated[
        str | None,
        typer.Option(
            "--adc",
            metavar="B,B,...",
            show_default="none",
            help="Multiply in the arrays, through converters of so many bits, such as 3,4,6,8: accuracy and energy.",
        ),
    ] = None,
    adc_range: Annotated[
        float,
        typer.Option(
            parser=number(float, 0.01, 1),
            metavar="0.01..1",
            help="With --adc: up to which share of the highest sum a converter's range goes; sums above saturate.",
        ),
    ] = 1.0,
    cell_bits: Annotated[str, typer.Option(metavar="B,B,...", help="With --adc: bits of a cell, such as 1,2,4.")] = "2",
    rows_at_once: Annotated[
        str, typer.Option(metavar="R,R,...", help="With --adc: the most rows that fire together, such as 12,24,48.")
    ] = "48",
    fidelity: Annotated[
        str | None,
        typer.Option(
            help="value: one Gaussian per stored value. cell: one per cell of the device.",
            show_default="value; with --seconds cell",
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="Without a bank: paper-literal, paper or recommended.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Without a bank: LaMP-1 to 7.")] = None,
    users: Annotated[
        int,
        typer.Option(
            parser=number(int, 1, 10**12), metavar="INTEGER", help="Without a bank: embedded users, or users of --data."
        ),
    ] = 8,
    chips: Annotated[
        int,
        typer.Option(
            parser=number(int, 20, 10**6), metavar="INTEGER", help="Chips drawn in score space for the worst 5 %."
        ),
    ] = 1000,
    draws: Annotated[
        int,
        typer.Option(
            parser=number(int, 0, 10**12),
            metavar="INTEGER",
            help="Also program the banks this often: a check, and the only way for cells that are stuck; --out makes "
            "it resumable.",
        ),
    ] = 0,
    mitigation: Mitigation = None,
    budget: Budget = 1.2,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    weights: Weights = None,
    memory_size: MemorySize = None,
    data: Data = None,
    hours: Hours = MOST_HOURS,
    out: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="FOLDER", help="For vary.json and vary.png.", show_default="none"),
    ] = None,
    json: Json = False,
) -> None:
    """Accuracy of retrieval against sigma, in closed form: no sampling, a table, a picture and JSON."""
    with plain_errors():
        import jax

        from nvcim_jax import files
        from nvcim_jax.evaluation import retrieval
        from nvcim_jax.hardware import catalogue
        from nvcim_jax.people import EMBEDDED_WORLD
        from nvcim_jax.pipeline.presets import RECOMMENDED
        from nvcim_jax.provenance import provenance

        needed = f"numbers from 1 to {LONGEST:g}, such as 1,3600,86400"
        times = () if seconds is None else numbers("--seconds", seconds, number(float, 1, LONGEST), needed)
        if adc is not None:
            if times or fidelity or mitigation or compensation != "none" or refresh is not None:
                raise ValueError("--adc reads freshly written arrays: leave out --seconds, --fidelity, --mitigation, "
                                 "--compensation and --refresh")  # fmt: skip
            source = (bank, preset, task, data, users)
            asked = (device or ["NVM-3"], sigma or [0.1], extrapolate)
            grid = vary_arrays.grid(adc, adc_range, cell_bits, rows_at_once)
            return vary_arrays.vary(
                source, asked, grid, draws=draws or vary_arrays.DRAWS, seed=seed, model=(model, weights, memory_size),
                hours=hours, out=out, json=json,
            )  # fmt: skip
        fidelity = _fidelity(fidelity, times)
        rows = retrieval.rows(device or list(catalogue.RATIOS), sigma or (), times, extrapolate=extrapolate)
        upkeep = {"compensation": compensation, "refresh": refresh}
        kept = partial(_kept, mitigation=mitigation, budget=budget, timed=bool(times), **upkeep)
        by_draws = retrieval.without_closed_form(rows, fidelity, kept(RECOMMENDED))
        if by_draws and not draws:
            name, why = next(iter(by_draws.items()))
            others = f" (and {', '.join(list(by_draws)[1:])})" if by_draws.keys() - {name} else ""
            raise ValueError(f"{name}{others}: no closed form for {why}: program the banks instead, with --draws 2000")
        read = banks.saved(bank, preset, task, data) if bank else banks.learned(preset, task, users, data, seed, hours)
        prepare(out, *RESULTS)
        provenance()  # of now, not of the end
        loaded = load(model, weights, memory_size)
        with console.status("reading the bank" if bank else "learning the banks"):
            people, case, meaning, learned = read(loaded)
        settings = kept(learned)
        work = retrieval.normals(case, rows, fidelity=fidelity, chips=chips, draws=draws)
        rate = 1e8 if jax.default_backend() == "cpu" else 1e10  # Gaussian numbers a second
        announce(work / rate, hours, f"{chips} chips and {draws} draws")
        chip_key, draw_key = jax.random.split(jax.random.key(seed))
        integrate = partial(retrieval.closed_form, chip_key, case, settings=settings, fidelity=fidelity, chips=chips)
        with console.status("compiling and integrating"):
            found = [None if row.name in by_draws else integrate(row) for row in rows]
        trials, keep = [], out and out / retrieval.TRIALS
        if draws:
            run = partial(retrieval.by_trials, draw_key, case, rows, settings=settings, fidelity=fidelity)
            trials = _programmed(run, draws, keep)
        notes = retrieval.notes(rows, fidelity)
        about = {
            "bank": str(bank) if bank else "embedded users", "model": Path(model).name,
            "weights": weights or "default", "data": str(data) if data else EMBEDDED_WORLD, "right": meaning,
            "seed": seed, "devices": {row.name: row.sigmas for row in rows}, "fidelity": fidelity, "chips": chips,
            "draws": draws, "seconds": times, **upkeep, "preset": settings.described(),
            "questions": int(case.asked.sum()), "users": [user.id for user in people], "notes": notes,
        }  # fmt: skip
        report = {"settings": about, "provenance": provenance(), "cells": retrieval.as_cells(rows, found, trials)}
        asked = f"{len(people)} users, {about['questions']} questions, {fidelity} fidelity"
        console.print(_table(f"share of questions where {meaning}: {asked}", rows, found, trials))
        console.print(f"In brackets: what 95 % of a user's chips exceed ({chips} chips each), averaged over users.")
        for note in notes:
            console.print(note)
        if json:
            print_json(report)
        if out:
            files.write_json(out / "vary.json", report)
            _draw(out / "vary.png", rows, found, trials, [f"Questions where {meaning}; {asked}.", *notes])
            console.print(f"vary.json and vary.png are in {out}", soft_wrap=True)


def _draw(path: Path, rows, found, trials, notes: list[str]) -> None:
    from nvcim_jax.evaluation import figures, retrieval

    figures.dots(
        path, list(map(str, _points(rows))), retrieval.dots(rows, found, trials),
        title="retrieval under variation", xlabel="sigma, time" if rows[0].seconds else "sigma",
        ylabel="share of questions",
        notes=["Bars: down to what 95 % of a user's chips exceed.", *notes],
    )  # fmt: skip


def _points(rows) -> list:
    return sorted({point for row in rows for point in row.points})


def _fidelity(fidelity: str | None, times: tuple[float, ...]) -> str:
    from nvcim_jax.evaluation import retrieval

    if fidelity is not None and fidelity not in retrieval.FIDELITIES:
        raise ValueError(f"unknown fidelity {fidelity!r}: choose one of {', '.join(retrieval.FIDELITIES)}")
    if times and fidelity == "value":
        raise ValueError("--fidelity value knows no time: leave it out, or --seconds")
    return fidelity or ("cell" if times else "value")


def _kept(settings, *, mitigation: str | None, budget: float, timed: bool, compensation: str, refresh: float | None):
    """`settings` with a mitigation and what is done against time; cells alone are left to the fidelity."""
    if mitigation is None and compensation == "none" and refresh is None:
        return settings
    return mitigating(settings, mitigation, budget, seconds=timed or None, compensation=compensation, refresh=refresh)


def _programmed(run: Callable, draws: int, keep: Path | None) -> list:
    """`run`'s trials of every row, with a progress bar."""
    from nvcim_jax import interrupts

    note = f"finished trials are in {keep}: the same command goes on from them"
    with interrupts.caught(lambda: note if keep and keep.exists() else None), progress_bar() as bar:
        work = bar.add_task("compiling", total=draws)

        def report(count: int, kept: bool) -> None:
            (bar.skip if kept else bar.advance)(work, count)
            bar.update(work, description="compiling" if kept else "programming the banks")

        return run(draws=draws, keep=keep, report=report)


def _table(title: str, rows, found, trials) -> Table:
    """Devices by sigma and time, what was programmed below what was integrated."""
    points = _points(rows)
    table = Table("device", *(f"sigma {point}" for point in points), title=title)
    for at, (row, each) in enumerate(zip(rows, found, strict=True)):
        if each is not None:
            pairs = zip(each.expected.mean(-1), each.worst.mean(-1), strict=True)
            shown = dict(zip(row.points, (f"{mean:.3f} ({worst:.3f})" for mean, worst in pairs), strict=True))
            table.add_row(row.name, *(shown.get(point, "") for point in points))
        if trials:
            error = trials[at].std(0) / len(trials[at]) ** 0.5
            drawn = (f"{mean:.3f} ± {e:.4f}" for mean, e in zip(trials[at].mean(0), error, strict=True))
            shown = dict(zip(row.points, drawn, strict=True))
            name = "  programmed" if each is not None else f"{row.name}, programmed"
            table.add_row(name, *(shown.get(point, "") for point in points))
    return table

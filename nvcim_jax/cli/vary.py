"""`nvcim vary`: retrieval against device variation."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nvcim_jax.cli.shared import (
    EMBEDDED,
    Data,
    Model,
    Seed,
    Weights,
    checked_device,
    checked_sigma,
    console,
    load,
    plain_errors,
    prepare,
    progress_bar,
)

app = typer.Typer()


@app.command(
    epilog="Examples:\n\n  nvcim vary\n\n  nvcim vary --preset paper --device NVM-1 --device NVM-5 --sigma 0.1 --sigma "
    "0.3\n\n  nvcim vary out/bank --fidelity cell --out out/vary\n\n  nvcim vary --draws 2000 --out out/vary"
)
def vary(
    bank: Annotated[
        Path | None, typer.Argument(help="A folder written by learn or run.", show_default="embedded users")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="NVM-1 to NVM-5; may be repeated.", show_default="all five")
    ] = None,
    sigma: Annotated[
        list[float] | None, typer.Option("--sigma", help="May be repeated.", show_default="0.05, 0.1, 0.2, 0.4")
    ] = None,
    fidelity: Annotated[
        str, typer.Option(help="value: one Gaussian per stored value. cell: one per 2-bit cell.")
    ] = "value",
    preset: Annotated[
        str | None, typer.Option("--preset", help="Without a bank: paper-literal, paper or recommended.")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Without a bank: LaMP-1, 2, 3, 5 or 7.")] = None,
    users: Annotated[int, typer.Option(min=1, help="Without a bank: embedded users, or users of --data.")] = 8,
    chips: Annotated[int, typer.Option(min=20, help="Chips drawn in score space for the worst 5 %.")] = 1000,
    draws: Annotated[
        int, typer.Option(min=0, help="Also program the banks this often, as a check; --out makes it resumable.")
    ] = 0,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    weights: Weights = None,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="Folder for vary.json and vary.png.", show_default="none")] = None,
) -> None:
    """Accuracy of retrieval against sigma, in closed form: no sampling, a table, a picture and JSON."""
    with plain_errors():
        import jax

        from nvcim_jax import devices, figures, files, job, lamp, retrieval
        from nvcim_jax.presets import PRESETS

        names, sigmas = (
            device or list(devices.RATIOS),
            [checked_sigma(value) for value in sigma or (0.05, 0.1, 0.2, 0.4)],
        )
        for name in names:
            for value in sigmas:
                checked_device(name, value)
        if fidelity not in retrieval.FIDELITIES:
            raise ValueError(f"unknown fidelity {fidelity!r}: choose one of {', '.join(retrieval.FIDELITIES)}")
        if preset is not None and preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
        if bank and (preset or task):
            raise ValueError("a saved bank has its own preset and task: leave out --preset and --task, or the bank")
        asked = lamp.task(task or "LaMP-2")
        prepare(out)
        loaded = load(model, weights)
        with console.status("reading the bank" if bank else "learning the bank"):
            if bank:
                people, learned, samples, settings = retrieval.saved(bank, loaded, data)
            else:
                settings = PRESETS[preset or "recommended"]
                people, learned, samples = retrieval.embedded(
                    jax.random.key(seed), loaded, asked, job.people(asked, users, data)[0], settings=settings
                )
            case, meaning = retrieval.case(loaded, people, learned, samples, settings=settings)
        grid = {"settings": settings, "fidelity": fidelity}
        with console.status("integrating"):
            chip_key, draw_key = jax.random.split(jax.random.key(seed))
            found = retrieval.closed_form(chip_key, case, names, sigmas, chips=chips, **grid)
        trials = None
        if draws:
            keep = out and out / retrieval.TRIALS
            try:
                with progress_bar() as progress:
                    bar = progress.add_task("programming the banks", total=draws)
                    trials = retrieval.by_trials(
                        draw_key, case, names, sigmas, draws=draws, keep=keep,
                        report=lambda count: progress.advance(bar, count), **grid,
                    )  # fmt: skip
            except KeyboardInterrupt:
                if keep and keep.exists():
                    console.print(f"finished trials are in {keep}: the same command goes on from them")
                raise
        questions = int(case.asked.sum())
        title = f"share of questions where {meaning}: {len(people)} users, {questions} questions, {fidelity} fidelity"
        table = Table("device", *(f"sigma {value}" for value in sigmas), title=title)
        for at, name in enumerate(names):
            pairs = zip(found.expected[at].mean(-1), found.worst[at].mean(-1), strict=True)
            table.add_row(name, *(f"{mean:.3f} ({worst:.3f})" for mean, worst in pairs))
            if trials is not None:
                error = trials[:, at].std(0) / draws**0.5
                cells = zip(trials[:, at].mean(0), error, strict=True)
                table.add_row("  programmed", *(f"{mean:.3f} ± {e:.4f}" for mean, e in cells))
        console.print(table)
        console.print(f"In brackets: what 95 % of a user's chips exceed ({chips} chips each), averaged over users.")
        if out:
            about = {
                "bank": str(bank) if bank else "embedded users", "model": Path(model).name,
                "weights": weights or "default", "right": meaning,
                "seed": seed, "devices": names, "sigmas": sigmas, "fidelity": fidelity, "chips": chips, "draws": draws,
                "preset": settings.describe(), "questions": questions, "users": [user.id for user in people],
            }  # fmt: skip
            cells = retrieval.as_cells(names, sigmas, found, trials)
            files.write_json(out / "vary.json", {"settings": about, "provenance": job.provenance(), "cells": cells})
            panel = retrieval.panel(names, sigmas, found, f"where {meaning}")
            notes = [title, "Band: down to what 95 % of a user's chips exceed."]
            figures.curves(out / "vary.png", [panel], title="retrieval under variation", notes=notes)
            console.print(f"vary.json and vary.png are in {out}")

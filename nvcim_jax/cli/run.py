"""`nvcim run`: the main job."""

from pathlib import Path
from typing import Annotated

import typer

from nvcim_jax.cli.shared import (
    EMBEDDED,
    Data,
    DeviceName,
    Model,
    Seed,
    Sigma,
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
    epilog="Examples:\n\n  nvcim run\n\n  nvcim run --task LaMP-2 --users 20 --sigma 0.2 --out out/sigma02\n\n"
    "  nvcim run --model ~/models/llama --task LaMP-3 --data ~/lamp/LaMP_3"
)
def run(
    task: Annotated[
        list[str] | None, typer.Option("--task", help="LaMP-1, 2, 3, 5 or 7; may be repeated.", show_default="all five")
    ] = None,
    users: Annotated[int, typer.Option(min=1, help="Users per task.")] = 4,
    device: DeviceName = "NVM-3",
    sigma: Sigma = 0.1,
    draws: Annotated[int, typer.Option(min=1, help="Times that each bank is programmed.")] = 2,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    weights: Weights = None,
    data: Data = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results.json, results.png and the banks.", show_default="none")
    ] = None,
) -> None:
    """The main job: learn from histories, store in noisy memory, search, answer, score; all methods side by side."""
    with plain_errors():
        import jax

        from nvcim_jax import job, lamp, show, study

        if data and len(task or []) != 1:
            raise ValueError("--data holds one task: name it with one --task, such as --task LaMP-3")
        tasks = [lamp.task(name) for name in task or lamp.TASKS]
        checked_device(device, checked_sigma(sigma))
        cell = study.Cell(device, sigma)
        prepare(out)
        if out and any(out.glob("bank-*")):
            raise ValueError(f"--out {out} already holds banks: choose another folder, or remove it first")
        loaded = load(model, weights)
        with console.status("reading the users"):
            crowd = [(each, *job.people(each, users, data)) for each in tasks]
        for each, _, passed_over in crowd:
            if passed_over:
                console.print(f"{each.name}: {passed_over} users without a history were passed over", style="yellow")
        settings = {
            "device": device, "sigma": sigma, "draws": draws, "seed": seed, "users": users,
            "model": Path(model).name, "weights": weights or "default",
            "data": str(data) if data else "the embedded world",
        }  # fmt: skip
        results, interrupted = [], False
        total = sum(study.work(people, loaded, 1, draws) for _, people, _ in crowd)
        with progress_bar() as progress:
            bar = progress.add_task("", total=total)
            for each, people, _ in crowd:
                progress.update(bar, description=each.name)
                finished: list[job.Block] = []
                try:
                    for block in job.blocks(
                        jax.random.key(seed), loaded, each, people, [cell],
                        draws=draws, report=lambda done: progress.advance(bar, done),
                    ):  # fmt: skip
                        finished.append(block)  # before the bank is written, so that no interrupt can lose it
                        if out:
                            name = f"bank-{each.name}-{len(finished) - 1}"
                            job.save_bank(out / name, loaded, each, block, settings)
                except KeyboardInterrupt:
                    interrupted = True
                if finished:
                    results.append(job.collect(each, cell, finished))
                if interrupted:
                    break
        if results:
            show.results(console, results, settings)
            if out:
                job.write(out, results, settings)
                console.print(f"results.json, results.png and the banks are in {out}")
        if interrupted:
            console.print("interrupted: the figures above are of the users that were finished", style="yellow")
            raise typer.Exit(130)

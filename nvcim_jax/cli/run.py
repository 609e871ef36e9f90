"""`nvcim run`: the main job."""

from pathlib import Path
from typing import Annotated

import typer

from nvcim_jax.cli.shared import (
    EMBEDDED,
    MOST_HOURS,
    Budget,
    Compensation,
    Data,
    DeviceName,
    Extrapolate,
    Hours,
    Json,
    MemorySize,
    Mitigation,
    Model,
    Refresh,
    Seconds,
    Seed,
    Sigma,
    Weights,
    announce,
    checked_device,
    console,
    load,
    mitigating,
    number,
    path,
    plain_errors,
    prepare,
    print_json,
    progress_bar,
)

app = typer.Typer()
COMPILING = 25.0  # seconds that the programs of a task take
RESULTS = ("results.json", "results.png", "predictions", "bank-*")


@app.command(
    epilog="Examples:\n\n  nvcim run\n\n  nvcim run --task LaMP-2 --users 20 --sigma 0.2 --out out/sigma02\n\n"
    "  nvcim run --device PCM-Joshi --sigma 1 --seconds 86400 --compensation global\n\n"
    "  nvcim run --model ~/models/llama --task LaMP-3 --data ~/lamp/LaMP_3"
)
def run(
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="LaMP-1 to 7; may be repeated.", show_default="the embedded world's five"),
    ] = None,
    users: Annotated[int, typer.Option(parser=number(int, 1, 10**12), metavar="INTEGER", help="Users per task.")] = 4,
    device: DeviceName = "NVM-3",
    sigma: Sigma = 0.1,
    which: Annotated[
        str | None,
        typer.Option(
            "--methods", show_default="all of the embedded model, short of another",
            help="all, or short: the model alone, own tokens untuned, one prompt for all, recommended.",
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option(parser=number(int, 1, 10**12), metavar="INTEGER", help="Times that each bank is programmed.")
    ] = 3,
    mitigation: Mitigation = None,
    budget: Budget = 1.2,
    seconds: Seconds = None,
    compensation: Compensation = "none",
    refresh: Refresh = None,
    extrapolate: Extrapolate = False,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    weights: Weights = None,
    memory_size: MemorySize = None,
    data: Data = None,
    hours: Hours = MOST_HOURS,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="FOLDER",
            help="For results.json, results.png, predictions in LaMP's form and the banks.",
            show_default="none",
        ),
    ] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """The main job: learn from histories, store in noisy memory, search, answer, score; all methods side by side."""
    with plain_errors():
        from nvcim_jax.cli import show
        from nvcim_jax.data import lamp, synthetic
        from nvcim_jax.evaluation import main_job, methods, predictions
        from nvcim_jax.people import EMBEDDED_WORLD
        from nvcim_jax.pipeline.presets import PRESETS, recommended
        from nvcim_jax.provenance import provenance

        if data and len(task or []) != 1:
            raise ValueError("--data holds one task: name it with one --task, such as --task LaMP-3")
        upkeep = {"seconds": seconds, "compensation": compensation, "refresh": refresh}
        if which not in (None, "all", "short"):
            raise ValueError(f"--methods {which}: choose all or short")
        mitigating(PRESETS["recommended"], mitigation, budget, **upkeep)  # a wrong name is told before a model is read
        tasks = [lamp.task(name) for name in dict.fromkeys(task or synthetic.TASKS)]
        checked_device(device, sigma, seconds, extrapolate=extrapolate)
        prepare(out, *RESULTS)
        provenance()  # of now, not of the end
        loaded = load(model, weights, memory_size)
        chosen = PRESETS | {"recommended": recommended(loaded)}
        rows = methods.rows({name: mitigating(each, mitigation, budget, **upkeep) for name, each in chosen.items()})
        if which == "short" or (which is None and not loaded.is_embedded):
            rows = methods.short(rows)
        crowd = _read(tasks, users, data, loaded, rows, draws, hours)
        settings = {
            "device": device, "sigma": sigma, "draws": draws, "seed": seed, "users": users,
            "model": "embedded" if model == EMBEDDED else Path(model).name, "weights": weights or "default",
            "data": str(data.resolve()) if data else EMBEDDED_WORLD, "mitigation": mitigation, "budget": budget,
            **upkeep,
        }  # fmt: skip
        cell = methods.Cell(device, sigma, seconds)
        finished, stop = _climb(crowd, loaded, rows, cell, settings, out)
        results = [main_job.collect(each, cell, blocks) for each, blocks in finished if blocks]
        if results:
            show.results(console, results, rows, settings)
            if out:
                main_job.write(out, results, rows, settings)
                predictions.write(out / "predictions", results)
            if json:
                print_json(main_job.as_json(results, settings))
        kept = (
            f"results.json, results.png, predictions and the banks are in {out}"
            if out
            else "no file was written: --out keeps it"
        )
        if stop is None:
            console.print(kept, soft_wrap=True)
        elif results:
            stop.add_note(f"the figures above are of the users that were finished; {kept}")
        if stop:
            raise stop


def _read(tasks, users: int, data: Path | None, loaded, rows, draws: int, hours: float):
    """Users by task. ValueError for more work than `hours` allow, before more than a block of them are made up."""
    import jax

    from nvcim_jax.evaluation import ladder, main_job

    few = users if data else min(users, main_job.BLOCK)
    with console.status("reading the users"):
        crowd = [(each, *main_job.people(each, few, data)) for each in tasks]
    for each, _, passed_over in crowd:
        if passed_over:
            console.print(f"{each.name}: {passed_over} users without a history were passed over", style="yellow")
    units = sum(ladder.work(people, loaded, 1, draws, rows) for _, people, _ in crowd) * (1 if data else users / few)
    # Two operations for each parameter and token, of which two cores do about 10^11 a second.
    size = sum(leaf.size for leaf in jax.tree.leaves(loaded.params))
    seconds = units * size / (5e10 if jax.default_backend() == "cpu" else 5e12) + COMPILING * len(tasks)
    announce(seconds, hours, f"{users} users of {len(tasks)} tasks under {draws} draws")
    if few < users:
        with console.status("making up the users"):
            crowd = [(each, *main_job.people(each, users, data)) for each in tasks]
    return [(each, people) for each, people, _ in crowd]


def _climb(crowd, loaded, rows, cell, settings, out: Path | None):
    """Finished blocks by task, their banks saved in `out`; and the Ctrl-C that ended the work early, or None."""
    import jax

    from nvcim_jax.evaluation import ladder, main_job

    finished = [(each, []) for each, _ in crowd]
    draws, key = settings["draws"], jax.random.key(settings["seed"])
    planned = lambda people: ladder.work(people, loaded, 1, draws, rows)  # noqa: E731
    done = 0
    with progress_bar() as bar:
        work = bar.add_task("", total=sum(planned(people) for _, people in crowd))
        try:
            for (each, people), (_, blocks) in zip(crowd, finished, strict=True):
                bar.update(work, description=each.name)
                told = lambda units: bar.advance(work, units)  # noqa: E731
                for block in main_job.blocks(key, loaded, people, [cell], rows=rows, draws=draws, report=told):
                    blocks.append(block)  # before the bank is written, so that no interrupt can lose it
                    done += planned(block.users)
                    bar.mark(work, completed=done)
                    if out:
                        main_job.save_bank(out / f"bank-{each.name}-{len(blocks) - 1}", loaded, block, settings)
        except KeyboardInterrupt as stop:
            return finished, stop
    return finished, None

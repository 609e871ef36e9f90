"""`nvcim common`: what many people have in common, from which `nvcim learn --common` makes a person's own OVTs."""

from pathlib import Path
from typing import Annotated

import typer

from nvcim_jax.cli.learn import resumable
from nvcim_jax.cli.shared import (
    EMBEDDED,
    Data,
    DeviceName,
    Json,
    MemorySize,
    Model,
    Seed,
    Sigma,
    Weights,
    checked_device,
    console,
    load,
    number,
    path,
    plain_errors,
    prepare,
    print_json,
    tuning_bar,
)
from nvcim_jax.cli.sources import Column, History, TaskName, find_users, source

app = typer.Typer()


@app.command(
    epilog="Examples:\n\n  nvcim common --history colleagues --model SmolLM2.gguf --out out/common\n\n"
    "  nvcim learn --common out/common --history mine.jsonl --model SmolLM2.gguf --out out/mine"
)
def common(
    out: Annotated[Path, typer.Option(parser=path, metavar="FOLDER", help="Where to write it; nothing may be there.")],
    task: TaskName = None,
    users: Annotated[
        int, typer.Option(parser=number(int, 1, 10**6), metavar="INTEGER", help="Of how many people, at most.")
    ] = 20,
    device: DeviceName = "NVM-3",
    sigma: Sigma = 0.1,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    weights: Weights = None,
    memory_size: MemorySize = None,
    data: Data = None,
    history: History = None,
    column: Column = None,
    json: Json = False,
) -> None:
    """Learn one prompt and one codec for many people: a start for the OVTs of others, saved as a bank."""
    with plain_errors():
        import jax

        from nvcim_jax.pipeline import memory
        from nvcim_jax.pipeline.common import learn_common
        from nvcim_jax.pipeline.presets import COMMON
        from nvcim_jax.provenance import provenance

        where = source(task, data, history, column)
        checked_device(device, sigma)
        prepare(out, "*")
        provenance()  # of now, not of the end
        with console.status("reading the users"):
            people = find_users(where, users)
        loaded = load(model, weights, memory_size)
        with resumable(out) as unfinished:
            with tuning_bar(COMMON.training.steps) as report:
                learned = learn_common(
                    jax.random.key(seed), loaded, people, device, sigma=sigma, folder=unfinished, report=report
                )
            memory.save(out, learned.noted(seed=seed, weights=weights or "default", people=len(people)))
        samples = len(learned.users[0].history)
        console.print(f"learned from {samples} samples of {len(people)} people: {out}", soft_wrap=True)
        if json:
            print_json({"bank": str(out), "people": len(people), "samples": samples})

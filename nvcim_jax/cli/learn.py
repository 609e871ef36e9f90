"""`nvcim learn`: one user's history into a bank."""

import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from nvcim_jax.cli.asking import show_ovts
from nvcim_jax.cli.shared import (
    EMBEDDED,
    Data,
    DeviceName,
    Json,
    MemorySize,
    Model,
    Preset,
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
from nvcim_jax.cli.sources import Column, History, TaskName, find_user, source

app = typer.Typer()
ALONE = (
    "learned from this person alone: on a real model OVTs gained more where they started from what other people have "
    "in common (`nvcim common`, then `nvcim learn --common`)"
)


@app.command(
    epilog="Examples:\n\n  nvcim learn --task LaMP-5 --user 1000003 --out out/bank\n\n"
    "  nvcim learn --history mine.jsonl --hold-out 8 --out out/mine"
)
def learn(
    out: Annotated[
        Path, typer.Option(parser=path, metavar="FOLDER", help="Where to write the bank; nothing may be there.")
    ],
    task: TaskName = None,
    user: Annotated[str | None, typer.Option(help="The user's id.", show_default="the first")] = None,
    preset: Preset = "recommended",
    device: DeviceName = "NVM-3",
    sigma: Sigma = 0.1,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    weights: Weights = None,
    memory_size: MemorySize = None,
    data: Data = None,
    history: History = None,
    column: Column = None,
    common: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="FOLDER",
            show_default="none",
            help="What `nvcim common` made: OVTs start from its prompt, for its device, sigma and task.",
        ),
    ] = None,
    hold_out: Annotated[
        int,
        typer.Option(
            parser=number(int, 0, 1000),
            metavar="INTEGER",
            help="Learn without this many of the latest samples, and show what learning is worth on them.",
        ),
    ] = 0,
    json: Json = False,
) -> None:
    """Learn a bank of OVTs from one user's history and save it."""
    with plain_errors():
        import jax

        from nvcim_jax.core.selection import cluster_count
        from nvcim_jax.data.users import hold_out as held_out
        from nvcim_jax.pipeline import memory, presets
        from nvcim_jax.pipeline.common import personalise
        from nvcim_jax.pipeline.learn import learn as learn_memory
        from nvcim_jax.provenance import provenance

        where = source(task, data, history, column)
        presets.preset(preset)  # a wrong name is told before anything is read
        checked_device(device, sigma)
        prepare(out, "*")
        provenance()  # of now, not of the end
        with console.status("reading the user"):
            people = find_user(where, user)
            people = held_out(people, hold_out) if hold_out else people
        loaded = load(model, weights, memory_size)
        start = _start(common, loaded, preset, device, sigma) if common else None
        settings = presets.recommended(loaded) if preset == "recommended" else presets.preset(preset)
        settings = presets.PERSONAL if start else settings
        ovts = cluster_count(min(len(people[0].history), settings.buffer))
        learn_key, answer_key = jax.random.split(jax.random.key(seed)) if hold_out else (jax.random.key(seed), None)
        with resumable(out) as unfinished:
            with tuning_bar(settings.steps(ovts, has_start=start is not None)) as report:
                if start is None:
                    learned = learn_memory(
                        learn_key, loaded, people, device,
                        sigma=sigma, settings=settings, folder=unfinished, report=report,
                    )  # fmt: skip
                else:
                    learned = personalise(learn_key, loaded, people, start, folder=unfinished, report=report)
            said = {"hold_out": hold_out} if hold_out else {}
            memory.save(out, learned.noted(seed=seed, weights=weights or "default", **said))
        command, samples = _command(out, device, model, weights), learned.block.selected.samples[0]
        show_ovts(people[0].id, samples)
        worth = _worth(answer_key, loaded, learned) if hold_out else None
        if learned.about.preset == "personal" and start is None:
            console.print(ALONE, soft_wrap=True)
        console.print(f"ask it: {command}", soft_wrap=True)
        if json:
            told = [{"content": sample.content, "answer": sample.answer} for sample in samples if sample]
            print_json({"bank": str(out), "user": people[0].id, "ovts": told, "held_out": worth, "ask": command})


def _start(common: Path, loaded, preset: str, device: str, sigma: float):
    """What was learned in common. ValueError if it was for another device or sigma, or a preset was asked for."""
    from nvcim_jax.pipeline import memory

    if preset != "recommended":
        raise ValueError(f"--preset {preset} does not start from what is --common: give one of them")
    start = memory.load(common, loaded)
    if (start.about.device, start.about.sigma) != (device, sigma):
        raise ValueError(
            f"{common} was learned for {start.about.device} at sigma {start.about.sigma}, not {device} at {sigma}: "
            f"give --device {start.about.device} --sigma {start.about.sigma}"
        )
    return start


@contextmanager
def resumable(out: Path) -> Iterator[Path]:
    """The folder beside `out` from which the same command goes on after Ctrl-C; removed when all is saved."""
    from nvcim_jax import interrupts

    unfinished = Path(f"{out.resolve()}.unfinished")
    kept = f"{unfinished} keeps what is done: run the same command again to go on"
    with interrupts.caught(lambda: kept if unfinished.exists() else None):
        yield unfinished
    discard(unfinished, out)


def discard(unfinished: Path, out: Path) -> None:
    """Remove what tuning kept on the way. The bank is saved by now: what cannot be removed is told, not refused."""
    from nvcim_jax import tuning

    try:
        tuning.discard(unfinished)
    except (ValueError, OSError) as error:
        warnings.warn(f"{out} is saved, but what it was made from stays: {error}", stacklevel=2)


def _command(out: Path, device: str, model: str, weights: str | None) -> str:
    """How to ask a bank, as a shell reads it. It holds no text of a person's: that could be a command.

    The bank itself says its device, sigma and preset, but a device file of one's own is not in it.
    """
    bank = f"./{out}" if str(out).startswith("-") else str(out)
    words = ["nvcim", "ask", bank, "your question"]
    words += ["--device", device] if device.endswith(".toml") else []
    words += ["--model", model] if model != EMBEDDED else []
    words += ["--weights", weights] if weights else []
    return shlex.join(words)


def _worth(key, model, memory) -> dict:
    """Answer what was held out, show how the base model and the OVTs score on it, and give that as JSON values."""
    from nvcim_jax.cli import show
    from nvcim_jax.evaluation import worth

    with console.status("answering what was held out"):
        scores = worth.worth(key, model, memory)
    show.worth(console, scores)
    return worth.as_json(scores)

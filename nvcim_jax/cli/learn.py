"""`nvcim learn`: one user's history into a bank."""

import shlex
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nvcim_jax.cli.shared import (
    EMBEDDED,
    Data,
    DeviceName,
    Json,
    Model,
    Preset,
    Seed,
    Sigma,
    Weights,
    checked_device,
    console,
    load,
    path,
    plain_errors,
    prepare,
    print_json,
    tuning_bar,
)

app = typer.Typer()


@app.command(epilog="Example:\n\n  nvcim learn --task LaMP-5 --user 1000003 --out out/bank")
def learn(
    out: Annotated[
        Path, typer.Option(parser=path, metavar="FOLDER", help="Where to write the bank; nothing may be there.")
    ],
    task: Annotated[str, typer.Option("--task", help="LaMP-1, 2, 3, 5 or 7.")] = "LaMP-2",
    user: Annotated[str | None, typer.Option(help="The user's id.", show_default="the first")] = None,
    preset: Preset = "recommended",
    device: DeviceName = "NVM-3",
    sigma: Sigma = 0.1,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    weights: Weights = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Learn a bank of OVTs from one user's history and save it."""
    with plain_errors():
        import jax

        from nvcim_jax import interrupts
        from nvcim_jax.core.selection import cluster_count
        from nvcim_jax.data import lamp
        from nvcim_jax.pipeline import memory, presets
        from nvcim_jax.pipeline.learn import learn as learn_memory
        from nvcim_jax.provenance import provenance

        settings, asked = presets.preset(preset), lamp.task(task)
        checked_device(device, sigma)
        prepare(out, "*")
        provenance()  # of now, not of the end
        loaded = load(model, weights)
        with console.status("reading the user"):
            people = _find_user(asked, user, data)
        unfinished = Path(f"{out.resolve()}.unfinished")
        kept = f"{unfinished} keeps what is done: run the same command again to go on"
        ovts = cluster_count(min(len(people[0].history), settings.buffer))
        with interrupts.caught(lambda: kept if unfinished.exists() else None):
            with tuning_bar(ovts * settings.training.steps) as report:
                learned = learn_memory(
                    jax.random.key(seed), loaded, people, device,
                    sigma=sigma, settings=settings, folder=unfinished, report=report,
                )  # fmt: skip
            memory.save(out, learned.noted(seed=seed, weights=weights or "default"))
        _discard(unfinished, out)
        command, samples = _command(out, device, model, weights), learned.block.selected.samples[0]
        _show_learned(people[0].id, samples, command)
        if json:
            told = [{"content": sample.content, "answer": sample.answer} for sample in samples if sample]
            print_json({"bank": str(out), "user": people[0].id, "ovts": told, "ask": command})


def _discard(unfinished: Path, out: Path) -> None:
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


def _show_learned(user: str, samples, command: str) -> None:
    table = Table("slot", "sample", "answer", title=f"the OVTs of user {user}")
    for slot, sample in enumerate(samples):
        if sample:
            table.add_row(str(slot), sample.content, sample.answer)
    console.print(table)
    console.print(f"ask it: {command}", soft_wrap=True)


def _find_user(task, name: str | None, data: Path | None):
    """The one user called `name`, by default the first with a history."""
    from nvcim_jax.data import synthetic
    from nvcim_jax.data.users import read_lamp, toy_users

    if data is None:
        number = synthetic.HELD_OUT if name is None else int(name) if name.isdecimal() and len(name) < 19 else -1
        if number < 0:
            raise ValueError(f"user {name!r}: the embedded world's users are numbers, such as {synthetic.HELD_OUT}")
        return toy_users(task, 1, first=number)
    everyone = read_lamp(data, task)
    ids = [user.id for user in everyone]
    if name is None:
        at = next((at for at, user in enumerate(everyone) if user.history), 0)
    elif name not in ids:
        raise ValueError(f"{data} has no user {name!r}; the first ids are {', '.join(ids[:5])}")
    else:
        at = ids.index(name)
    return everyone[at : at + 1]

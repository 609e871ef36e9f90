"""`nvcim learn` and `nvcim ask`: one user's bank."""

import shlex
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nvcim_jax.cli.shared import (
    EMBEDDED,
    BankFolder,
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
    number,
    path,
    plain_errors,
    prepare,
    print_json,
    tuning_bar,
)
from nvcim_jax.terminal import plain

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

        from nvcim_jax import interrupts, job, lamp, pipeline, store
        from nvcim_jax.presets import PRESETS

        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
        chosen, settings, asked = checked_device(device, sigma), PRESETS[preset], lamp.task(task)
        prepare(out, "*")
        job.provenance()  # of now, not of the end
        loaded = load(model, weights)
        with console.status("reading the user"):
            people = pipeline.buffered([_find_user(asked, user, data)], settings.buffer)
        select_key, codec_key, learn_key, _ = jax.random.split(jax.random.key(seed), 4)
        selected = pipeline.select(select_key, loaded, people)
        codec = pipeline.fit_codecs(codec_key, loaded, asked, people, fit=settings.fit_codec)
        unfinished = Path(f"{out.resolve()}.unfinished")
        kept = f"{unfinished} keeps what is done: run the same command again to go on"
        with interrupts.caught(lambda: kept if unfinished.exists() else None):
            with tuning_bar(int(selected.valid.sum()) * settings.training.steps) as report:
                learned = pipeline.learn(
                    learn_key, loaded, asked, people, selected, codec, chosen,
                    sigma=sigma, settings=settings, folder=unfinished, report=report,
                )  # fmt: skip
            options = {
                "preset": preset, "device": device, "sigma": sigma, "seed": seed, "weights": weights or "default"
            }  # fmt: skip
            store.save(out, job.now(learned.bank), codec, job.about_bank(loaded, asked, people, selected, options))
        _discard(unfinished, out)
        command = _command(out, model, weights)
        _show_learned(people[0].id, selected.samples[0], command)
        if json:
            samples = [
                sample and {"content": sample.content, "answer": sample.answer} for sample in selected.samples[0]
            ]
            print_json({"bank": str(out), "user": people[0].id, "ovts": list(filter(None, samples)), "ask": command})


def _discard(unfinished: Path, out: Path) -> None:
    """Remove what tuning kept on the way. The bank is saved by now: what cannot be removed is told, not refused."""
    from nvcim_jax import tuning

    try:
        tuning.discard(unfinished)
    except (ValueError, OSError) as error:
        warnings.warn(f"{out} is saved, but what it was made from stays: {error}", stacklevel=2)


def _command(out: Path, model: str, weights: str | None) -> str:
    """How to ask a bank, as a shell reads it. It holds no text of a person's: that could be a command."""
    bank = f"./{out}" if str(out).startswith("-") else str(out)
    words = ["nvcim", "ask", bank, "your question"]
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


@app.command(epilog='Example:\n\n  nvcim ask out/bank "She kneaded the crusty dough and the sweet loaf"')
def ask(
    bank: BankFolder,
    question: Annotated[str, typer.Argument(help="A whole LaMP question, or only its content.")],
    user: Annotated[
        int,
        typer.Option(parser=number(int, 0, 10**9), metavar="INTEGER", help="Which user of the bank, counted from 0."),
    ] = 0,
    device: DeviceName = "NVM-3",
    sigma: Sigma = 0.1,
    temperature: Annotated[
        float,
        typer.Option(
            parser=number(float, 0, 100), metavar="0..100", help="0 takes the likeliest token; the paper draws at 0.1."
        ),
    ] = 0,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    weights: Weights = None,
) -> None:
    """Search a saved bank for a question and answer it with the OVT found, and without."""
    with plain_errors():
        import jax
        import numpy as np

        from nvcim_jax import lamp, llm, pipeline, programs, reply, store, study, tuning
        from nvcim_jax.presets import PRESETS

        chosen = checked_device(device, sigma)
        if not question.strip():
            raise ValueError("the question is empty: ask something")
        loaded = load(model, weights)
        with console.status("reading the bank"):
            saved = store.load(bank, model=loaded).for_questions()
        about, learned = saved.about, pipeline.Learned(saved.codec, saved.bank)
        if user >= len(about.users):
            raise ValueError(f"the bank holds users 0 to {len(about.users) - 1}, not {user}")
        if not saved.bank.count[user]:
            raise ValueError(f"the bank of user {user} is empty: learn its OVTs again with `nvcim learn`")
        task, settings = lamp.task(about.task), PRESETS[about.preset]
        whole = question if question.startswith(task.pieces[0]) else lamp.ask(task, question)
        query = lamp.Sample(whole, "", lamp.content(task, whole))
        samples = about.of_slots(saved.bank)[user]
        person = lamp.User(about.users[user], tuple(filter(None, samples)), (query,))
        own = jax.tree.map(lambda leaf: leaf[user : user + 1], learned)
        new_tokens = study.answer_room(loaded, [person])
        with console.status("searching"):
            key = jax.random.split(jax.random.key(seed), 4)[3]
            banks = pipeline.program(key, [person], own, chosen, sigma=sigma, settings=settings, draws=1)
            match = pipeline.search(loaded, [person], own, banks, settings=settings)
            prompt = programs.prompts_of(own.codec, match.prompt[:, 0])[0]
        best = int(match.index[0, 0, 0])
        table = Table("", "score", "OVT learned from", "its answer", title=f"search on {device}, sigma {sigma}")
        for slot in np.argsort(-np.asarray(match.scores[0, 0, 0])):
            if samples[slot] and np.isfinite(match.scores[0, 0, 0, slot]):
                mark = "->" if slot == best else ""
                score = f"{float(match.scores[0, 0, 0, slot]):.3f}"
                table.add_row(mark, score, samples[slot].content, samples[slot].answer)
        console.print(table)
        keys, sampling = jax.random.split(jax.random.fold_in(jax.random.key(seed), 4)), llm.Sampling(temperature)
        for label, behind, own_key in zip(("with the OVT:", "without:"), (prompt, None), keys, strict=True):
            console.print(f"{label:<15}", end="")
            adapted = tuning.Adapted(front=behind)
            pieces = reply.tell(loaded, query, adapted, new_tokens=new_tokens, sampling=sampling, key=own_key)
            for piece in pieces:
                style = "" if behind is None else "bold green"
                console.print(plain(piece, style, keep="\n"), end="", soft_wrap=True)
            console.print()


def _find_user(task, name: str | None, data: Path | None):
    from nvcim_jax import lamp, synthetic

    if data is None:
        number = synthetic.HELD_OUT if name is None else int(name) if name.isdecimal() and len(name) < 19 else -1
        if number < 0:
            raise ValueError(f"user {name!r}: the embedded world's users are numbers, such as {synthetic.HELD_OUT}")
        return synthetic.users(task, 1, first=number)[0]
    people = {user.id: user for user in lamp.read(data, task)}
    if name is None:
        return next((user for user in people.values() if user.history), next(iter(people.values())))
    if name not in people:
        raise ValueError(f"{data} has no user {name!r}; the first ids are {', '.join(list(people)[:5])}")
    return people[name]

"""The commands: parse, call, show."""

import logging
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from nvcim_jax import cli_bank

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would advise every user to install PyTorch
for noisy in ("absl", "asyncio"):  # Orbax logs through them what we say in one sentence
    logging.getLogger(noisy).setLevel(logging.CRITICAL)

app = typer.Typer(
    help="NVCiM-PT: prompt tuning whose virtual tokens live in noisy non-volatile compute-in-memory.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)
app.add_typer(cli_bank.app, name="bank")
console = Console()
EMBEDDED = Path(__file__).parent / "embedded" / "model"

Model = Annotated[Path, typer.Option("--model", help="Folder of a Hugging Face checkpoint.", show_default="embedded")]
Data = Annotated[
    Path | None, typer.Option("--data", help="Folder with LaMP's *_questions.json.", show_default="embedded world")
]
DeviceName = Annotated[str, typer.Option("--device", help="NVM-1 to NVM-5 (Table II).")]
Sigma = Annotated[float, typer.Option("--sigma", help="Device variation; the paper's default is 0.1.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same result.")]
Preset = Annotated[str, typer.Option("--preset", help="paper-literal, paper or recommended.")]


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
    data: Data = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results.json, results.png and the banks.", show_default="none")
    ] = None,
) -> None:
    """The main job: learn from histories, store in noisy memory, search, answer, score; all methods side by side."""
    with _plain_errors():
        import jax

        from nvcim_jax import devices, job, lamp, llm, show, study

        if data and len(task or []) != 1:
            raise ValueError("--data holds one task: name it with one --task, such as --task LaMP-3")
        tasks = [lamp.task(name) for name in task or lamp.TASKS]
        devices.device(device)
        cell = study.Cell(device, _checked_sigma(sigma))
        _prepare(out)
        if out and any(out.glob("bank-*")):
            raise ValueError(f"--out {out} already holds banks: choose another folder, or remove it first")
        with console.status(f"loading {model}"):
            loaded = llm.load(model)
            crowd = [(each, *job.people(each, users, data)) for each in tasks]
        for each, _, passed_over in crowd:
            if passed_over:
                console.print(f"[yellow]{each.name}: {passed_over} users without a history were passed over[/yellow]")
        settings = {
            "device": device, "sigma": sigma, "draws": draws, "seed": seed, "users": users,
            "model": model.name, "data": str(data) if data else "the embedded world",
        }  # fmt: skip
        results, interrupted = [], False
        total = sum(study.work(people, loaded, 1, draws) for _, people, _ in crowd)
        with _progress() as progress:
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
            console.print("[yellow]interrupted: the figures above are of the users that were finished[/yellow]")
            raise typer.Exit(130)


@app.command(epilog="Example:\n\n  nvcim learn --task LaMP-5 --user 1000003 --out out/bank")
def learn(
    out: Annotated[Path, typer.Option(help="Folder to write the bank to; it must not exist.")],
    task: Annotated[str, typer.Option("--task", help="LaMP-1, 2, 3, 5 or 7.")] = "LaMP-2",
    user: Annotated[str | None, typer.Option(help="The user's id.", show_default="the first")] = None,
    preset: Preset = "recommended",
    device: DeviceName = "NVM-3",
    sigma: Sigma = 0.1,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    data: Data = None,
) -> None:
    """Learn a bank of OVTs from one user's history and save it."""
    with _plain_errors():
        import jax

        from nvcim_jax import devices, job, lamp, llm, pipeline, store
        from nvcim_jax.presets import PRESETS

        if preset not in PRESETS:
            raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
        chosen, settings, asked = devices.device(device), PRESETS[preset], lamp.task(task)
        sigma = _checked_sigma(sigma)
        if out.exists():
            raise ValueError(f"{out} exists already: give another folder, or remove it first")
        _prepare(out.parent)
        with console.status(f"loading {model}"):
            loaded = llm.load(model)
            people = pipeline.buffered([_find_user(asked, user, data)], settings.buffer)
        select_key, codec_key, learn_key, _ = jax.random.split(jax.random.key(seed), 4)
        selected = pipeline.select(select_key, loaded, people)
        codec = pipeline.fit_codecs(codec_key, loaded, asked, people, fit=settings.fit_codec)
        with _progress() as progress:
            bar = progress.add_task("tuning", total=int(selected.valid.sum()))
            learned = pipeline.learn(
                learn_key, loaded, asked, people, selected, codec, chosen,
                sigma=sigma, settings=settings, report=lambda rows: progress.advance(bar, rows),
            )  # fmt: skip
        options = {"preset": preset, "device": device, "sigma": sigma, "seed": seed}
        store.save(out, job.now(learned.bank), codec, job.about_bank(loaded, asked, people, selected, options))
        table = Table("slot", "sample", "answer", title=f"the OVTs of user {people[0].id}")
        for slot, sample in enumerate(selected.samples[0]):
            if sample:
                table.add_row(str(slot), sample.content, sample.answer)
        console.print(table)
        console.print(f'ask it: nvcim ask {out} "{people[0].queries[0].content}"', highlight=False, soft_wrap=True)


@app.command(epilog='Example:\n\n  nvcim ask out/bank "She kneaded the crusty dough and the sweet loaf"')
def ask(
    bank: Annotated[Path, typer.Argument(help="A folder written by learn or run.")],
    question: Annotated[str, typer.Argument(help="A whole LaMP question, or only its content.")],
    user: Annotated[int, typer.Option(min=0, help="Which user of the bank, counted from 0.")] = 0,
    device: DeviceName = "NVM-3",
    sigma: Sigma = 0.1,
    seed: Seed = 0,
    model: Model = EMBEDDED,
) -> None:
    """Search a saved bank for a question and answer it with the OVT found, and without."""
    with _plain_errors():
        import jax
        import numpy as np

        from nvcim_jax import devices, lamp, llm, pipeline, programs, store, study
        from nvcim_jax.presets import PRESETS

        chosen, sigma = devices.device(device), _checked_sigma(sigma)
        if not question.strip():
            raise ValueError("the question is empty: ask something")
        with console.status(f"loading {model}"):
            loaded = llm.load(model)
            saved = store.load(bank, model=loaded)
            about, learned = saved.about, pipeline.Learned(saved.codec, saved.bank)
        if user >= len(about["users"]):
            raise ValueError(f"the bank holds users 0 to {len(about['users']) - 1}, not {user}")
        if not saved.bank.count[user]:
            raise ValueError(f"the bank of user {user} is empty: learn its OVTs again with `nvcim learn`")
        task, settings = lamp.task(about["task"]), PRESETS[about["settings"]["preset"]]
        whole = question if question.startswith(task.pieces[0]) else lamp.ask(task, question)
        query = lamp.Sample(whole, "", lamp.content(task, whole))
        known = [sample and lamp.Sample(**sample) for sample in about["samples"][user]]
        samples = [known[at] for at in np.asarray(saved.bank.origin.sample[user])]
        person = lamp.User(about["users"][user], tuple(filter(None, samples)), (query,))
        own = jax.tree.map(lambda leaf: leaf[user : user + 1], learned)
        new_tokens = study.answer_room(loaded, [person])
        with console.status("searching and answering"):
            key = jax.random.split(jax.random.key(seed), 4)[3]
            banks = pipeline.program(key, [person], own, chosen, sigma=sigma, settings=settings, draws=1)
            match = pipeline.search(loaded, [person], own, banks, settings=settings)
            prompt = programs.prompts_of(own.codec, match.prompt[:, 0])[0]
            with_ovt = pipeline.answer(loaded, [query], prompt, new_tokens=new_tokens)[0]
            without = pipeline.answer(loaded, [query], None, new_tokens=new_tokens)[0]
        best = int(match.index[0, 0, 0])
        table = Table("", "score", "OVT learned from", "its answer", title=f"search on {device}, sigma {sigma}")
        for slot in np.argsort(-np.asarray(match.scores[0, 0, 0])):
            if samples[slot] and np.isfinite(match.scores[0, 0, 0, slot]):
                mark = "->" if slot == best else ""
                score = f"{float(match.scores[0, 0, 0, slot]):.3f}"
                table.add_row(mark, score, samples[slot].content, samples[slot].answer)
        console.print(table)
        console.print(
            f"with the OVT:  [bold green]{with_ovt or '(nothing)'}[/]\nwithout:       {without or '(nothing)'}"
        )


@app.command(epilog="Example:\n\n  nvcim devices --sigma 0.2")
def devices(sigma: Sigma = 0.1) -> None:
    """Table II, and what each device would do to a stored value."""
    with _plain_errors():
        from nvcim_jax import devices as known

        sigma = _checked_sigma(sigma)
        table = Table(
            "device", "technology", "L0", "L1", "L2", "L3", title=f"standard deviation by level, sigma {sigma}"
        )
        effect = Table(
            "device", "0.1", "0.3", "0.6", "0.9", title="a value, as a share of the largest, and its deviation"
        )
        for name, technology in known.TECHNOLOGIES.items():
            levels = sigma * known.device(name).levels
            table.add_row(name, technology, *(f"{float(level):.4f}" for level in levels))
            values = (0.9, 0.6, 0.3, 0.1)  # one for each of f1 to f4
            pairs = zip(values, known.device(name).factors, strict=True)
            effect.add_row(name, *(f"{value} ± {sigma * float(factor):.3f}" for value, factor in pairs))
        console.print(table, effect)


def main() -> None:
    """Entry point of `nvcim`."""
    app()


@contextmanager
def _plain_errors():
    """One sentence and exit code 2 for what the user can mend; 130 for Ctrl-C. A bug keeps its traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("[yellow]interrupted[/yellow]")
        sys.exit(130)


def _checked_sigma(sigma: float) -> float:
    if not 0 <= sigma < 10:
        raise ValueError(f"--sigma {sigma}: a standard deviation from 0 up to 10 is needed; the paper's default is 0.1")
    return sigma


def _prepare(folder: Path | None) -> None:
    """Find out now, not after the work, whether `folder` can be written."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".nvcim-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be written ({error.strerror}): choose another folder") from error


def _find_user(task, name: str | None, data: Path | None):
    from nvcim_jax import lamp, synthetic

    if data is None:
        number = synthetic.HELD_OUT if name is None else int(name) if name.isdecimal() else -1
        if number < 0:
            raise ValueError(f"user {name!r}: the embedded world's users are numbers, such as {synthetic.HELD_OUT}")
        return synthetic.users(task, 1, first=number)[0]
    people = {user.id: user for user in lamp.read(data, task)}
    if name is None:
        return next((user for user in people.values() if user.history), next(iter(people.values())))
    if name not in people:
        raise ValueError(f"{data} has no user {name!r}; the first ids are {', '.join(list(people)[:5])}")
    return people[name]


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)

"""`nvcim stream`: which moments of a history a small buffer keeps, and why."""

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nvcim_jax.cli.shared import (
    EMBEDDED,
    Data,
    Json,
    MemorySize,
    Model,
    Seed,
    Weights,
    console,
    load,
    number,
    path,
    plain_errors,
    prepare,
    print_json,
    progress_bar,
)
from nvcim_jax.cli.sources import Column, TaskName, find_user, source

if TYPE_CHECKING:
    from nvcim_jax.data.users import Users
    from nvcim_jax.stream.lexicon import Lexicon

app = typer.Typer()
RESULTS = ("stream.json", "stream.png", "kept.jsonl")
PIPE = Path("-")


@app.command(
    epilog="Examples:\n\n  nvcim stream\n\n  nvcim stream --policy k-center --buffer 8 --all\n\n"
    "  nvcim stream --history mine.jsonl --lexicon mine.toml --out out/kept\n\n"
    "  cat mine.jsonl | nvcim stream --history - --json\n\n  nvcim stream --data LaMP_5 --task LaMP-5 --buffer 32"
)
def stream(
    task: TaskName = None,
    user: Annotated[
        str | None, typer.Option(help="Whose moments; by default the first's.", show_default="first")
    ] = None,
    moments: Annotated[
        int,
        typer.Option(parser=number(int, 1, 2000), metavar="1..2000", help="Of the embedded world: how many there are."),
    ] = 100,
    buffer: Annotated[
        int, typer.Option(parser=number(int, 0, 10**4), metavar="INTEGER", help="How many moments it holds.")
    ] = 16,
    policy: Annotated[
        str,
        typer.Option(
            help="all-three (as printed; also -same-domain, -stale), eoe, dss or idd alone, released-eoe, -dss or "
            "-idd, fifo, random, reservoir, k-center, length, keep-all."
        ),
    ] = "all-three",
    reading: Annotated[
        str, typer.Option(help="Of EOE, and of what is compared: recommended, paper or released.")
    ] = "recommended",
    lexicon: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="FILE", help="Domains and their words, in TOML.",
            show_default="the embedded world's vocabulary",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show what became of every moment, not only the kept.")] = False,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    weights: Weights = None,
    memory_size: MemorySize = None,
    data: Data = None,
    history: Annotated[
        list[Path] | None,
        typer.Option(
            parser=path, metavar="PATH", show_default="none",
            help="Your own: .jsonl, .csv, chats in .json, or a folder of these; may be repeated; - reads JSON lines "
            "from a pipe.",
        ),
    ] = None,
    column: Column = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="FOLDER", help="For stream.json, stream.png and kept.jsonl, which is a --history.",
            show_default="none",
        ),
    ] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Push a person's moments, oldest first, through a small buffer: what it keeps, and why."""
    with plain_errors(), _files(history) as files:
        import jax

        from nvcim_jax.evaluation import streams
        from nvcim_jax.pipeline import keep
        from nvcim_jax.provenance import provenance
        from nvcim_jax.stream import lexicon as lexicons
        from nvcim_jax.stream.metrics import READINGS
        from nvcim_jax.stream.policies import POLICIES

        chosen, read_as = _named(POLICIES, "--policy", policy), _named(READINGS, "--reading", reading)
        if not buffer:
            raise ValueError("--buffer 0: at least one moment has to fit")
        words = lexicons.toy() if lexicon is None else lexicons.read(lexicon)
        where = source(task, data, files, column)
        prepare(out, *RESULTS)
        provenance()  # of now, not of the end
        with console.status("reading the moments"):
            people = find_user(where, user)
            people = people if files or data else _toy(people, moments)
        person = people[0]
        loaded = load(model, weights, memory_size)
        slots = len(person.history) if policy == "keep-all" else buffer
        with progress_bar() as bar:
            work = bar.add_task("reading the moments", total=len(person.history))
            kept = keep.keep(
                jax.random.key(seed), loaded, people, words, slots=slots, policy=chosen, reading=read_as,
                report=lambda count: bar.advance(work, count),
            )  # fmt: skip
        numbers, decisions = kept.numbers[0], kept.decisions[0]
        told = streams.as_json(person, decisions, numbers, words)
        about = {
            "source": "standard input" if PIPE in (history or ()) else people.source, "user": person.id,
            "moments": len(told), "buffer": slots, "policy": policy, "reading": reading,
            "lexicon": str(lexicon) if lexicon else "toy", "lexicon_digest": words.digest, "seed": seed,
            "model": Path(model).name, "weights": weights or "default",
        }  # fmt: skip
        report = {"settings": about, "provenance": provenance(), "kept": numbers, "moments": told}
        title = f"{len(numbers)} of {len(told)} moments of user {person.id} are kept: {policy}, {reading} reading"
        console.print(_table(title, told if every else [told[at] for at in numbers]))
        for line in _remarks(told, keep.repeats(person.history), words):
            console.print(line, soft_wrap=True)
        if json:
            print_json(report)
        if out:
            _write(out, report, streams.panels(decisions, numbers), title)
            console.print(f"stream.json, stream.png and kept.jsonl are in {out}", soft_wrap=True)


@contextmanager
def _files(history: Sequence[Path] | None) -> Iterator[list[Path]]:
    """The files of --history; what comes through a pipe is one for as long as it is read."""
    with tempfile.TemporaryDirectory() as folder:
        piped = Path(folder) / "standard-input.jsonl"
        if PIPE in (history or ()):
            piped.write_bytes(sys.stdin.buffer.read())
        yield [piped if each == PIPE else each for each in history or ()]


def _named(known: dict, option: str, name: str):
    if name not in known:
        raise ValueError(f"{option} {name}: choose one of {', '.join(known)}")
    return known[name]


def _toy(people: "Users", moments: int) -> "Users":
    """The same user of the toy world with another number of moments."""
    from dataclasses import replace

    from nvcim_jax.data import synthetic

    number = int(people[0].id)
    return replace(people, people=tuple(synthetic.users(people.task, 1, first=number, history=moments)))


def _table(title: str, rows: list[dict]) -> Table:
    table = Table("moment", "EOE", "DSS", "IDD", "domain", "why", "instead of", "text", title=title)
    for row in rows:
        numbers = (f"{row[name]:.3f}" for name in ("eoe", "dss", "idd"))
        why = row["why"] if row["kept"] or not row["stored"] else f"{row['why']}; displaced later"
        instead = "" if row["displaced"] is None else _instead(row)
        text = f"{row['content']} -> {row['answer']}"
        table.add_row(str(row["moment"]), *numbers, row["domain"], why, instead, _short(text))
    return table


def _instead(row: dict) -> str:
    return f"{row['displaced']} ({' '.join(f'{value:.3f}' for value in row['displaced_scores'].values())})"


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _remarks(told: list[dict], repeated: int, words: "Lexicon") -> Iterator[str]:
    """What became of how many, and what makes the scores say less than they seem to."""
    yield "; ".join(f"{count}: {why}" for why, count in Counter(row["why"] for row in told).most_common())
    silent = sum(row["domain"] == "none" for row in told)
    if silent:
        yield (
            f"{silent} of {len(told)} moments hold no word of the lexicon's {len(words.names)} domains: their domain "
            "is none and their DSS 0; --lexicon takes your own"
        )
    if repeated:
        yield f"{repeated} moments say word for word what an earlier one said"


def _write(out: Path, report: dict, panels: list, title: str) -> None:
    from nvcim_jax import files
    from nvcim_jax.evaluation import figures

    about = report["settings"]
    lines = [
        {"question": row["content"], "answer": row["answer"], "domain": row["known_domain"], "user": about["user"]}
        for row in report["moments"]
        if row["kept"]
    ]
    files.write_json(out / RESULTS[0], report, private=True)
    note = f"{about['source']}; lexicon {about['lexicon']}; buffer {about['buffer']}; seed {about['seed']}."
    figures.curves(out / RESULTS[1], panels, title=title, notes=[note])
    files.write_text(out / RESULTS[2], "".join(f"{files.as_json(line)}\n" for line in lines), private=True)

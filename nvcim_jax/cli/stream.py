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
from nvcim_jax.cli.sources import Column, TaskName, find_user, find_users, source

if TYPE_CHECKING:
    from nvcim_jax.data.users import Users
    from nvcim_jax.stream.lexicon import Lexicon

app = typer.Typer()
RESULTS = ("stream.json", "stream.png", "kept.jsonl")
PIPE = Path("-")


@app.command(
    epilog="Examples:\n\n  nvcim stream\n\n  nvcim stream --policy k-center --buffer 8 --all\n\n"
    "  nvcim stream --history mine.jsonl --lexicon mine.toml --out out/kept\n\n"
    "  cat mine.jsonl | nvcim stream --history - --bad skip --json\n\n  nvcim stream --users 8 --out out/eight\n\n"
    "  nvcim stream --data LaMP_5 --task LaMP-5 --buffer 32"
)
def stream(
    task: TaskName = None,
    user: Annotated[
        str | None, typer.Option(help="Whose moments; by default the first's.", show_default="first")
    ] = None,
    users: Annotated[
        int,
        typer.Option(
            parser=number(int, 1, 10**5), metavar="INTEGER",
            help="How many people, from the first on, each with a buffer of their own.",
        ),
    ] = 1,
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
    bad: Annotated[
        str, typer.Option(help="A line of --history that cannot be used: refuse it and stop, or skip it with a remark.")
    ] = "refuse",
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
        if bad not in ("refuse", "skip"):
            raise ValueError(f"--bad {bad}: choose refuse or skip")
        if user is not None and users > 1:
            raise ValueError("--user names one person and --users asks for several: give one of them")
        words = lexicons.toy() if lexicon is None else lexicons.read(lexicon)
        where = source(task, data, files, column)._replace(bad=_passed_over if bad == "skip" else None)
        prepare(out, *RESULTS)
        provenance()  # of now, not of the end
        with console.status("reading the moments"):
            people = find_user(where, user) if users == 1 else find_users(where, users)
            people = people if files or data else _toy(people, moments)
        loaded = load(model, weights, memory_size)
        every_moment = [len(person.history) for person in people]
        slots = max(every_moment) if policy == "keep-all" else buffer
        with progress_bar() as bar:
            work = bar.add_task("reading the moments", total=sum(every_moment))
            kept = keep.keep(
                jax.random.key(seed), loaded, people, words, slots=slots, policy=chosen, reading=read_as,
                report=lambda count: bar.advance(work, count),
            )  # fmt: skip
        about = {
            "source": "standard input" if PIPE in (history or ()) else people.source, "users": len(people),
            "user": people[0].id, "moments": sum(every_moment), "buffer": slots, "policy": policy, "reading": reading,
            "lexicon": str(lexicon) if lexicon else "toy", "lexicon_digest": words.digest, "seed": seed,
            "model": Path(model).name, "weights": weights or "default",
        }  # fmt: skip
        told = [
            streams.as_json(person, decisions, numbers, words)
            for person, decisions, numbers in zip(people, kept.decisions, kept.numbers, strict=True)
        ]
        of_each = [
            {"user": person.id, "kept": numbers, "moments": rows}
            for person, numbers, rows in zip(people, kept.numbers, told, strict=True)
        ]
        report = {"settings": about, "provenance": provenance(), "people": of_each}
        whose = f"user {people[0].id}" if users == 1 else f"{len(people)} users"
        count = sum(map(len, kept.numbers))
        title = f"{count} of {sum(every_moment)} moments of {whose} are kept: {policy}, {reading} reading"
        if users == 1:
            report = {**report, **of_each[0]}
            del report["people"], report["user"]
            console.print(_table(title, told[0] if every else [told[0][at] for at in kept.numbers[0]]))
        else:
            console.print(_people(title, of_each))
        for line in _remarks(
            [row for rows in told for row in rows], sum(keep.repeats(person.history) for person in people), words
        ):
            console.print(line, soft_wrap=True)
        if json:
            print_json(report)
        if out:
            if users == 1:
                panels = streams.panels(kept.decisions[0], kept.numbers[0])
            else:
                panels = streams.panels_of_many(kept.decisions, kept.numbers)
            _write(out, report, of_each, panels, title)
            console.print(f"stream.json, stream.png and kept.jsonl are in {out}", soft_wrap=True)


def _passed_over(said: str) -> None:
    console.print(f"passed over: {said}", style="yellow", soft_wrap=True)


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
    """The same users of the toy world with another number of moments."""
    from dataclasses import replace

    from nvcim_jax.data import synthetic

    first = int(people[0].id)
    return replace(people, people=tuple(synthetic.users(people.task, len(people), first=first, history=moments)))


def _table(title: str, rows: list[dict]) -> Table:
    table = Table("moment", "EOE", "DSS", "IDD", "domain", "why", "instead of", "text", title=title)
    for row in rows:
        numbers = (f"{row[name]:.3f}" for name in ("eoe", "dss", "idd"))
        why = row["why"] if row["kept"] or not row["stored"] else f"{row['why']}; displaced later"
        instead = "" if row["displaced"] is None else _instead(row)
        text = f"{row['content']} -> {row['answer']}"
        table.add_row(str(row["moment"]), *numbers, row["domain"], why, instead, _short(text))
    return table


def _people(title: str, of_each: list[dict]) -> Table:
    """A line for each person: how many moments came, entered and stayed, and of how many domains they are."""
    table = Table("user", "moments", "kept", "entered later", "domains kept", "domains met", title=title)
    for own in of_each:
        rows, kept = own["moments"], set(own["kept"])
        later = sum(row["stored"] and row["displaced"] is not None for row in rows)
        met = {row["domain"] for row in rows} - {"none"}
        stay = {row["domain"] for row in rows if row["moment"] in kept} - {"none"}
        table.add_row(own["user"], *map(str, (len(rows), len(kept), later, len(stay), len(met))))
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


def _write(out: Path, report: dict, of_each: list[dict], panels: list, title: str) -> None:
    from nvcim_jax import files
    from nvcim_jax.evaluation import figures

    about = report["settings"]
    lines = [
        {"question": row["content"], "answer": row["answer"], "domain": row["known_domain"], "user": own["user"]}
        for own in of_each
        for row in own["moments"]
        if row["kept"]
    ]
    files.write_json(out / RESULTS[0], report, private=True)
    note = f"{about['source']}; lexicon {about['lexicon']}; buffer {about['buffer']}; seed {about['seed']}."
    figures.curves(out / RESULTS[1], panels, title=title, notes=[note])
    files.write_text(out / RESULTS[2], "".join(f"{files.as_json(line)}\n" for line in lines), private=True)

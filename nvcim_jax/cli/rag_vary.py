"""`nvcim rag vary`: how well documents are found against device variation."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from nvcim_jax.cli.rag import Count, Encoder, made_encoder
from nvcim_jax.cli.rag_add import app  # with `add` on it
from nvcim_jax.cli.shared import (
    BankFolder,
    Budget,
    Data,
    DeviceNames,
    Json,
    Mitigation,
    Seed,
    console,
    mitigating,
    number,
    path,
    plain_errors,
    prepare,
    print_json,
    progress_bar,
)
from nvcim_jax.people import User

RESULTS = ("rag.json", "rag.png")
TOGETHER = 16  # questions between two signs of progress
MEASURES = {
    "agreement": "first as clean", "first": "first is right", "precision": "precision@{}", "recall": "recall@{}",
    "ndcg": "nDCG@{}", "mrr": "MRR@{}",
}  # fmt: skip


@app.command(
    epilog="Examples:\n\n  nvcim rag vary out/notes --out out/vary\n\n"
    "  nvcim rag vary out/papers --data LaMP_5_acl --device NVM-1 --sigma 0.1 --sigma 0.4 --k 5 --draws 200"
)
def vary(
    bank: BankFolder,
    k: Count = 5,
    device: DeviceNames = None,
    sigma: Annotated[
        list[float] | None,
        typer.Option(
            "--sigma",
            parser=number(float, 0, 10),
            metavar="0..10",
            show_default="0.05, 0.1, 0.2, 0.4",
            help="May be repeated.",
        ),
    ] = None,
    draws: Annotated[
        int,
        typer.Option(
            parser=number(int, 0, 10**6),
            metavar="INTEGER",
            help="Also program the documents this often: a check, and what --mitigation needs.",
        ),
    ] = 0,
    questions: Annotated[
        int,
        typer.Option(
            parser=number(int, 1, 10**6),
            metavar="INTEGER",
            help="Of each person, at most: evenly spaced, where there are more.",
        ),
    ] = 100,
    mitigation: Mitigation = None,
    budget: Budget = 1.2,
    seed: Seed = 0,
    encoder: Encoder = None,
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="FOLDER", show_default="none", help="Where rag.json and rag.png go."),
    ] = None,
    json: Json = False,
) -> None:
    """How well a memory's documents are found on noisy devices: in closed form, and by programming them."""
    with plain_errors():
        from nvcim_jax import files
        from nvcim_jax.documents import memory, stored
        from nvcim_jax.evaluation import documents
        from nvcim_jax.pipeline import presets
        from nvcim_jax.provenance import provenance

        mitigating(presets.RECOMMENDED, mitigation, budget)  # a wrong name is told before anything is read
        if mitigation and not draws:
            raise ValueError(f"--mitigation {mitigation} has no closed form: program the documents with --draws 200")
        names, sigmas = device or [f"NVM-{number}" for number in range(1, 6)], sigma or [0.05, 0.1, 0.2, 0.4]
        cells = _cells(names, sigmas)
        prepare(out, *RESULTS)
        with console.status("reading the memory"):
            saved = memory.load_documents(bank)
        made = made_encoder(encoder)
        saved.require(made)
        _require_k(k, saved)
        with console.status("encoding documents and questions"):
            asked = [_fewer(user, questions) for user in documents.asked_of(saved, data)]
            case, meaning = documents.case(made, asked, saved.task, k=k)
        write = mitigation and stored.writing(mitigation, saved.format, budget=budget)
        rows = _measured(saved, case, cells, k=k, draws=draws, seed=seed, write=write)
        report = {
            "settings": {
                "memory": str(bank), "k": k, "draws": draws, "seed": seed, "right": meaning, "mitigation": mitigation,
                "users": [user.id for user in saved.users], "questions": int(case.asked.sum()),
                "learned": dict(saved.about.settings),
            },
            "provenance": provenance(), "cells": rows,
        }  # fmt: skip
        _show_rows(rows, f"right: {meaning}; {len(saved.users)} users, {int(case.asked.sum())} questions", k)
        if out:
            files.write_json(out / RESULTS[0], report)
            _draw(out / RESULTS[1], rows, meaning)
            console.print(f"{' and '.join(RESULTS)} are in {out}", soft_wrap=True)
        if json:
            print_json(report)


def _fewer(user: User, most: int) -> User:
    """The user with at most so many questions, evenly spaced."""
    import numpy as np

    count = len(user.queries)
    chosen = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
    return user._replace(queries=tuple(user.queries[at] for at in chosen))


def _measured(saved, case, cells, *, k: int, draws: int, seed: int, write) -> list[dict]:
    """A row for each device and sigma: the expectation where nothing but values is written, and programmings."""
    import jax

    from nvcim_jax.evaluation import documents

    rows, how = [], {"k": k, "format": saved.format}
    written = {} if write is None else {"write": write}
    ways, count = (write is None) + (draws > 0), case.questions.shape[1]
    with progress_bar() as bar:
        work = bar.add_task("questions", total=len(cells) * ways * count)
        parts = {"size": TOGETHER, "report": partial(bar.advance, work)}
        for at, (name, sigma, condition) in enumerate(cells):
            row: dict[str, Any] = {"device": name, "sigma": sigma}
            if write is None:
                integrate = partial(documents.expected, saved.codec, condition=condition, **how)
                row["expected"] = documents.as_json(documents.by_parts(integrate, case, **parts))
            if draws:
                key = jax.random.fold_in(jax.random.key(seed), at)
                given = {"condition": condition, "draws": draws, **how, **written}
                program = partial(documents.programmed, key, saved.codec, **given)
                row["programmed"] = documents.as_json(documents.by_parts(program, case, **parts))
            rows.append(row)
    return rows


def _cells(names: list[str], sigmas: list[float]) -> list[tuple[str, float, Any]]:
    """Every device at every sigma; a device of one's own is refused outside the range that its file gives."""
    from nvcim_jax.hardware import catalogue
    from nvcim_jax.hardware.devices import Condition

    sheets = {name: catalogue.sheet(name) for name in names}
    for name, sheet in sheets.items():
        for sigma in sigmas if name.endswith(".toml") else ():
            sheet.check(sigma=sigma)
    for remark in catalogue.remarks([(sheet, sigmas) for sheet in sheets.values()]):
        console.print(remark, soft_wrap=True)
    return [(name, sigma, Condition(sheets[name].device, sigma)) for name in names for sigma in sigmas]


def _require_k(k: int, saved) -> None:
    least = min(len(user.history) for user in saved.users)
    if k > least:
        raise ValueError(f"k = {k}, but a user of this memory has {least} documents: ask for 1 to {least}")


def _show_rows(rows: list[dict], title: str, k: int) -> None:
    """One line for each device and sigma; what was programmed below what was integrated."""
    import numpy as np

    table = Table("device", "sigma", *(name.format(k) for name in MEASURES.values()), title=title)
    for row in rows:
        for kind, label in (("expected", row["device"]), ("programmed", f"{row['device']}, programmed")):
            if kind in row:
                table.add_row(label, f"{row['sigma']:g}", *(f"{np.mean(row[kind][name]):.3f}" for name in MEASURES))
    console.print(table)


def _draw(file: Path, rows: list[dict], meaning: str) -> None:
    import numpy as np

    from nvcim_jax.evaluation import figures

    groups = list(dict.fromkeys(f"{row['sigma']:g}" for row in rows))
    series: dict[str, dict[str, Any]] = {}
    for row in rows:
        of_users = np.atleast_2d((row.get("expected") or row["programmed"])["first"]).mean(axis=0)
        dot = figures.Dot(float(of_users.mean()), float(of_users.min()))
        series.setdefault(row["device"], {})[f"{row['sigma']:g}"] = dot
    figures.dots(
        file, groups, series, title="documents found first", xlabel="sigma", ylabel="share of questions",
        notes=[f"Right: {meaning}.", "Bars: down to the user for whom it is lowest."],
    )  # fmt: skip

"""The tables of methods on held-out users: README and docs/results.

    python experiments/tables.py main --out out/main          # every method on NVM-3 (the paper's Tables I and IV)
    python experiments/tables.py devices --out out/devices    # untuned, paper and recommended on NVM-1 to NVM-5
    python experiments/tables.py headroom --out out/headroom  # what tuning is worth from poorer starts
    python experiments/tables.py twofold --out out/twofold    # users whose habits no single sample shows
    python experiments/tables.py one-for-all --out out/pick   # settings of the rival, on users of their own

All methods of a table see the same users, questions and device draws. Noise-aware training is for NVM-3 at the cell's
sigma. Every block of users is kept in --out as it is finished: the same command goes on from there. Writes
results.json, table.md and results.png.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from nvcim_jax import files, llm, tuning
from nvcim_jax.cli import EMBEDDED
from nvcim_jax.data import synthetic
from nvcim_jax.data.users import Users, toy_users
from nvcim_jax.evaluation import figures, main_job, methods, one_for_all
from nvcim_jax.evaluation.ladder import ladder, work
from nvcim_jax.evaluation.methods import Cell, Method
from nvcim_jax.evaluation.statistics import clear, difference, interval
from nvcim_jax.hardware.catalogue import RATIOS
from nvcim_jax.pipeline.presets import RECOMMENDED, relative_rate
from nvcim_jax.provenance import provenance

ON_SAMPLES, ON_CLUSTERS = "OVT of a sample (recommended)", "OVT of a cluster"
ON_CLUSTERS_KNOWN = "OVT of a cluster, right domain known, clean"
CHOOSING = 2_000_000  # users from this number on serve to choose settings, and stand in no table of results


class Table(NamedTuple):
    """Rows, cells and the number of the first user; which paired differences to test, for a given cell."""

    rows: list[Method]
    cells: list[Cell]
    pairs: Callable[[dict[str, np.ndarray]], list[tuple[str, str]]]
    first: int = synthetic.HELD_OUT
    twofold: bool = False


def main_table() -> Table:
    return Table(methods.rows(), [Cell("NVM-3", 0.1), Cell("NVM-3", 0.2)], methods.pairs)


def devices_table() -> Table:
    names = (methods.BASE, methods.OWN, methods.KNOWN, methods.whole("paper"), methods.whole("recommended"))
    rows = [row for row in methods.rows() if row.label in names]
    return Table(rows, [Cell(name, sigma) for sigma in (0.1, 0.2) for name in RATIOS], methods.pairs)


def headroom_table() -> Table:
    """From the usual start, from fewer virtual tokens, and from a start without the answer."""
    rows = [Method(methods.BASE, None)]
    starts = {f"{tokens} virtual tokens": {"tokens": tokens} for tokens in (16, 4, 2)}
    starts["16, start without the answer"] = {"start_answer": False}
    for name, changed in starts.items():
        clean = replace(RECOMMENDED, train_sigma=0.0, clip=1.0, **changed)
        stored = replace(RECOMMENDED, **changed)
        known = partial(Method, group=name, known_domain=True)
        found = partial(Method, group=name)
        rows += [known("untuned, right domain known", replace(clean, training=methods.UNTUNED)),
                 known("tuned, right domain known", clean),
                 found("untuned", replace(stored, training=methods.UNTUNED)),
                 found("tuned", stored)]  # fmt: skip

    def pairs(scores):
        ends = (("tuned, right domain known", "untuned, right domain known"), ("tuned", "untuned"))
        return [(f"{name}: {a}", f"{name}: {b}") for name in starts for a, b in ends]

    return Table(rows, [Cell("NVM-3", 0.1)], pairs)


def twofold_table() -> Table:
    """Where one sample does not show the habit: OVTs of samples and of clusters."""
    clusters = replace(RECOMMENDED, learn_from="cluster", training=tuning.Training(steps=200, per_step=1))
    known = partial(replace, train_sigma=0.0, clip=1.0)
    rows = [Method(methods.BASE, None),
            Method(methods.OWN, replace(RECOMMENDED, training=methods.UNTUNED)),
            Method(methods.OWN_KNOWN, known(replace(RECOMMENDED, training=methods.UNTUNED)), known_domain=True),
            Method(ON_CLUSTERS_KNOWN, known(clusters), known_domain=True),
            Method(methods.ONE, replace(clusters, learning_rate=methods.ONE_RATE), learn=one_for_all.learn),
            Method(ON_SAMPLES, RECOMMENDED),
            Method(ON_CLUSTERS, clusters)]  # fmt: skip

    def pairs(scores):
        return [(ON_CLUSTERS_KNOWN, methods.OWN_KNOWN), (ON_CLUSTERS, methods.OWN), (ON_CLUSTERS, ON_SAMPLES),
                (ON_CLUSTERS, methods.ONE), (ON_CLUSTERS, methods.BASE), (ON_SAMPLES, methods.OWN)]  # fmt: skip

    return Table(rows, [Cell("NVM-3", 0.1)], pairs, twofold=True)


def rival_table() -> Table:
    """One prompt for all by learning rate, as a share of the start's root mean square."""
    rates = {share: partial(relative_rate, share=share) for share in (0.03, 0.06, 0.12, 0.24)}
    row = partial(Method, learn=one_for_all.learn)
    rows = [row(f"rate {share}", replace(RECOMMENDED, learning_rate=rate)) for share, rate in rates.items()]
    return Table(rows, [Cell("NVM-3", 0.1)], lambda scores: [], CHOOSING)


TABLES = {
    "main": main_table, "devices": devices_table, "headroom": headroom_table, "twofold": twofold_table,
    "one-for-all": rival_table,
}  # fmt: skip


def scores_of_block(out: Path, settings: dict, table: Table, model, users: Users, start: int, report) -> dict:
    """Scores by cell and method of one block of users, from `out` if it was finished there before."""
    path = out / f"{users.task.name}-{start:04d}.json"
    part = users[start : start + main_job.BLOCK]
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["settings"] != settings:
            raise SystemExit(f"{path} was made with other settings ({kept['settings']}): give another --out")
        report(work(part, model, len(table.cells), settings["draws"], table.rows))
        return kept["scores"]
    climbed = ladder(
        jax.random.key(settings["seed"]), model, part, table.cells,
        draws=settings["draws"], train_device="NVM-3", rows=table.rows, report=report,
    )  # fmt: skip
    scores = {
        name_of(cell): {label: score.scores.tolist() for label, score in row.items()}
        for cell, row in climbed.scores.items()
    }
    files.write_json(path, {"settings": settings, "scores": scores})
    return scores


def name_of(cell: Cell) -> str:
    return f"{cell.device} {cell.sigma}"


def joined(blocks: list[dict]) -> dict[str, dict[str, np.ndarray]]:
    """Scores of all users by cell and method."""
    return {
        cell: {label: np.concatenate([block[cell][label] for block in blocks]) for label in row}
        for cell, row in blocks[0].items()
    }


def markdown(table: Table, finished: dict[str, dict], settings: dict) -> str:
    """By cell the methods by task and their paired differences, then those between devices."""
    tasks, cells = list(finished), [name_of(cell) for cell in table.cells]
    users = {task: len(finished[task][cells[0]][table.rows[0].label]) for task in tasks}
    counts = ", ".join(f"{count} users of {task}" for task, count in users.items())
    lines = [f"{counts}; {settings['draws']} draws; mean ± half of the 95 % interval.", ""]
    for cell in cells:
        lines += [f"| {cell} | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
        for row in table.rows:
            shown = [interval(finished[task][cell][row.label]) for task in tasks]
            lines.append(f"| {row.label} | " + " | ".join(f"{each.mean:.3f}±{each.half:.3f}" for each in shown) + " |")
        wanted = table.pairs(finished[tasks[0]][cell])
        lines += differences(f"{cell}, paired difference", finished, [((cell, a), (cell, b)) for a, b in wanted])
    last, first = table.rows[-1].label, {cell.sigma: cell for cell in reversed(table.cells)}
    others = [(cell, first[cell.sigma]) for cell in table.cells if cell.device != first[cell.sigma].device]
    wanted = [((name_of(cell), last), (name_of(other), last)) for cell, other in others]
    lines += differences(f"{last}, paired difference", finished, wanted)
    return "\n".join(lines)


def differences(title: str, finished: dict[str, dict], wanted: list) -> list[str]:
    """A table of paired differences between (cell, label) and (cell, label); a star where one is clear among all."""
    tasks = list(finished)
    pairs = [[(finished[task][c][a], finished[task][d][b]) for task in tasks] for (c, a), (d, b) in wanted]
    stars = iter(clear([pair for row in pairs for pair in row]))
    lines = ["", f"| {title} | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"] if wanted else []
    for ((c, a), (d, b)), row in zip(wanted, pairs, strict=True):
        shown = [(difference(*pair), " *" if next(stars) else "") for pair in row]
        name = f"{a} − {b}" if c == d else f"{c} − {d}"
        lines.append(
            f"| {name} | " + " | ".join(f"{each.mean:+.3f}±{each.half:.3f}{star}" for each, star in shown) + " |"
        )
    return [*lines, ""]


def write(out: Path, table: Table, finished: dict[str, dict], settings: dict) -> None:
    """results.json, table.md, and a picture of the first cell."""
    whole = {
        task: {cell: {label: own.tolist() for label, own in row.items()} for cell, row in cells.items()}
        for task, cells in finished.items()
    }
    about = {"settings": settings, "provenance": provenance(), "scores": whole}
    files.write_json(out / "results.json", about)
    files.write_text(out / "table.md", markdown(table, finished, settings))
    cell = name_of(table.cells[0])
    shown = {task: main_job.bars(table.rows, cells[cell]) for task, cells in finished.items()}
    users = min(bars[0].found.users for bars in shown.values())
    title = f"{cell}, {users} held-out users per task, {settings['draws']} draws, embedded model"
    figures.bars(out / "results.png", shown, title=title)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--sigma", type=float, nargs="*", help="only these")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", nargs="*", default=list(synthetic.TASKS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    table = TABLES[args.table]()
    table = table._replace(cells=[cell for cell in table.cells if not args.sigma or cell.sigma in args.sigma])
    model = llm.load(EMBEDDED)
    crowds = [toy_users(name, args.users, first=table.first, twofold=table.twofold) for name in args.task]
    settings = {"table": args.table, "users": args.users, "draws": args.draws, "seed": args.seed, "model": "embedded",
                "cells": [name_of(cell) for cell in table.cells]}  # fmt: skip
    total = sum(work(users, model, len(table.cells), args.draws, table.rows) for users in crowds)
    finished: dict[str, list[dict]] = {}
    started = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("", total=total)
        report = lambda done: progress.advance(bar, done)  # noqa: E731
        for start in range(0, args.users, main_job.BLOCK):  # a run that is cut off has equally many users of every task
            for users in crowds:
                progress.update(bar, description=users.task.name)
                block = scores_of_block(args.out, settings, table, model, users, start, report)
                finished.setdefault(users.task.name, []).append(block)
                print(f"{users.task.name}, users {start} on: {time.perf_counter() - started:.0f} s", flush=True)
            write(args.out, table, {name: joined(blocks) for name, blocks in finished.items()}, settings)
    print((args.out / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

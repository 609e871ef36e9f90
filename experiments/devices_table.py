"""Every method on NVM-1 to NVM-5 at sigma 0.1 and 0.2, on held-out users: the README's table (the paper's Table I).

    python experiments/devices_table.py --out out/devices --users 24

Noise-aware training is for NVM-3 at the cell's sigma, so that one training serves five devices; --own-device trains
for each device apart, at five times the cost. All devices and methods see the same users, questions and draws.
results.json and table.md are written after every block of users, so that Ctrl-C keeps what is finished.
"""

import argparse
import time
from pathlib import Path

import jax
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from nvcim_jax import figures, files, job, lamp, llm, study, synthetic
from nvcim_jax.cli import EMBEDDED
from nvcim_jax.devices import RATIOS
from nvcim_jax.metrics import interval

CELLS = [study.Cell(device, sigma) for sigma in (0.1, 0.2) for device in RATIOS]


def markdown(results: dict[study.Cell, list[job.TaskResult]]) -> str:
    """Methods by cell, one table per task: mean over users and half the width of the 95 % interval."""
    lines = []
    for at, first in enumerate(next(iter(results.values()))):
        counts = f"{len(first.users)} users, {sum(len(user.queries) for user in first.users)} questions"
        lines += [f"### {first.task.name} ({first.task.metric}; {counts})", ""]
        lines += [
            "| method | " + " | ".join(f"{c.device} {c.sigma}" for c in results) + " |",
            "|---" * (len(results) + 1) + "|",
        ]
        for method in first.scores:
            cells = [interval(columns[at].scores[method]) for columns in results.values()]
            lines.append(
                f"| {method} | " + " | ".join(f"{c.mean:.3f}±{(c.high - c.low) / 2:.3f}" for c in cells) + " |"
            )
        kept = [job.gain_kept(columns[at]) for columns in results.values()]
        lines += ["| gain kept by recommended | " + " | ".join(f"{share:.0%}" for share in kept) + " |", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, default=24)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--own-device", action="store_true", help="train for each device apart")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", nargs="*", default=list(lamp.TASKS))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    model = llm.load(EMBEDDED)
    crowds = {lamp.task(name): synthetic.users(lamp.task(name), args.users) for name in args.task}
    total = sum(study.work(users, model, len(CELLS), args.draws) for users in crowds.values())
    settings = {
        "users": args.users,
        "draws": args.draws,
        "seed": args.seed,
        "model": "embedded",
        "own_device": args.own_device,
    }
    finished: dict[lamp.Task, list[job.Block]] = {}
    started = time.perf_counter()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    ) as progress:
        bar = progress.add_task("", total=total)
        for task, users in crowds.items():
            progress.update(bar, description=task.name)
            told = lambda done: progress.advance(bar, done)  # noqa: E731
            for block in job.blocks(
                jax.random.key(args.seed),
                model,
                task,
                users,
                CELLS,
                draws=args.draws,
                report=told,
                train_device=None if args.own_device else "NVM-3",
            ):
                finished.setdefault(task, []).append(block)
                results = {cell: [job.collect(each, cell, done) for each, done in finished.items()] for cell in CELLS}
                settings["seconds"] = round(time.perf_counter() - started)
                cells = {
                    f"{c.device} {c.sigma}": job.as_json(columns, settings)["tasks"] for c, columns in results.items()
                }
                whole = {"settings": settings, "provenance": job.provenance(), "cells": cells}
                files.write_json(args.out / "results.json", whole)
                files.write_text(args.out / "table.md", markdown(results))
    nvm3 = study.Cell("NVM-3", 0.1)
    tables = {r.task.name: {name: interval(scores) for name, scores in r.scores.items()} for r in results[nvm3]}
    title = f"NVM-3, sigma 0.1, {args.users} held-out users per task, {args.draws} draws, embedded model"
    figures.bars(args.out / "results.png", tables, title=title)
    print(markdown(results))


if __name__ == "__main__":
    main()

"""What a small buffer should keep: policies by what is learned from what they kept.

    python experiments/keep.py --out out/keep              # 32 users, buffers of 8, 16 and 64
    python experiments/keep.py --out out/keep --shard 1/2

Toy users meet 200 moments in runs of one domain, and the same ones shuffled. What a buffer holds at the end is learned
as OVTs in a noisy memory, and as one LoRA at equal compute; then all domains are asked for. Also: the share of domains
that are kept, and whether EOE is more than a length score (its rank correlation with the number of tokens, by reading).
Killed, the same command goes on. Writes results.json, table.md and results.png.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from nvcim_jax import files
from nvcim_jax.cli.progress import run_with_bar
from nvcim_jax.evaluation import figures, keeping, study
from nvcim_jax.evaluation.statistics import clear, difference, interval
from nvcim_jax.evaluation.study import Results

WHAT = {"ovts": "OVTs", "lora": "LoRA", "domains": "domains kept"}
RIVAL = "reservoir"  # that every policy is compared with: it needs no score


def gathered(results: Results) -> dict[tuple, dict[str, dict[str, float]]]:
    """By stream, buffer and policy: the scores of OVTs and LoRA, and the share of domains, by user."""
    found: dict = defaultdict(lambda: defaultdict(dict))
    for cell in results.cells.values():
        at, result = cell["at"], cell["result"]
        own = found[at["shuffled"], at["slots"], at["policy"]]
        for name in ("ovts", "lora"):
            own[name] |= result["scores"][name]
        own["domains"] |= result["domains"]
    return found


def markdown(results: Results) -> str:
    found, about = gathered(results), results.about["settings"]
    lines = []
    for shuffled in (False, True):
        lines += ["", f"**{'Shuffled' if shuffled else 'Correlated'} streams**", ""]
        lines.append("| policy | " + " | ".join(f"{WHAT[n]}, {b}" for b in about["buffers"] for n in WHAT) + " |")
        lines.append("|---" * (1 + 3 * len(about["buffers"])) + "|")
        pairs, places = [], []
        for policy in about["policies"]:
            for slots in about["buffers"]:
                for name in WHAT:
                    own, rival = (found.get((shuffled, slots, each), {}).get(name) for each in (policy, RIVAL))
                    if own and rival and policy != RIVAL:
                        both = [user for user in own if user in rival]
                        pairs.append(([own[user] for user in both], [rival[user] for user in both]))
                        places.append((policy, slots, name))
        stars = dict(zip(places, zip(pairs, clear(pairs), strict=True), strict=True))
        for policy in about["policies"]:
            cells = []
            for slots in about["buffers"]:
                for name in WHAT:
                    own = found.get((shuffled, slots, policy), {}).get(name)
                    if not own:
                        cells.append("")
                        continue
                    mean = interval(list(own.values())).mean
                    pair, is_clear = stars.get((policy, slots, name), (None, False))
                    gap = "" if pair is None else difference(*pair)
                    told = "" if pair is None else f" ({gap.mean:+.2f} ± {gap.half:.2f}{' *' if is_clear else ''})"
                    cells.append(f"{mean:.2f}{told}")
            lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    said = f"In brackets the paired difference from {RIVAL}; * clear at a false discovery rate of 5 % in its table"
    people = f"{about['users']} users, {about['moments']} moments, {about['device']} at sigma {about['sigma']:g}"
    lines += [
        "",
        f"{said}; {people}.",
        "",
        "| reading of EOE | rank correlation with the number of tokens |",
        "|---|---|",
    ]
    correlations: dict = defaultdict(dict)
    for cell in results.cells.values():
        for name, own in cell["result"]["length"].items():
            correlations[name] |= own
    for name, own in correlations.items():
        known = difference(list(own.values()), [0.0] * len(own))
        lines.append(f"| {name} | {known.mean:+.2f} [{known.low:+.2f}, {known.high:+.2f}] |")
    return "\n".join(lines[1:])


def write(folder: Path) -> None:
    """Table, picture and JSON of what is done so far."""
    results = study.read(folder)
    found, about = gathered(results), results.about["settings"]
    files.write_text(folder / "table.md", markdown(results))
    panels = []
    for shuffled in (False, True):
        for name, label in WHAT.items():
            lines = {}
            for policy in about["policies"]:
                own = {b: found.get((shuffled, b, policy), {}).get(name) for b in about["buffers"]}
                points = {b: float(np.mean(list(each.values()))) for b, each in own.items() if each}
                lines[policy] = figures.Line(list(points), list(points.values()))
            of = "shuffled" if shuffled else "correlated"
            panels.append(figures.Panel(f"{label}, {of}", "moments in the buffer", "mean over users", lines))
    note = f"{about['users']} toy users, {about['task']}, {about['device']} at sigma {about['sigma']:g}."
    figures.curves(folder / "results.png", panels, title="What a small buffer should keep", notes=[note])
    told = [
        {"shuffled": shuffled, "slots": slots, "policy": policy, **{name: dict(own) for name, own in each.items()}}
        for (shuffled, slots, policy), each in found.items()
    ]
    files.write_json(folder / "results.json", {"about": results.about, "writers": results.writers, "cells": told})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for name, default in (("users", 32), ("moments", 200), ("run", 25), ("questions", 16), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--buffers", type=int, nargs="*", default=[8, 16, 64])
    parser.add_argument("--policies", nargs="*", default=list(keeping.SHOWN))
    parser.add_argument("--task", default="LaMP-2")
    parser.add_argument("--device", default="NVM-3")
    parser.add_argument("--sigma", type=float, default=0.1)
    parser.add_argument("--shard", default="1/1")
    args = vars(parser.parse_args())
    out, shard, buffers, policies = (args.pop(name) for name in ("out", "shard", "buffers", "policies"))
    plan = keeping.study(keeping.Plan(**args), buffers=buffers, policies=policies)
    try:
        run_with_bar(plan, out, shard)
    finally:
        if (out / study.ABOUT).exists() and study.read(out).cells:
            write(out)
    print((out / "table.md").read_text())


if __name__ == "__main__":
    main()

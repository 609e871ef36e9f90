"""Retrieval and answers of `recommended` some time after programming, with and without what is done against it.

    python experiments/ageing.py --users 12 --out out/time

Held-out embedded users (numbers from 4,000,000 on). Retrieval is in closed form, and with `--draws` also by as many
programmed banks, which a table puts side by side; `--answers` lets the model answer, too. Devices at their own sigma,
NVM-3 at 0.1, from one second to ten years: beyond what a device's source covers figures are extrapolated, in italics.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from nvcim_jax import files, llm
from nvcim_jax.cli import EMBEDDED
from nvcim_jax.data.users import toy_users
from nvcim_jax.evaluation import cases, figures, ladder, methods, retrieval
from nvcim_jax.evaluation.points import duration
from nvcim_jax.evaluation.statistics import interval
from nvcim_jax.hardware.catalogue import RATIOS, sheet
from nvcim_jax.hardware.compensation import COMPENSATIONS
from nvcim_jax.pipeline.presets import PRESETS, RECOMMENDED, mitigated
from nvcim_jax.provenance import provenance

FIRST = 4_000_000  # number of the first user
TIMES = (1.0, 3600.0, 86400.0, 30 * 86400.0, 365 * 86400.0, 3650 * 86400.0)
REFRESH = 86400.0
WAYS = {**{name: {"compensation": name} for name in COMPENSATIONS}, "refreshed daily": {"refresh": REFRESH}}


def sigma_of(name: str) -> float:
    """The sigma that a device is asked at."""
    return 0.1 if name in RATIOS else sheet(name).own_sigma


def by_retrieval(case: retrieval.Case, args) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Shares of questions that find an OVT of their domain: by device and way, in closed form and by draws."""
    found: dict = {}
    chip_key, draw_key = jax.random.split(jax.random.key(args.seed))
    for name in args.device:
        (row,) = retrieval.rows([name], [sigma_of(name)], TIMES, extrapolate=True)
        for way, how in WAYS.items():
            settings = mitigated(RECOMMENDED, "none", **how) if any(how.values()) and way != "none" else RECOMMENDED
            bound = {"settings": settings, "fidelity": "cell"}
            cell = {}
            if row.name not in retrieval.without_closed_form([row], "cell", settings):
                cell["closed form"] = retrieval.closed_form(chip_key, case, row, chips=20, **bound).expected.mean(-1)
            if args.draws:
                (drawn,) = retrieval.by_trials(draw_key, case, [row], draws=args.draws, **bound)
                cell["drawn"] = drawn.mean(0)
            found.setdefault(name, {})[way] = {kind: np.asarray(share).tolist() for kind, share in cell.items()}
            print(name, way, found[name][way], flush=True)
    return found


def by_answers(model, users, args) -> dict[str, dict[str, list]]:
    """Scores of `recommended`'s answers: mean and half of its 95 % interval, by device and way."""
    found: dict = {}
    for way, how in WAYS.items():
        presets = {name: mitigated(each, "none", **how) for name, each in PRESETS.items()}
        whole = methods.whole("recommended")
        rows = [row for row in methods.rows(presets) if row.label == whole]
        cells = [methods.Cell(name, sigma_of(name), seconds) for name in args.device for seconds in TIMES]
        key = jax.random.key(args.seed)
        climbed = ladder.ladder(key, model, users, cells, draws=args.answer_draws, rows=rows, report=lambda units: None)
        for cell in cells:
            scores = interval(climbed.scores[cell][whole].scores)
            found.setdefault(cell.device, {}).setdefault(way, []).append([scores.mean, scores.half])
    return found


def table(found: dict, kind: str) -> str:
    """Markdown: devices and ways by time; in italics where the device's source does not reach."""
    lines = [f"| device | {' | '.join(map(duration, TIMES))} |", f"|---|{'---|' * len(TIMES)}"]
    for name, ways in found.items():
        known = sheet(name)
        for way, kinds in ways.items():
            values = kinds.get(kind) if isinstance(kinds, dict) else kinds
            if values is None:
                continue
            texts = [f"{v[0]:.2f}±{v[1]:.2f}" if isinstance(v, list) else f"{v:.3f}" for v in values]
            within = [known.covers(sigma_of(name), seconds) for seconds in TIMES]
            shown = (text if inside else f"*{text}*" for text, inside in zip(texts, within, strict=True))
            lines.append(f"| {name}, {way} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--task", default="LaMP-2")
    parser.add_argument("--device", nargs="*", default=["PCM-Joshi", "RRAM-Wan", "SONOS-Agrawal", "NVM-3"])
    parser.add_argument("--draws", type=int, default=0)
    parser.add_argument("--answers", action="store_true")
    parser.add_argument("--answer-draws", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    model, users = llm.load(EMBEDDED), toy_users(args.task, args.users, first=FIRST)
    block, bank = cases.embedded(jax.random.key(args.seed), model, users, settings=RECOMMENDED)
    case, meaning = cases.case(model, block, bank, settings=RECOMMENDED)
    found = by_retrieval(case, args)
    parts = [
        f"Share of questions where {meaning}: {args.users} users of {args.task}, {int(case.asked.sum())} questions."
    ]
    parts += ["In italics: beyond what the device's source covers, so extrapolated.", table(found, "closed form")]
    if args.draws:
        parts += [f"The same by {args.draws} programmed banks:", table(found, "drawn")]
    answers = by_answers(model, users, args) if args.answers else {}
    if answers:
        parts += ["Score of the answers, mean over users ± half of its 95 % interval:", table(answers, "")]
    text = "\n\n".join(parts)
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        files.write_text(args.out / "table.md", text + "\n")
        files.write_json(args.out / "results.json", {"retrieval": found, "answers": answers, "times": TIMES,
                                                     "provenance": provenance()})  # fmt: skip
        ticks = [(time, duration(time)) for time in TIMES]
        panels = [
            figures.Panel(name, "after programming", "share of questions", {
                way: figures.Line(TIMES, kinds.get("closed form") or kinds["drawn"]) for way, kinds in ways.items()
                if kinds
            }, scale="log x", ticks=ticks, is_share=True)
            for name, ways in found.items()
        ]  # fmt: skip
        figures.curves(args.out / "results.png", panels, title="recommended's search, some time after programming")


if __name__ == "__main__":
    main()

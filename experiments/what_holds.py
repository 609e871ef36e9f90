"""Each claim of the paper and of this project, with what was measured: docs/results/what-holds.md and README's table.

    python experiments/what_holds.py --out out    # the tables whose results are there: out/main, out/headroom

A claim is a paired difference that should be above zero, task by task. It holds on a task where the difference is above
zero and clear at a false discovery rate of 5 % over all differences of its table, and fails there where it is below
zero and clear; else these users cannot tell.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tables import headroom_table  # beside this file

from nvcim_jax import files
from nvcim_jax.evaluation import methods
from nvcim_jax.evaluation.methods import whole
from nvcim_jax.evaluation.statistics import clear, difference, interval

ROOT = Path(__file__).parents[1]
CELL = "NVM-3 0.1"
BEST, PAPER, LITERAL = whole("recommended"), whole("paper"), whole("paper-literal")
SHOWN = [methods.BASE, methods.OWN, methods.ONE, methods.OWN_KNOWN, methods.KNOWN, LITERAL, "paper: flat MIPS",
         "paper: mean-pooled MIPS", PAPER, "recommended: by cell, SWV", "recommended: by cell, CxDNN",
         "recommended: by cell, CorrectNet", "recommended: by cell", BEST]  # fmt: skip


class Claim(NamedTuple):
    """What is claimed, and the rows of the main table whose difference it is."""

    words: str
    better: str
    worse: str


MAIN = [
    Claim("an OVT of the right domain, clean, beats the base model", methods.KNOWN, methods.BASE),
    Claim("`recommended`, found in noisy arrays, beats the base model", BEST, methods.BASE),
    Claim("one OVT for each domain beats one prompt for all (Fig. 1)", BEST, methods.ONE),
    Claim("tuning beats the sample's own tokens, right domain known", methods.KNOWN, methods.OWN_KNOWN),
    Claim("tuning beats the sample's own tokens, found in noisy arrays", BEST, methods.OWN),
    Claim("`paper`: the scaled search beats flat MIPS (Table I)", PAPER, "paper: flat MIPS"),
    Claim("`paper`: the scaled search beats mean-pooled MIPS", PAPER, "paper: mean-pooled MIPS"),
    Claim("`paper`: noise-aware training helps (Tables I, IV)", "paper: flat MIPS",
          "paper: no training noise, flat MIPS"),
    Claim("`recommended`: noise-aware training helps", "recommended: flat MIPS",
          "recommended: no training noise, flat MIPS"),
    *(Claim(f"`{group}`, one Gaussian a cell: it beats {name} (Table I)", f"{group}: by cell",
            f"{group}: by cell, {name}")
      for group in ("paper", "recommended") for name in ("no mitigation", "SWV", "CxDNN", "CorrectNet")),
    Claim("the paper read literally beats the base model", LITERAL, methods.BASE),
    Claim("three copies of a key find more than one, in `recommended`", BEST, "recommended: mean-pooled MIPS"),
]  # fmt: skip


def verdicts(scores: dict[str, dict[str, list[float]]], claims: list[Claim]) -> list[list[str]]:
    """For each claim its words, a verdict, and the differences by task, of `scores` by task and row."""
    pairs = [[(np.array(own[c.better]), np.array(own[c.worse])) for own in scores.values()] for c in claims]
    stars = iter(clear([pair for row in pairs for pair in row]))
    rows = []
    for claim, row in zip(claims, pairs, strict=True):
        found = [(difference(*pair), next(stars)) for pair in row]
        ways = {
            "holds": [task for task, (each, star) in zip(scores, found, strict=True) if star and each.mean > 0],
            "does not": [task for task, (each, star) in zip(scores, found, strict=True) if star and each.mean < 0],
        }
        named = [f"{way} on {', '.join(tasks)}" for way, tasks in ways.items() if 0 < len(tasks) < len(scores)]
        whole_way = [way for way, tasks in ways.items() if len(tasks) == len(scores)]
        told = [f"{each.mean:+.2f}{'*' if star else ''} [{each.low:+.2f}, {each.high:+.2f}]" for each, star in found]
        rows.append([claim.words, *(whole_way or ["; ".join(named) or "cannot tell"]), *told])
    return rows


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def read(path: Path, cell: str) -> dict[str, dict[str, list[float]]]:
    """Scores by task and row."""
    return {task: cells[cell] for task, cells in json.loads(path.read_text(encoding="utf-8"))["scores"].items()}


def counted(scores: dict[str, dict[str, list[float]]]) -> str:
    users = len(next(iter(scores.values()))[methods.BASE])
    return f"{users} held-out users and {8 * users} questions per task"


def main_table(scores) -> str:
    rows = [[row, *(_shown(own[row]) for own in scores.values())] for row in SHOWN]
    return table([CELL.replace(" ", ", sigma "), *scores], rows)


def _shown(values: list[float]) -> str:
    found = interval(np.array(values))
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"


def main_claims(scores) -> str:
    return "\n".join([
        "# What holds\n",
        f"Each claim on the toy model and world, NVM-3 at sigma 0.1: {counted(scores)},\nthree draws of the device "
        "(`python experiments/tables.py main --sigma 0.1 --out out/main`). Differences are\npaired by user, task by "
        'task, with 95 % intervals; a star: clear at a false discovery rate of 5 % over this\ntable. "Cannot tell" is '
        "no proof of none. A real language model has [a page of its own](real.md).\n"
        "`python experiments/what_holds.py --out out` makes the tables of this page.\n",
        table(["claim", "verdict", *scores], verdicts(scores, MAIN)),
        "",
    ])  # fmt: skip


def headroom_claims(scores) -> str:
    """What tuning is worth from each start of `tables.py headroom`, clean and as it is stored and found."""
    groups = dict.fromkeys(row.group for row in headroom_table().rows if row.group)
    claims = [
        Claim(f"{group}: tuning beats the start{where or ', found in noisy arrays'}", f"{group}: tuned{where}",
              f"{group}: untuned{where}")
        for group in groups for where in (", right domain known", "")
    ]  # fmt: skip
    return "\n".join([
        "What tuning is worth from poorer starts\n",
        f"{counted(scores)}, `python experiments/tables.py headroom --out out/headroom`.\n",
        table(["claim", "verdict", *scores], verdicts(scores, claims)),
        "",
    ])  # fmt: skip


def remade(page: str, out: Path) -> str:
    """The page with those of its tables made anew whose results are in `out`."""
    first, headroom, *rest = page.split("\n## ")
    if (out / "main" / "results.json").is_file():
        first = main_claims(read(out / "main" / "results.json", CELL))
    if (out / "headroom" / "results.json").is_file():
        headroom = headroom_claims(read(out / "headroom" / "results.json", CELL))
    return "\n## ".join([first, headroom, *rest])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder with main/results.json")
    args = parser.parse_args()
    page = ROOT / "docs" / "results" / "what-holds.md"
    files.write_text(page, remade(page.read_text(encoding="utf-8"), args.out))
    print(page.read_text(encoding="utf-8"))
    if (args.out / "main" / "results.json").is_file():
        scores = read(args.out / "main" / "results.json", CELL)
        readme = ROOT / "README.md"
        words = readme.read_text(encoding="utf-8")
        start, end = words.index("| NVM-3, sigma 0.1 |"), words.index("\n\n", words.index("| NVM-3, sigma 0.1 |"))
        files.write_text(readme, words[:start] + main_table(scores) + words[end:])
        shutil.copy(args.out / "main" / "results.png", ROOT / "docs" / "results" / "main.png")


if __name__ == "__main__":
    main()

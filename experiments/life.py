"""Lives through domains that come and go: what a device still knows, by what it makes of its moments.

    python experiments/life.py --out out/life                         # 32 users, 200 moments each
    python experiments/life.py --out out/long --moments 1000 --run 50 --every 50
    python experiments/life.py --out out/life --shard 2/4             # shared out; the last to end has the whole table
    python experiments/life.py --out out/real --model SmolLM2.gguf --data LaMP_5_acl --task LaMP-5 --users 8 \\
        --moments 12 --every 4 --slots 4 --questions 3 --together 48 --chosen-on 27    # people's own histories

Toy users meet moments in runs of one domain, four to eight in all, which come back. A buffer keeps some of each round;
then the device learns, and is asked about all domains met so far. Every way tunes on equally many samples after each
round, and sees the same moments, questions and device. Killed, the same command goes on. Writes results.json, table.md
and results.png.

With --data people's own samples are the moments, oldest first, and their own questions are asked after each round.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from nvcim_jax import files
from nvcim_jax.cli.progress import run_with_bar
from nvcim_jax.evaluation import figures, life_study, lives, studies, study
from nvcim_jax.evaluation.statistics import clear, difference, interval
from nvcim_jax.evaluation.study import Json, Results
from nvcim_jax.memory.bank import arrays
from nvcim_jax.pipeline.presets import RECOMMENDED

GAPS = ((0, 24), (25, 74), (75, 149), (150, 10**9))  # moments since a domain was met last
BEST = "OVTs, recommended"
CAPTION = (
    "mean over users with its 95 % interval. Forgotten: the score on domains met in the last 25 moments minus that on "
    "domains not met for 75, over the users in brackets who were asked for both. * clear at a false discovery rate "
    "of 5 %."
)


def by_way(results: Results) -> dict[str, dict[str, list[float]]]:
    """Scores after each round by way and user."""
    found: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for cell in results.cells.values():
        found[cell["at"]["way"]] |= cell["result"]["scores"]
    known = results.about["settings"]["ways"]
    return {name: found[name] for name in known if name in found}


def by_gap(results: Results, folder: Path) -> dict[str, dict[str, list[list[float]]]]:
    """Scores of single questions by way, user and how long ago their domain was met."""
    ways = {name: cell["at"]["way"] for name, cell in results.cells.items()}
    found: dict = defaultdict(lambda: defaultdict(lambda: [[] for _ in GAPS]))
    for row in study.questions(folder, results):
        if row["gap"] is None:
            continue
        at = next(at for at, (low, high) in enumerate(GAPS) if low <= row["gap"] <= high)
        found[ways[row["cell"]]][row["user"]][at].append(row["score"])
    return found


def mean_of(rounds: Mapping[str, list[float]], pick=np.mean) -> dict[str, float]:
    return {user: float(pick(own)) for user, own in rounds.items()}


def shown(one: Mapping[str, float], other: Mapping[str, float] | None = None) -> str:
    """A mean with its interval, or a paired difference over the users that both have."""
    if other is None:
        known = interval(list(one.values()))
        return f"{known.mean:.3f} [{known.low:.3f}, {known.high:.3f}]"
    both = [user for user in one if user in other]
    gap = difference([one[user] for user in both], [other[user] for user in both])
    return f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"


def forgotten(own: Mapping[str, list[list[float]]]) -> dict[str, float]:
    """By user, where there are both: the score on domains just met minus that on those not met for 75 moments."""
    both = {user: (bins[0], bins[2] + bins[3]) for user, bins in own.items()}
    return {user: float(np.mean(now) - np.mean(long)) for user, (now, long) in both.items() if now and long}


def costs(results: Results) -> dict[str, tuple[float, float, float]]:
    """By way: arrays at the end of a user's life, thousands of tokens tuned on, and seconds, of each user."""
    found: dict[str, list[Json]] = defaultdict(list)
    for cell in results.cells.values():
        found[cell["at"]["way"]].append(cell)
    told = {}
    for way, cells in found.items():
        users = sum(cell["at"]["users"][1] for cell in cells)
        held = float(np.mean([cell["result"]["ovts"][-1] for cell in cells]))
        tokens = sum(cell["result"]["tokens"][-1] for cell in cells)
        taken = arrays(round(held), RECOMMENDED.tokens) if held else 0
        told[way] = (taken, tokens / users / 1000, sum(cell["seconds"] for cell in cells) / users)
    return told


def markdown(results: Results, folder: Path) -> str:
    ways, gaps, cost = by_way(results), by_gap(results, folder), costs(results)
    whole = {name: mean_of(own) for name, own in ways.items()}
    last = {name: mean_of(own, lambda scores: scores[-1]) for name, own in ways.items()}
    lines = ["| way | score over the life | at its end | forgotten | arrays | k tokens tuned on | seconds a user |"]
    lines.append("|---" * 7 + "|")
    for name in ways:
        lost = forgotten(gaps.get(name, {}))
        known = difference(list(lost.values()), [0.0] * len(lost)) if lost else None
        told = "" if known is None else f"{known.mean:+.3f} [{known.low:+.3f}, {known.high:+.3f}] ({known.users})"
        taken, tokens, seconds = cost[name]
        lines.append(
            f"| {name} | {shown(whole[name])} | {shown(last[name])} | {told} | {taken} | {tokens:.0f} | {seconds:.1f} |"
        )
    others = [name for name in ways if name != BEST and BEST in ways]
    pairs = [
        tuple([each[user] for user in whole[BEST] if user in whole[name]] for each in (whole[BEST], whole[name]))
        for name in others
    ]
    stars = clear([(one, other) for one, other in pairs])
    lines += ["", f"| {BEST}, minus | over the life | at its end |", "|---|---|---|"]
    for name, is_clear in zip(others, stars, strict=True):
        star = " *" if is_clear else ""
        lines.append(f"| {name} | {shown(whole[BEST], whole[name])}{star} | {shown(last[BEST], last[name])} |")
    about = results.about["settings"]
    users, kept = len(next(iter(ways.values()))), f"a buffer of {about['slots']} of every {about['every']}"
    said = f"{users} {whose(about)}, {about['moments']} moments each, {kept}, "
    said += f"{about['device']} at sigma {about['sigma']:g}"
    lines += ["", f"{said}; {CAPTION}"]
    return "\n".join(lines)


def write(folder: Path) -> None:
    """Table, picture and JSON of what is done so far."""
    results = study.read(folder)
    ways, gaps = by_way(results), by_gap(results, folder)
    files.write_text(folder / "table.md", markdown(results, folder))
    about, rounds = results.about["settings"], len(next(iter(next(iter(ways.values())).values())))
    moments = [(at + 1) * about["every"] for at in range(rounds)]
    over = {name: np.mean(list(own.values()), axis=0) for name, own in ways.items()}
    bins = {name: [_mean(own, at) for at in range(len(GAPS))] for name, own in gaps.items()}
    held = {
        name: np.mean([c["result"]["ovts"] for c in results.cells.values() if c["at"]["way"] == name], axis=0).tolist()
        for name in ways
    }
    line = figures.Line
    panels = [
        figures.Panel("over the life", "moments", "score", {n: line(moments, y.tolist()) for n, y in over.items()}),
        figures.Panel("what is held", "moments", "OVTs of a user", {n: line(moments, held[n]) for n in over}),
    ]
    if bins:
        lines = {name: line([low for low, _ in GAPS], y) for name, y in bins.items()}
        ago = figures.Panel("by how long ago the domain was met", "moments ago, at least", "score", lines)
        panels.insert(1, ago)
    note = f"{about['users']} {whose(about)}, {about['task']}, {about['device']} at sigma {about['sigma']:g}."
    figures.curves(folder / "results.png", panels, title="Lives through domains that come back", notes=[note])
    files.write_json(folder / "results.json", {
        "about": results.about, "writers": results.writers, "scores": ways,
        "by_gap": {name: {user: own[user] for user in own} for name, own in gaps.items()}, "costs": costs(results),
    })  # fmt: skip


def whose(about: Json) -> str:
    """Who lives these lives."""
    return f"people of {about['data']}" if "data" in about else "users"


def _mean(own: Mapping[str, list[list[float]]], at: int) -> float:
    scores = [np.mean(bins[at]) for bins in own.values() if bins[at]]
    return float(np.mean(scores)) if scores else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for name, default in (("users", 32), ("moments", 200), ("run", 25), ("every", 25), ("slots", 16), ("small", 16),
                          ("questions", 8), ("seed", 0)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--task", default="LaMP-2")
    parser.add_argument("--device", default="NVM-3")
    parser.add_argument("--sigma", type=float, default=0.1)
    parser.add_argument("--ways", nargs="*", default=list(lives.WAYS), help="by default all")
    parser.add_argument("--shard", default="1/1")
    parser.add_argument("--model", default="toy", help="a folder, a .gguf file or a hub name; with --data")
    parser.add_argument("--data", type=Path, help="a LaMP folder, whose people have at least --moments samples")
    parser.add_argument("--weights", choices=("float32", "bfloat16", "packed"), help="how weights are held")
    parser.add_argument("--memory", help="such as 6GB")
    parser.add_argument("--together", type=int, default=160, help="steps of the prompt that a round's OVTs start from")
    parser.add_argument("--chosen-on", type=int, default=0, help="people, the first ones, who are not reported")
    args = vars(parser.parse_args())
    out, shard, ways, chosen_on, together = (
        args.pop(name) for name in ("out", "shard", "ways", "chosen_on", "together")
    )
    source = studies.Source(**{name: args.pop(name) for name in ("model", "data", "weights", "memory")})
    history = life_study.History(source, chosen_on, together) if source.data else None
    plan = life_study.study(life_study.Plan(**args), ways=ways, history=history)
    try:
        run_with_bar(plan, out, shard)
    finally:
        if (out / study.ABOUT).exists() and study.read(out).cells:
            write(out)
    print((out / "table.md").read_text())


if __name__ == "__main__":
    main()

"""The ladder of methods on held-out users, and what noise-aware training is worth for stored OVTs.

What came out stands in docs/decisions/tuning.md.

    python experiments/methods.py --out out/methods --users 16
    python experiments/methods.py --out out/rates --pick   # learning rates, on users that no result is reported on

First table: the model alone; the sample's own tokens untuned; one adapter for a user's whole buffer (prompt tuning,
DEPT, P-tuning v2, prefix tuning, LoRA, IA3), each reading as many tokens as all OVTs of the user together; one OVT for
each representative sample, the right domain known (the paper's Fig. 1). Nothing is stored there. Second table: what a
start means for the search. Then OVTs coded, written and read back from every device at every sigma, trained for NVM-3.
Writes results.json, table.md and results.png after every task.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from nvcim_jax import files, llm, tuning
from nvcim_jax.cli import EMBEDDED
from nvcim_jax.data import lamp, synthetic
from nvcim_jax.data.users import toy_users
from nvcim_jax.evaluation import crowd as crowds
from nvcim_jax.evaluation import figures, one_for_all
from nvcim_jax.evaluation import ladder as ladders
from nvcim_jax.evaluation.methods import label
from nvcim_jax.evaluation.statistics import difference, interval
from nvcim_jax.hardware.catalogue import RATIOS, device
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.pipeline import compiled, learn, retrieve
from nvcim_jax.pipeline.answer import answer_room, generate
from nvcim_jax.pipeline.block import Block
from nvcim_jax.pipeline.encode import fit_codecs
from nvcim_jax.pipeline.presets import RECOMMENDED, Settings, fixed_rate, prompt_key, relative_rate
from nvcim_jax.provenance import provenance
from nvcim_jax.tuning.dept import Trained

SIGMAS = (0.025, 0.05, 0.1, 0.15)
NVM3 = device("NVM-3")
CLEAN = replace(RECOMMENDED, clip=1.0, train_sigma=0.0)


def relative(share: float) -> Callable:
    return partial(relative_rate, share=share)


def fixed(rate: float) -> Callable:
    return partial(fixed_rate, rate=rate)


def both(share: float) -> Callable:
    """DEPT's two learning rates: the factors' is a sixth of the prompt's share."""

    def rates(start: Trained) -> Trained:
        factors = jnp.float32(share / 6)
        return Trained(relative_rate(start.prompt, share=share), factors, factors)

    return rates


class Rival(NamedTuple):
    """A method as one adapter for a user's whole buffer, and the learning rates to choose from."""

    method: tuning.Method
    rate: Callable  # of the chosen figure: the learning rates of what is trained
    chosen: float  # by --pick
    others: tuple[float, ...]


RIVALS = {
    "prompt tuning": Rival(tuning.Prompt(), relative, 0.06, (0.02, 0.06, 0.2)),
    "DEPT": Rival(tuning.Dept(tokens=8, longest=64, rank=8), both, 0.06, (0.02, 0.06, 0.2)),
    "P-tuning v2": Rival(tuning.Prefix(), fixed, 0.03, (0.003, 0.01, 0.03, 0.1)),
    "prefix tuning": Rival(tuning.Prefix(hidden=128), fixed, 0.001, (0.001, 0.003, 0.01, 0.03)),
    "LoRA": Rival(tuning.Lora(), fixed, 0.01, (0.001, 0.003, 0.01, 0.03)),
    "IA3": Rival(tuning.Ia3(), fixed, 0.1, (0.01, 0.03, 0.1, 0.3)),
}  # fmt: skip

# How OVTs are trained before they are stored: settings, of which the training noise is a multiple of the device's.
TRAINED = {
    "no training noise": CLEAN,
    "noise in embedding space": replace(CLEAN, method=tuning.Prompt(), train_sigma=1.0),
    "noise in code space": replace(CLEAN, train_sigma=1.0),
    "noise in code space, twice": replace(CLEAN, train_sigma=2.0),
    "… through the largest value": replace(CLEAN, train_sigma=2.0, training=tuning.Training(through_peak=True)),
    "… range projection (recommended)": RECOMMENDED,
}


# Where virtual tokens start, and the penalty that keeps them near their sample's content.
STARTS = {
    "own tokens": (tuning.own_tokens, 0.0),
    "random": (tuning.random_tokens, 0.0),
    "random, penalty 0.3": (tuning.random_tokens, 0.3),
    "random, penalty 3": (tuning.random_tokens, 3.0),
    "vocabulary": (tuning.vocabulary_tokens, 0.0),
}


class Crowd(NamedTuple):
    """Users of one task with what all methods share."""

    shared: crowds.Crowd
    block: Block

    def scores(self, adapted: tuning.Adapted) -> np.ndarray:
        """Mean score of each user; row i of `adapted` stands before question i."""
        model, room = self.shared.model, answer_room(self.shared.model, self.shared.users)
        answers = generate(model, self.shared.queries, adapted, new_tokens=room)
        return ladders.score_of(self.shared, self.shared.owners, self.shared.queries, answers).scores


def crowd(key: jax.Array, model: llm.Model, task: lamp.Task, count: int, first: int) -> Crowd:
    select_key, codec_key = jax.random.split(key)
    users = toy_users(task, count, first=first)
    shared = crowds.gather(select_key, model, users, buffer=RECOMMENDED.buffer)
    codec = fit_codecs(codec_key, model, task, shared.users)
    return Crowd(shared, Block(task, shared.users, shared.selected, codec))


def read(c: Crowd, method: tuning.Method, values, rows: np.ndarray) -> tuning.Adapted:
    """What trained row `rows[i]` hands to the model for question i, undisturbed."""
    own = jax.tree.map(lambda leaf: leaf[rows], values)
    codec = jax.tree.map(lambda leaf: leaf[c.shared.owners], c.block.codec)
    one = lambda own, codec: method.apply(own, codec, c.shared.model.config, tuning.quiet)  # noqa: E731
    return jax.jit(jax.vmap(one))(own, codec)


def for_all(c: Crowd, key: jax.Array, settings: Settings) -> np.ndarray:
    """Scores of one adapter for each user's buffer, at the compute of the user's OVTs."""
    values = one_for_all.tune(key, c.shared.model, c.block, Condition(NVM3, 0.0), settings=settings)
    return c.scores(read(c, settings.method, values, c.shared.owners))


def ovts(c: Crowd, key: jax.Array, settings: Settings) -> np.ndarray:
    """Scores of one adapter for each representative sample, the question's domain known."""
    selected, slots = c.block.selected, c.block.selected.slots
    samples = [selected.samples[u][s] for u, s in slots]
    pools = [lamp.both_orders(c.block.task, sample) for sample in samples]
    rows = learn.Rows(slots, samples, pools)
    tuned = learn.tune(key, c.shared.model, c.block, rows, Condition(NVM3, 0.0), settings=settings)
    at = {slot: row for row, slot in enumerate(slots)}
    rows = np.array([at[slot] for slot in zip(c.shared.owners, c.shared.known, strict=True)])
    return c.scores(read(c, settings.method, tuned.values, rows))


def rival(c: Crowd, key: jax.Array, name: str, rate: float) -> np.ndarray:
    own = RIVALS[name]
    start = tuning.vocabulary_tokens
    settings = replace(CLEAN, method=own.method, start=start, learning_rate=own.rate(rate))
    return for_all(c, key, settings)


def ladder(c: Crowd, key: jax.Array) -> dict[tuple[str, str], np.ndarray]:
    """Scores of every method by group and name, nothing stored."""
    untuned = replace(CLEAN, method=tuning.Prompt(), training=tuning.Training(steps=0))
    scores = {("", "base model"): c.scores(tuning.Adapted()), ("", "own tokens, untuned"): ovts(c, key, untuned)}
    for name, own in track(RIVALS.items(), description=f"{c.shared.task.name}, one for all"):
        scores["one for all", name] = rival(c, key, name, own.chosen)
    random = replace(CLEAN, method=tuning.Prompt(), start=tuning.random_tokens)
    scores["", "OVT, random start"] = ovts(c, key, random)
    scores["", "OVT"] = ovts(c, key, replace(CLEAN, method=tuning.Prompt()))
    scores["", "OVT in code space"] = ovts(c, key, CLEAN)
    return scores


def stored(c: Crowd, key: jax.Array, draws: int) -> dict[tuple[str, float, str], np.ndarray]:
    """Scores of OVTs read back, by training, sigma and device; each device gets `draws` of its noise."""
    scores = {}
    for sigma in track(SIGMAS, description=f"{c.shared.task.name}, stored"):
        for name, settings in TRAINED.items():
            learned = learn.tune_bank(key, c.shared.model, c.block, Condition(NVM3, sigma), settings=settings)
            for written in RATIOS:
                condition = Condition(device(written), sigma)
                banks = retrieve.program(key, c.block, learned, condition, settings=settings, draws=draws)
                each = [
                    compiled.prompts_of(c.block.codec, banks.prompts[:, draw])[c.shared.owners, c.shared.known]
                    for draw in range(draws)
                ]
                scores[name, sigma, written] = np.mean([c.scores(tuning.Adapted(front=one)) for one in each], axis=0)
    return scores


def found(c: Crowd, key: jax.Array) -> dict[str, dict[str, np.ndarray]]:
    """By start and penalty, each user's score with the right domain known and share of questions whose domain the
    search finds, OVTs being their own keys; coded, but without noise."""
    model, users, selected = c.shared.model, c.block.users, c.block.selected
    owners, asked = c.shared.owners, [query.domain for query in c.shared.queries]
    domains = [[sample and sample.domain for sample in row] for row in selected.samples]
    shares = {}
    for name, (start, pull) in STARTS.items():
        settings = replace(
            CLEAN, method=tuning.Prompt(), start=start, key=prompt_key, training=tuning.Training(steps=30, pull=pull)
        )
        learned = learn.tune_bank(key, model, c.block, Condition(NVM3, 0.0), settings=settings)
        banks = retrieve.program(key, c.block, learned, Condition(NVM3, 0.0), settings=settings)
        match = retrieve.search(model, c.block, banks, settings=settings)
        slots = [slot for user, row in zip(users, match.index[:, 0], strict=True) for slot in row[: len(user.queries)]]
        hits = [domains[u][int(slot)] == own for u, slot, own in zip(owners, slots, asked, strict=True)]
        by_user = [np.mean(np.array(hits)[owners == user]) for user in range(len(users))]
        prompts = compiled.prompts_of(c.block.codec, learned.prompts)[owners, c.shared.known]
        shares[name] = {"found": np.array(by_user), "score": c.scores(tuning.Adapted(front=prompts))}
    return shares


def cell(scores: np.ndarray) -> str:
    known = interval(scores)
    return f"{known.mean:.3f} ± {known.half:.3f}"


def markdown(finished: dict[str, tuple[dict, dict, dict]]) -> str:
    """The ladder, the starts, and stored OVTs: by sigma with the paired gain over no training noise, and by device."""
    tasks = list(finished)
    lines = ["| method | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for method in next(iter(finished.values()))[0]:
        lines.append(f"| {label(*method)} | " + " | ".join(cell(finished[task][0][method]) for task in tasks) + " |")
    lines += ["", "| start, found and score | " + " | ".join(tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for name in STARTS:
        own = [finished[task][1][name] for task in tasks]
        lines.append(
            f"| {name} | " + " | ".join(f"{cell(each['found'])}, {cell(each['score'])}" for each in own) + " |"
        )
    for task in tasks:
        held = finished[task][2]
        lines += ["", f"| {task}, NVM-3 | " + " | ".join(f"sigma {sigma}" for sigma in SIGMAS) + " |", "|---" * 5 + "|"]
        bare = next(iter(TRAINED))
        for name in TRAINED:
            cells = []
            for sigma in SIGMAS:
                gain = difference(held[name, sigma, "NVM-3"], held[bare, sigma, "NVM-3"])
                more = "" if name == bare else f" ({gain.mean:+.3f} ± {gain.half:.3f})"
                cells.append(cell(held[name, sigma, "NVM-3"]) + more)
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines += ["", f"| {task}, sigma 0.15 | " + " | ".join(RATIOS) + " |", "|---" * 6 + "|"]
        for name in TRAINED:
            lines.append(
                f"| {name} | " + " | ".join(cell(held[name, SIGMAS[-1], written]) for written in RATIOS) + " |"
            )
    return "\n".join(lines)


def write(out: Path, finished: dict, settings: dict) -> None:
    tasks = {
        task: {
            "ladder": {label(*method): each.tolist() for method, each in climbed.items()},
            "starts": {name: {part: own.tolist() for part, own in each.items()} for name, each in starts.items()},
            "stored": [
                {"training": name, "sigma": sigma, "device": written, "scores": each.tolist()}
                for (name, sigma, written), each in held.items()
            ],
        }
        for task, (climbed, starts, held) in finished.items()
    }
    files.write_json(out / "results.json", {"settings": settings, "provenance": provenance(), "tasks": tasks})
    files.write_text(out / "table.md", markdown(finished))
    tables = {
        task: [figures.Bar(*method, interval(each)) for method, each in climbed.items()]
        for task, (climbed, *_) in finished.items()
    }
    figures.bars(out / "results.png", tables, title=f"{settings['users']} held-out users, nothing stored")


def pick(model: llm.Model, tasks: list[lamp.Task], args, console: Console) -> None:
    """Mean score over tasks of every learning rate, on users from 2,000,000 on."""
    crowds = [crowd(jax.random.key(args.seed), model, task, args.users, 2_000_000) for task in tasks]
    key, found = jax.random.key(args.seed + 1), {}
    for name, own in RIVALS.items():
        for rate in own.others:
            found[f"{name} {rate}"] = means = [float(rival(c, key, name, rate).mean()) for c in crowds]
            console.print(f"{name:14s} {rate:<6} " + " ".join(f"{mean:.3f}" for mean in means), highlight=False)
    files.write_json(args.out / "rates.json", {"tasks": [task.name for task in tasks], "means": found})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--task", nargs="*", default=["LaMP-2", "LaMP-3", "LaMP-5"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pick", action="store_true", help="compare learning rates instead")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    console, model = Console(), llm.load(EMBEDDED)
    tasks = [lamp.task(name) for name in args.task]
    if args.pick:
        return pick(model, tasks, args, console)
    settings = {name: str(value) if name == "out" else value for name, value in vars(args).items()}
    finished, started = {}, time.perf_counter()
    for task in tasks:
        own = crowd(jax.random.key(args.seed), model, task, args.users, synthetic.HELD_OUT)
        key = jax.random.key(args.seed + 1)
        finished[task.name] = ladder(own, key), found(own, key), stored(own, key, args.draws)
        settings["seconds"] = round(time.perf_counter() - started)
        write(args.out, finished, settings)
    console.print(markdown(finished), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()

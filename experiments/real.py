"""A real model on real people's text: OVTs in noisy arrays beside what people would pick instead.

    python experiments/real.py --model SmolLM2-135M-Instruct.Q4_1.gguf --task LaMP-5 --data LaMP_5 --out out/titles

Every rung answers the same questions of the same people on the same draws of the device. What many people have in
common (one prompt, one codec) is learned for each half of the people from the other half: nobody's own text is in the
prompt that they start from. Each rung is kept in --out as it is finished: the same command goes on from there. `--only
base OVT` climbs rungs whose names begin so. Writes results.json and table.md.
"""

import argparse
import json
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from rich.console import Console

import nvcim_jax as nv
from nvcim_jax import files, llm, tuning
from nvcim_jax.core.similarity import SCALES
from nvcim_jax.data import text
from nvcim_jax.data.users import Users, with_history
from nvcim_jax.data.wording import Wording
from nvcim_jax.evaluation import metrics, one_for_all
from nvcim_jax.evaluation.retrieved import in_context, nearest
from nvcim_jax.evaluation.statistics import clear, difference, interval
from nvcim_jax.evaluation.worth import metrics_of
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.memory.bank import Bank
from nvcim_jax.people import Sample
from nvcim_jax.pipeline import compiled, retrieve
from nvcim_jax.pipeline.answer import answer_room, generate
from nvcim_jax.pipeline.block import Block, Common, gather
from nvcim_jax.pipeline.common import learn_common
from nvcim_jax.pipeline.learn import start_together, tune_bank
from nvcim_jax.pipeline.presets import TOGETHER, Settings, fixed_rate, relative_rate
from nvcim_jax.provenance import provenance

INT16 = 2  # bytes of a value in the arrays


class Outcome(NamedTuple):
    """What a rung answered, by draw and question, and what it cost for each person."""

    answers: list[list[str]]
    learned: int = 0  # tokens that went through the model while it learned
    learning: float = 0.0  # seconds, compilation included
    read: float = 0.0  # tokens of a question as the model reads it
    answering: float = 0.0  # seconds for a question, compilation included
    kept: float = 0.0  # bytes


class Started(NamedTuple):
    """A block of users with what their OVTs start from, and what that took to learn."""

    block: Block
    tokens: int = 0
    seconds: float = 0.0


class Learned(NamedTuple):
    """A bank of each user, and what learning it took."""

    block: Block
    bank: Bank
    settings: Settings
    tokens: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Half:
    """Half of the people, and the other half, from whose common prompt they start."""

    model: llm.Model
    users: Users
    others: Users
    args: argparse.Namespace
    banks: dict[tuple, Learned] = field(default_factory=dict)

    @property
    def condition(self) -> Condition:
        return Condition(nv.device(self.args.device), self.args.sigma)

    @property
    def room(self) -> int:
        return answer_room(self.model, self.users)

    @cached_property
    def common(self) -> Common:
        """What the other half has in common."""
        training = tuning.Training(steps=self.args.common_steps, per_step=2, warmup=8)
        rate = partial(relative_rate, share=self.args.common_rate)
        settings = replace(settings_of(self.args), training=training, learning_rate=rate)
        bound = {"sigma": self.args.sigma, "settings": settings}
        own = learn_common(self.key("common"), self.model, self.others, self.args.device, **bound)
        return Common(jax.tree.map(lambda leaf: leaf[0], own.codec), own.bank.prompts[0, 0])

    @cached_property
    def together(self) -> Started:
        """The users with one prompt of each, tuned on all of the user's own samples, from which OVTs can start."""
        settings = replace(TOGETHER, longest=self.args.longest, wording=settings_of(self.args).wording)
        block = gather(self.key("gather"), self.model, self.users.task, self.users, settings=settings)
        started, tokens = time.perf_counter(), []
        told = lambda progress: tokens.append(progress.tokens)  # noqa: E731
        how = {"settings": settings, "report": told}
        block = start_together(self.key("together"), self.model, block, self.condition, **how)
        return Started(block, sum(tokens), time.perf_counter() - started)

    def learned(
        self, *, start: str = "own", tuned: bool = True, learn: Callable = tune_bank, learn_from: str = "sample"
    ) -> Learned:
        """A bank for each of the users; what was learned before is not learned again.

        OVTs `start` from the user's "own" tokens, from the prompt of the "others", or from one of all samples,
        "together".
        """
        name = (start, tuned, learn, learn_from)
        if name not in self.banks:
            settings, tokens = replace(settings_of(self.args), learn_from=learn_from), []
            if not tuned:
                settings = replace(settings, training=replace(settings.training, steps=0))
            bound = {"settings": settings, "common": self.common if start == "others" else None}
            block = gather(self.key("gather"), self.model, self.users.task, self.users, **bound)
            block, spent, before = self.together if start == "together" else Started(block)
            started = time.perf_counter()
            told = lambda progress: tokens.append(progress.tokens)  # noqa: E731
            bank = learn(self.key("tune"), self.model, block, self.condition, settings=settings, report=told)
            seconds = before + time.perf_counter() - started
            self.banks[name] = Learned(block, bank, settings, spent + sum(tokens), seconds)
        return self.banks[name]

    def key(self, stage: str) -> jax.Array:
        return jax.random.fold_in(jax.random.key(self.args.seed), zlib.crc32(stage.encode()))


def settings_of(args: argparse.Namespace) -> Settings:
    """Of an OVT: those of `recommended`, in the user's turn of the chat, for shorter samples."""
    return replace(
        nv.RECOMMENDED, longest=args.longest, wording=Wording("auto", args.place),
        learning_rate=partial(relative_rate, share=args.rate),
        training=tuning.Training(steps=args.steps, per_step=1, rows=16),
    )  # fmt: skip


def base(half: Half) -> Outcome:
    return answered(half, [query for user in half.users for query in user.queries])


def retrieved(half: Half, way: str, count: int) -> Outcome:
    """The model with samples of the person in its context."""
    kept = sum(len((s.question + s.answer).encode()) for user in half.users for s in user.history)
    return answered(half, asked_with(half, way, count))._replace(kept=kept)


def asked_with(half: Half, way: str, count: int) -> list[Sample]:
    return [
        in_context(half.users.task, query, samples)
        for user in half.users
        for query, samples in zip(user.queries, nearest(half.model, user, count, way=way), strict=True)
    ]


def ovts(half: Half, *, way: str | None = None, **how) -> Outcome:
    """OVTs in arrays, found by the search; with a `way`, behind them also the nearest sample as text."""
    own = half.learned(**how)
    asked = None if way is None else asked_with(half, way, 1)
    out = through_arrays(half, own.block, own.bank, own.settings, asked)
    return out._replace(learned=own.tokens, learning=own.seconds, kept=kept_in(own.bank, own.settings))


def common_alone(half: Half) -> Outcome:
    """The prompt that the others have in common, not made anybody's own, in arrays."""
    settings, own = settings_of(half.args), half.common
    block = gather(half.key("gather"), half.model, half.users.task, half.users, settings=settings, common=own)
    nothing = replace(settings, training=replace(settings.training, steps=0))
    bank = one_for_all.learn(half.key("tune"), half.model, block, half.condition, settings=nothing)
    return through_arrays(half, block, bank, settings)._replace(kept=kept_in(bank, settings))


def adapter(half: Half, method: tuning.Method, rate: float) -> Outcome:
    """One adapter for each person, kept exactly, at the compute of the person's OVTs."""
    free = {"clip": 1.0, "train_sigma": 0.0}  # it lies in no array
    settings = replace(settings_of(half.args), method=method, learning_rate=partial(fixed_rate, rate=rate), **free)
    tokens: list[int] = []
    block = gather(half.key("gather"), half.model, half.users.task, half.users, settings=settings)
    started = time.perf_counter()
    told = lambda progress: tokens.append(progress.tokens)  # noqa: E731
    values = one_for_all.tune(half.key("tune"), half.model, block, half.condition, settings=settings, report=told)
    seconds = time.perf_counter() - started
    owners = np.array([at for at, user in enumerate(half.users) for _ in user.queries])
    one = lambda own, codec: method.apply(own, codec, half.model.config, tuning.quiet)  # noqa: E731
    adapted = jax.jit(jax.vmap(one))(*jax.tree.map(lambda leaf: leaf[owners], (values, block.codec)))
    out = answered(half, [query for user in half.users for query in user.queries], adapted)
    return out._replace(
        learned=sum(tokens), learning=seconds, kept=sum(leaf.nbytes for leaf in jax.tree.leaves(values))
    )


def kept_in(bank: Bank, settings: Settings) -> int:
    """Bytes of OVTs in arrays: their codes, and their search keys at every scale."""
    dim = bank.prompts.shape[-1]
    return int(bank.count.sum()) * INT16 * dim * (settings.tokens + sum(settings.tokens // s for s in SCALES))


def through_arrays(
    half: Half, block: Block, bank: Bank, settings: Settings, asked: Sequence[Sample] | None = None
) -> Outcome:
    """Programmed `draws` times, searched for the questions, answered behind what was read back."""
    draws = half.args.draws
    banks = retrieve.program(half.key("program"), block, bank, half.condition, settings=settings, draws=draws)
    match = retrieve.search(half.model, block, banks, settings=settings)
    out: list[Outcome] = []
    for draw in range(draws):
        prompts = compiled.prompts_of(block.codec, match.prompt[:, draw])
        front = np.concatenate([prompts[at, : len(user.queries)] for at, user in enumerate(half.users)])
        queries = asked or [query for user in half.users for query in user.queries]
        out.append(answered(half, queries, tuning.Adapted(front=jax.numpy.asarray(front))))
    return out[0]._replace(
        answers=[answers for one in out for answers in one.answers],
        answering=sum(one.answering for one in out) / draws,
    )


def answered(half: Half, queries: Sequence[Sample], adapted: tuning.Adapted = tuning.Adapted()) -> Outcome:  # noqa: B008
    wording = settings_of(half.args).wording
    started = time.perf_counter()
    answers = generate(half.model, queries, adapted, new_tokens=half.room, wording=wording)
    each = (time.perf_counter() - started) / len(queries)
    longest = half.model.config.context - tuning.taken(adapted) - half.room
    read = [len(text.asked(half.model.tokenizer, query, wording, longest).ids) for query in queries]
    return Outcome([answers], read=float(np.mean(read)) + tuning.taken(adapted), answering=each)


RUNGS: dict[str, Callable[[Half], Outcome]] = {
    "base model": base,
    "text: BM25, 1 sample": partial(retrieved, way="bm25", count=1),
    "text: BM25, 4 samples": partial(retrieved, way="bm25", count=4),
    "own tokens, untuned": partial(ovts, tuned=False),
    "others' prompt": common_alone,
    "OVT from others' prompt, on clusters": partial(ovts, start="others", learn_from="cluster"),
    "OVT from others' prompt and text": partial(ovts, start="others", learn_from="cluster", way="bm25"),
    "one for all from others' prompt": partial(ovts, start="others", learn=one_for_all.learn),
    "OVT from own tokens, on clusters": partial(ovts, learn_from="cluster"),
    "text: dense, 1 sample": partial(retrieved, way="dense", count=1),
    "text: latest, 1 sample": partial(retrieved, way="recent", count=1),
    "LoRA for each person": partial(adapter, method=tuning.Lora(), rate=0.002),
    "OVT from others' prompt, on samples": partial(ovts, start="others"),
    "one for all from own tokens": partial(ovts, learn=one_for_all.learn),
    "one prompt of own samples": partial(ovts, start="together", tuned=False, learn_from="cluster"),
    "OVT from one prompt of own samples": partial(ovts, start="together", learn_from="cluster"),
}
PAIRS = [
    ("OVT from others' prompt, on clusters", other)
    for other in ("base model", "own tokens, untuned", "others' prompt", "one for all from others' prompt",
                  "text: BM25, 1 sample", "LoRA for each person")
] + [("OVT from others' prompt and text", "text: BM25, 1 sample"),
     ("OVT from own tokens, on clusters", "base model")] + [
    ("OVT from one prompt of own samples", other)
    for other in ("base model", "own tokens, untuned", "one prompt of own samples", "others' prompt",
                  "OVT from others' prompt, on clusters", "text: BM25, 1 sample", "LoRA for each person")
]  # fmt: skip


def climb(halves: Sequence[Half], rung: Callable[[Half], Outcome]) -> dict:
    """One rung for both halves: scores of each question by metric, answers, and what it cost."""
    outs = [rung(half) for half in halves]
    golds = [[query.answer for user in half.users for query in user.queries] for half in halves]
    people, questions = sum(len(half.users) for half in halves), sum(map(len, golds))
    mean = lambda name: float(np.average([getattr(out, name) for out in outs], weights=list(map(len, golds))))  # noqa: E731
    task = halves[0].users.task
    scores = {
        name: [
            float(np.mean([metric(draw[at], gold) for draw in out.answers]))
            for out, own in zip(outs, golds, strict=True)
            for at, gold in enumerate(own)
        ]
        for name, metric in metrics_of(task).items()
    }
    answers = [draw for out in outs for draw in zip(*out.answers, strict=True)]
    right = [gold for own in golds for gold in own]
    of_all = [metrics.official(task, draw, right) for draw in zip(*answers, strict=True)]
    return {
        "scores": scores,
        "of all questions": {name: float(np.mean([each[name] for each in of_all])) for name in of_all[0]},
        "answers": answers,
        "questions": questions,
        "tokens_to_learn": sum(out.learned for out in outs) / people,
        "seconds_to_learn": sum(out.learning for out in outs) / people,
        "tokens_of_a_question": mean("read"),
        "seconds_of_a_question": mean("answering"),
        "bytes_kept": sum(out.kept for out in outs) / people,
    }


def by_user(found: dict, metric: str, owners: np.ndarray) -> np.ndarray:
    each = np.array(found["scores"][metric])
    return np.array([each[owners == user].mean() for user in np.unique(owners)])


def table(results: dict[str, dict], owners: np.ndarray) -> str:
    """Rungs with scores, gain over the base model and cost; then the paired differences."""
    by = list(next(iter(results.values()))["scores"])
    told = {name for found in results.values() for name in found.get("of all questions", ())}  # none of older results
    of_all = sorted(told - {*by})
    first = by[0]
    lines = ["| | " + " | ".join(by + of_all) + f" | gain in {first} | tokens to learn | s to learn | tokens of a "
             "question | s to answer | kB kept |", "|---" * (len(by + of_all) + 7) + "|"]  # fmt: skip
    for name, found in results.items():
        shown = [interval(by_user(found, metric, owners)) for metric in by]
        cells = [f"{each.mean:.3f} ± {each.half:.3f}" for each in shown]
        everyone = found.get("of all questions", {})
        cells += [f"{everyone[name]:.3f}" if name in everyone else "" for name in of_all]
        gain = ""
        if name != "base model" and "base model" in results:
            gap = difference(by_user(found, first, owners), by_user(results["base model"], first, owners))
            gain = f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
        cost = [f"{found['tokens_to_learn']:,.0f}", f"{found['seconds_to_learn']:.0f}",
                f"{found['tokens_of_a_question']:.0f}", f"{found['seconds_of_a_question']:.2f}",
                f"{found['bytes_kept'] / 1e3:.1f}"]  # fmt: skip
        lines.append(f"| {name} | " + " | ".join([*cells, gain, *cost]) + " |")
    pairs = [pair for pair in PAIRS if set(pair) <= set(results)]
    if pairs:
        scored = [tuple(by_user(results[name], first, owners) for name in pair) for pair in pairs]
        lines += ["", f"| paired difference in {first} | | told apart |", "|---|---|---|"]
        for (one, other), own, told in zip(pairs, scored, clear(scored), strict=True):
            gap = difference(*own)
            lines.append(
                f"| {one} − {other} | {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] | {'yes' if told else 'no'} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder, a .gguf file, a hub name, or toy")
    parser.add_argument("--data", type=Path, required=True, help="a LaMP folder")
    parser.add_argument("--task", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0, help="number of the first person in the file")
    parser.add_argument("--users", type=int, default=24)
    parser.add_argument("--questions", type=int, default=3, help="of each person, at most")
    parser.add_argument("--steps", type=int, default=6, help="of each OVT, one sample a step")
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate, as a share of the start")
    parser.add_argument("--common-steps", type=int, default=260, help="of the others' prompt, two samples a step")
    parser.add_argument("--common-rate", type=float, default=0.2)
    parser.add_argument("--place", default="turn", choices=("front", "second", "turn"))
    parser.add_argument("--longest", type=int, default=128, help="tokens of a sample that tuning reads")
    parser.add_argument("--device", default="NVM-3")
    parser.add_argument("--sigma", type=float, default=0.1)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", choices=("float32", "bfloat16"), help="how weights are held")
    parser.add_argument("--memory", default=None, help="such as 6GB")
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of names of rungs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("out", "only")}
    model = nv.load_model(args.model, dtype=args.weights, memory=args.memory)
    people = with_history(nv.read_lamp(args.data, args.task))[args.first : args.first + args.users]
    people = replace(people, people=tuple(user._replace(queries=user.queries[: args.questions]) for user in people))
    middle = len(people) // 2
    cut = people[:middle], people[middle:]
    halves = [Half(model, cut[at], cut[1 - at], args) for at in (0, 1)]
    owners = np.array([at for at, user in enumerate(people) for _ in user.queries])
    path, console, results = args.out / "results.json", Console(), {}
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["settings"] != settings:
            raise SystemExit(f"{path} was made with other settings ({kept['settings']}): give another --out")
        results = kept["results"]
    for name, rung in RUNGS.items():
        if not name.startswith(tuple(args.only)):
            continue
        if name not in results:
            results[name] = climb(halves, rung)
            files.write_json(path, {"settings": settings, "provenance": provenance(), "results": results})
            files.write_text(args.out / "table.md", table(results, owners) + "\n")
        first = next(iter(results[name]["scores"]))
        scores = interval(by_user(results[name], first, owners))
        console.print(f"{name:40s} {first} {scores.mean:.3f} ± {scores.half:.3f}", highlight=False)
    console.print("\n" + table(results, owners), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()

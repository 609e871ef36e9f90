"""Seconds until 25 prompts of one sample each (OVTs) are as good as they get: ours and PEFT, from like starts.

    python -m bench.time_to_quality
    python -m bench.time_to_quality --task LaMP-2 --rows 25 --steps 300 --json quality.json

Same embedded model and samples. Results are of users from 3,000,000 on; learning rates are chosen on users from
2,000,000 on, where all other settings were. Held-out score: answers to other questions of the same user and domain
behind the prompt as it was trained, by one generator for all. A method is there once it is within one point of a final
score: its own (for the first time, and for good), ours, the best of all.

A start that holds the sample's answer is nearly the goal already, so starts are compared with their like. Ours is the
recommended preset (code space, 30 steps, training noise of twice sigma 0.1 of NVM-3) from the sample's own words, with
or without its answer; its seconds include the fit of the codecs and the start. PEFT, one by one, is
`PromptTuningConfig` with 16 tokens: TEXT with the same words as ours, with or without the answer, and its default, a
random start. Each under the defaults of transformers' Trainer (AdamW at 5e-5 without weight decay, linear decay to 0,
gradients clipped at norm 1), and under the best of a grid of learning rates: the one that is first within a point of
the grid's best final score. PEFT's seconds are those of the training steps alone, with one thread or all cores,
whichever is faster. Ratios are PEFT's seconds over ours of a like start, "cold" with our compilation; there is none
where one side never gets there, or is there before its first step. Run it on quiet cores (needs the extra `bench`).
"""

import os
import time
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench import harness
from nvcim_jax import llm, tuning
from nvcim_jax.cli import EMBEDDED
from nvcim_jax.data import lamp, synthetic, text
from nvcim_jax.data.lamp import Task
from nvcim_jax.evaluation.ladder import metric_of
from nvcim_jax.hardware import catalogue
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline import compiled
from nvcim_jax.pipeline.answer import answer_room, generate
from nvcim_jax.pipeline.encode import fit_codecs, stored
from nvcim_jax.pipeline.learn import pair, start_ids
from nvcim_jax.pipeline.presets import RECOMMENDED, Settings
from nvcim_jax.pipeline.select import buffered, select
from nvcim_jax.tuning import train

torch, transformers, peft = harness.peers("torch", "transformers", "peft")

FIRST, FIRST_OF_GRID = 3_000_000, 2_000_000  # numbers of the users
TRAINER_RATE, GRID = 5e-5, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
MARKS = (0, 1, 2, 3, 5, 8, 12, 20, 30, 50, 75, 100, 150, 200, 300)
POINT = 0.01
MOST_DOMAINS = 6  # of a user
OURS = {"ours": RECOMMENDED, "ours, no answer": replace(RECOMMENDED, start_answer=False)}
# PEFT's starts, by the words of ours that they are of; None is random. And those of ours that they are held against.
STARTS = {"TEXT": "ours", "TEXT, no answer": "ours, no answer", "random": None}
AGAINST = {"TEXT": "ours", "TEXT, no answer": "ours, no answer", "random": "ours, no answer"}
AIMS = {TRAINER_RATE: 20.0, None: 5.0}  # aims for PEFT's defaults, and its best learning rate


class Case(NamedTuple):
    """Samples to tune one prompt on each, and what its prompt is judged by."""

    task: Task
    users: list[User]
    owners: np.ndarray  # [rows], index of the sample's user
    samples: list[Sample]  # [rows]
    queries: list[list[Sample]]  # [rows][questions], of the same user and domain


class Curve(NamedTuple):
    """A method's prompts after some numbers of steps, and the seconds up to there."""

    marks: tuple[int, ...]
    seconds: np.ndarray  # [marks]
    prompts: np.ndarray  # [marks, rows, tokens, dim]
    once: float = 0.0  # seconds of compilation


class Run(NamedTuple):
    """A method, its prompts by steps, and how well they answer."""

    method: str
    rate: float | None  # PEFT's
    against: str  # the method of ours that starts alike
    aim: float | None
    curve: Curve
    scores: np.ndarray  # [marks]


def case_of(model, task: Task, first: int, rows: int, queries: int) -> Case:
    """The representatives of the users from number `first` on, until there are `rows`."""
    found = synthetic.users(task, -(-rows // 3), first=first, queries=queries * MOST_DOMAINS)
    users = buffered(found, RECOMMENDED.buffer)
    selected = select(jax.random.key(harness.SEED), model, users, extra_domains=True)
    slots = [(u, sample) for u, row in enumerate(selected.samples) for sample in row if sample is not None][:rows]
    asked = [[query for query in users[u].queries if query.domain == sample.domain][:queries] for u, sample in slots]
    owners = np.array([u for u, _ in slots])
    return Case(task, users[: owners.max() + 1], owners, [sample for _, sample in slots], asked)


def pairs_of(model, case: Case) -> list:
    """Question and answer ids of every sample, the same for all methods."""
    return [pair(model, sample, RECOMMENDED)[:2] for sample in case.samples]


def marks_to(steps: int) -> tuple[int, ...]:
    """Where a curve of so many steps is looked at."""
    return (*(mark for mark in MARKS if mark < steps), steps)


def ids_of(model, case: Case, settings: Settings) -> list[list[int]]:
    """The words that every prompt starts from."""
    return [
        start_ids(model, case.task, sample, settings, case.users[user].history)
        for user, sample in zip(case.owners, case.samples, strict=True)
    ]


def ours(model, case: Case, settings: Settings, sigma: float, rounds: int) -> Curve:
    """Our defaults; compiled in a first pass, then the median of `rounds`."""
    marks = marks_to(settings.training.steps)
    jax.clear_caches()
    cold, _ = trained(model, case, settings, sigma, marks)
    passes = [trained(model, case, settings, sigma, marks) for _ in range(rounds)]
    warm = np.median([seconds for seconds, _ in passes], axis=0)
    return Curve(marks, warm, np.asarray(passes[0][1]), float(cold[-1] - warm[-1]))


def trained(model, case: Case, settings: Settings, sigma: float, marks: tuple[int, ...]):
    """One pass of ours: seconds up to every mark, and the prompts there."""
    key = jax.random.key(harness.SEED)
    trained_for = Condition(catalogue.device("NVM-3"), jnp.float32(sigma * settings.train_sigma))
    fixed = {"config": model.config, "method": settings.method, "training": settings.training}
    started, seconds, prompts = time.perf_counter(), [], []
    codec = fit_codecs(key, model, case.task, case.users, fit=settings.fit_codec)
    codecs = jax.tree.map(lambda leaf: leaf[case.owners], codec)
    ids = np.array(ids_of(model, case, settings), np.int32)
    start_keys, init_keys, noise_keys = (jax.random.split(own, len(ids)) for own in jax.random.split(key, 3))
    bound = {"config": model.config, "settings": settings}
    begun = compiled.start(model.params, start_keys, init_keys, ids, None, codecs, **bound)
    batch = text.batch([[pair] for pair in pairs_of(model, case)])
    job = tuning.Job(noise_keys, begun[0], codecs, *begun[1:], batch)
    state = train.begin(job, training=settings.training)
    for mark in marks:
        state = train.advance(model.params, job, trained_for, state, mark, **fixed)
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - started)
        codes = stored(model, state.values, codecs, settings=settings)
        prompts.append(compiled.prompts_of(codecs, codes[:, None])[:, 0])
        jax.block_until_ready(prompts)
        started = time.perf_counter() - seconds[-1]  # without reading the prompts
    return np.array(seconds), jnp.stack(prompts)


def theirs(base, model, case: Case, start: str, rate: float, steps: int) -> Curve:
    """PEFT's prompt tuning, one sample after the other; making the adapters is not timed."""
    marks, own = marks_to(steps), STARTS[start]
    words = ids_of(model, case, OURS[own]) if own else [None] * len(case.samples)
    rows = []
    for seed, (texts, ids) in enumerate(zip(pairs_of(model, case), words, strict=True)):
        torch.manual_seed(seed)
        rows.append(one_of_theirs(adapter(base, model, ids), *texts, rate, marks))
    seconds, prompts = zip(*rows, strict=True)
    return Curve(marks, np.sum(seconds, axis=0), np.stack(prompts, axis=1))


def adapter(base, model, ids: list[int] | None):
    """PEFT's model with a prompt that starts at random, or by its TEXT start from the words that `ids` stand for."""
    own = {}
    if ids is not None:
        said = model.tokenizer.decode(ids)
        own = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": said, "tokenizer_name_or_path": EMBEDDED}
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=RECOMMENDED.tokens, **own)
    adapted = peft.get_peft_model(base, config).train()
    if ids is not None:
        made, meant = prompt_of(adapted), base.get_input_embeddings().weight[torch.tensor(ids)]
        if not torch.equal(made, meant):
            raise ValueError(f"PEFT's tokenizer reads {said!r} as other tokens than ours: the starts are not alike")
    return adapted


def prompt_of(adapted) -> torch.nn.Parameter:
    """What PEFT trains."""
    return next(parameter for parameter in adapted.parameters() if parameter.requires_grad)


def one_of_theirs(adapted, question: list[int], answer: list[int], rate: float, marks: tuple[int, ...]):
    """Seconds up to every mark, and the prompts there, of one sample."""
    prompt = prompt_of(adapted)
    row, labels = torch.tensor([question + answer]), torch.tensor([[-100] * len(question) + answer])
    optimiser = torch.optim.AdamW([prompt], lr=rate, weight_decay=0.0, fused=True)
    schedule = transformers.get_linear_schedule_with_warmup(optimiser, 0, marks[-1])
    seconds, kept, taken, done = [], [], 0.0, 0
    for mark in marks:
        started = time.perf_counter()
        for _ in range(mark - done):
            adapted(input_ids=row, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_([prompt], 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
        taken, done = taken + time.perf_counter() - started, mark
        seconds.append(taken)
        kept.append(prompt.detach().numpy().copy())
    return seconds, np.stack(kept)


def fastest_threads(base, model, case: Case) -> int:
    """One thread or all cores, whichever PEFT is faster with: its steps are small."""
    seconds = {}
    for count in (1, os.cpu_count() or 1):
        torch.set_num_threads(count)
        run = lambda steps: one_of_theirs(  # noqa: E731
            adapter(base, model, None), *pairs_of(model, case)[0], TRAINER_RATE, (steps,)
        )
        run(3)
        seconds[count] = run(30)[0][-1]
    return min(seconds, key=seconds.get)


def scores(model, case: Case, prompts) -> np.ndarray:
    """Held-out score of prompts [marks, rows, tokens, dim]: [marks]."""
    owners = np.repeat(np.arange(len(case.queries)), [len(row) for row in case.queries])
    asked = [query for row in case.queries for query in row]
    flat = jnp.asarray(prompts[:, owners].reshape(-1, *prompts.shape[-2:]))
    metric, new_tokens = metric_of(case.task), answer_room(model, case.users)
    answers = generate(model, asked * len(prompts), tuning.Adapted(front=flat), new_tokens=new_tokens)
    each = [metric(answer, query.answer) for answer, query in zip(answers, asked * len(prompts), strict=True)]
    return np.reshape(each, (len(prompts), -1)).mean(axis=1)


def reached(curve: Curve, score: np.ndarray, target: float) -> tuple[int, float] | None:
    """Steps and seconds at the first mark within a point of `target`; None if there is none."""
    there = np.flatnonzero(score >= target - POINT)
    return (curve.marks[there[0]], float(curve.seconds[there[0]])) if there.size else None


def settled(curve: Curve, score: np.ndarray) -> tuple[int, float]:
    """Steps and seconds at the mark from which on the score stays within a point of its final value."""
    outside = np.flatnonzero(np.abs(score - score[-1]) > POINT)
    at = outside[-1] + 1 if outside.size else 0
    return curve.marks[at], float(curve.seconds[at])


def best_rate(grid: dict[float, Run]) -> float:
    """The learning rate that is first within a point of the grid's best final score."""
    target = max(run.scores[-1] for run in grid.values())
    never = (np.inf, np.inf)
    there = {rate: reached(run.curve, run.scores, target) or never for rate, run in grid.items()}
    return min(grid, key=lambda rate: (there[rate][0], -grid[rate].scores[-1]))


def milestones(run: Run, runs: list[Run]) -> dict[str, tuple[int, float] | None]:
    """Steps and seconds at which a method is at its own final score, stays there, is at that of ours of its start, and
    at the best of all."""
    (own,) = (each for each in runs if each.method == run.against)
    targets = {"own": run.scores[-1], "ours": own.scores[-1], "best": max(each.scores[-1] for each in runs)}
    at = {goal: reached(run.curve, run.scores, target) for goal, target in targets.items()}
    return {"own": at["own"], "stays": settled(run.curve, run.scores), "ours": at["ours"], "best": at["best"]}


def times(other: tuple[int, float] | None, mine: tuple[int, float] | None, compile_s: float = 0.0) -> float | None:
    """Their seconds over ours; None where one side does not get there, or is there before its first step."""
    return other[1] / (mine[1] + compile_s) if other and mine and other[0] and mine[0] else None


def trained_row(run: Run) -> harness.Row:
    curve = run.curve
    return {
        "method": run.method, "rate": run.rate, "steps": curve.marks[-1], "seconds": float(curve.seconds[-1]),
        "compile_s": curve.once, "first_score": float(run.scores[0]), "final_score": float(run.scores[-1]),
        "marks": curve.marks, "seconds_at": curve.seconds.tolist(), "scores_at": run.scores.tolist(),
    }  # fmt: skip


def of_task(model, base, task: Task, args):
    """A row for each method and rate of the grid once it is trained; then when each is where."""
    case = case_of(model, task, FIRST, args.rows, args.queries)
    small = case_of(model, task, FIRST_OF_GRID, args.grid_rows, args.queries)
    torch.set_num_threads(fastest_threads(base, model, case))
    about = {"task": task.name}
    asked = {"prompts": len(case.samples), "questions": sum(map(len, case.queries))}
    yield about | asked | {"threads": torch.get_num_threads()}
    runs = []
    for name, settings in OURS.items():
        curve = ours(model, case, settings, args.sigma, args.rounds)
        runs.append(Run(name, None, name, None, curve, scores(model, case, curve.prompts)))
        yield about | trained_row(runs[-1])

    def peer(start: str, rate: float, aim: float | None, case: Case) -> Run:
        curve = theirs(base, model, case, start, rate, args.steps)
        return Run(f"PEFT {start}", rate, AGAINST[start], aim, curve, scores(model, case, curve.prompts))

    for start in STARTS:
        grid = {}
        for rate in args.grid:
            grid[rate] = peer(start, rate, None, small)
            yield about | {"grid": True} | trained_row(grid[rate])
        for rate, aim in ((TRAINER_RATE, AIMS[TRAINER_RATE]), (best_rate(grid), AIMS[None])):
            runs.append(peer(start, rate, aim, case))
            yield about | trained_row(runs[-1])
    yield from (about | row for row in comparison(runs))


def comparison(runs: list[Run]):
    """When each method is where; and by how many times ours of a like start is faster, to each of these places."""
    where = [milestones(run, runs) for run in runs]
    for run, there in zip(runs, where, strict=True):
        seconds = {f"{goal}_s": at and at[1] for goal, at in there.items()}
        yield {"method": run.method, "rate": run.rate, **seconds, "compile_s": run.curve.once, "reached": there}
    first = {run.method: (run, there) for run, there in zip(runs, where, strict=True) if run.rate is None}
    for run, there in zip(runs, where, strict=True):
        if run.aim:
            own, mine = first[run.against]
            ratios = {f"to_{goal}": times(at, mine[goal]) for goal, at in there.items()}
            cold = {f"{goal}_cold": times(at, mine[goal], own.curve.once) for goal, at in there.items()}
            strict = there["own"][1] / own.curve.seconds[-1]
            about = {"method": run.method, "rate": run.rate, "aim": run.aim, "own_to_all_ours": strict}
            yield about | ratios | cold


def measure(args):
    model = llm.load(EMBEDDED)
    base = transformers.AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    base.config.use_cache = False
    for name in args.task:
        yield from of_task(model, base, lamp.task(name), args)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument(
        "--task", nargs="+", default=["LaMP-2", "LaMP-5"], choices=["LaMP-2", "LaMP-3", "LaMP-5", "LaMP-7"]
    )
    parser.add_argument("--rows", type=harness.whole, default=25, help="prompts")
    parser.add_argument("--steps", type=harness.whole, default=300, help="of PEFT; ours takes its own 30")
    parser.add_argument("--queries", type=harness.whole, default=12, help="questions that judge each prompt")
    parser.add_argument("--grid-rows", type=harness.whole, default=4, help="prompts that judge each rate of the grid")
    parser.add_argument("--grid", type=float, nargs="+", default=GRID, help="learning rates to choose PEFT's from")
    parser.add_argument("--sigma", type=float, default=0.1, help="of the device that ours trains for")
    parser.add_argument("--rounds", type=harness.whole, default=3, help="passes of ours after the first; medians count")
    quick = {"rows": 3, "steps": 8, "queries": 2, "grid_rows": 2, "rounds": 1, "grid": GRID[::3], "task": ["LaMP-2"]}
    harness.run(parser, measure, quick=quick, peers=(torch, transformers, peft))


if __name__ == "__main__":
    main()

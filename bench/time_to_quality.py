"""Seconds until 25 prompts of one sample each (OVTs) are as good as they get: ours and PEFT, from like starts.

    python bench/time_to_quality.py
    python bench/time_to_quality.py --task LaMP-2 --rows 25 --steps 300 --json quality.json
    python bench/time_to_quality.py --quick   # whether it runs: figures that mean nothing

Same embedded model and samples. Results are of users from 3,000,000 on; learning rates are chosen on users from
2,000,000 on, where all other settings were. Held-out score: answers to other questions of the same user and domain
behind the prompt as it was trained, by one generator for all. A method is there once it is within one point of a final
score: its own (for the first time, and for good), ours, the best of all.

A start that holds the sample's answer is nearly the goal already, so starts are compared with their like. Ours is the
recommended preset (code space, 30 steps, training noise of twice sigma 0.1 of NVM-3) from the sample's own words, with
or without its answer; its seconds include the fit of the codecs and the start. PEFT, one by one, is
`PromptTuningConfig` with 16 tokens: TEXT with the same words as ours, with or without the answer, and its default, a
random start. Each under the defaults of transformers' Trainer (AdamW at 5e-5 without weight decay, linear decay to 0,
gradients clipped at norm 1), and under the best of a grid of learning rates. No ratio is given where one side is there
before its first step. PEFT's seconds are those of the training steps alone, with
one thread or all cores, whichever is faster; the best rate is the one that is first within a point of the grid's best
final score. Run it on quiet cores (needs the `bench` extra).
"""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax
import jax.numpy as jnp
import numpy as np
import peft
import torch
import transformers
from rich.console import Console
from rich.table import Table

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

FIRST, FIRST_OF_GRID = 3_000_000, 2_000_000  # numbers of the users
TRAINER_RATE, GRID = 5e-5, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
MARKS = (0, 1, 2, 3, 5, 8, 12, 20, 30, 50, 75, 100, 150, 200, 300)
POINT = 0.01
MOST_DOMAINS = 6  # of a user
OURS = {"ours": RECOMMENDED, "ours, no answer": replace(RECOMMENDED, start_answer=False)}
# PEFT's starts, by the one of ours that they are held against; None is random.
STARTS = {"TEXT": "ours", "TEXT, no answer": "ours, no answer", "random": None}
AGAINST = {"TEXT": "ours", "TEXT, no answer": "ours, no answer", "random": "ours, no answer"}
TARGETS = {TRAINER_RATE: 20.0, None: 5.0}  # aims for PEFT's defaults, and its best learning rate


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


def case_of(model, task: Task, first: int, rows: int, queries: int) -> Case:
    """The representatives of the users from number `first` on, until there are `rows`."""
    found = synthetic.users(task, -(-rows // 3), first=first, queries=queries * MOST_DOMAINS)
    users = buffered(found, RECOMMENDED.buffer)
    selected = select(jax.random.key(0), model, users, extra_domains=True)
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
    key = jax.random.key(0)
    trained_for = Condition(catalogue.device("NVM-3"), jnp.float32(sigma * settings.train_sigma))
    fixed = {"config": model.config, "method": settings.method, "training": settings.training}
    started, seconds, prompts = time.perf_counter(), [], []
    codec = fit_codecs(key, model, case.task, case.users, fit=settings.fit_codec)
    codecs = jax.tree.map(lambda leaf: leaf[case.owners], codec)
    ids = np.array(ids_of(model, case, settings), np.int32)
    start_keys, init_keys, noise_keys = (jax.random.split(own, len(ids)) for own in jax.random.split(key, 3))
    begun = compiled.start(model.params, start_keys, init_keys, ids, codecs, config=model.config, settings=settings)
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
        one_of_theirs(adapter(base, model, None), *pairs_of(model, case)[0], TRAINER_RATE, (3,))
        seconds[count] = one_of_theirs(adapter(base, model, None), *pairs_of(model, case)[0], TRAINER_RATE, (30,))[0][
            -1
        ]
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


def best_rate(base, model, task: Task, start: str, args) -> tuple[float, dict[float, float]]:
    """The rate that is first within a point of the grid's best final score on other users, and all final scores."""
    case = case_of(model, task, FIRST_OF_GRID, args.grid_rows, args.queries)
    curves = {rate: theirs(base, model, case, start, rate, args.steps) for rate in args.grid}
    score = {rate: scores(model, case, curve.prompts) for rate, curve in curves.items()}
    finals = {rate: float(each[-1]) for rate, each in score.items()}
    target = max(finals.values())
    there = {rate: reached(curves[rate], score[rate], target) or (args.steps + 1, 0.0) for rate in args.grid}
    return min(args.grid, key=lambda rate: (there[rate][0], -finals[rate])), finals


def measure(model, base, task: Task, args) -> dict:
    """Curves of all, and when each is where."""
    case = case_of(model, task, FIRST, args.rows, args.queries)
    threads = fastest_threads(base, model, case)
    torch.set_num_threads(threads)
    curves = {name: ours(model, case, settings, args.sigma, args.rounds) for name, settings in OURS.items()}
    grids, peers = {}, {}
    for start in STARTS:
        rate, grids[start] = best_rate(base, model, task, start, args)
        for name, own, aim in (("defaults", TRAINER_RATE, TRAINER_RATE), (f"best rate {rate:g}", rate, None)):
            curves[f"PEFT {start}, {name}"] = theirs(base, model, case, start, own, args.steps)
            peers[f"PEFT {start}, {name}"] = {"against": AGAINST[start], "aim": TARGETS[aim]}
    score = {name: scores(model, case, curve.prompts) for name, curve in curves.items()}
    best = max(float(each[-1]) for each in score.values())
    found = {}
    for name, curve in curves.items():
        peer = peers.get(name, {"against": name})
        targets = {"own": score[name][-1], "ours": score[peer["against"]][-1], "best": best}
        found[name] = peer | {
            "marks": curve.marks, "seconds": curve.seconds.tolist(), "scores": score[name].tolist(),
            "compile_s": curve.once, "reached": {key: reached(curve, score[name], at) for key, at in targets.items()}
            | {"stays": settled(curve, score[name])},
        }  # fmt: skip
    about = {"questions": sum(map(len, case.queries)), "rows": len(case.samples), "threads": threads}
    return about | {"grids": grids, "methods": found}


def told(row: dict, key: str) -> str:
    """When a method reached a final score, or how long it was tried in vain."""
    if row["reached"][key] is None:
        return f"not in {row['seconds'][-1]:.1f} s ({row['marks'][-1]})"
    steps, seconds = row["reached"][key]
    return f"{seconds:.2f} s ({steps})" + (f"; {seconds + row['compile_s']:.1f} s" if row["compile_s"] else "")


def faster(found: dict, name: str, key: str) -> str:
    """Their seconds over ours of a like start, without and with our compilation; a lower bound where they were not
    done in time."""
    own = found[found[name]["against"]]
    mine, other = own["reached"][key], found[name]["reached"][key]
    if other is not None and other[0] == 0:
        return "there untrained"
    if mine is None or mine[0] == 0:
        return "ours not there" if mine is None else "ours there untrained"
    bound, seconds = (">", found[name]["seconds"][-1]) if other is None else ("", other[1])
    return f"{bound}{seconds / mine[1]:.1f}x; {bound}{seconds / (mine[1] + own['compile_s']):.2g}x"


def show(task: Task, result: dict, console: Console) -> None:
    """A table of one task, the ratios, and the curves."""
    found, title = result["methods"], f"{task.name}: {result['rows']} prompts, {result['questions']} questions"
    ends = ("own", "stays", "ours", "best")
    goals = ("to its own final score", "and stays there", "to that of ours of its start", "to the best of all")
    table = Table(
        "method", "first score", "final", "all steps", *goals, title=f"{title}: seconds (steps); with compilation"
    )
    for name, row in found.items():
        whole = f"{row['seconds'][-1]:.2f} s ({row['marks'][-1]})"
        table.add_row(name, *(f"{row['scores'][at]:.3f}" for at in (0, -1)), whole, *(told(row, key) for key in ends))
    console.print(table)
    table = Table("ours of a like start is faster than", *goals, "its own against all our steps", "aim")
    for name, row in found.items():
        if "aim" in row:
            strict = row["reached"]["own"][1] / found[row["against"]]["seconds"][-1]
            table.add_row(name, *(faster(found, name, key) for key in ends), f"{strict:.1f}x", f"{row['aim']:.0f}x")
    console.print(table)
    for name, row in found.items():
        console.print(name, *(f"{k}:{score:.3f}" for k, score in zip(row["marks"], row["scores"], strict=True)))
    for start, grid in result["grids"].items():
        console.print(
            f"final scores on the grid's users, {start}:", {f"{rate:g}": round(s, 3) for rate, s in grid.items()}
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--task", nargs="*", default=["LaMP-2", "LaMP-5"], choices=["LaMP-2", "LaMP-3", "LaMP-5", "LaMP-7"]
    )
    parser.add_argument("--rows", type=int, default=25, help="prompts")
    parser.add_argument("--steps", type=int, default=300, help="of PEFT; ours takes its own 30")
    parser.add_argument("--queries", type=int, default=12, help="questions that judge each prompt")
    parser.add_argument("--grid-rows", type=int, default=4, help="prompts that judge each learning rate of the grid")
    parser.add_argument("--sigma", type=float, default=0.1, help="of the device that ours trains for")
    parser.add_argument("--rounds", type=int, default=3, help="passes of ours after the first; medians count")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--quick", action="store_true", help="three prompts, few steps and rates: whether it runs")
    args = parser.parse_args()
    args.grid = GRID
    if args.quick:
        args.rows, args.steps, args.queries, args.grid_rows, args.rounds, args.grid = 3, 8, 2, 2, 1, GRID[::3]
    cores, load, console = os.cpu_count() or 1, os.getloadavg()[0], Console(width=150)
    transformers.utils.logging.disable_progress_bar()
    versions = {module.__name__: module.__version__ for module in (jax, torch, transformers, peft)}
    console.print(f"load average {load:.1f} on {cores} cores, {versions}")
    if load > 0.5 * cores:
        console.print("[bold red]the cores are shared: PyTorch suffers far more than JAX, so the ratios flatter us")
    model = llm.load(EMBEDDED)
    base = transformers.AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    base.config.use_cache = False
    results = {}
    for name in args.task:
        results[name] = measure(model, base, lamp.task(name), args)
        show(lamp.task(name), results[name], console)
    if args.json:
        settings = {key: str(value) if key == "json" else value for key, value in vars(args).items()}
        whole = {"settings": settings | {"load": load}, "versions": versions, "results": results}
        args.json.write_text(json.dumps(whole, indent=1))


if __name__ == "__main__":
    main()

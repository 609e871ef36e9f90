"""Studies of answers: the cells of a design on a model and its users, and how one is measured."""

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nvcim_jax.data import lamp, synthetic
from nvcim_jax.data.users import Users, read_lamp, toy_users, with_history
from nvcim_jax.evaluation import crowd, kept, rungs
from nvcim_jax.evaluation.crowd import Shared
from nvcim_jax.evaluation.designs import CHOSEN, DESIGNS, Design, beside
from nvcim_jax.evaluation.ladder import Outcome, Score
from nvcim_jax.evaluation.main_job import BLOCK
from nvcim_jax.evaluation.methods import Cell
from nvcim_jax.evaluation.rungs import Rung, Under
from nvcim_jax.evaluation.study import Json, Measured, Span, Study
from nvcim_jax.hardware import catalogue
from nvcim_jax.llm.fingerprint import fingerprint
from nvcim_jax.llm.weights import Model
from nvcim_jax.memory.storage import digests, schema
from nvcim_jax.pipeline.block import Common
from nvcim_jax.pipeline.common import learn_common
from nvcim_jax.pipeline.model import load_model
from nvcim_jax.pipeline.presets import COMMON, RECOMMENDED, from_common

TOY = "toy"
CHOOSING: Span = (2_000_000, 1_000_000)  # toy users on whom settings were chosen


@dataclass(frozen=True)
class Source:
    """Where a study's model and people are on this machine, and the folder for what its cells share: in no cell."""

    model: str = TOY
    data: Path | None = None  # a LaMP folder; None: the toy world
    weights: str | None = None  # as `nvcim_jax.llm.load` takes them, or "packed"
    memory: str | None = None
    skip: bool = False  # leave out what `lamp.read` refuses of questions and gold answers
    folder: Path | None = None


@dataclass(frozen=True)
class Choice:
    """What is chosen of a design; None is what the design says itself."""

    users: int = 16  # of each task
    draws: int = 3  # times that each bank is programmed
    tasks: tuple[str, ...] | None = None
    devices: tuple[str, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    buffers: tuple[int, ...] | None = None
    questions: int | None = None  # of each user, the first ones
    chosen_on: int = 0  # people of `Source.data`, the first ones, on whom settings were chosen
    seed: int = 0


def plan(name: str, choice: Choice = Choice(), source: Source = Source()) -> Study:
    """The study called `name`, of as many users of each task as there are, at most `choice.users`.

    ValueError for an unknown task or device, a LaMP folder without its one task, and when no user is left.
    """
    design = _chosen(DESIGNS[name], choice)
    _check(design, choice, source)
    history = max(synthetic.HISTORY, *DESIGNS[name].buffers, *design.buffers)
    people = {task: people_of(source, task) for task in design.tasks} if source.data else {}
    domains = all(query.domain for users in people.values() for user in users for query in user.queries)
    design = beside(design, real=_is_real(source), domains=domains)
    count, first = choice.users, synthetic.HELD_OUT
    if source.data:
        first = choice.chosen_on
        count = min(count, *(len(users) - first for users in people.values()))
    if count < 1 + _is_real(source):
        raise ValueError(f"{max(count, 0)} people are left to report: at least {1 + _is_real(source)} are needed")
    names = {"model": Path(source.model).name} | ({"data": source.data.resolve().name} if source.data else {})
    shared: Json = {**names, "seed": choice.seed}
    if choice.questions:
        shared["questions"] = choice.questions
    if source.data is None:
        shared["history"] = history
    cells = tuple(
        {**shared, "task": task, "users": span, **cell}
        for task in design.tasks
        for span, others in _blocks(first, count, _is_real(source))
        for cell in _cells(design, _rungs(source), others, choice.draws)
    )
    settings = _settings(design, choice, source, count, people)
    together = ("model", "data", "task", "users", "buffer")
    chosen_on = CHOOSING if source.data is None else (0, choice.chosen_on)
    return Study(name, settings, cells, partial(measure, source=source), together, (chosen_on,))


def _chosen(design: Design, choice: Choice) -> Design:
    given = {"tasks": choice.tasks, "devices": choice.devices, "sigmas": choice.sigmas, "buffers": choice.buffers}
    return replace(design, **{name: tuple(dict.fromkeys(each)) for name, each in given.items() if each})


def _check(design: Design, choice: Choice, source: Source) -> None:
    if unknown := [name for name in design.devices if name not in catalogue.RATIOS]:
        raise ValueError(f"unknown device {unknown[0]!r}: Table II has {', '.join(catalogue.RATIOS)}")
    names = [lamp.task(name).name for name in design.tasks]
    if source.data is not None and len(choice.tasks or ()) != 1:
        raise ValueError("a LaMP folder holds one task: name it, such as --task LaMP-3")
    if source.data is None and (unknown := [name for name in names if name not in synthetic.TASKS]):
        raise ValueError(f"the toy world has no users of {unknown[0]}, only of {', '.join(synthetic.TASKS)}")
    if source.data is None and choice.chosen_on:
        raise ValueError("--chosen-on is about --data: of the toy world's users the study knows it")


def _blocks(first: int, count: int, in_halves: bool) -> Iterator[tuple[Span, Span | None]]:
    """Blocks of users, and the users from whom their common prompt is learned: with `in_halves` the other half."""
    middle = count // 2 if in_halves else count
    for start, end, others in ((0, middle, (first + middle, count - middle)), (middle, count, (first, middle))):
        for at in range(start, end, BLOCK):
            yield (first + at, min(BLOCK, end - at)), others if in_halves else None


def _cells(design: Design, known: dict[str, Rung], others: Span | None, draws: int) -> Iterator[Json]:
    """The cells of one block of users, those of one size of buffer together."""
    for buffer in design.buffers:
        for label in design.labels:
            own: Json = {"buffer": buffer, "method": label}
            if known[label].from_others:
                own["others"] = others
            if not known[label].is_stored:
                yield own
                continue
            if design.trained_for:
                own["trained_for"] = _trained_for(design)
            for device in design.devices:
                yield from ({**own, "device": device, "sigma": sigma, "draws": draws} for sigma in design.sigmas)


def _trained_for(design: Design) -> list[str | float] | None:
    return [design.trained_for.device, design.trained_for.sigma] if design.trained_for else None


def _settings(design: Design, choice: Choice, source: Source, count: int, people: dict[str, Users]) -> Json:
    known = _rungs(source)
    told = {
        "model": {"name": Path(source.model).name, "fingerprint": fingerprint(model_of(source))},
        "task": list(design.tasks), "device": list(design.devices), "sigma": list(design.sigmas),
        "buffer": list(design.buffers), "users": count, "draws": choice.draws, "seed": choice.seed,
        "trained_for": _trained_for(design),
        "method": {label: known[label].described() for label in design.labels},
    }  # fmt: skip
    if choice.questions:
        told["questions"] = choice.questions
    if source.data:
        of = {task: digests.of_text(users.people) for task, users in people.items()}
        told["data"] = {"name": source.data.resolve().name, "people": of}
    return told


def measure(cell: Json, source: Source = Source()) -> Measured:
    """One rung on one block of users, on one device. What it shares with other cells is not made again."""
    rung = _rungs(source)[cell["method"]]
    given = (cell["task"], tuple(cell["users"]), cell.get("history"), cell.get("questions"))
    others = tuple(cell["others"]) if rung.from_others else None
    shared = _shared(source, given, cell["seed"], cell["buffer"], rung.choose, others)
    under = Under(Cell("NVM-1", 0.0), 1)
    if rung.is_stored:
        trained_for = cell.get("trained_for")
        under = Under(Cell(cell["device"], cell["sigma"]), cell["draws"], trained_for and Cell(*trained_for))
    return as_measured(shared.crowd.task, rung.climb(shared, under))


def as_measured(task: lamp.Task, score: Score) -> Measured:
    """A score as JSON: of each user the mean over questions and draws, and a row for each question and draw."""
    metric, names = metric_name(task), list(dict.fromkeys(each.user for each in score.outcomes))
    right = None if score.right_domain is None else dict(zip(names, score.right_domain.tolist(), strict=True))
    asked = Counter(each.user for each in score.outcomes if each.draw == 0)
    result = {
        "metric": metric, "scores": dict(zip(names, np.asarray(score.scores).tolist(), strict=True)),
        "right_domain": right, "questions": asked.total(),
    }  # fmt: skip
    return Measured(result, [_row(metric, each) for each in score.outcomes])


def metric_name(task: lamp.Task) -> str:
    """What a task's score is called."""
    return "accuracy" if task.metric == "accuracy" else "ROUGE-1"


def _row(metric: str, each: Outcome) -> Json:
    found = each.found
    return {
        "user": each.user, "question": each.question.id, "draw": each.draw, "content": each.question.content,
        "found": found and found.content, "found_answer": found and found.answer, "margin": each.margin,
        "answer": each.answer, "gold": each.question.answer, "scores": {metric: each.score},
    }  # fmt: skip


def _is_real(source: Source) -> bool:
    """Whether its model is another than the toy model."""
    return source.model != TOY


@cache
def _rungs(source: Source) -> dict[str, Rung]:
    return rungs.catalogue(real=_is_real(source), width=model_of(source).config.dim)


def model_of(source: Source) -> Model:
    """The model of a source, loaded once."""
    return _loaded(source.model, source.weights, source.memory)


@cache
def _loaded(name: str, weights: str | None, memory: str | None) -> Model:
    if weights == "packed":
        return load_model(name, dequantise="lazy", memory=memory)
    return load_model(name, dtype=weights, memory=memory)


@cache
def people_of(source: Source, task: str) -> Users:
    """The people of `source.data` who have a history."""
    assert source.data is not None
    users = with_history(read_lamp(source.data, task, skip=source.skip))
    require_own_ids(users)
    return users


Given = tuple[str, Span, int | None, int | None]  # task, users, toy users' samples, questions of each


def _users(source: Source, given: Given) -> Users:
    task, (first, count), history, questions = given
    if source.data is None:
        users = toy_users(task, count, first=first, history=history or synthetic.HISTORY)
        require_own_ids(users)
    else:
        users = people_of(source, task)[first : first + count]
    if questions is None:
        return users
    return replace(users, people=tuple(user._replace(queries=user.queries[:questions]) for user in users))


@lru_cache(maxsize=4)  # cells of one block come one after the other
def _shared(source: Source, given: Given, seed: int, buffer: int, choose, others: Span | None) -> Shared:
    settings = replace(from_common(RECOMMENDED) if _is_real(source) else RECOMMENDED, buffer=buffer)
    return crowd.share(
        jax.random.key(seed), model_of(source), _users(source, given), settings=settings, choose=choose,
        common=None if others is None else _common(source, (given[0], others, *given[2:]), seed),
        folder=source.folder,
    )  # fmt: skip


@lru_cache(maxsize=2)
def _common(source: Source, given: Given, seed: int) -> Common:
    """The prompt and the codec that other users have in common, learned for the device of Tables III and IV."""
    model, users = model_of(source), _users(source, given)
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(b"common"))

    def learned() -> kept.Arrays:
        made = learn_common(key, model, users, CHOSEN.device, sigma=CHOSEN.sigma)
        codec = schema.codec_to_arrays(jax.tree.map(lambda leaf: leaf[0], made.codec))
        return {name: np.asarray(leaf) for name, leaf in {**codec, "prompt": made.bank.prompts[0, 0]}.items()}

    decides = {
        "part": "common", "model": fingerprint(model), "users": digests.of_text([given[0], users.people]),
        "settings": COMMON.described(), "for": CHOSEN, "seed": seed,
    }  # fmt: skip
    found = jax.tree.map(jnp.asarray, kept.arrays(source.folder, decides, learned))
    return Common(schema.codec_from_arrays(found), found["prompt"])


def require_own_ids(users: Users) -> None:
    """ValueError for a user who stands twice, and for two questions of a user under one id."""
    names = Counter(user.id for user in users)
    asked = Counter((user.id, query.id) for user in users for query in user.queries)
    for kind, counts in (("user", names), ("question", asked)):
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ValueError(f"{users.source}, {users.task.name}: the {kind} {twice[0]!r} stands there twice")

"""Lives compared, of toy users or on people's own histories; cells of a study."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np

from nvcim_jax.data import lamp
from nvcim_jax.data.synthetic import HELD_OUT
from nvcim_jax.data.toy_stream import Stream, stream
from nvcim_jax.evaluation.ladder import metric_of
from nvcim_jax.evaluation.lives import WAYS, World
from nvcim_jax.evaluation.main_job import BLOCK
from nvcim_jax.evaluation.methods import Cell
from nvcim_jax.evaluation.studies import CHOOSING, Source, model_of, people_of
from nvcim_jax.evaluation.study import Json, Measured, Span, Study
from nvcim_jax.llm.fingerprint import fingerprint
from nvcim_jax.llm.weights import Model
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline.model import load_model
from nvcim_jax.pipeline.presets import PERSONAL, RECOMMENDED, TOGETHER

NAME = "life"


@dataclass(frozen=True)
class Plan:
    """What decides a comparison of lives beside the ways."""

    users: int = 32
    task: str = "LaMP-2"
    moments: int = 200
    run: int = 25  # moments of one domain in a row, about
    every: int = 25  # moments of a round
    slots: int = 16  # of the buffer
    small: int = 16  # OVTs of a memory that has to evict
    questions: int = 8  # after each round
    device: str = "NVM-3"
    sigma: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class History:
    """What a life on people's own histories is chosen by, beside the plan: a model and a LaMP folder of one's own.

    Moments are the latest samples of everybody who has so many, oldest first; after each round all are asked their
    own questions. `together` are the steps of the prompt that a round's OVTs start from, for buffers that are smaller
    than those that `recommended` was chosen for.
    """

    source: Source
    chosen_on: int = 0  # people of the folder, the first ones, on whom settings were chosen
    together: int = 160


def study(plan: Plan = Plan(), *, ways: Sequence[str] = tuple(WAYS), history: History | None = None) -> Study:
    """Ways to live by blocks of toy users, or on histories. ValueError for a way that is not known, and no people."""
    if unknown := [name for name in ways if name not in WAYS]:
        raise ValueError(f"unknown way {unknown[0]!r}: choose of {', '.join(WAYS)}")
    shared = {name: value for name, value in asdict(plan).items() if name != "users"}
    if history is None:
        model, first, users, chosen_on = toy(), HELD_OUT, plan.users, CHOOSING
    else:
        model, first, chosen_on = model_of(history.source), history.chosen_on, (0, history.chosen_on)
        found = _met(history, plan.task, plan.moments)
        users = min(plan.users, len(found) - first)
        if users < 1 or history.source.data is None:
            raise ValueError(f"nobody is left who has {plan.moments} samples: ask for fewer --moments")
        name = history.source.data.resolve().name
        shared |= {"model": Path(history.source.model).name, "data": name, "together": history.together}
    cells = tuple({**shared, "users": block, "way": name} for block in blocks(users, first) for name in ways)
    settings = {**asdict(plan), **shared, "users": users, "ways": list(ways), "model": fingerprint(model)}
    how = measure if history is None else partial(measure, history=history)
    return Study(NAME, settings, cells, how, ("users",), (chosen_on,))


def blocks(users: int, first: int = HELD_OUT) -> list[Span]:
    """Users from number `first` on in blocks that live together."""
    return [(first + at, min(BLOCK, users - at)) for at in range(0, users, BLOCK)]


def measure(cell: Json, history: History | None = None) -> Measured:
    """One way of living of one block of users: their scores after each round, and a row for every question."""
    world = _world(cell, history)
    metric = metric_of(world.task)
    scores: dict[str, list[float]] = {each.user: [] for each in world.streams}
    rows, held, tokens = [], [], []
    for number, stands in enumerate(WAYS[cell["way"]](world)):
        held.append(stands.ovts)
        tokens.append(stands.tokens)
        given = iter(stands.answers)
        for own in world.streams:
            told = [(query, next(given)) for query in own.asked[number]]
            each = [metric(answer, query.answer) for query, answer in told]
            scores[own.user].append(float(np.mean(each)))
            until = (number + 1) * world.every
            rows += [
                {
                    "user": own.user, "round": number, "domain": query.domain,
                    "gap": None if query.domain is None else gap(own, until, query),
                    "score": score, "answer": answer,
                }
                for (query, answer), score in zip(told, each, strict=True)
            ]  # fmt: skip
    return Measured({"scores": scores, "ovts": held, "tokens": tokens}, rows)


def gap(own: Stream, until: int, query: Sample) -> int:
    """How many moments ago the domain of a question was met last, of the first `until`."""
    domains = [moment.domain for moment in own.moments[:until]]
    return domains[::-1].index(query.domain)


def _world(cell: Json, history: History | None = None) -> World:
    task, (first, count) = lamp.task(cell["task"]), cell["users"]
    if history is None:
        model, settings = toy(), RECOMMENDED
        how = {name: cell[name] for name in ("moments", "run", "every", "questions")}
        streams = [stream(task, first + at, **how, shuffled=cell.get("shuffled", False)) for at in range(count)]
    else:
        model = model_of(history.source)
        together = replace(TOGETHER, training=replace(TOGETHER.training, steps=history.together))
        settings = replace(PERSONAL, together=together)
        rounds = cell["moments"] // cell["every"]
        streams = [
            Stream(user.id, user.history[-cell["moments"] :], (user.queries[: cell["questions"]],) * rounds)
            for user in _met(history, cell["task"], cell["moments"])[first : first + count]
        ]
    return World(
        model, task, streams, Cell(cell["device"], cell["sigma"]), cell["slots"], cell["every"], cell["small"],
        jax.random.key(cell["seed"]), settings,
    )  # fmt: skip


def _met(history: History, task: str, moments: int) -> list[User]:
    """The people who have so many samples; those on whom settings were chosen stay in their places before them."""
    people = list(people_of(history.source, task))
    return people[: history.chosen_on] + [
        user for user in people[history.chosen_on :] if len(user.history) >= moments and user.queries
    ]


@cache
def toy() -> Model:
    """The toy model, loaded once."""
    return load_model("toy")

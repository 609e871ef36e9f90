"""The studies that this package knows: their cells, and how one is measured."""

from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache

import jax
import numpy as np

from nvcim_jax.data import lamp, synthetic
from nvcim_jax.data.users import Users, toy_users
from nvcim_jax.description import described
from nvcim_jax.evaluation import ladder, methods
from nvcim_jax.evaluation.ladder import Outcome, Score, Shared
from nvcim_jax.evaluation.main_job import BLOCK
from nvcim_jax.evaluation.methods import Cell, Method
from nvcim_jax.evaluation.study import Json, Measured, Span, Study
from nvcim_jax.hardware import catalogue
from nvcim_jax.llm.fingerprint import fingerprint
from nvcim_jax.llm.weights import Model
from nvcim_jax.pipeline.model import load_model
from nvcim_jax.pipeline.presets import NAMES

NAME = "table1"
CHOOSING: Span = (2_000_000, 1_000_000)  # toy users on whom settings were chosen
PAPERS = {  # rows of the paper's Table I by what they are called here
    "paper: by cell, SWV": "SWV", "paper: by cell, CxDNN": "CxDNN", "paper: by cell, CorrectNet": "CorrectNet",
    "paper: no training noise, flat MIPS": "No-Miti", "paper: flat MIPS": "NVP*",
    "paper: scaled search": "NVCiM-PT",
}  # fmt: skip
TABLE1 = (methods.BASE, methods.OWN, methods.KNOWN, *PAPERS, methods.whole("recommended"))
PAIRS = [(methods.whole("paper"), name) for name in PAPERS if name != methods.whole("paper")]
PAIRS += [(methods.whole("recommended"), methods.whole("paper")), (methods.whole("recommended"), methods.OWN)]
PAIRS += [(methods.KNOWN, methods.BASE)]


def table1(
    *,
    users: int = 16,
    draws: int = 3,
    tasks: Sequence[str] = tuple(synthetic.TASKS),
    devices: Sequence[str] = tuple(catalogue.RATIOS),
    sigma: float = 0.1,
    seed: int = 0,
) -> Study:
    """The paper's Table I on the toy model and world: methods by devices and tasks, on `users` users of each task.

    Rows that store nothing have one cell for all devices. ValueError for an unknown task or device.
    """
    if unknown := [name for name in devices if name not in catalogue.RATIOS]:
        raise ValueError(f"unknown device {unknown[0]!r}: Table II has {', '.join(catalogue.RATIOS)}")
    if unknown := [lamp.task(name).name for name in tasks if lamp.task(name).name not in synthetic.TASKS]:
        raise ValueError(f"the toy world has no users of {unknown[0]}, only of {', '.join(synthetic.TASKS)}")
    blocks = [(synthetic.HELD_OUT + at, min(BLOCK, users - at)) for at in range(0, users, BLOCK)]
    shared = {"model": "toy", "seed": seed}
    cells: list[Json] = []
    for task in tasks:
        for block in blocks:
            for label in TABLE1:
                own = {**shared, "task": task, "users": block, "method": label}
                if _is_stored(_rows()[label]):
                    cells += [{**own, "device": name, "sigma": sigma, "draws": draws} for name in devices]
                else:
                    cells.append(own)
    settings: Json = {
        "model": {"name": "toy", "fingerprint": fingerprint(_model())}, "tasks": list(tasks), "users": users,
        "devices": list(devices), "sigma": sigma, "draws": draws, "seed": seed,
        "methods": {label: described(_rows()[label].settings, NAMES) for label in TABLE1},
    }  # fmt: skip
    return Study(NAME, settings, tuple(cells), measure, ("model", "task", "users"), (CHOOSING,))


def measure(cell: Json) -> Measured:
    """One method on one block of users, on one device. What it shares with the cell before it is not made again."""
    method, shared = _rows()[cell["method"]], _shared(cell["task"], *cell["users"], cell["seed"])
    if not _is_stored(method):
        return as_measured(shared.crowd.task, ladder.climb(shared, method, Cell("NVM-1", 0.0), draws=1))
    at = Cell(cell["device"], cell["sigma"])
    return as_measured(shared.crowd.task, ladder.climb(shared, method, at, draws=cell["draws"]))


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


def _is_stored(method: Method) -> bool:
    return method.settings is not None and not method.known_domain


@cache
def _rows() -> dict[str, Method]:
    return {row.label: row for row in methods.rows()}


@cache
def _model() -> Model:
    return load_model("toy")


@lru_cache(maxsize=1)  # cells of one block come one after the other
def _shared(task: str, first: int, count: int, seed: int) -> Shared:
    users = toy_users(task, count, first=first)
    require_own_ids(users)
    settings = _rows()[methods.whole("recommended")].learned_with
    return ladder.share(jax.random.key(seed), _model(), users, settings=settings)


def require_own_ids(users: Users) -> None:
    """ValueError for a user who stands twice, and for two questions of a user under one id."""
    names = Counter(user.id for user in users)
    asked = Counter((user.id, query.id) for user in users for query in user.queries)
    for kind, counts in (("user", names), ("question", asked)):
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ValueError(f"{users.source}, {users.task.name}: the {kind} {twice[0]!r} stands there twice")

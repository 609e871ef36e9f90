"""The ladder: every method on the same users, questions and device draws, so that differences are paired."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from nvcim_jax.core import selection
from nvcim_jax.data.lamp import Task
from nvcim_jax.data.users import Users
from nvcim_jax.evaluation import metrics, one_for_all
from nvcim_jax.evaluation.crowd import Crowd, Shared, share, work_on
from nvcim_jax.evaluation.crowd import answers as answers_of
from nvcim_jax.evaluation.methods import Cell, Method, training_of
from nvcim_jax.evaluation.methods import rows as all_rows
from nvcim_jax.llm.weights import Model
from nvcim_jax.memory.bank import Bank
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline import compiled, retrieve
from nvcim_jax.pipeline.block import Block, Common
from nvcim_jax.pipeline.learn import rekeyed, tune_bank
from nvcim_jax.pipeline.presets import RECOMMENDED, Settings


class Outcome(NamedTuple):
    """One question as a method answered it under one draw of the device."""

    user: str
    question: Sample
    draw: int
    answer: str
    score: float
    found: Sample | None = None  # that the OVT was learned from; None without one, or with one of all samples
    margin: float | None = None  # by which it leads the second; None where nothing was searched


class Score(NamedTuple):
    """One method: the mean score of each user, the share of questions answered with an OVT of their domain, answers."""

    scores: np.ndarray  # [users]
    right_domain: np.ndarray | None  # [users], where domains are known
    answers: tuple[list[str], ...] = ()  # of each draw, to the questions of one user after the other
    outcomes: tuple[Outcome, ...] = ()  # of each question of one user after the other, draw by draw


class Example(NamedTuple):
    """One question, answered without and with the OVT that the search found."""

    sample: Sample
    found: Sample
    without: str
    answer: str


class Ladder(NamedTuple):
    """Scores by cell and method, examples from the first cell, and what `recommended` learned for it."""

    scores: dict[Cell, dict[str, Score]]
    examples: list[Example]
    block: Block
    bank: Bank


def ladder(
    key: jax.Array,
    model: Model,
    users: Users,
    cells: Sequence[Cell],
    *,
    draws: int,
    train_device: str | None = None,
    rows: Sequence[Method] | None = None,
    common: Common | None = None,
    report: Callable[[int], None] = lambda work: None,
) -> Ladder:
    """Every method on `users` for every cell. `report` is told finished units of `work`.

    Rows that are `from_others` start from what is `common` to other people, if it is given.

    Noise-aware training is for the cell's own device, or for `train_device` at the cell's sigma. What does not depend
    on the cell (the base model, training without noise) is computed once. The last row must store what it learns: the
    examples and the bank that is handed back are its.
    """
    rows = all_rows() if rows is None else rows
    last = rows[-1]
    shared = share(key, model, users, settings=last.learned_with, report=report)
    started = share(key, model, users, settings=last.learned_with, common=common, report=report) if common else shared
    of = lambda method: started if method.from_others else shared  # noqa: E731
    scored = [method for method in rows if shared.crowd.known is not None or not method.known_domain]
    trained_for = {cell: Cell(train_device or cell.device, cell.sigma) for cell in cells}
    table = {
        cell: {each.label: climb(of(each), each, cell, draws=draws, trained_for=trained_for[cell]) for each in scored}
        for cell in cells
    }
    firsts = [each for each in table[cells[0]][last.label].outcomes if each.draw == 0]
    examples = [
        Example(each.question, each.found, alone, each.answer)
        for each, alone in zip(firsts, shared.alone(), strict=True)
        if each.found
    ]
    bank = _found_by(of(last), last, trained_for[cells[0]])
    return Ladder(table, examples, of(last).block(last.learned_with.fit_codec), bank)


def climb(shared: Shared, method: Method, cell: Cell, *, draws: int, trained_for: Cell | None = None) -> Score:
    """One method for one cell. Noise-aware training is for `trained_for`, by default for the cell itself.

    The scores of a row that stores nothing are those of any cell. ValueError for a row that must know domains, where
    they are unknown.
    """
    crowd = shared.crowd
    asked = shared.behind(method.texts, cell) if method.texts else crowd.queries
    if method.settings is None:
        if method.texts:
            return score_of_answers(crowd, crowd.owners, answers_of(crowd, shared.report, asked, None, RECOMMENDED))
        return score_of_answers(crowd, crowd.owners, shared.alone())
    settings, trained_for = method.settings, trained_for or cell
    block, bank = shared.block(settings.fit_codec), _found_by(shared, method, trained_for)
    if method.known_domain:
        if crowd.known is None:
            raise ValueError(f"{method.label}: the domains of these users' questions are unknown, leave it out")
        prompts = compiled.prompts_of(block.codec, bank.prompts)[crowd.owners, crowd.known]
        return score_of_answers(crowd, crowd.owners, answers_of(crowd, shared.report, crowd.queries, prompts, settings))
    curve = shared.sensitivity(*training_of(method, trained_for), settings.probes) if settings.probes else None
    how = {"settings": settings, "draws": draws, "sensitivity": curve}
    banks = retrieve.program(shared.write_key, block, bank, cell.condition, **how)
    score = _stored(shared, block, banks, settings, draws, asked)
    if method.learn is one_for_all.learn:  # there is nothing to find
        outcomes = tuple(each._replace(found=None, margin=None) for each in score.outcomes)
        return score._replace(right_domain=None, outcomes=outcomes)
    return score


def _found_by(shared: Shared, method: Method, cell: Cell) -> Bank:
    """What a method learned, with the search keys that it is found by."""
    bank = shared.learned(*training_of(method, cell))
    if method.learn is not tune_bank:
        return bank
    settings = method.learned_with
    return rekeyed(shared.crowd.model, shared.block(settings.fit_codec), bank, settings=settings)


def _stored(shared: Shared, block: Block, banks, settings: Settings, draws: int, asked: Sequence[Sample]) -> Score:
    """The score of banks that were programmed, searched and read back under every draw; `asked` is put to the model."""
    crowd, users = shared.crowd, shared.crowd.users
    match = retrieve.search(crowd.model, block, banks, settings=settings)
    place = [(u, d, q) for u, user in enumerate(users) for q in range(len(user.queries)) for d in range(draws)]
    at = tuple(np.array(place).T)
    flat = match.prompt.reshape(len(users), -1, *match.prompt.shape[-2:])
    prompts = compiled.prompts_of(block.codec, flat).reshape(*match.prompt.shape[:-1], -1)[at]
    first = np.cumsum([0, *(len(user.queries) for user in users)])
    answers = answers_of(crowd, shared.report, [asked[first[u] + q] for u, _, q in place], prompts, settings)
    slots = np.asarray(match.index)[at]
    picked = [crowd.selected.samples[u][slot] for (u, _, _), slot in zip(place, slots, strict=True)]
    best = -np.partition(-np.asarray(match.scores)[at], 1)[:, :2]  # of slots without an OVT the score is -inf
    return score_of_answers(crowd, at[0], answers, picked, best[:, 0] - best[:, 1], draws)


def score_of_answers(
    crowd: Crowd,
    owners: Int[np.ndarray, "answers"],
    answers: list[str],
    picked: Sequence[Any] | None = None,
    margins: Float[np.ndarray, "answers"] | None = None,
    draws: int = 1,
) -> Score:
    """Answers to the questions of one user after the other, draw by draw, as a score."""
    asked = [query for query in crowd.queries for _ in range(draws)]
    metric, count = metric_of(crowd.task), len(answers)
    outcomes = tuple(
        Outcome(
            crowd.users[owner].id, query, at % draws, answer, metric(answer, query.answer),
            picked[at] if picked else None, None if margins is None else float(margins[at]),
        )
        for at, (owner, query, answer) in enumerate(zip(owners, asked, answers, strict=True))
    )  # fmt: skip
    of_draws = tuple([answers[at] for at in range(draw, count, draws)] for draw in range(draws))
    return score_of(crowd, owners, asked, answers, picked)._replace(answers=of_draws, outcomes=outcomes)


def work(users: Sequence[User], model: Model, cells: int, draws: int, rows: Sequence[Method] | None = None) -> int:
    """Units of progress of a ladder, those of `crowd.Work`."""
    rows = all_rows() if rows is None else rows
    queries = sum(len(user.queries) for user in users)
    stored = sum(row.settings is not None and not row.known_domain for row in rows)
    answers = queries * (1 + cells * (draws * stored + sum(row.known_domain for row in rows)))
    trained = {training_of(row, Cell("", 1.0)) for row in rows if row.settings}
    ovts = sum(selection.cluster_count(min(len(user.history), rows[-1].learned_with.buffer)) for user in users)
    steps = sum((cells if cell else 1) * settings.training.steps * ovts for _, settings, cell in trained)
    first = {(settings.together, cell): settings.steps(0) for _, settings, cell in trained}
    steps += sum((cells if cell else 1) * own * len(users) for (_, cell), own in first.items())
    each = work_on(model, users)
    return steps * each.step + answers * each.answer


def metric_of(task: Task) -> Callable[[str, str], float]:
    """The score of one answer: exact match of the label, or ROUGE-1."""
    return metrics.exact if task.metric == "accuracy" else metrics.rouge1


def score_of(
    crowd: Crowd,
    owners: np.ndarray,
    asked: Sequence[Sample],
    answers: Sequence[str],
    picked: Sequence[Sample] | None = None,
) -> Score:
    """Mean score of each user over the questions `asked`, of which question i is `owners[i]`'s; `picked` was found."""
    metric = metric_of(crowd.task)
    each = np.array([metric(answer, sample.answer) for answer, sample in zip(answers, asked, strict=True)])
    per_user = partial(_mean_by, owners, len(crowd.users))
    if picked is None or asked[0].domain is None:
        return Score(per_user(each), None)
    right = np.array([sample.domain == found.domain for sample, found in zip(asked, picked, strict=True)], float)
    return Score(per_user(each), per_user(right))


def _mean_by(owners, count, values) -> np.ndarray:
    return np.array([values[owners == user].mean() for user in range(count)])

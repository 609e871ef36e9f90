"""The ladder: every method on the same users, questions and device draws, so that differences are paired."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from nvcim_jax import tuning
from nvcim_jax.core import selection
from nvcim_jax.data.lamp import Task
from nvcim_jax.data.users import Users
from nvcim_jax.documents.ask import behind_texts
from nvcim_jax.evaluation import metrics, one_for_all
from nvcim_jax.evaluation.methods import Cell, Method, training_of
from nvcim_jax.evaluation.methods import rows as all_rows
from nvcim_jax.llm.weights import Model
from nvcim_jax.memory.bank import Bank
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline import compiled, retrieve
from nvcim_jax.pipeline.answer import answer_room, generate
from nvcim_jax.pipeline.block import Block
from nvcim_jax.pipeline.encode import fit_codecs
from nvcim_jax.pipeline.learn import rekeyed, tune_bank
from nvcim_jax.pipeline.presets import RECOMMENDED, Settings
from nvcim_jax.pipeline.select import Selected, buffered, select


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


class Crowd(NamedTuple):
    """A block of users of one task, their questions one after the other, and what all methods share."""

    model: Model
    task: Task
    users: list[User]
    selected: Selected
    queries: list[Sample]
    owners: np.ndarray  # of each question
    known: np.ndarray | None  # of each question the slot of its domain


class Shared(NamedTuple):
    """What methods and cells share on a block of users: each part is made when it is first asked for, and once."""

    crowd: Crowd
    alone: Callable[[], list[str]]  # the base model's answers
    block: Callable[[Callable], Block]  # by how codecs are fitted
    learned: Callable[[Callable, Settings, Cell | None], Bank]  # by `methods.training_of`
    sensitivity: Callable[[Callable, Settings, Cell | None, int], Array]  # by the same, and the number of probes
    behind: Callable[[int, Cell], list[Sample]]  # the questions behind so many texts that are found on a cell's device
    write_key: PRNGKeyArray
    report: Callable[[int], None]


def ladder(
    key: jax.Array,
    model: Model,
    users: Users,
    cells: Sequence[Cell],
    *,
    draws: int,
    train_device: str | None = None,
    rows: Sequence[Method] | None = None,
    report: Callable[[int], None] = lambda work: None,
) -> Ladder:
    """Every method on `users` for every cell. `report` is told finished units of `work`.

    Noise-aware training is for the cell's own device, or for `train_device` at the cell's sigma. What does not depend
    on the cell (the base model, training without noise) is computed once. The last row must store what it learns: the
    examples and the bank that is handed back are its.
    """
    rows = all_rows() if rows is None else rows
    last = rows[-1]
    shared = share(key, model, users, settings=last.learned_with, report=report)
    scored = [method for method in rows if shared.crowd.known is not None or not method.known_domain]
    how = {"draws": draws, "train_device": train_device}
    table = {cell: {method.label: climb(shared, method, cell, **how) for method in scored} for cell in cells}
    firsts = [each for each in table[cells[0]][last.label].outcomes if each.draw == 0]
    examples = [
        Example(each.question, each.found, alone, each.answer)
        for each, alone in zip(firsts, shared.alone(), strict=True)
        if each.found
    ]
    bank = _found_by(shared, last, Cell(train_device or cells[0].device, cells[0].sigma))
    return Ladder(table, examples, shared.block(last.learned_with.fit_codec), bank)


def share(
    key: PRNGKeyArray,
    model: Model,
    users: Users,
    *,
    settings: Settings,
    report: Callable[[int], None] = lambda work: None,
) -> Shared:
    """What all methods share on `users`; `settings` give the size of their buffer, and the base model its wording.

    Nothing is trained again for what it does not depend on, such as the device where training has no noise.
    """
    select_key, codec_key, learn_key, write_key, curve_key = jax.random.split(key, 5)
    crowd = gather(select_key, model, users, buffer=settings.buffer)

    @cache
    def alone() -> list[str]:
        return _answers(crowd, report, crowd.queries, None, settings)

    @cache
    def block(fit: Callable) -> Block:
        codec = fit_codecs(codec_key, model, crowd.task, crowd.users, fit=fit)
        return Block(crowd.task, crowd.users, crowd.selected, codec)

    @cache
    def learned(how: Callable, settings: Settings, cell: Cell | None) -> Bank:
        condition = (cell or Cell("NVM-1", 0.0)).condition
        told = lambda progress: report(progress.row_steps)  # noqa: E731
        return how(learn_key, model, block(settings.fit_codec), condition, settings=settings, report=told)

    @cache
    def sensitivity(how: Callable, settings: Settings, cell: Cell | None, probes: int) -> Array:
        probed, own = replace(settings, probes=probes), block(settings.fit_codec)
        return retrieve.sensitivities(curve_key, model, own, learned(how, settings, cell), settings=probed)

    @cache
    def behind(count: int, cell: Cell) -> list[Sample]:
        return behind_texts(write_key, model, crowd.task, crowd.users, cell.condition, count=count)

    return Shared(crowd, alone, block, learned, sensitivity, behind, write_key, report)


def climb(shared: Shared, method: Method, cell: Cell, *, draws: int, train_device: str | None = None) -> Score:
    """One method for one cell; `train_device` as `ladder` says.

    The scores of a row that stores nothing are those of any cell. ValueError for a row that must know domains, where
    they are unknown.
    """
    crowd = shared.crowd
    asked = shared.behind(method.texts, cell) if method.texts else crowd.queries
    if method.settings is None:
        answers = _answers(crowd, shared.report, asked, None, RECOMMENDED) if method.texts else shared.alone()
        return _as_score(crowd, crowd.owners, answers)
    settings, trained_for = method.settings, Cell(train_device or cell.device, cell.sigma)
    block, bank = shared.block(settings.fit_codec), _found_by(shared, method, trained_for)
    if method.known_domain:
        if crowd.known is None:
            raise ValueError(f"{method.label}: the domains of these users' questions are unknown, leave it out")
        prompts = compiled.prompts_of(block.codec, bank.prompts)[crowd.owners, crowd.known]
        return _as_score(crowd, crowd.owners, _answers(crowd, shared.report, crowd.queries, prompts, settings))
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


def gather(key: jax.Array, model: Model, given: Users, *, buffer: int) -> Crowd:
    """Users with their latest `buffer` samples, the representatives among them, and their questions."""
    users = buffered(given, buffer)
    selected = select(key, model, users, extra_domains=True)
    queries = [query for user in users for query in user.queries]
    owners = np.array([at for at, user in enumerate(users) for _ in user.queries])
    return Crowd(model, given.task, users, selected, queries, owners, slots_of_known_domain(users, selected))


def _answers(crowd: Crowd, report, queries: Sequence[Sample], prompts, settings: Settings) -> list[str]:
    room, front = answer_room(crowd.model, crowd.users), tuning.Adapted(front=prompts)
    told = partial(_times, report, room)
    return generate(crowd.model, queries, front, new_tokens=room, wording=settings.wording, report=told)


def _stored(shared: Shared, block: Block, banks, settings: Settings, draws: int, asked: Sequence[Sample]) -> Score:
    """The score of banks that were programmed, searched and read back under every draw; `asked` is put to the model."""
    crowd, users = shared.crowd, shared.crowd.users
    match = retrieve.search(crowd.model, block, banks, settings=settings)
    place = [(u, d, q) for u, user in enumerate(users) for q in range(len(user.queries)) for d in range(draws)]
    at = tuple(np.array(place).T)
    flat = match.prompt.reshape(len(users), -1, *match.prompt.shape[-2:])
    prompts = compiled.prompts_of(block.codec, flat).reshape(*match.prompt.shape[:-1], -1)[at]
    first = np.cumsum([0, *(len(user.queries) for user in users)])
    answers = _answers(crowd, shared.report, [asked[first[u] + q] for u, _, q in place], prompts, settings)
    slots = np.asarray(match.index)[at]
    picked = [crowd.selected.samples[u][slot] for (u, _, _), slot in zip(place, slots, strict=True)]
    best = -np.partition(-np.asarray(match.scores)[at], 1)[:, :2]  # of slots without an OVT the score is -inf
    return _as_score(crowd, at[0], answers, picked, best[:, 0] - best[:, 1], draws)


def _as_score(crowd: Crowd, owners, answers: list[str], picked=None, margins=None, draws: int = 1) -> Score:
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
    """Units of progress of a ladder: answered tokens, and steps of prompts."""
    rows = all_rows() if rows is None else rows
    queries = sum(len(user.queries) for user in users)
    stored = sum(row.settings is not None and not row.known_domain for row in rows)
    answers = queries * (1 + cells * (draws * stored + sum(row.known_domain for row in rows)))
    trained = {training_of(row, Cell("", 1.0)) for row in rows if row.settings}
    ovts = sum(selection.cluster_count(min(len(user.history), rows[-1].learned_with.buffer)) for user in users)
    steps = sum((cells if cell else 1) * settings.training.steps * ovts for _, settings, cell in trained)
    return steps + answers * answer_room(model, users)


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


def _times(report, weight, count) -> None:
    report(count * weight)


def _mean_by(owners, count, values) -> np.ndarray:
    return np.array([values[owners == user].mean() for user in range(count)])


def slots_of_known_domain(users: Sequence[User], selected: Selected) -> np.ndarray | None:
    """For every question the first slot whose sample is of its domain; None where domains are unknown."""
    if any(query.domain is None for user in users for query in user.queries):
        return None
    slots = []
    for user, row in zip(users, selected.samples, strict=True):
        domains = [sample.domain if sample else None for sample in row]
        slots += [domains.index(query.domain) if query.domain in domains else 0 for query in user.queries]
    return np.array(slots)

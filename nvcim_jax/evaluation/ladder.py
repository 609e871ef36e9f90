"""The ladder: every method on the same users, questions and device draws, so that differences are paired."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np

from nvcim_jax import tuning
from nvcim_jax.core import selection
from nvcim_jax.data.lamp import Task
from nvcim_jax.data.users import Users
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
from nvcim_jax.pipeline.presets import Settings
from nvcim_jax.pipeline.select import Selected, buffered, select


class Score(NamedTuple):
    """One method: the mean score of each user, the share of questions answered with an OVT of their domain, answers."""

    scores: np.ndarray  # [users]
    right_domain: np.ndarray | None  # [users], where domains are known
    answers: tuple[list[str], ...] = ()  # of each draw, to the questions of one user after the other


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
    select_key, codec_key, learn_key, write_key, curve_key = jax.random.split(key, 5)
    crowd = gather(select_key, model, users, buffer=rows[-1].learned_with.buffer)
    answer = partial(_answers, crowd, report)

    @cache
    def block_of(fit: Callable) -> Block:
        codec = fit_codecs(codec_key, model, crowd.task, crowd.users, fit=fit)
        return Block(crowd.task, crowd.users, crowd.selected, codec)

    @cache
    def learned(how: Callable, settings: Settings, cell: Cell | None) -> Bank:
        condition = (cell or Cell("NVM-1", 0.0)).condition
        told = lambda progress: report(progress.row_steps)  # noqa: E731
        return how(learn_key, model, block_of(settings.fit_codec), condition, settings=settings, report=told)

    @cache
    def sensitivity(how: Callable, settings: Settings, cell: Cell | None, probes: int):
        probed, block = replace(settings, probes=probes), block_of(settings.fit_codec)
        return retrieve.sensitivities(curve_key, model, block, learned(how, settings, cell), settings=probed)

    def found_by(method: Method, cell: Cell) -> Bank:
        bank = learned(*training_of(method, cell))
        if method.learn is not tune_bank:
            return bank
        return rekeyed(model, block_of(method.learned_with.fit_codec), bank, settings=method.learned_with)

    def climb(method: Method, cell: Cell) -> tuple[Score, list[str], list[Sample]]:
        trained_for, settings = Cell(train_device or cell.device, cell.sigma), method.learned_with
        block, bank = block_of(settings.fit_codec), found_by(method, trained_for)
        if method.known_domain:
            prompts = compiled.prompts_of(block.codec, bank.prompts)[crowd.owners, crowd.known]
            answers = answer(crowd.queries, prompts, settings)
            return score_of(crowd, crowd.owners, crowd.queries, answers)._replace(answers=(answers,)), answers, []
        curve = sensitivity(*training_of(method, trained_for), settings.probes) if settings.probes else None
        how = {"settings": settings, "draws": draws, "sensitivity": curve}
        banks = retrieve.program(write_key, block, bank, cell.condition, **how)
        return _stored(crowd, answer, block, banks, settings, draws)

    without = answer(crowd.queries, None, rows[-1].learned_with)
    base = score_of(crowd, crowd.owners, crowd.queries, without)._replace(answers=(without,))
    table: dict[Cell, dict[str, Score]] = {}
    examples: list[Example] = []
    for cell in cells:
        scores = table[cell] = {}
        for method in rows:
            if method.settings is None:
                scores[method.label] = base
            elif crowd.known is not None or not method.known_domain:
                score, answers, picked = climb(method, cell)
                no_memory = method.learn is one_for_all.learn
                scores[method.label] = score._replace(right_domain=None) if no_memory else score
        examples = examples or [
            Example(query, picked[at], alone, answers[at])
            for query, alone, at in zip(crowd.queries, without, range(0, len(answers), draws), strict=True)
        ]
    first = Cell(train_device or cells[0].device, cells[0].sigma)
    return Ladder(table, examples, block_of(rows[-1].learned_with.fit_codec), found_by(rows[-1], first))


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


def _stored(crowd: Crowd, answer, block: Block, banks, settings: Settings, draws: int):
    """Score, answers and samples found of banks that were programmed, searched and read back under every draw."""
    users = crowd.users
    match = retrieve.search(crowd.model, block, banks, settings=settings)
    place = [(u, d, q) for u, user in enumerate(users) for q in range(len(user.queries)) for d in range(draws)]
    at = tuple(np.array(place).T)
    flat = match.prompt.reshape(len(users), -1, *match.prompt.shape[-2:])
    prompts = compiled.prompts_of(block.codec, flat).reshape(*match.prompt.shape[:-1], -1)[at]
    asked = [users[u].queries[q] for u, _, q in place]
    answers = answer(asked, prompts, settings)
    slots = np.asarray(match.index)[at]
    picked = [crowd.selected.samples[u][slot] for (u, _, _), slot in zip(place, slots, strict=True)]
    of_draws = tuple(
        [told for told, (_, d, _) in zip(answers, place, strict=True) if d == draw] for draw in range(draws)
    )
    return score_of(crowd, at[0], asked, answers, picked)._replace(answers=of_draws), answers, picked


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

"""The ladder of methods on one task: base model, prompts without memory, and NVCiM-PT under each preset.

A `Method` is one row of the table. All methods see the same users, questions and device draws, so their differences
are paired; so do all devices.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np

from nvcim_jax import (
    crossbar,
    devices,
    metrics,
    mitigation,
    one_for_all,
    pipeline,
    programs,
    reply,
    selection,
    text,
    tuning,
)  # fmt: skip
from nvcim_jax.codec import Codec
from nvcim_jax.lamp import Sample, Task, User
from nvcim_jax.llm.weights import Model
from nvcim_jax.presets import PRESETS, SEARCHES, Settings, flat_mips, mean_mips, prompt_key, relative_rate

MOST_NEW_TOKENS = 100  # as in the paper
BASE, OWN, ONE = "base model", "own tokens, untuned", "one prompt for all"
KNOWN, OWN_KNOWN = "OVT, right domain known, clean", "own tokens, right domain known, clean"
UNTUNED = tuning.Training(steps=0)
ONE_RATE = partial(relative_rate, share=0.12)  # its best: `experiments/tables.py one-for-all`

# How OVTs lie in cells, and the probes of curvature that the write asks for.
MITIGATIONS = {
    "no mitigation": (mitigation.plain, 0),
    "SWV": (mitigation.selective_write_verify, 8),
    "CxDNN": (mitigation.cxdnn, 0),
    "CorrectNet": (mitigation.correctnet, 0),
}


class Method(NamedTuple):
    """A row of the table: how prompts are learned, written and found.

    Without `settings` the model answers alone. With `known_domain` nothing is stored: the question gets the OVT of its
    own domain as it was trained.
    """

    name: str
    settings: Settings | None
    group: str = ""  # the preset that it belongs to
    learn: Callable = pipeline.learn
    known_domain: bool = False

    @property
    def label(self) -> str:
        return f"{self.group}: {self.name}" if self.group else self.name


class Score(NamedTuple):
    """One method: the mean score of each user, and the share of questions answered with an OVT of their domain."""

    scores: np.ndarray  # [users]
    right_domain: np.ndarray | None  # [users], where domains are known


class Example(NamedTuple):
    """One question, answered without and with the OVT that the search found."""

    sample: Sample
    found: Sample
    without: str
    answer: str


class Cell(NamedTuple):
    """A device and its sigma: one cell of a table."""

    device: str
    sigma: float


class Ladder(NamedTuple):
    """Scores by cell and method, examples from the first cell, and what `recommended` learned for it."""

    scores: dict[Cell, dict[str, Score]]
    examples: list[Example]
    selected: pipeline.Selected
    learned: pipeline.Learned


class Crowd(NamedTuple):
    """A block of users of one task, their questions one after the other, and what all methods share."""

    model: Model
    task: Task
    users: list[User]
    selected: pipeline.Selected
    queries: list[Sample]
    owners: np.ndarray  # of each question
    known: np.ndarray | None  # of each question the slot of its domain


def methods(presets: Mapping[str, Settings] = PRESETS) -> list[Method]:
    """Every row of the table, in its order. `presets` must have "recommended"; its own search comes last."""
    best = presets["recommended"]
    clean = replace(best, train_sigma=0.0, clip=1.0)
    rows = [
        Method(BASE, None),
        Method(OWN, replace(best, training=UNTUNED)),
        Method(ONE, replace(best, learning_rate=ONE_RATE), learn=one_for_all.learn),
        Method(OWN_KNOWN, replace(clean, training=UNTUNED), known_domain=True),
        Method(KNOWN, clean, known_domain=True),
    ]
    for group, settings in presets.items():
        rows += _of_preset(group, settings)
    return rows


def _of_preset(group: str, settings: Settings) -> list[Method]:
    """A preset without its parts, with others' mitigation in their place, and whole."""
    row = partial(Method, group=group)
    quiet = replace(settings, train_sigma=0.0)
    rows = []
    if settings.clip < 1:
        rows.append(row("no training noise, no clipping, flat MIPS", replace(quiet, clip=1.0, score=flat_mips)))
    rows += [
        row("no training noise, flat MIPS", replace(quiet, score=flat_mips)),
        row("flat MIPS", replace(settings, score=flat_mips)),
        row("mean-pooled MIPS", replace(settings, score=mean_mips)),
    ]
    if settings.method == tuning.CodePrompt():  # what the codec has lost already, no write can mitigate
        bare = replace(quiet, clip=1.0)
        for name, (write, probes) in MITIGATIONS.items():
            rows.append(row(f"by cell, {name}", replace(bare, write=by_cell(write), probes=probes)))
        rows.append(row("by cell", replace(settings, write=by_cell(mitigation.plain))))
    return [*rows, row(SEARCHES[group], settings)]


@cache  # the same function object, so that its compiled program is found again
def by_cell(write: Callable) -> Callable:
    """A mitigation as the `write` of a bank: one Gaussian for each cell."""
    return partial(mitigation.write_and_read, write=write)


def whole(group: str) -> str:
    """The label of a preset with all its parts."""
    return f"{group}: {SEARCHES[group]}"


def pairs(scored: Container[str]) -> list[tuple[str, str]]:
    """The labels of rows whose difference a claim turns on, the first being claimed to be better: those `scored`."""
    found = [(ONE, BASE), (KNOWN, BASE), (KNOWN, OWN_KNOWN)]
    for group in PRESETS:
        at = f"{group}: {{}}".format
        found += [(whole(group), BASE), (at("flat MIPS"), at("no training noise, flat MIPS"))]
        found += [(whole(group), at(search)) for search in ("flat MIPS", "mean-pooled MIPS")]
        found += [(at("by cell"), at(f"by cell, {name}")) for name in MITIGATIONS]
    found += [(whole("recommended"), OWN), (whole("recommended"), ONE)]
    return [(a, b) for a, b in found if a in scored and b in scored]


def ladder(
    key: jax.Array,
    model: Model,
    task: Task,
    users: Sequence[User],
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
    rows = methods() if rows is None else rows
    select_key, codec_key, learn_key, write_key, curve_key = jax.random.split(key, 5)
    crowd = gather(select_key, model, task, users, buffer=rows[-1].settings.buffer)
    answer = partial(_answers, crowd, report)

    @cache
    def codec(fit: Callable) -> Codec:
        return pipeline.fit_codecs(codec_key, model, task, crowd.users, fit=fit)

    @cache
    def learned(how: Callable, settings: Settings, cell: Cell | None) -> pipeline.Learned:
        device, sigma = (devices.device(cell.device), cell.sigma) if cell else (devices.device("NVM-1"), 0.0)
        told = lambda progress: report(progress.row_steps)  # noqa: E731
        shared = (model, task, crowd.users, crowd.selected, codec(settings.fit_codec), device)
        return how(learn_key, *shared, sigma=sigma, settings=settings, report=told)

    @cache
    def sensitivity(how: Callable, settings: Settings, cell: Cell | None, probes: int):
        probed = replace(settings, probes=probes)
        shared = (model, crowd.users, crowd.selected, learned(how, settings, cell))
        return pipeline.sensitivities(curve_key, *shared, settings=probed)

    def climb(method: Method, cell: Cell) -> tuple[Score, list[str], list[Sample]]:
        trained = _training_of(method, Cell(train_device or cell.device, cell.sigma))
        own, settings = learned(*trained), method.settings
        if method.learn is pipeline.learn:
            own = pipeline.rekeyed(model, crowd.selected, own, settings)
        if method.known_domain:
            prompts = programs.prompts_of(own.codec, own.bank.prompts)[crowd.owners, crowd.known]
            answers = answer(crowd.queries, prompts)
            return score_of(crowd, crowd.owners, crowd.queries, answers), answers, []
        curve = sensitivity(*trained, settings.probes) if settings.probes else None
        banks = pipeline.program(
            write_key, crowd.users, own, devices.device(cell.device),
            sigma=cell.sigma, settings=settings, draws=draws, sensitivity=curve,
        )  # fmt: skip
        return _stored(crowd, answer, own, banks, settings, draws)

    without = answer(crowd.queries, None)
    base = score_of(crowd, crowd.owners, crowd.queries, without)
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
    kept = pipeline.rekeyed(model, crowd.selected, learned(*_training_of(rows[-1], first)), rows[-1].settings)
    return Ladder(table, examples, crowd.selected, kept)


def gather(key: jax.Array, model: Model, task: Task, users: Sequence[User], *, buffer: int) -> Crowd:
    """Users with their latest `buffer` samples, the representatives among them, and their questions."""
    users = pipeline.buffered(users, buffer)
    selected = pipeline.select(key, model, users, extra_domains=True)
    queries = [query for user in users for query in user.queries]
    owners = np.array([at for at, user in enumerate(users) for _ in user.queries])
    return Crowd(model, task, users, selected, queries, owners, slots_of_known_domain(users, selected))


def _training_of(method: Method, cell: Cell) -> tuple[Callable, Settings, Cell | None]:
    """What decides the training of a method: not how it is written and found, and the cell only under its noise."""
    settings = replace(method.settings, key=prompt_key, score=flat_mips, write=crossbar.write_values, probes=0)
    return method.learn, settings, cell if settings.train_sigma and settings.training.steps else None


def _answers(crowd: Crowd, report, queries: Sequence[Sample], prompts) -> list[str]:
    room = answer_room(crowd.model, crowd.users)
    told = partial(_times, report, room)
    return reply.answer(crowd.model, queries, tuning.Adapted(front=prompts), new_tokens=room, report=told)


def _stored(crowd: Crowd, answer, learned, banks, settings: Settings, draws: int):
    """Score, answers and samples found of banks that were programmed, searched and read back under every draw."""
    users = crowd.users
    match = pipeline.search(crowd.model, users, learned, banks, settings=settings)
    place = [(u, d, q) for u, user in enumerate(users) for q in range(len(user.queries)) for d in range(draws)]
    at = tuple(np.array(place).T)
    flat = match.prompt.reshape(len(users), -1, *match.prompt.shape[-2:])
    prompts = programs.prompts_of(learned.codec, flat).reshape(*match.prompt.shape[:-1], -1)[at]
    asked = [users[u].queries[q] for u, _, q in place]
    answers = answer(asked, prompts)
    slots = np.asarray(match.index)[at]
    picked = [crowd.selected.samples[u][slot] for (u, _, _), slot in zip(place, slots, strict=True)]
    return score_of(crowd, at[0], asked, answers, picked), answers, picked


def work(users: Sequence[User], model: Model, cells: int, draws: int, rows: Sequence[Method] | None = None) -> int:
    """Units of progress of a ladder: answered tokens, and steps of prompts."""
    rows = methods() if rows is None else rows
    queries = sum(len(user.queries) for user in users)
    stored = sum(row.settings is not None and not row.known_domain for row in rows)
    answers = queries * (1 + cells * (draws * stored + sum(row.known_domain for row in rows)))
    trained = {_training_of(row, Cell("", 1.0)) for row in rows if row.settings}
    ovts = sum(selection.cluster_count(min(len(user.history), rows[-1].settings.buffer)) for user in users)
    steps = sum((cells if cell else 1) * settings.training.steps * ovts for _, settings, cell in trained)
    return steps + answers * answer_room(model, users)


def answer_room(model: Model, users: Sequence[User]) -> int:
    """Tokens an answer may take: a quarter more than the longest in any history, at most the paper's 100."""
    longest = max(len(text.answer_ids(model.tokenizer, sample)) for user in users for sample in user.history)
    return min(text.bucket(longest + longest // 4), MOST_NEW_TOKENS)


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


def slots_of_known_domain(users: Sequence[User], selected: pipeline.Selected) -> np.ndarray | None:
    """For every question the first slot whose sample is of its domain; None where domains are unknown."""
    if any(query.domain is None for user in users for query in user.queries):
        return None
    slots = []
    for user, row in zip(users, selected.samples, strict=True):
        domains = [sample.domain if sample else None for sample in row]
        slots += [domains.index(query.domain) if query.domain in domains else 0 for query in user.queries]
    return np.array(slots)

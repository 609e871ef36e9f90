"""The ladder of methods on one task: base model, prompts without memory, and NVCiM-PT under each preset.

All methods see the same users, questions and device draws, so their differences are paired; so do all devices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import jax
import numpy as np

from nvcim_jax import devices, metrics, pipeline, programs, reply, text, tuning
from nvcim_jax.codec import Codec
from nvcim_jax.lamp import Sample, Task, User
from nvcim_jax.llm.weights import Model
from nvcim_jax.presets import PRESETS, RECOMMENDED, Settings, flat_mips, mean_mips

BASE, OWN, ONE, KNOWN = "base model", "own tokens, untuned", "one prompt for all", "OVT, right domain known, clean"
MOST_NEW_TOKENS = 100  # as in the paper


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


def ladder(
    key: jax.Array,
    model: Model,
    task: Task,
    users: Sequence[User],
    cells: Sequence[Cell],
    *,
    draws: int,
    train_device: str | None = None,
    presets: Mapping[str, Settings] = PRESETS,
    report: Callable[[int], None] = lambda work: None,
) -> Ladder:
    """Every method on `users` for every cell, in the order of the table. `report` is told finished units of `work`.

    Noise-aware training is for the cell's own device, or for `train_device` at the cell's sigma. What does not depend
    on the cell (the base model, training without noise) is computed once.
    """
    select_key, codec_key, learn_key, write_key = jax.random.split(key, 4)
    users = pipeline.buffered(users, RECOMMENDED.buffer)
    selected = pipeline.select(select_key, model, users, extra_domains=True)
    queries = [query for user in users for query in user.queries]
    owners = [at for at, user in enumerate(users) for _ in user.queries]
    new_tokens = answer_room(model, users)

    @cache
    def codec(fit: Callable) -> Codec:
        return pipeline.fit_codecs(codec_key, model, task, users, fit=fit)

    @cache
    def learn(settings: Settings, cell: Cell | None, how: Callable = pipeline.learn) -> pipeline.Learned:
        """`cell` is None for training without noise, so that all cells share it."""
        device, sigma = (devices.device(cell.device), cell.sigma) if cell else (devices.device("NVM-1"), 0.0)
        told = lambda progress: report(progress.row_steps)  # noqa: E731
        bound = {"sigma": sigma, "settings": settings, "report": told}
        return how(learn_key, model, task, users, selected, codec(settings.fit_codec), device, **bound)

    def replies(asked: Sequence[Sample], prompts) -> list[str]:
        told = partial(_times, report, new_tokens)
        return reply.answer(model, asked, tuning.Adapted(front=prompts), new_tokens=new_tokens, report=told)

    @cache
    def programmed(cell: Cell, settings: Settings, trained_for: Cell | None, how: Callable = pipeline.learn):
        learned = learn(settings, trained_for, how)
        bound = {"sigma": cell.sigma, "settings": settings, "draws": draws}
        return learned, pipeline.program(write_key, users, learned, devices.device(cell.device), **bound)

    def stored(learned: pipeline.Learned, banks, settings: Settings) -> tuple[Score, list[str], list[Sample]]:
        """Score of a bank that was programmed, searched and read back under every draw."""
        match = pipeline.search(model, users, learned, banks, settings=settings)
        rows = [(u, d, q) for u, user in enumerate(users) for q in range(len(user.queries)) for d in range(draws)]
        place = tuple(np.array(rows).T)
        flat = match.prompt.reshape(len(users), -1, *match.prompt.shape[-2:])
        prompts = programs.prompts_of(learned.codec, flat).reshape(*match.prompt.shape[:-1], -1)[place]
        asked = [users[u].queries[q] for u, _, q in rows]
        answers = replies(asked, prompts)
        picked = [selected.samples[u][s] for (u, _, _), s in zip(rows, np.asarray(match.index)[place], strict=True)]
        return score_of(task, users, [u for u, _, _ in rows], asked, answers, picked), answers, picked

    without = replies(queries, None)
    base = score_of(task, users, owners, queries, without, None)
    known = slots_of_known_domain(users, selected)
    table: dict[Cell, dict[str, Score]] = {}
    examples: list[Example] = []
    for cell in cells:
        trained_for = Cell(train_device or cell.device, cell.sigma)
        scores = table[cell] = {BASE: base}
        scores[OWN] = stored(
            *programmed(cell, replace(RECOMMENDED, training=tuning.Training(steps=0)), None), RECOMMENDED
        )[0]
        one = stored(*programmed(cell, RECOMMENDED, trained_for, pipeline.learn_one_for_all), RECOMMENDED)[0]
        scores[ONE] = one._replace(right_domain=None)
        if known is not None:
            best = learn(RECOMMENDED, trained_for)
            prompts = programs.prompts_of(best.codec, best.bank.prompts)[np.array(owners), known]
            scores[KNOWN] = score_of(task, users, owners, queries, replies(queries, prompts), None)
        for name, settings in presets.items():
            flat, mean = replace(settings, score=flat_mips), replace(settings, score=mean_mips)
            bare, tuned = programmed(cell, settings, None), programmed(cell, settings, trained_for)
            scores[f"{name}: No-Miti (flat MIPS)"] = stored(*bare, flat)[0]
            scores[f"{name}: NVP* (flat MIPS)"] = stored(*tuned, flat)[0]
            scores[f"{name}: NVP* (mean-pooled MIPS)"] = stored(*tuned, mean)[0]
            scores[f"{name}: NVCiM-PT"], answers, picked = stored(*tuned, settings)
        if not examples:
            first_draws = range(0, len(answers), draws)
            examples = [
                Example(query, picked[at], alone, answers[at])
                for query, alone, at in zip(queries, without, first_draws, strict=True)
            ]
    return Ladder(table, examples, selected, learn(RECOMMENDED, Cell(train_device or cells[0].device, cells[0].sigma)))


def work(users: Sequence[User], model: Model, cells: int, draws: int, presets: Mapping[str, Settings] = PRESETS) -> int:
    """Units of work that `ladder` will report, roughly: tuned rows times steps, answers times their length."""
    steps = sum((1 + cells) * settings.training.steps for settings in presets.values())
    queries = sum(len(user.queries) for user in users)
    answers = queries * (1 + cells * (1 + draws * (2 + 4 * len(presets))))
    tuned = 6 * len(users) * steps + cells * len(users) * RECOMMENDED.training.steps
    return tuned + answers * answer_room(model, users)


def answer_room(model: Model, users: Sequence[User]) -> int:
    """Tokens an answer may take: a quarter more than the longest in any history, at most the paper's 100."""
    longest = max(len(text.answer_ids(model.tokenizer, sample)) for user in users for sample in user.history)
    return min(text.bucket(longest + longest // 4), MOST_NEW_TOKENS)


def metric_of(task: Task) -> Callable[[str, str], float]:
    """The score of one answer: exact match of the label, or ROUGE-1."""
    return metrics.exact if task.metric == "accuracy" else metrics.rouge1


def score_of(
    task: Task,
    users: Sequence[User],
    owners: Sequence[int],
    asked: Sequence[Sample],
    answers: Sequence[str],
    picked: Sequence[Sample] | None = None,
) -> Score:
    """Mean score of each user over the questions `asked`, of which question i is `owners[i]`'s; `picked` was found."""
    metric = metric_of(task)
    each = np.array([metric(answer, sample.answer) for answer, sample in zip(answers, asked, strict=True)])
    owners = np.array(owners)
    per_user = partial(_mean_by, owners, len(users))
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

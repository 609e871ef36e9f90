"""The ladder of methods on one task: base model, prompts without memory, and NVCiM-PT under each preset.

All methods see the same users, questions and device draws, so their differences are paired.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nvcim_jax import metrics, pipeline, text
from nvcim_jax.devices import Device
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


class Ladder(NamedTuple):
    """Scores by method, a few examples, and the bank that `recommended` learned for these users."""

    scores: dict[str, Score]
    examples: list[Example]
    selected: pipeline.Selected
    learned: pipeline.Learned


def ladder(
    key: jax.Array,
    model: Model,
    task: Task,
    users: Sequence[User],
    device: Device,
    *,
    sigma: float,
    draws: int,
    presets: Mapping[str, Settings] = PRESETS,
    report: Callable[[int], None] = lambda work: None,
) -> Ladder:
    """Every method on `users`, in the order of the table. `report` is told finished units of `work`."""
    select_key, learn_key, write_key = jax.random.split(key, 3)
    users = pipeline.buffered(users, RECOMMENDED.buffer)
    selected = pipeline.select(select_key, model, users, extra_domains=True)
    queries = [query for user in users for query in user.queries]
    new_tokens = answer_room(model, users)
    scores: dict[str, Score] = {}

    def learn(settings: Settings, how=pipeline.learn) -> pipeline.Learned:
        told = lambda rows: report(rows * settings.steps)  # noqa: E731
        bound = {"sigma": sigma, "settings": settings, "report": told}
        return how(learn_key, model, task, users, selected, device, **bound)

    def reply(asked: Sequence[Sample], prompts) -> list[str]:
        return pipeline.answer(model, asked, prompts, new_tokens=new_tokens, report=lambda n: report(n * new_tokens))

    def stored(learned: pipeline.Learned, settings: Settings) -> tuple[Score, list[str], list[Sample]]:
        """Score of a bank that was programmed, searched and read back under every draw."""
        match = pipeline.retrieve(write_key, model, users, learned, device, sigma=sigma, settings=settings, draws=draws)
        rows = [(u, d, q) for u, user in enumerate(users) for q in range(len(user.queries)) for d in range(draws)]
        place = tuple(np.array(rows).T)
        flat = match.prompt.reshape(len(users), -1, *match.prompt.shape[-2:])
        prompts = pipeline.prompts_of(learned.codec, flat).reshape(*match.prompt.shape[:-1], -1)[place]
        asked = [users[u].queries[q] for u, _, q in rows]
        answers = reply(asked, prompts)
        picked = [selected.samples[u][s] for (u, _, _), s in zip(rows, np.asarray(match.index)[place], strict=True)]
        owners = [u for u, _, _ in rows]
        return _score(task, users, owners, asked, answers, picked), answers, picked

    owners = [u for u, user in enumerate(users) for _ in user.queries]
    without = reply(queries, None)
    scores[BASE] = _score(task, users, owners, queries, without, None)
    scores[OWN] = stored(learn(replace(RECOMMENDED, steps=0)), RECOMMENDED)[0]
    one = stored(learn(RECOMMENDED, pipeline.learn_one_for_all), RECOMMENDED)[0]
    scores[ONE] = one._replace(right_domain=None)
    best = learn(RECOMMENDED)
    known = _slots_of_known_domain(users, selected)
    if known is not None:
        prompts = pipeline.prompts_of(best.codec, best.codes)[np.array(owners), known]
        scores[KNOWN] = _score(task, users, owners, queries, reply(queries, prompts), None)
    for name, settings in presets.items():
        mips = replace(settings, score=flat_mips)
        scores[f"{name}: No-Miti (flat MIPS)"] = stored(learn(replace(settings, train_sigma=0.0)), mips)[0]
        learned = best if settings == RECOMMENDED else learn(settings)
        scores[f"{name}: NVP* (flat MIPS)"] = stored(learned, mips)[0]
        scores[f"{name}: NVP* (mean-pooled MIPS)"] = stored(learned, replace(settings, score=mean_mips))[0]
        scores[f"{name}: NVCiM-PT"], answers, picked = stored(learned, settings)
    every = range(0, len(queries) * draws, draws)
    triples = [Example(queries[n], picked[at], without[n], answers[at]) for n, at in enumerate(every)]
    return Ladder(scores, triples, selected, best)


def work(users: Sequence[User], model: Model, draws: int, presets: Mapping[str, Settings] = PRESETS) -> int:
    """Units of work that `ladder` will report, roughly: tuned rows times steps, answers times their length."""
    rows = 6 * len(users)
    steps = sum(2 * settings.steps for settings in presets.values())
    queries = sum(len(user.queries) for user in users)
    answers = queries * (2 + draws * (2 + 4 * len(presets)))
    return rows * steps + len(users) * RECOMMENDED.steps + answers * answer_room(model, users)


def answer_room(model: Model, users: Sequence[User]) -> int:
    """Tokens an answer may take: a quarter more than the longest in any history, at most the paper's 100."""
    longest = max(len(text.answer_ids(model.tokenizer, sample)) for user in users for sample in user.history)
    return min(text.bucket(longest + longest // 4, 4), MOST_NEW_TOKENS)


def metric_of(task: Task) -> Callable[[str, str], float]:
    """The score of one answer: exact match of the label, or ROUGE-1."""
    return metrics.exact if task.metric == "accuracy" else metrics.rouge1


def _score(task, users, owners, asked, answers, picked) -> Score:
    metric = metric_of(task)
    each = np.array([metric(answer, sample.answer) for answer, sample in zip(answers, asked, strict=True)])
    owners = np.array(owners)
    per_user = partial(_mean_by, owners, len(users))
    if picked is None or asked[0].domain is None:
        return Score(per_user(each), None)
    right = np.array([sample.domain == found.domain for sample, found in zip(asked, picked, strict=True)], float)
    return Score(per_user(each), per_user(right))


def _mean_by(owners, count, values) -> np.ndarray:
    return np.array([values[owners == user].mean() for user in range(count)])


def _slots_of_known_domain(users, selected) -> np.ndarray | None:
    """For every question the first slot whose sample is of its domain; None where domains are unknown."""
    if any(query.domain is None for user in users for query in user.queries):
        return None
    slots = []
    for user, row in zip(users, selected.samples, strict=True):
        domains = [sample.domain if sample else None for sample in row]
        slots += [domains.index(query.domain) if query.domain in domains else 0 for query in user.queries]
    return np.array(slots)

"""What learning was worth to one person: the model alone and with OVTs, on samples that were held out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import PRNGKeyArray

from nvcim_jax.data.lamp import Task
from nvcim_jax.evaluation import metrics
from nvcim_jax.evaluation.statistics import Interval, difference, interval
from nvcim_jax.llm.weights import Model
from nvcim_jax.pipeline.answer import answer, answer_room, generate
from nvcim_jax.pipeline.memory import Memory


class Worth(NamedTuple):
    """Scores of one metric, one for each sample, or one of all samples together, as macro F1 and RMSE are."""

    alone: np.ndarray  # [samples] or [], of the base model
    learned: np.ndarray  # [samples] or [], behind the OVT found


def worth(key: PRNGKeyArray, model: Model, memory: Memory, user: str | None = None) -> dict[str, Worth]:
    """Scores by metric on the queries of one `user` of a memory just learned, under what it was learned for.

    Those of `metrics_of` for every sample, and what else LaMP's evaluation reports, of all samples together.
    ValueError for a user whom the memory does not hold or who has no queries.
    """
    own = memory.of(user)
    (person,) = own.users
    golds = [query.answer for query in person.queries]
    learned = [each.text for each in answer(key, model, own, person.queries)]
    room = answer_room(model, own.users)
    alone = generate(model, person.queries, new_tokens=room, wording=memory.settings.wording)

    def scores(metric: Callable[[str, str], float], answers: list[str]) -> np.ndarray:
        return np.array([metric(told, gold) for told, gold in zip(answers, golds, strict=True)])

    by = metrics_of(memory.task)
    together = zip(*(metrics.official(memory.task, told, golds).items() for told in (alone, learned)), strict=True)
    return {
        **{name: Worth(scores(metric, alone), scores(metric, learned)) for name, metric in by.items()},
        **{name: Worth(np.array(a), np.array(b)) for (name, a), (_, b) in together if name not in by},
    }


def as_json(scores: dict[str, Worth]) -> dict[str, Any]:
    """Means with their intervals, and the score of every sample; a score of all samples together as it is."""

    def told(each: Worth) -> dict[str, Any]:
        if not each.alone.ndim:
            return {"base_model": {"mean": float(each.alone)}, "with_ovts": {"mean": float(each.learned)}}
        return {
            "base_model": {**_as_json(interval(each.alone)), "per_sample": each.alone.tolist()},
            "with_ovts": {**_as_json(interval(each.learned)), "per_sample": each.learned.tolist()},
            "difference": _as_json(difference(each.learned, each.alone)),
        }

    return {name: told(each) for name, each in scores.items()}


def _as_json(value: Interval) -> dict[str, float]:
    return {"mean": value.mean, "low": value.low, "high": value.high}


def metrics_of(task: Task) -> dict[str, Callable[[str, str], float]]:
    """What single answers of a task are scored by, from 0 to 1: the right label, or common words."""
    if task.metric == "accuracy":
        return {"accuracy": metrics.exact}
    return {"ROUGE-1": metrics.rouge1, "ROUGE-L": metrics.rouge_l}

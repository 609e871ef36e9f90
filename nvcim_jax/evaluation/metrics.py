"""Scores of answers against gold: of one answer, of many, and those that LaMP's own evaluation reports for a task."""

from collections.abc import Callable, Sequence

import numpy as np

from nvcim_jax.data.lamp import Task
from nvcim_jax.data.rouge import rouge1 as rouge1
from nvcim_jax.data.rouge import rouge_l as rouge_l


def exact(answer: str, gold: str) -> float:
    """1 for the gold label, else 0; surrounding space is ignored. Averaged, it is accuracy."""
    return float(answer.strip() == gold.strip())


def accuracy(answers: Sequence[str], golds: Sequence[str]) -> float:
    """The share of answers that are the gold label. ValueError if the lengths differ or are zero."""
    return _mean(exact, answers, golds)


def macro_f1(answers: Sequence[str], golds: Sequence[str], *, labels: Sequence[str] | None = None) -> float:
    """F1 averaged over `labels`, by default those that occur in `golds`; surrounding space is ignored.

    A label of `labels` that nobody gave and that was nowhere right has an F1 of 0, as in LaMP's evaluation. ValueError
    if the lengths differ or are zero.
    """
    _check_pairs(answers, golds)
    from sklearn.metrics import f1_score

    told, right = ([text.strip() for text in texts] for texts in (answers, golds))
    over = sorted(set(right)) if labels is None else list(labels)
    return float(f1_score(right, told, labels=over, average="macro", zero_division=0))  # pyright: ignore[reportArgumentType]


def mean_absolute_error(
    answers: Sequence[str], golds: Sequence[str], *, lowest: float = 1, highest: float = 5
) -> float:
    """MAE of numbers; an answer that is none counts as the end of the scale farther from the gold (`numbers`).

    ValueError if the lengths differ or are zero.
    """
    return float(np.abs(_errors(answers, golds, lowest, highest)).mean())


def root_mean_squared_error(
    answers: Sequence[str], golds: Sequence[str], *, lowest: float = 1, highest: float = 5
) -> float:
    """RMSE of numbers, which are read as `mean_absolute_error` reads them."""
    return float(np.sqrt(np.square(_errors(answers, golds, lowest, highest)).mean()))


def numbers(answers: Sequence[str], golds: Sequence[str], *, lowest: float = 1, highest: float = 5) -> list[float]:
    """What ratings say, as LaMP's evaluation reads them: whatever Python's `float` takes, also 4.5 or 9.

    An answer that is no finite number stands for the end of the scale farther from its gold, so that it is as wrong as
    a rating can be. (LaMP's evaluation ends with an error at nan and inf.) ValueError for a gold that is no number.
    """
    _check_pairs(answers, golds)

    def number(answer: str, gold: float) -> float:
        try:
            told = float(answer)
        except ValueError:
            told = np.nan
        return told if np.isfinite(told) else lowest if gold - lowest > highest - gold else highest

    return [number(answer, float(gold)) for answer, gold in zip(answers, golds, strict=True)]


def official(task: Task, answers: Sequence[str], golds: Sequence[str]) -> dict[str, float]:
    """What LaMP's evaluation reports of a task, over all its questions together; of MAE and RMSE less is better.

    Accuracy and macro F1 over the task's labels (LaMP-1, 2), MAE and RMSE (LaMP-3), else ROUGE-1 and ROUGE-L.
    ValueError if the lengths differ or are zero.
    """
    if task.name == "LaMP-3":
        return {"MAE": mean_absolute_error(answers, golds), "RMSE": root_mean_squared_error(answers, golds)}
    if task.labels:
        return {"accuracy": accuracy(answers, golds), "macro F1": macro_f1(answers, golds, labels=task.labels)}
    return {"ROUGE-1": _mean(rouge1, answers, golds), "ROUGE-L": _mean(rouge_l, answers, golds)}


def _mean(metric: Callable[[str, str], float], answers: Sequence[str], golds: Sequence[str]) -> float:
    _check_pairs(answers, golds)
    return float(np.mean([metric(*pair) for pair in zip(answers, golds, strict=True)]))


def _errors(answers: Sequence[str], golds: Sequence[str], lowest: float, highest: float) -> np.ndarray:
    told = numbers(answers, golds, lowest=lowest, highest=highest)
    return np.array(told) - np.array([float(gold) for gold in golds])


def _check_pairs(answers: Sequence[str], golds: Sequence[str]) -> None:
    if len(answers) != len(golds) or not golds:
        raise ValueError(f"{len(answers)} answers for {len(golds)} gold answers: one each, and at least one, is needed")

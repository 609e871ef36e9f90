"""Scores of answers against gold."""

from collections.abc import Sequence
from functools import cache

import numpy as np


def exact(answer: str, gold: str) -> float:
    """1 for the gold label, else 0; surrounding space is ignored. Averaged, it is accuracy."""
    return float(answer.strip() == gold.strip())


def rouge1(answer: str, gold: str) -> float:
    """ROUGE-1 F-measure without stemming (Lin, 2004): common words, of letters a to z and digits."""
    return _rouge("rouge1", answer, gold)


def rouge_l(answer: str, gold: str) -> float:
    """ROUGE-L F-measure without stemming (Lin, 2004): the longest common subsequence of such words."""
    return _rouge("rougeL", answer, gold)


def macro_f1(answers: Sequence[str], golds: Sequence[str]) -> float:
    """F1 averaged over the labels that occur in `golds`. ValueError if the lengths differ or are zero."""
    _check_pairs(answers, golds)
    from sklearn.metrics import f1_score

    labels = sorted(set(golds))
    return float(f1_score(golds, answers, labels=labels, average="macro", zero_division=0))  # pyright: ignore[reportArgumentType]


def mean_absolute_error(answers: Sequence[str], golds: Sequence[str], *, lowest: int = 1, highest: int = 5) -> float:
    """MAE of ratings; an answer that is no rating counts as the end of the scale farther from the gold (LaMP-3)."""
    _check_pairs(answers, golds)

    def error(answer: str, gold: int) -> float:
        text = answer.strip()
        known = text.isdecimal() and lowest <= int(text) <= highest
        return abs(int(text) - gold) if known else max(gold - lowest, highest - gold)

    return float(np.mean([error(answer, int(gold)) for answer, gold in zip(answers, golds, strict=True)]))


def _check_pairs(answers, golds) -> None:
    if len(answers) != len(golds) or not golds:
        raise ValueError(f"{len(answers)} answers for {len(golds)} gold answers: one each, and at least one, is needed")


def _rouge(kind: str, answer: str, gold: str) -> float:
    return _rouge_scorer(kind).score(gold, answer)[kind].fmeasure


@cache
def _rouge_scorer(kind: str):
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=False)

"""ROUGE of two texts (Lin, 2004), without stemming, over words of the letters a to z and digits."""

from functools import cache


def rouge1(answer: str, gold: str) -> float:
    """ROUGE-1 F-measure without stemming (Lin, 2004): common words, of letters a to z and digits."""
    return _rouge("rouge1", answer, gold)


def rouge_l(answer: str, gold: str) -> float:
    """ROUGE-L F-measure without stemming (Lin, 2004): the longest common subsequence of such words."""
    return _rouge("rougeL", answer, gold)


def _rouge(kind: str, answer: str, gold: str) -> float:
    return _scorer(kind).score(gold, answer)[kind].fmeasure


@cache
def _scorer(kind: str):
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], use_stemmer=False)

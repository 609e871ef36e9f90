"""What needs no arrays: documents by their words (BM25), and the latest ones."""

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def bm25(documents: Sequence[str], questions: Sequence[str]) -> Float[np.ndarray, "questions documents"]:
    """BM25 over the words of texts (Lucene's form), in lower case and without English stop words."""
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of every index
    index = bm25s.BM25()
    index.index(_words(documents), show_progress=False)
    found = [index.get_scores(asked) if asked else np.zeros(len(documents)) for asked in _words(questions)]
    return np.stack([np.asarray(row, float) for row in found])


def recent(documents: Sequence[str], questions: Sequence[str]) -> Float[np.ndarray, "questions documents"]:
    """The later a document stands in a history, the higher."""
    return np.tile(np.arange(len(documents), dtype=float), (len(questions), 1))


def best(scores: Float[np.ndarray, "questions documents"], count: int) -> np.ndarray:
    """The `count` best documents of each question, or all there are, equal ones by place."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def _words(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    found = bm25s.tokenize(list(texts), show_progress=False, return_ids=False)
    return [list(map(str, words)) for words in found]

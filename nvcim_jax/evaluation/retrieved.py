"""The rival that people would pick: a person's own samples as text in the context, in the prompts of LaMP."""

from collections.abc import Sequence

import numpy as np

from nvcim_jax.data import text
from nvcim_jax.documents import lexical
from nvcim_jax.documents.prompt import in_context as in_context
from nvcim_jax.llm.weights import Model
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline.encode import mean_embeddings

WAYS = ("bm25", "dense", "recent")


def nearest(model: Model, user: User, count: int, *, way: str = "bm25") -> list[list[Sample]]:
    """For each of the user's questions `count` samples of the history, or all if there are fewer, the best first.

    By BM25 over words ("bm25", Lucene's form), by the cosine of mean token embeddings about the history's own mean
    ("dense"), or the latest ("recent"). ValueError for another way, and a count below 1.
    """
    if count < 1:
        raise ValueError(f"{count} samples in the context: at least one is needed")
    if way not in WAYS:
        raise ValueError(f"unknown way to retrieve {way!r}: choose one of {', '.join(WAYS)}")
    history, queries = user.history, user.queries
    if not history or not queries:
        return [[] for _ in queries]
    if way == "dense":
        scores = _dense(model, history, queries)
    else:
        score = {"bm25": lexical.bm25, "recent": lexical.recent}[way]
        scores = score([each.content for each in history], [each.content for each in queries])
    return [[history[at] for at in row] for row in lexical.best(scores, count)]


def _dense(model: Model, history: Sequence[Sample], queries: Sequence[Sample]) -> np.ndarray:
    contents = [[text.encode(model.tokenizer, each.content) for each in samples] for samples in (history, queries)]
    points = np.asarray(mean_embeddings(model, [contents[0] + contents[1]])[0][0], np.float32)
    points = points - points[: len(history)].mean(axis=0)
    unit = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9)
    return unit[len(history) :] @ unit[: len(history)].T

"""The rival that people would pick: a person's own samples as text in the context, in the prompts of LaMP."""

import logging
from collections.abc import Sequence
from functools import partial

import numpy as np

from nvcim_jax.data import lamp, text
from nvcim_jax.data.lamp import Task
from nvcim_jax.llm.weights import Model
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline.encode import mean_embeddings

WAYS = ("bm25", "dense", "recent")

# How LaMP (Salemi et al., 2024) puts a sample of a history, and what it writes between the samples and the question.
EXAMPLES = {
    "LaMP-1": '"{content}"',
    "LaMP-2": 'the tag for the movie: "{content}" is "{answer}"',
    "LaMP-3": '{answer} is the score for "{content}"',
    "LaMP-4": '"{answer}" is the title for "{content}"',
    "LaMP-5": '"{answer}" is the title for "{content}"',
    "LaMP-6": '"{answer}" is the title for "{content}"',
    "LaMP-7": '"{content}"',
}
JOINS = {
    "LaMP-5": ". Following the given patterns ",
    "LaMP-7": " are written by a person. Following the given patterns ",
}
PLAIN, JOIN = "{content}" + lamp.ANSWER + " {answer}", ". "


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
    scores = {"bm25": _bm25, "dense": partial(_dense, model), "recent": _recent}[way](history, queries)
    return [[history[at] for at in np.argsort(-row, kind="stable")[:count]] for row in scores]


def in_context(task: Task, query: Sample, samples: Sequence[Sample]) -> Sample:
    """The question behind `samples`, put as LaMP does; those of tasks that are not LaMP's as question and answer."""
    if not samples:
        return query
    form = EXAMPLES.get(task.name)
    shown = [(form or PLAIN).format(content=each.content, answer=each.answer) for each in samples]
    joined = ", and ".join(shown) + JOINS.get(task.name, JOIN) if form else "\n\n".join(shown) + "\n\n"
    return query._replace(question=joined + query.question)


def _bm25(history: Sequence[Sample], queries: Sequence[Sample]) -> np.ndarray:
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it tells of every index
    index = bm25s.BM25()
    index.index(_words(history), show_progress=False)
    return np.stack([index.get_scores(query) if query else np.zeros(len(history)) for query in _words(queries)])


def _words(samples: Sequence[Sample]) -> list[list[str]]:
    """The words of each content in lower case, without English stop words."""
    import bm25s

    found = bm25s.tokenize([each.content for each in samples], show_progress=False, return_ids=False)
    return [list(map(str, words)) for words in found]


def _dense(model: Model, history: Sequence[Sample], queries: Sequence[Sample]) -> np.ndarray:
    contents = [[text.encode(model.tokenizer, each.content) for each in samples] for samples in (history, queries)]
    points = np.asarray(mean_embeddings(model, [contents[0] + contents[1]])[0][0], np.float32)
    points = points - points[: len(history)].mean(axis=0)
    unit = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9)
    return unit[len(history) :] @ unit[: len(history)].T


def _recent(history: Sequence[Sample], queries: Sequence[Sample]) -> np.ndarray:
    return np.broadcast_to(np.arange(len(history), dtype=float), (len(queries), len(history)))

"""Triplets to train a projection on, of vectors: RoCR's two constructions, and questions beside their documents."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from nvcim_jax.data.lamp import Task
from nvcim_jax.documents import texts
from nvcim_jax.people import Sample

Encode = Callable[..., Float[np.ndarray, "texts dim"]]  # of texts, and as `is_question=True` of what asks
NEGATIVES = 5  # of an anchor, as released


class Examples(NamedTuple):
    """Vectors of anchors (what asks), of right and of wrong documents, row by row."""

    anchors: Float[Array, "*rows examples dim"]
    right: Float[Array, "*rows examples dim"]
    wrong: Float[Array, "*rows examples dim"]


Make = Callable[[np.random.Generator, Encode, Task, Sequence[Sample]], Examples]


def cde(rng: np.random.Generator, encode: Encode, task: Task, samples: Sequence[Sample]) -> Examples:
    """Construction with labels (RoCR's CDE): a text with its label, the same again, and with another's label.

    Dropout makes the second differ from the first. ValueError unless there are two labels at least.
    """
    said = [texts.label(task, sample) for sample in samples]
    kinds = sorted(set(filter(None, said)))
    if len(kinds) < 2:
        raise ValueError(
            f"{len(kinds)} labels among {len(samples)} documents: construction with labels (cde) needs two, choose cdi"
        )
    pairs = [(texts.bare(task, sample), own) for sample, own in zip(samples, said, strict=True) if own]
    others = [[kind for kind in kinds if kind != own] for _, own in pairs]
    chosen = [rng.choice(len(row), NEGATIVES, replace=len(row) < NEGATIVES) for row in others]
    right = encode([f"{text} {own}" for text, own in pairs])
    wrong = encode([
        f"{text} {row[at]}" for (text, _), row, ats in zip(pairs, others, chosen, strict=True) for at in ats
    ])  # fmt: skip
    repeated = np.repeat(right, NEGATIVES, axis=0)
    return _examples(repeated, repeated, wrong)


def cdi(rng: np.random.Generator, encode: Encode, task: Task, samples: Sequence[Sample]) -> Examples:
    """Construction without labels (RoCR's CDI): one vector three times, which dropout of little and of much changes."""
    vectors = encode([texts.document(task, sample) for sample in samples])
    return _examples(vectors, vectors, vectors)


def pairs(rng: np.random.Generator, encode: Encode, task: Task, samples: Sequence[Sample]) -> Examples:
    """What asks for a document, the document, and the document that is most like it.

    A text without its title asks, as LaMP's questions do; where it is all that is stored, the first half of its words
    does (the inverse cloze task, Lee et al., 2019). ValueError for one document alone.
    """
    if len(samples) < 2:
        raise ValueError("one document alone: there is no wrong one to learn from, choose no training (none)")
    stored = [texts.document(task, sample) for sample in samples]
    asked = [_asking(texts.bare(task, sample), whole) for sample, whole in zip(samples, stored, strict=True)]
    right = encode(stored)
    alike = right @ right.T - 2 * np.eye(len(right), dtype=np.float32)
    return _examples(encode(asked, is_question=True), right, right[alike.argmax(axis=1)])


def _asking(text: str, stored: str) -> str:
    words = text.split()
    return text if text != stored else " ".join(words[: max(len(words) // 2, 1)])


def stacked(rows: Sequence[Examples]) -> tuple[Examples, Int[Array, "rows"]]:
    """Examples of several rows as arrays [rows, examples, dim], and how many of each row are real."""
    most = max(len(row.anchors) for row in rows)
    pad = partial(_padded, most=most)
    parts = (np.stack([pad(getattr(row, name)) for row in rows]) for name in Examples._fields)
    return _examples(*parts), jnp.array([len(row.anchors) for row in rows], jnp.int32)


def _examples(anchors: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> Examples:
    return Examples(*map(jnp.asarray, (anchors, right, wrong)))


def _padded(vectors: Array, most: int) -> np.ndarray:
    return np.pad(np.asarray(vectors), ((0, most - len(vectors)), (0, 0)))

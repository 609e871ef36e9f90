"""Restating samples of the toy world by its own grammar: words give way to others of their kind, everywhere alike."""

import random
import re
from collections.abc import Sequence
from functools import cache

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from nvcim_jax.data import lamp, synthetic
from nvcim_jax.people import Sample

SHARE = 0.6  # of the words that have a kind


def restatements(key: PRNGKeyArray, samples: Sequence[Sample], count: int) -> list[list[Sample | None]]:
    """`count` restatements of each sample, as `pipeline.synthesis` takes them; None where no word has a kind."""
    seeds = np.asarray(jax.random.bits(key, (len(samples), count), "uint32"))
    return [
        [restated(random.Random(int(seed)), sample) for seed in row] for sample, row in zip(samples, seeds, strict=True)
    ]


def restated(rng: random.Random, sample: Sample) -> Sample | None:
    """The sample in other words of the same kinds: domain, subtopic, part of speech, or level of a rating.

    A word that stands in content and answer gives way in both, so the answer stays right.
    """
    known = [word for word in dict.fromkeys(re.findall(r"[a-z]+", sample.content)) if word in kinds()]
    if not known:
        return None
    turned = {word: rng.choice(kinds()[word]) for word in known if rng.random() < SHARE}

    def put(text: str) -> str:
        return re.sub(r"[a-z]+", lambda found: turned.get(found[0], found[0]), text)

    new = lamp.reworded(sample, put(sample.content), put(sample.answer))
    return new if sample.content in sample.question else new._replace(question=put(sample.question))


@cache
def kinds() -> dict[str, tuple[str, ...]]:
    """The other words of the kind of each word."""
    groups = [*synthetic.RATINGS]
    for domain in synthetic.domains():
        groups += [*domain.nouns, domain.verbs, domain.adjectives]
    return {word: tuple(other for other in group if other != word) for group in groups for word in group}

"""From histories to the samples that stand for them (Eqs. 1 to 3), one for each slot of a bank."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from nvcim_jax.core import selection
from nvcim_jax.data import text
from nvcim_jax.llm.weights import Model
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline import compiled, encode, keys

SLOTS = 8  # a user's slots come in multiples of it, so that nearby counts share a program
MOST_CLUSTERS = 10


class Selected(NamedTuple):
    """Representative samples of a block of users, one per slot; slots without one are None and not valid.

    `clusters` are all samples that each stands for; of a memory that was loaded they are not known.
    """

    samples: list[list[Sample | None]]
    valid: Bool[Array, "users slots"]
    clusters: list[list[tuple[Sample, ...]]] | None = None  # by user and slot

    @property
    def slots(self) -> list[tuple[int, int]]:
        """User and slot of every sample, also of those outside the bank."""
        return [(u, s) for u, row in enumerate(self.samples) for s, sample in enumerate(row) if sample is not None]

    @property
    def learned(self) -> list[Sample]:
        """The samples themselves, in the order of `slots`."""
        return [sample for row in self.samples for sample in row if sample is not None]

    @property
    def domains(self) -> list[str]:
        """The domains of the samples, in the order in which `learn.tune_bank` numbers them."""
        return sorted({sample.domain for sample in self.learned if sample.domain})


def buffered(users: Sequence[User], size: int) -> list[User]:
    """Users with the latest `size` samples of their history. ValueError names a user whose history is empty."""
    for user in users:
        if not user.history:
            raise ValueError(f"user {user.id} has an empty history: at least one sample is needed to learn from")
    return [user._replace(history=user.history[-size:]) for user in users]


def select(key: PRNGKeyArray, model: Model, users: Sequence[User], *, extra_domains: bool = False) -> Selected:
    """Cluster each user's buffer by the mean embedding of its content and pick the representatives (Eqs. 1-3).

    With `extra_domains`, domains that no representative covers get a slot outside the bank: the yardstick "right
    domain known" needs one.
    """
    contents = [[text.encode(model.tokenizer, sample.content) for sample in user.history] for user in users]
    points, items = encode.mean_embeddings(model, contents)
    counts = jnp.array([selection.cluster_count(len(user.history)) for user in users])
    own = keys.of_users(key, users, "select")
    found = compiled.representatives(own, points, items, counts, most=MOST_CLUSTERS)
    rows = [_by_cluster(user, *row) for user, *row in zip(users, *map(np.asarray, found), strict=True)]
    in_bank = np.array(list(map(len, rows)))
    if extra_domains:
        rows = [row + _uncovered(user, row) for user, row in zip(users, rows, strict=True)]
    slots = text.bucket(max(map(len, rows)), SLOTS)
    is_valid = np.arange(slots)[None] < in_bank[:, None]
    samples: list[list[Sample | None]] = [[one for one, _ in row] + [None] * (slots - len(row)) for row in rows]
    clusters = [[members for _, members in row] + [()] * (slots - len(row)) for row in rows]
    return Selected(samples, jnp.asarray(is_valid), clusters)


Cluster = tuple[Sample, tuple[Sample, ...]]  # its representative, and all its samples


def _by_cluster(user: User, picked: np.ndarray, valid: np.ndarray, assignment: np.ndarray) -> list[Cluster]:
    members = lambda cluster: tuple(user.history[at] for at in np.flatnonzero(assignment == cluster))  # noqa: E731
    assignment = assignment[: len(user.history)]
    return [(user.history[picked[cluster]], members(cluster)) for cluster in np.flatnonzero(valid)]


def _uncovered(user: User, chosen: list[Cluster]) -> list[Cluster]:
    covered = {sample.domain for sample, _ in chosen}
    named = [(sample.domain, sample) for sample in reversed(user.history) if sample.domain is not None]
    first_of = {domain: sample for domain, sample in named if domain not in covered}
    return [(first_of[domain], (first_of[domain],)) for domain in sorted(first_of)]

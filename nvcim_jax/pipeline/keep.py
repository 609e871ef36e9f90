"""From a stream of moments to those that a small buffer keeps, and why (Qin et al., DAC 2024).

A moment is a sample; its text is the content and the answer. What is kept is a history again, from which to learn.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nvcim_jax.data import text
from nvcim_jax.data.users import Users
from nvcim_jax.llm.weights import Model
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline import compiled, keys
from nvcim_jax.stream import buffer, lexicon, metrics, policies
from nvcim_jax.stream.buffer import NOWHERE, Decision, Item
from nvcim_jax.stream.lexicon import Lexicon
from nvcim_jax.stream.metrics import Reading
from nvcim_jax.stream.policies import Policy

ROWS = 32  # moments that go through the model at once
LENGTHS = 64  # streams are filled up to a multiple, so that nearby lengths share a program
SLOTS = 64  # as in the released scripts

Report = Callable[[int], None]  # is told how many more moments were read


class Kept(NamedTuple):
    """What is left of people's streams. `users` are the same people whose history is what was kept, oldest first."""

    users: Users
    numbers: list[list[int]]  # by user: which moments those are, from 0 on
    decisions: list[Decision]  # by user: what became of every moment [moments]


def keep(
    key: PRNGKeyArray,
    model: Model,
    users: Users,
    words: Lexicon | None = None,
    *,
    slots: int = SLOTS,
    policy: Policy = policies.all_three,
    reading: Reading = metrics.RECOMMENDED,
    report: Report | None = None,
) -> Kept:
    """Push every user's history, oldest first, through a buffer of `slots` moments; `words` are the toy world's.

    ValueError for a buffer without a slot, and names a user without a moment, or a moment without a text. A warning
    says how many moments are longer than the model's context, of which the beginning is read.
    """
    words = lexicon.toy() if words is None else words
    for user in users:
        if not user.history:
            raise ValueError(f"user {user.id!r} has no moment: there is nothing to keep")
    empty = partial(buffer.empty, slots=slots, dim=model.config.dim)
    filled = jax.vmap(empty)(keys.of_users(key, users, "keep"))
    items = read(model, users, words, reading=reading, report=report)
    after, decisions = jax.tree.map(_as_numpy, compiled.push_all(filled, items, policy=policy))
    told = [_rows(decisions, at, len(user.history)) for at, user in enumerate(users)]
    numbers = [sorted(int(each) for each in row if each != NOWHERE) for row in after.arrival]
    people = [
        user._replace(history=tuple(user.history[each] for each in own))
        for user, own in zip(users, numbers, strict=True)
    ]
    return Kept(replace(users, people=tuple(people)), numbers, told)


def read(
    model: Model,
    users: Sequence[User],
    words: Lexicon,
    *,
    reading: Reading = metrics.RECOMMENDED,
    report: Report | None = None,
) -> Item:
    """Every user's history as items [users, moments]; streams that are shorter are filled up with no moments.

    Raises and warns as `keep` does.
    """
    texts = [text_of(user, at) for user in users for at in range(len(user.history))]
    flat = read_texts(model, texts, words, reading=reading, report=report)
    lengths = np.array([len(user.history) for user in users])
    place = np.arange(text.bucket(int(lengths.max()), LENGTHS))[None]
    first = (np.cumsum(lengths) - lengths)[:, None]
    is_real = place < lengths[:, None]
    laid = jax.tree.map(lambda leaf: leaf[np.where(is_real, first + place, 0)], flat)
    return laid._replace(present=jnp.asarray(is_real))


def read_texts(
    model: Model, texts: Sequence[str], words: Lexicon, *, reading: Reading, report: Report | None = None
) -> Item:
    """Texts of moments as items, one after the other. Raises and warns as `keep` does."""
    embedding, eoe, length = _through_model(model, texts, reading, report)
    matches = np.stack([words.matches(each, repeats=reading.repeats) for each in texts])
    count = np.array([len(lexicon.words(each)) for each in texts], np.int32)
    return Item(
        embedding, eoe, jax.vmap(metrics.dss)(jnp.asarray(matches), jnp.asarray(count)),
        jax.vmap(metrics.dominant_domain)(jnp.asarray(matches)), length, jnp.ones(len(texts), bool),
    )  # fmt: skip


def text_of(user: User, number: int) -> str:
    """The text of a user's moment. ValueError if it has none."""
    text = said(user.history[number])
    if not text:
        raise ValueError(f"moment {number} of user {user.id!r} has no text: take it out, or say what was asked")
    return text


def said(sample: Sample) -> str:
    """The text of a moment: content and answer; "" if both are empty."""
    return " ".join(part for part in (sample.content, sample.answer) if part and part.strip())


def repeats(history: Sequence[Sample]) -> int:
    """How many moments say word for word what an earlier one said."""
    return len(history) - len({(sample.content, sample.answer) for sample in history})


def _through_model(
    model: Model, texts: Sequence[str], reading: Reading, report: Report | None
) -> tuple[Float[Array, "moments dim"], Float[Array, "moments"], Array]:
    room = model.config.context
    ids = [text.encode(model.tokenizer, each) for each in texts]
    long = sum(len(each) > room for each in ids)
    if long:
        warnings.warn(
            f"{long} moments have more than the model's {room} tokens: of those the first are read", stacklevel=3
        )
    ids = [each[:room] for each in ids]
    width = text.bucket(max(map(len, ids)))
    found = []
    for at in range(0, len(ids), ROWS):
        part = ids[at : at + ROWS]
        padded = text.pad(part + [[]] * (ROWS - len(part)), width, 0)
        lengths = jnp.array([len(each) for each in part] + [0] * (ROWS - len(part)), jnp.int32)
        rows = compiled.read_moments(model.params, model.config, padded, lengths, reading=reading)
        found.append([each[: len(part)] for each in rows])
        if report:
            report(len(part))
    embedding, eoe = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
    wrong = np.flatnonzero(~np.isfinite(np.asarray(embedding)).all(1) | ~np.isfinite(np.asarray(eoe)))
    if wrong.size:
        raise ValueError(f"the model gives no finite embedding of {texts[wrong[0]][:60]!r}: its weights are damaged")
    return embedding, eoe, jnp.array([len(each) for each in ids], jnp.int32)


def _rows(decisions, user, count):
    return jax.tree.map(lambda leaf: leaf[user, :count], decisions)


def _as_numpy(leaf):
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)

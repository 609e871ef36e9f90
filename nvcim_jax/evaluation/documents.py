"""How well documents are found in noisy arrays: in closed form, and by programming them."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nvcim_jax.core.codec import Codec
from nvcim_jax.data.text import bucket
from nvcim_jax.documents import codecs, stored, texts
from nvcim_jax.documents.encoder import Encoder, encode
from nvcim_jax.documents.learn import encode_all
from nvcim_jax.documents.memory import Documents
from nvcim_jax.documents.stored import Format, Write
from nvcim_jax.evaluation.cases import owners
from nvcim_jax.hardware.crossbar import write_values
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.memory import ranking
from nvcim_jax.people import Sample, User


class Case(NamedTuple):
    """Users' documents and questions as an encoder sees them, and what is right.

    `clean` ranks first in a float32 store of whole vectors without noise. Where topics are known, the documents of the
    question's topic are `right`; else the first k of the clean store.
    """

    documents: Float[Array, "users slots dim"]
    valid: Bool[Array, "users slots"]
    questions: Float[Array, "users questions dim"]
    asked: Bool[Array, "users questions"]  # which are real
    clean: Int[Array, "users questions"]
    right: Bool[Array, "users questions slots"]


QUESTIONS = ("questions", "asked", "clean", "right")  # the fields of a case whose second axis is that of questions


class Scores(NamedTuple):
    """Means over the questions of each user, or of each user and draw, from 0 to 1.

    `agreement` is the probability that the first document is the clean store's first: one of the two readings of MIPS
    accuracy. The other is the `precision` at k = 1: that it is a right one.
    """

    agreement: Float[Array, "... users"]
    first: Float[Array, "... users"]
    precision: Float[Array, "... users"]
    recall: Float[Array, "... users"]
    ndcg: Float[Array, "... users"]
    mrr: Float[Array, "... users"]


def case(encoder: Encoder, users: Sequence[User], task: texts.Task, *, k: int) -> tuple[Case, str]:
    """The case of users with documents and questions, and what "right" means in it. ValueError without questions."""
    if not all(user.queries for user in users):
        raise ValueError("a user has no question: there is nothing to find documents for")
    encoded = encode_all(encoder, task, users)
    most = bucket(max(len(user.queries) for user in users), 4)
    told = [texts.sought(task, query) for user in users for query in user.queries]
    counts = np.array([len(user.queries) for user in users])
    asked = np.arange(most)[None] < counts[:, None]
    questions = np.zeros((len(users), most, encoder.dim), np.float32)
    questions[asked] = encode(encoder, told, is_question=True).vectors
    scores = np.einsum("uqd,usd->uqs", questions, encoded.vectors)
    scores = np.where(encoded.valid[:, None], scores, -np.inf)
    clean = scores.argmax(axis=-1)
    known = all(sample.domain is not None for user in users for sample in (*user.history, *user.queries))
    right, meaning = np.zeros(scores.shape, bool), "a document of the question's topic is found"
    if known:
        for u, user in enumerate(users):
            topics = np.array([sample.domain for sample in user.history])
            for q, query in enumerate(user.queries):
                right[u, q, : len(topics)] = topics == query.domain
    else:
        first = np.argsort(-scores, axis=-1, kind="stable")[..., :k]
        np.put_along_axis(right, first, True, axis=-1)
        right &= encoded.valid[:, None]
        meaning = f"one of the first {k} of a float32 store without noise is found"
    arrays = (encoded.vectors, encoded.valid, questions, asked, clean, right)
    return Case(*map(jnp.asarray, arrays)), meaning


def asked_of(memory: Documents, data: Path | None) -> list[User]:
    """The users of a memory with their questions, from `data` or the toy world.

    Texts of one's own come without questions: the first half of every document asks for it then.
    """
    if memory.task.name != texts.TEXTS.name:
        known = owners(memory.about, memory.about.samples, data)
        return [user._replace(history=own.history) for user, own in zip(known, memory.users, strict=True)]
    if data is not None:
        raise ValueError("these documents are texts without questions: leave out --data")
    halves = []
    for user in memory.users:
        words = [sample.content.split() for sample in user.history]
        asked = [" ".join(each[: max(len(each) // 2, 1)]) for each in words]
        halves.append(user._replace(queries=tuple(Sample(each, "", each) for each in asked)))
    return halves


def coded(codec: Codec, case: Case) -> tuple[Float[Array, "users slots code"], Float[Array, "users questions code"]]:
    """Documents and questions in the code of each user."""
    return _coded(codec, case.documents), _coded(codec, case.questions)


@partial(jax.jit, static_argnames=("k", "format"))
def expected(codec: Codec, case: Case, condition: Condition, *, k: int, format: Format) -> Scores:
    """Every user's expectation over all programmings, in closed form, one Gaussian for each value."""
    documents, questions = _coded(codec, case.documents), _coded(codec, case.questions)

    def of_user(each):
        codes, valid, asked, real, clean, right = each
        law = stored.law(codes, condition, format=format)

        def one(question):
            asking, best, own = question
            score = stored.score_law(asking, law, valid)
            worth = ranking.expected(*score, own, k=k)
            ranks = ranking.rank_probabilities(*score, k=1)[:, 0]
            first = jnp.sum(jnp.where(own, ranks, 0))
            return Scores(ranks[best], first, worth.precision, worth.recall, worth.ndcg, worth.mrr)

        found = jax.lax.map(one, (asked, clean, right))
        return jax.tree.map(lambda leaf: jnp.sum(jnp.where(real, leaf, 0)) / jnp.sum(real), found)

    rows = (documents, case.valid, questions, case.asked, case.clean, case.right)
    return jax.lax.map(of_user, rows)


@partial(jax.jit, static_argnames=("k", "draws", "format", "write"))
def programmed(
    key: PRNGKeyArray,
    codec: Codec,
    case: Case,
    condition: Condition,
    *,
    k: int,
    draws: int,
    format: Format,
    write: Write = write_values,
) -> Scores:
    """What each of `draws` programmings finds, [draws, users]: any way of writing."""
    documents, questions = _coded(codec, case.documents), _coded(codec, case.questions)
    users = jnp.arange(documents.shape[0])

    def draw(own_key):
        def of_user(each):
            at, codes, valid, asked, real, clean, right = each
            noisy = stored.program(jax.random.fold_in(own_key, at), codes, condition, format=format, write=write)
            slots = stored.rank(asked, noisy, valid, k=k).slots

            def one(order, best, own):
                worth = ranking.measured(order[None], own)
                agreement = (order[0] == best).astype(jnp.float32)
                first = own[order[0]].astype(jnp.float32)
                return Scores(agreement, first, worth.precision, worth.recall, worth.ndcg, worth.mrr)

            found = jax.vmap(one)(slots, clean, right)
            return jax.tree.map(lambda leaf: jnp.sum(jnp.where(real, leaf, 0)) / jnp.sum(real), found)

        rows = (users, documents, case.valid, questions, case.asked, case.clean, case.right)
        return jax.lax.map(of_user, rows)

    return jax.lax.map(draw, jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(draws)))


def by_parts(
    measure: Callable[[Case], Scores], case: Case, *, size: int, report: Callable[[int], None] = lambda questions: None
) -> Scores:
    """As `measure(case)`, `size` questions of every user at once: so that long work can say how far it has come.

    `report` is told how many questions of a user are done.
    """
    count = case.questions.shape[1]
    if count <= size:
        found = jax.block_until_ready(measure(case))
        report(count)
        return found
    filled, weights = _filled(case, -(-count // size) * size), jnp.sum(case.asked, axis=1)
    parts = []
    for start in range(0, count, size):
        part = filled._replace(**{name: getattr(filled, name)[:, start : start + size] for name in QUESTIONS})
        share = jnp.sum(part.asked, axis=1) / weights

        def weighed(leaf: Array, share: Array = share) -> Array:
            every = jnp.broadcast_to(share, leaf.shape)
            return jnp.where(every > 0, leaf * every, 0)  # the mean over no question is no number

        parts.append(jax.tree.map(weighed, jax.block_until_ready(measure(part))))
        report(min(size, count - start))
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *parts)


def _filled(case: Case, count: int) -> Case:
    """The case with `count` questions of every user, of which those that came last are not real."""

    def fill(leaf: Array) -> Array:
        return jnp.pad(leaf, [(0, count - leaf.shape[1] if axis == 1 else 0) for axis in range(leaf.ndim)])

    return case._replace(**{name: fill(getattr(case, name)) for name in QUESTIONS})


def certain(case: Case, scores: Float[np.ndarray, "users questions slots"], *, k: int) -> Scores:
    """What any scores find that nothing disturbs: those of words, or of a float32 store (`clean_scores`)."""
    scores = np.where(np.asarray(case.valid)[:, None], scores, -np.inf)
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :k]
    rows = []
    for user, asked in zip(order, np.asarray(case.asked), strict=True):
        at = len(rows)
        each = []
        for q in np.flatnonzero(asked):
            own = case.right[at, q]
            worth = ranking.measured(jnp.asarray(user[q : q + 1]), own)
            agreement = float(user[q, 0] == case.clean[at, q])
            each.append((agreement, float(own[user[q, 0]]), worth.precision, worth.recall, worth.ndcg, worth.mrr))
        rows.append(np.mean(np.asarray(each, float), axis=0))
    return Scores(*map(jnp.asarray, np.stack(rows).T))


def clean_scores(case: Case) -> Float[np.ndarray, "users questions slots"]:
    """The cosines of a float32 store of whole vectors."""
    return np.einsum("uqd,usd->uqs", np.asarray(case.questions), np.asarray(case.documents))


def as_json(scores: Scores) -> dict[str, list]:
    """Scores by name, as lists."""
    return {name: np.asarray(leaf).tolist() for name, leaf in scores._asdict().items()}


_coded: Callable = jax.vmap(codecs.codes)

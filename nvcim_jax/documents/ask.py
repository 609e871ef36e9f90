"""From a question to its answer: program the documents, search them, put what was found before the question."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nvcim_jax import llm
from nvcim_jax.data.users import Users
from nvcim_jax.documents import codecs, prompt, stored, texts
from nvcim_jax.documents import learn as learning
from nvcim_jax.documents.encoder import Encoder, encode, encoder_of_model
from nvcim_jax.documents.memory import Documents
from nvcim_jax.documents.stored import Format, Write
from nvcim_jax.hardware.crossbar import write_values
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.llm.weights import Model
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline import answer, keys, presets
from nvcim_jax.pipeline.answer import GREEDY

MOST_CHANCES = 400_000  # documents times k squared, or four k: 300 MB, beyond which no chance is told


class Found(NamedTuple):
    """A document that was found, its score, by how much it leads the one behind it, and how likely it was to be found:
    the probability, over all programmings of the device, that it is among the first k."""

    sample: Sample
    slot: int
    score: float
    margin: float  # infinite for the last of all
    chance: float | None  # None where the way of writing has no closed form, and of very many documents


def question(task: texts.Task, told: Sample | str) -> Sample:
    """A question as a sample, a text in the wording of LaMP's task. ValueError for an empty one."""
    if task.name == texts.TEXTS.name and isinstance(told, str):
        if not told.strip():
            raise ValueError("the question is empty: ask something")
        return Sample(told, "", told)
    return answer.question(task, told)


def find_documents(
    key: PRNGKeyArray,
    encoder: Encoder,
    memory: Documents,
    questions: Sequence[Sample | str],
    condition: Condition,
    *,
    k: int,
    user: str | None = None,
    write: Write = write_values,
) -> list[list[Found]]:
    """The k best documents of one user, by default the first, for each question, from arrays programmed once.

    No other user's documents are scored. ValueError for an empty question, for a k that the user's documents cannot
    fill, and for a memory of another encoder.
    """
    memory.require(encoder)
    questions = [question(memory.task, each) for each in questions]
    own = memory.of(user)
    history = own.users[0].history
    require_k(k, own)
    asked = asked_codes(encoder, own, questions)
    ranked = _ranked(key, own.codes[0], asked, condition, k=k, format=own.format, write=write)
    chances = None
    if write is write_values and k * max(k, 4) * len(history) <= MOST_CHANCES:
        chances = np.asarray(_chances(own.codes[0], asked, condition, k=k, format=own.format))
    rows = zip(*(np.asarray(part) for part in ranked), strict=True)
    return [_found(history, row, None if chances is None else chances[at]) for at, row in enumerate(rows)]


def find_by(
    score: Callable[[Sequence[str], Sequence[str]], Float[np.ndarray, "questions documents"]],
    memory: Documents,
    questions: Sequence[Sample],
    *,
    k: int,
    user: str | None = None,
) -> list[list[Found]]:
    """As `find_documents`, by any score of texts that needs no arrays, such as `lexical.bm25` and `lexical.recent`."""
    own = memory.of(user)
    history = own.users[0].history
    require_k(k, own)
    told = [texts.document(own.task, sample) for sample in history]
    scores = score(told, [texts.sought(own.task, each) for each in questions])
    found = []
    for row in scores:
        order = np.argsort(-row, kind="stable")[: k + 1]
        best = row[order]
        found.append(_found(history, (order[:k], best[:k], best[:k] - np.append(best[1:], -np.inf)[:k]), None))
    return found


def require_k(k: int, own: Documents) -> None:
    """ValueError for a k that the documents of the one user cannot fill."""
    count = len(own.users[0].history)
    if not 1 <= k <= count:
        raise ValueError(f"k = {k}, but {own.users[0].id!r} has {count} documents: ask for 1 to {count}")


def asked_codes(encoder: Encoder, own: Documents, questions: Sequence[Sample]) -> Float[Array, "questions code"]:
    """Questions in the code of the one user's documents: what they look for, encoded and projected, not rounded."""
    sought = [texts.sought(own.task, each) for each in questions]
    found = encode(encoder, sought, is_question=True).vectors
    return codecs.compiled(jax.tree.map(lambda leaf: leaf[0], own.codec), found)


def behind_texts(
    key: PRNGKeyArray, model: Model, task: texts.Task, users: Sequence[User], condition: Condition, *, count: int
) -> list[Sample]:
    """The questions of users, one user after the other, each behind `count` samples of the user's own history.

    The samples are found in noisy arrays, programmed once for each user, by their mean token embeddings, cut by PCA
    without training. The answers have the room that `nv.answer` gives them.
    """
    encoder = encoder_of_model(model)
    settings = learning.Settings(dim=min(64, encoder.dim), recipe=None)
    people = Users(task, tuple(users), "a block of users")
    how = {"sigma": float(condition.sigma), "settings": settings}
    learned = learning.learn_documents(key, encoder, people, condition.device, **how)
    room = answer.answer_room(model, users)
    asked = []
    for own, user in zip(keys.of_users(key, users, "texts"), users, strict=True):
        k = min(count, len(user.history))
        found = find_documents(own, encoder, learned, user.queries, condition, k=k, user=user.id)
        for query, row in zip(user.queries, found, strict=True):
            samples = [each.sample for each in row]
            asked.append(prompted(model, task, query, samples, new_tokens=room))
    return asked


def prompted(model: Model, task: texts.Task, query: Sample, samples: Sequence[Sample], *, new_tokens: int) -> Sample:
    """The question behind what was found, within the model's context."""
    room = model.config.context - new_tokens - 32  # of a chat template
    return prompt.in_context(task, query, prompt.fitted(model.tokenizer, task, query, samples, room))


def stream_with_documents(
    key: PRNGKeyArray,
    model: Model,
    memory: Documents,
    query: Sample | str,
    found: Sequence[Sample],
    *,
    new_tokens: int = answer.MOST_NEW_TOKENS,
    sampling: llm.Sampling = GREEDY,
) -> Iterator[str]:
    """The answer to a question behind the samples `found`, piece by piece as its tokens are known."""
    asked = prompted(model, memory.task, question(memory.task, query), found, new_tokens=new_tokens)
    how = {"new_tokens": new_tokens, "wording": presets.RECOMMENDED.wording, "sampling": sampling}
    return answer.stream(key, model, asked, **how)


def _found(history: Sequence[Sample], row: tuple[np.ndarray, ...], chances: np.ndarray | None) -> list[Found]:
    return [
        Found(history[slot], int(slot), float(score), float(margin), None if chances is None else float(chances[slot]))
        for slot, score, margin in zip(*row, strict=True)
    ]


@partial(jax.jit, static_argnames=("k", "format", "write"))
def _ranked(key, codes, asked, condition, *, k: int, format: Format, write: Write) -> stored.Ranked:
    noisy = stored.program(key, codes, condition, format=format, write=write)
    return stored.rank(asked, noisy, jnp.ones(codes.shape[0], bool), k=k)


@partial(jax.jit, static_argnames=("k", "format"))
def _chances(codes, asked, condition, *, k: int, format: Format):
    law = stored.law(codes, condition, format=format)
    return stored.chances(asked, law, jnp.ones(codes.shape[0], bool), k=k)

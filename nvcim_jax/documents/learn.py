"""Learn people's documents: encode them, fit a projection and train it, keep their codes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from nvcim_jax.core.codec import Codec, Fit
from nvcim_jax.data import text
from nvcim_jax.data.lamp import Task
from nvcim_jax.data.users import Users, with_history
from nvcim_jax.description import described
from nvcim_jax.documents import codecs, examples, texts, training
from nvcim_jax.documents import encoder as encoders
from nvcim_jax.documents.encoder import Encoder, mean_token
from nvcim_jax.documents.memory import KIND, Documents, bank_of, listing
from nvcim_jax.documents.stored import Format
from nvcim_jax.documents.training import Job, Recipe
from nvcim_jax.hardware import catalogue
from nvcim_jax.hardware.devices import Device
from nvcim_jax.memory.storage.about import About
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline import keys
from nvcim_jax.provenance import provenance


@dataclass(frozen=True)
class Settings:
    """How documents become codes: a codec, and how it is trained on, if it is; how a code lies in arrays."""

    codec: str = "pca"
    dim: int = 64
    recipe: Recipe | None = None
    format: Format = Format()  # noqa: RUF009

    @property
    def fit(self) -> Fit:
        """ValueError for an unknown codec."""
        return codecs.fit(self.codec, self.dim)


def recommended(encoder: Encoder) -> Settings:
    """All dimensions of a sentence encoder in two bits, untrained; of token embeddings 64 in eight bits, trained.

    docs/results/rocr.md has both beside others.
    """
    if encoder.vectors is mean_token:
        return Settings(dim=min(64, encoder.dim), recipe=training.RECIPES["hinge"])
    return Settings("whole", encoder.dim, format=Format(2))


class Encoded(NamedTuple):
    """Vectors of every user's documents, and which are real; how many texts were longer than the encoder reads."""

    vectors: Float[np.ndarray, "users slots dim"]
    valid: Bool[np.ndarray, "users slots"]
    cut: int


Report = Callable[[int], None]
Texts = Callable[[int, int], None]  # takes how many texts are encoded, and how many more there are to encode


def learn_documents(
    key: PRNGKeyArray,
    encoder: Encoder,
    users: Users,
    device: str | Device,
    *,
    sigma: float,
    settings: Settings | None = None,
    codec: Codec | None = None,
    folder: Path | None = None,
    report: Report = lambda steps: None,
    report_texts: Texts = lambda done, more: None,
) -> Documents:
    """Learn the documents of users, each with a projection of their own, made for `device` at `sigma`.

    `settings` are by default those `recommended` for the encoder. With a `codec`, such as one that other people's
    documents have trained (`learn_codec`), all share it, and nothing is trained. `folder` and `report` are those of
    `training.train`; `report_texts` is told what is encoded. ValueError for users without documents, for two documents
    of one id, for an empty one, and for what a construction of examples cannot do.
    """
    settings = settings or recommended(encoder)
    users = with_history(users)
    for user in users:
        texts.require_distinct(user)
    encoded = encode_all(encoder, users.task, list(users), report=report_texts)
    if codec is None:
        codec = fitted(key, users, encoded, settings.fit)
        if settings.recipe is not None:
            condition = catalogue.condition(device, sigma)
            how = {"recipe": settings.recipe, "format": settings.format, "folder": folder, "report": report}
            known = _known(users, encoded)
            more = job(key, partial(embed, encoder, known=known, report=report_texts), users, codec, settings.recipe)
            codec, _ = training.train(more, condition, **how)
    else:
        codec = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(users), *leaf.shape)), codec)
    return _remembered(encoder, users, encoded, codec, settings, device, sigma)


def learn_codec(
    key: PRNGKeyArray,
    encoder: Encoder,
    users: Users,
    device: str | Device,
    *,
    sigma: float,
    settings: Settings,
    report: Report = lambda steps: None,
) -> Codec:
    """One projection for everybody, from the documents of many people: for people who are not among them."""
    how = {"sigma": sigma, "settings": settings, "report": report}
    return jax.tree.map(lambda leaf: leaf[0], learn_documents(key, encoder, pooled(users), device, **how).codec)


def pooled(users: Users) -> Users:
    """One user who has everybody's documents."""
    together = [sample._replace(id=f"{user.id}/{at}") for user in users for at, sample in enumerate(user.history)]
    return replace(users, people=(User("everybody", tuple(together), ()),))


def fitted(key: PRNGKeyArray, users: Users, encoded: Encoded, fit: Fit) -> Codec:
    """The codec that `fit` makes of every user's own documents, with a leading user axis."""
    own = keys.of_users(key, list(users), "codec")
    return _fit(own, jnp.asarray(encoded.vectors), jnp.asarray(encoded.valid, jnp.float32), fit=fit)


def job(key: PRNGKeyArray, vectors: examples.Encode, users: Users, start: Codec, recipe: Recipe) -> Job:
    """What `training.train` takes: a row for every user, with the examples that the recipe makes of the documents.

    `vectors` is mostly `embed` of an encoder. ValueError names the user of whom a recipe can make none.
    """
    rows = []
    for own, user in zip(keys.of_users(key, list(users), "examples"), users, strict=True):
        rng = np.random.default_rng(np.asarray(jax.random.key_data(own)))
        try:
            rows.append(recipe.make(rng, vectors, users.task, user.history))
        except ValueError as error:
            raise ValueError(f"user {user.id!r}: {error}") from error
    made, counts = examples.stacked(rows)
    return Job(keys.of_users(key, list(users), "training"), start, made, counts)


def add_documents(
    encoder: Encoder,
    memory: Documents,
    samples: Sequence[Sample],
    *,
    user: str | None = None,
    report_texts: Texts = lambda done, more: None,
) -> Documents:
    """The memory with more documents of one user, by default the first; one of the same id takes the old one's place.

    What is there already, under the same id, is left alone, as are the other documents; the projection is not trained
    again. ValueError as `learn_documents` says.
    """
    memory.require(encoder)
    at = memory.at(user)
    old = memory.users[at]
    texts.require_distinct(old._replace(history=tuple(samples)))
    there = {sample for sample in old.history if sample.id is not None}
    samples = [sample for sample in samples if sample not in there]
    if not samples:
        return memory
    told = [texts.document(memory.task, sample) for sample in samples]
    found, cut = _encoded(encoder, told, report_texts)
    own = jax.tree.map(lambda leaf: leaf[at], memory.codec)
    fresh = np.asarray(codecs.compiled(own, found))
    replaced = {sample.id for sample in samples if sample.id is not None}
    stay = [slot for slot, sample in enumerate(old.history) if sample.id not in replaced]
    people, codes = list(memory.users), np.asarray(memory.codes)
    rows = [row[: len(person.history)] for row, person in zip(codes, people, strict=True)]
    people[at] = old._replace(history=(*(old.history[slot] for slot in stay), *samples))
    rows[at] = np.concatenate([rows[at][stay], fresh])
    about = listing(memory.noted(cut=memory.cut + cut).about, people)
    return memory._replace(users=tuple(people), bank=bank_of(rows, about), about=about)


def embed(
    encoder: Encoder,
    told: Sequence[str],
    *,
    is_question: bool = False,
    known: Mapping[str, Float[np.ndarray, "dim"]] = MappingProxyType({}),
    report: Texts = lambda done, more: None,
) -> Float[np.ndarray, "texts dim"]:
    """The vectors of texts; what is stored and `known` already is not encoded again."""
    if not is_question and all(each in known for each in told):
        return np.stack([known[each] for each in told])
    return _encoded(encoder, told, report, is_question=is_question).vectors


def encode_all(
    encoder: Encoder, task: Task, users: Sequence[User], *, report: Texts = lambda done, more: None
) -> Encoded:
    """The vectors of all documents, side by side by user. ValueError names a document that cannot be encoded."""
    told = [texts.document(task, sample) for user in users for sample in user.history]
    found = _encoded(encoder, told, report)
    counts = np.array([len(user.history) for user in users])
    slots = text.bucket(int(counts.max()))
    valid = np.arange(slots)[None] < counts[:, None]
    vectors = np.zeros((len(counts), slots, encoder.dim), np.float32)
    vectors[valid] = found.vectors
    return Encoded(vectors, valid, found.cut)


def _encoded(encoder: Encoder, told: Sequence[str], report: Texts, *, is_question: bool = False) -> encoders.Encoded:
    """As `encoder.encode`; `report` is told how many texts there are, then how many of them are done."""
    report(0, len(told))
    return encoders.encode(encoder, told, is_question=is_question, report=lambda done: report(done, 0))


def _known(users: Users, encoded: Encoded) -> dict[str, Float[np.ndarray, "dim"]]:
    """The vector of every document by its text."""
    told = [texts.document(users.task, sample) for user in users for sample in user.history]
    return dict(zip(told, encoded.vectors[encoded.valid], strict=True))


def _remembered(encoder, users: Users, encoded: Encoded, codec, settings: Settings, device, sigma: float) -> Documents:
    name = device if isinstance(device, str) else None
    recipe = settings.recipe and described(settings.recipe, training.NAMES)
    about = About(
        model=encoder.digest,
        task=users.task.name,
        source=users.source,
        devices=(name or "",),
        settings={
            "kind": KIND, "codec": settings.codec, "recipe": recipe,
            "format": asdict(settings.format), "device": name, "sigma": float(sigma), "cut": encoded.cut,
        },
        provenance=provenance(),
    )  # fmt: skip
    about = listing(about, users)
    found = np.asarray(_codes_of_users(codec, jnp.asarray(encoded.vectors)))
    rows = [row[real] for row, real in zip(found, encoded.valid, strict=True)]
    people = tuple(user._replace(queries=()) for user in users)
    return Documents(users.task, people, bank_of(rows, about), codec, settings.format, about)


@partial(jax.jit, static_argnames=("fit",))
def _fit(keys: Key[Array, "users"], vectors, counts, *, fit: Fit):
    return jax.vmap(fit)(keys, vectors, counts)


_codes_of_users = jax.jit(jax.vmap(codecs.codes))

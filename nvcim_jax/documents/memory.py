"""Documents that were learned: of whom they are, their codes, the projection they are coded by; in memory and on disk.

Every person's documents lie in a bank of their own. A question is put to one person's bank, and scores no other slot.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PRNGKeyArray

from nvcim_jax.core.codec import Codec, Fit
from nvcim_jax.data import tasks, text
from nvcim_jax.data.lamp import Task
from nvcim_jax.data.users import Users, with_history
from nvcim_jax.documents import codecs, examples, texts, training
from nvcim_jax.documents.encoder import Encoder, encode, require_encoder
from nvcim_jax.documents.stored import Format
from nvcim_jax.documents.training import Job, Recipe
from nvcim_jax.hardware import catalogue
from nvcim_jax.hardware.devices import Device
from nvcim_jax.memory import bank as banks
from nvcim_jax.memory.bank import Bank
from nvcim_jax.memory.storage import store
from nvcim_jax.memory.storage.about import About
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline import keys
from nvcim_jax.provenance import provenance

KIND = "documents"  # in the settings of a bank that holds some


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


RECOMMENDED = Settings(recipe=training.RECIPES["hinge"])


class Documents(NamedTuple):
    """What was learned of people's documents. Bank and codec have a leading user axis; users have no questions."""

    task: Task
    users: tuple[User, ...]
    bank: Bank
    codec: Codec
    format: Format
    about: About
    version: int = -1

    def at(self, user: str | None = None) -> int:
        """The position of a user, by default the first. ValueError if there is no such user."""
        names = [each.id for each in self.users]
        if user is not None and user not in names:
            shown = ", ".join(names[:5]) + (", ..." if names[5:] else "")
            raise ValueError(f"the memory holds no user {user!r}: it holds {shown}")
        return 0 if user is None else names.index(user)

    def of(self, user: str | None = None) -> "Documents":
        """The documents of one user alone, by default the first, in a bank without free slots."""
        at = self.at(user)
        count = int(self.bank.count[at])
        cut = jax.tree.map(lambda leaf: np.asarray(leaf)[at : at + 1, :count], self.bank[:3])
        own = Bank(*cut, np.asarray(self.bank.count)[at : at + 1])
        codec = jax.tree.map(lambda leaf: np.asarray(leaf)[at : at + 1], self.codec)
        return self._replace(users=self.users[at : at + 1], bank=own, codec=codec)

    @property
    def codes(self) -> Float[Array, "users slots code"]:
        return jnp.asarray(self.bank.keys)[:, :, 0]

    @property
    def valid(self) -> Bool[Array, "users slots"]:
        return self.bank.valid

    def noted(self, **settings: Any) -> "Documents":
        """The documents with more settings in their description: a seed, ..."""
        return self._replace(about=_noted(self.about, **settings))


class Encoded(NamedTuple):
    """Vectors of every user's documents, and which are real; how many texts were longer than the encoder reads."""

    vectors: Float[np.ndarray, "users slots dim"]
    valid: Bool[np.ndarray, "users slots"]
    cut: int


Report = Callable[[int], None]


def learn(
    key: PRNGKeyArray,
    encoder: Encoder,
    users: Users,
    device: str | Device,
    *,
    sigma: float,
    settings: Settings = RECOMMENDED,
    codec: Codec | None = None,
    folder: Path | None = None,
    report: Report = lambda steps: None,
) -> Documents:
    """Learn the documents of users, each with a projection of their own, trained for `device` at `sigma`.

    With a `codec`, such as one that other people's documents have trained (`learn_codec`), all share it, and nothing is
    trained. `folder` and `report` are those of `training.train`. ValueError for users without documents, for two
    documents of one id, for an empty one, and for what a construction of examples cannot do.
    """
    users = with_history(users)
    for user in users:
        texts.require_distinct(user)
    encoded = encode_all(encoder, users)
    if codec is None:
        codec = fitted(key, users, encoded, settings.fit)
        if settings.recipe is not None:
            condition = catalogue.condition(device, sigma)
            how = {"recipe": settings.recipe, "format": settings.format, "folder": folder, "report": report}
            codec, _ = training.train(job(key, encoder, users, codec, settings.recipe), condition, **how)
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
    settings: Settings = RECOMMENDED,
    report: Report = lambda steps: None,
) -> Codec:
    """One projection for everybody, from the documents of many people: for people who are not among them."""
    how = {"sigma": sigma, "settings": settings, "report": report}
    return jax.tree.map(lambda leaf: leaf[0], learn(key, encoder, pooled(users), device, **how).codec)


def pooled(users: Users) -> Users:
    """One user who has everybody's documents."""
    together = [sample._replace(id=f"{user.id}/{at}") for user in users for at, sample in enumerate(user.history)]
    return replace(users, people=(User("everybody", tuple(together), ()),))


def fitted(key: PRNGKeyArray, users: Users, encoded: Encoded, fit: Fit) -> Codec:
    """The codec that `fit` makes of every user's own documents, with a leading user axis."""
    own = keys.of_users(key, list(users), "codec")
    return _fit(own, jnp.asarray(encoded.vectors), jnp.asarray(encoded.valid, jnp.float32), fit=fit)


def job(key: PRNGKeyArray, encoder: Encoder, users: Users, start: Codec, recipe: Recipe) -> Job:
    """What `training.train` takes: a row for every user, with the examples that the recipe makes of the documents."""
    embed = lambda told: encode(encoder, told).vectors  # noqa: E731
    rows = []
    for own, user in zip(keys.of_users(key, list(users), "examples"), users, strict=True):
        rng = np.random.default_rng(np.asarray(jax.random.key_data(own)))
        rows.append(recipe.make(rng, embed, users.task, user.history))
    return Job(keys.of_users(key, list(users), "training"), start, *examples.stacked(rows))


def add(encoder: Encoder, memory: Documents, samples: Sequence[Sample], *, user: str | None = None) -> Documents:
    """The memory with more documents of one user, by default the first; one of the same id takes the old one's place.

    The other documents keep their codes, and the projection is not trained again. ValueError as `learn` says.
    """
    require_encoder(encoder, memory.about.model, memory.about.settings["encoder_dim"])
    at = memory.at(user)
    old = memory.users[at]
    new = old._replace(history=tuple(samples))
    texts.require_distinct(new)
    found = encode(encoder, [texts.document(memory.task, sample) for sample in samples]).vectors
    own = jax.tree.map(lambda leaf: leaf[at], memory.codec)
    fresh = np.asarray(_codes(own, jnp.asarray(found)))
    replaced = {sample.id for sample in samples if sample.id is not None}
    stay = [slot for slot, sample in enumerate(old.history) if sample.id not in replaced]
    people, rows = (
        list(memory.users),
        [np.asarray(memory.codes[i])[: len(u.history)] for i, u in enumerate(memory.users)],
    )
    people[at] = old._replace(history=(*(old.history[slot] for slot in stay), *samples))
    rows[at] = np.concatenate([rows[at][stay], fresh])
    about = _about_of(memory.about, people)
    return memory._replace(users=tuple(people), bank=_bank(rows, about), about=about)


def encode_all(encoder: Encoder, users: Sequence[User], task: Task | None = None) -> Encoded:
    """The vectors of all documents, side by side by user. ValueError names a document that cannot be encoded."""
    task = task if task is not None else users.task  # pyright: ignore[reportAttributeAccessIssue]
    told = [texts.document(task, sample) for user in users for sample in user.history]
    found = encode(encoder, told)
    counts = np.array([len(user.history) for user in users])
    slots = text.bucket(int(counts.max()))
    valid = np.arange(slots)[None] < counts[:, None]
    vectors = np.zeros((len(counts), slots, encoder.dim), np.float32)
    vectors[valid] = found.vectors
    return Encoded(vectors, valid, found.cut)


def save(folder: Path | str, memory: Documents) -> Documents:
    """Write a memory to a new `folder`, or over the version that it was loaded from; returns it with its new version.

    As `pipeline.memory.save`: atomic, digested, in files that only their owner may read. StoreError.
    """
    return memory._replace(version=store.save(folder, memory.bank, memory.codec, memory.about, over=memory.version))


def load(folder: Path | str, encoder: Encoder | None = None) -> Documents:
    """The newest whole version of a memory of documents.

    StoreError if it is damaged; ValueError for a bank of OVTs, and for one that was made with another `encoder`.
    """
    saved = store.load(folder).block
    about, told = saved.about, saved.about.settings
    if told.get("kind") != KIND or saved.codec is None:
        raise ValueError(f"{folder} holds OVTs, not documents: ask it with `nvcim ask`")
    about.require("task", "users", "samples")
    if encoder is not None:
        require_encoder(encoder, about.model, told.get("encoder_dim", 0))
    known = {each.name for each in fields(Format)}
    try:
        format = Format(**{name: value for name, value in dict(told["format"]).items() if name in known})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} does not say how its codes lie in arrays ({error}): learn it again") from error
    rows = about.of_slots(saved.bank)
    if any(sample is None for row, count in zip(rows, saved.bank.count, strict=True) for sample in row[: int(count)]):
        raise ValueError(f"{folder} does not hold the text of every document: learn it again")
    users = tuple(User(name, tuple(filter(None, row)), ()) for name, row in zip(about.users, rows, strict=True))
    task = texts.TEXTS if about.task == texts.TEXTS.name else tasks.task(str(about.task))
    return Documents(task, users, saved.bank, saved.codec, format, about, saved.version)


def _remembered(encoder, users: Users, encoded: Encoded, codec, settings: Settings, device, sigma: float) -> Documents:
    name = device if isinstance(device, str) else None
    recipe = settings.recipe and training.described(settings.recipe, training.NAMES)
    about = About(
        model=encoder.digest,
        task=users.task.name,
        source=users.source,
        devices=(name or "",),
        settings={
            "kind": KIND, "encoder_dim": encoder.dim, "codec": settings.codec, "recipe": recipe,
            "format": asdict(settings.format), "device": name, "sigma": float(sigma), "cut": encoded.cut,
        },
        provenance=provenance(),
    )  # fmt: skip
    about = _about_of(about, users)
    found = np.asarray(jax.vmap(codecs.codes)(codec, jnp.asarray(encoded.vectors)))
    rows = [row[real] for row, real in zip(found, encoded.valid, strict=True)]
    people = tuple(user._replace(queries=()) for user in users)
    return Documents(users.task, people, _bank(rows, about), codec, settings.format, about)


def _about_of(about: About, users: Sequence[User]) -> About:
    domains = tuple(sorted({sample.domain for user in users for sample in user.history if sample.domain}))
    samples = tuple(user.history for user in users)
    return replace(about, users=tuple(user.id for user in users), samples=samples, domains=domains)


def _noted(about: About, **settings: Any) -> About:
    return replace(about, settings={**about.settings, **settings})


def _bank(rows: Sequence[Float[np.ndarray, "_ code"]], about: About) -> Bank:
    """One bank for each user, with room for the largest. What a document is found by is all that is stored of it."""
    slots, dim = text.bucket(max(map(len, rows))), rows[0].shape[1]
    codes = np.zeros((len(rows), slots, 1, dim), np.float32)
    domain = np.full((len(rows), slots), -1, np.int32)
    for at, row in enumerate(rows):
        codes[at, : len(row), 0] = row
        said = [about.domains.index(each.domain) if each and each.domain else -1 for each in about.samples[at]]
        domain[at, : len(said)] = said
    user, sample = np.indices(domain.shape, np.int32)
    seconds = jnp.full(domain.shape, int(time.time()), jnp.uint32)
    origin = banks.unknown(domain.shape)._replace(
        user=jnp.asarray(user), sample=jnp.asarray(sample), domain=jnp.asarray(domain), time=seconds
    )
    counts = jnp.array([len(row) for row in rows], jnp.int32)
    return Bank(jnp.asarray(codes), jnp.asarray(codes), origin, counts)


@partial(jax.jit, static_argnames=("fit",))
def _fit(keys: Key[Array, "users"], vectors, counts, *, fit: Fit):
    return jax.vmap(fit)(keys, vectors, counts)


_codes = jax.jit(codecs.codes)

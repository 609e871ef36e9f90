"""Documents that were learned: of whom they are, their codes, the projection they are coded by; in memory and on disk.

Every person's documents lie in a bank of their own. A question is put to one person's bank, and scores no other slot.
"""

import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from nvcim_jax.core.codec import Codec
from nvcim_jax.data import tasks, text
from nvcim_jax.data.lamp import Task
from nvcim_jax.documents import texts
from nvcim_jax.documents.encoder import Encoder
from nvcim_jax.documents.stored import Format
from nvcim_jax.memory import bank as banks
from nvcim_jax.memory.bank import Bank
from nvcim_jax.memory.storage import store
from nvcim_jax.memory.storage.about import About
from nvcim_jax.people import User, position

KIND = "documents"  # in the settings of a bank that holds some


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
        return position(self.users, user)

    def of(self, user: str | None = None) -> "Documents":
        """The documents of one user alone, by default the first, in a bank without free slots."""
        at = self.at(user)
        count = int(self.bank.count[at])
        cut = jax.tree.map(lambda leaf: np.asarray(leaf)[at : at + 1, :count], (*self.bank[:3], self.bank.writes))
        own = Bank(*cut[:3], count=jnp.asarray(self.bank.count)[at : at + 1], writes=cut[3])
        codec = jax.tree.map(lambda leaf: np.asarray(leaf)[at : at + 1], self.codec)
        return self._replace(users=self.users[at : at + 1], bank=own, codec=codec)

    @property
    def codes(self) -> Float[Array, "users slots code"]:
        return jnp.asarray(self.bank.keys)[:, :, 0]

    @property
    def cut(self) -> int:
        """How many texts were longer than the encoder reads, of all that were learned or added."""
        told = self.about.settings.get("cut")
        return told if type(told) is int else 0

    @property
    def valid(self) -> Bool[Array, "users slots"]:
        return self.bank.valid

    def noted(self, **settings: Any) -> "Documents":
        """The documents with more settings in their description: a seed, ..."""
        return self._replace(about=replace(self.about, settings={**self.about.settings, **settings}))

    def require(self, encoder: Encoder) -> None:
        """ValueError if the memory was made with another encoder."""
        dim = self.codec.encoder[0][0].shape[-2]
        if self.about.model != encoder.digest or dim != encoder.dim:
            raise ValueError(
                f"the memory was made with another encoder, of {dim} dimensions (this one has {encoder.dim}): give "
                "that one with --encoder"
            )


def save_documents(folder: Path | str, memory: Documents) -> Documents:
    """Write a memory to a new `folder`, or over the version that it was loaded from; returns it with its new version.

    As `pipeline.memory.save`: atomic, digested, in files that only their owner may read. StoreError.
    """
    return memory._replace(version=store.save(folder, memory.bank, memory.codec, memory.about, over=memory.version))


def load_documents(folder: Path | str, encoder: Encoder | None = None) -> Documents:
    """The newest whole version of a memory of documents.

    StoreError if it is damaged; ValueError for a bank of OVTs, and for one that was made with another `encoder`.
    """
    saved = store.load(folder).block
    about, told = saved.about, saved.about.settings
    if told.get("kind") != KIND or saved.codec is None:
        raise ValueError(f"{folder} holds OVTs, not documents: ask it with `nvcim ask`")
    about.require("task", "users", "samples")
    known = {each.name for each in fields(Format)}
    try:
        format = Format(**{name: value for name, value in dict(told["format"]).items() if name in known})
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder} does not say how its codes lie in arrays ({error}): learn it again") from error
    if saved.bank.keys.shape[2] != 1 or len(about.users) != len(saved.bank.count):
        raise ValueError(f"{folder} does not hold one vector of each document, in a bank of each user: learn it again")
    rows = about.of_slots(saved.bank)
    if any(sample is None for row, count in zip(rows, saved.bank.count, strict=True) for sample in row[: int(count)]):
        raise ValueError(f"{folder} does not hold the text of every document: learn it again")
    users = tuple(User(name, tuple(filter(None, row)), ()) for name, row in zip(about.users, rows, strict=True))
    task = texts.TEXTS if about.task == texts.TEXTS.name else tasks.task(str(about.task))
    found = Documents(task, users, saved.bank, saved.codec, format, about, saved.version)
    if encoder is not None:
        found.require(encoder)
    return found


def listing(about: About, users: Sequence[User]) -> About:
    """The description with these users and their documents."""
    domains = tuple(sorted({sample.domain for user in users for sample in user.history if sample.domain}))
    samples = tuple(user.history for user in users)
    return replace(about, users=tuple(user.id for user in users), samples=samples, domains=domains)


def bank_of(rows: Sequence[Float[np.ndarray, "_ code"]], about: About) -> Bank:
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
    return banks.new(jnp.asarray(codes), jnp.asarray(codes), origin, counts)

"""What a device has learned of its users, in memory and on disk."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nvcim_jax.core.codec import Codec
from nvcim_jax.data import tasks
from nvcim_jax.data.lamp import Task
from nvcim_jax.hardware.devices import Device
from nvcim_jax.llm.config import PROMPT_SPACE
from nvcim_jax.llm.fingerprint import fingerprint
from nvcim_jax.llm.weights import Model
from nvcim_jax.memory.bank import Bank
from nvcim_jax.memory.storage import about as descriptions
from nvcim_jax.memory.storage import store
from nvcim_jax.memory.storage.about import About
from nvcim_jax.people import User, position
from nvcim_jax.pipeline.block import Block
from nvcim_jax.pipeline.presets import Settings, named
from nvcim_jax.pipeline.select import Selected
from nvcim_jax.provenance import provenance


class Memory(NamedTuple):
    """What a block of users has learned, how, and what is said about it on disk.

    The bank has a leading user axis. `version` is that of the folder it was loaded from, -1 if it was not.
    """

    block: Block
    bank: Bank
    settings: Settings
    about: About
    version: int = -1

    @property
    def task(self) -> Task:
        return self.block.task

    @property
    def users(self) -> list[User]:
        return self.block.users

    @property
    def codec(self) -> Codec:
        return self.block.codec

    def at(self, user: str | None = None) -> int:
        """The position of a user, by default the first. ValueError if the memory does not hold the user."""
        return position(self.users, user)

    def of(self, user: str | None = None) -> "Memory":
        """The memory of one user, by default the first. ValueError if the user is not in it, or has no OVT."""
        at = self.at(user)
        if not int(self.bank.count[at]):
            raise ValueError(f"the memory of user {self.users[at].id!r} is empty: learn its OVTs again")
        # Cut by NumPy: JAX would compile a program for every shape.
        own = jax.tree.map(
            lambda leaf: np.asarray(leaf)[at : at + 1], (self.bank, self.codec, self.block.selected.valid)
        )
        selected = Selected(self.block.selected.samples[at : at + 1], own[2])
        return self._replace(block=Block(self.task, self.users[at : at + 1], selected, own[1]), bank=own[0])

    def noted(self, **settings: Any) -> "Memory":
        """The memory with more settings in its description: a seed, ..."""
        return self._replace(about=replace(self.about, settings={**self.about.settings, **settings}))

    def require(self, model: Model) -> None:
        """ValueError if the memory was learned with another model."""
        if self.about.model != fingerprint(model):
            raise ValueError(
                "the memory was learned with another model (its fingerprint differs): give that one, its weights held "
                "in the same type"
            )


def remembered(
    model: Model,
    block: Block,
    bank: Bank,
    *,
    settings: Settings,
    source: str | None,
    device: str | Device | None,
    sigma: float,
) -> Memory:
    """A memory learned now, with the description that goes to disk, which names a device but holds none."""
    name = device if isinstance(device, str) else None
    seconds = jnp.full_like(bank.origin.time, int(time.time()))
    preset = next((name for name, each in named().items() if each == settings), None)
    about = About(
        model=fingerprint(model),
        prompt_space=PROMPT_SPACE,
        task=block.task.name,
        source=source,
        users=tuple(user.id for user in block.users),
        samples=tuple(map(tuple, block.selected.samples)),
        domains=tuple(block.selected.domains),
        devices=(name or "",),
        settings={
            "preset": preset,
            "place": settings.wording.place,
            **({} if preset else settings.described()),
            "device": name,
            "sigma": float(sigma),
        },
        provenance=provenance(),
    )
    return Memory(block, bank._replace(origin=bank.origin._replace(time=seconds)), settings, about)


def save(folder: Path | str, memory: Memory) -> Memory:
    """Write a memory to a new `folder`, or over the version that it was loaded from; returns it with its new version.

    Atomic, in files that only their owner may read; StoreError as `store.save` says.
    """
    return memory._replace(version=store.save(folder, memory.bank, memory.codec, memory.about, over=memory.version))


def load(folder: Path | str, model: Model | None = None, *, settings: Settings | None = None) -> Memory:
    """The newest whole version of a memory. StoreError if it is damaged, or was learned with another `model`.

    What does not follow from a preset needs the `settings` that it was learned with. ValueError, with what is missing,
    for a bank to which no question can be put.
    """
    return of_saved(store.load(folder, model=None if model is None else identity(model)), settings)


def of_saved(saved: store.Saved, settings: Settings | None = None) -> Memory:
    """What was read of a bank as a memory. Raises as `load` does."""
    about = saved.about
    about.require("task", "users", "samples", *(("preset",) if settings is None else ()))
    block = saved.block
    if block.codec is None:
        raise ValueError("the bank was saved without a codec: a question cannot be coded as its search keys are")
    if settings is None:
        known = named()
        if about.preset not in known:
            raise ValueError(f"preset {about.preset!r}: a bank is asked by one of {', '.join(known)}")
        settings = known[about.preset]
    if len(about.users) != len(block.bank.count):
        raise ValueError(f"the bank is one for {len(about.users)} users: only banks of one user each can be asked")
    samples = about.of_slots(block.bank)
    is_known = [[sample is not None for sample in row] for row in samples]
    valid = descriptions.taken(block.bank)
    if (valid & ~np.array(is_known)).any():
        raise ValueError("the bank does not say of every OVT what it was learned from: save it with all samples")
    users = [User(name, tuple(filter(None, row)), ()) for name, row in zip(about.users, samples, strict=True)]
    whole = Block(tasks.task(str(about.task)), users, Selected(samples, jnp.asarray(valid)), block.codec)
    return Memory(whole, block.bank, _as_learned(settings, about), about, saved.version)


def _as_learned(settings: Settings, about: About) -> Settings:
    """The settings with the place of virtual tokens that a memory was learned with, whoever asks it."""
    place = about.settings.get("place") or ("front" if about.preset else None)  # of presets before they said it
    return settings if place is None else replace(settings, wording=replace(settings.wording, place=place))


def identity(model: Model) -> store.Identity:
    """What a bank says of its model."""
    return store.Identity(fingerprint(model), model.config.dim, PROMPT_SPACE)

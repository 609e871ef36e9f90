"""A memory that grows: new samples of a user become OVTs beside those that it holds, which stay as they are."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from nvcim_jax.data import text
from nvcim_jax.hardware.devices import Device
from nvcim_jax.llm.weights import Model
from nvcim_jax.memory import bank, growth
from nvcim_jax.memory.storage.about import About, taken
from nvcim_jax.people import Sample
from nvcim_jax.pipeline.answer import condition_of
from nvcim_jax.pipeline.block import Block
from nvcim_jax.pipeline.learn import Report, tune_bank
from nvcim_jax.pipeline.memory import Memory
from nvcim_jax.pipeline.select import SLOTS, Selected
from nvcim_jax.provenance import provenance

Victim = Callable[[bank.Bank], Int[Array, ""]]  # the slot of the OVT that makes room, in the bank of one user


class Growing(NamedTuple):
    """New samples of the user at position `at`, and the memory in which that user has a free slot for each."""

    memory: Memory
    at: int
    samples: tuple[Sample, ...]  # one for each question


def grow(
    key: PRNGKeyArray,
    model: Model,
    memory: Memory,
    samples: Sequence[Sample],
    device: str | Device | None = None,
    *,
    sigma: float | None = None,
    user: str | None = None,
    victim: Victim | None = bank.oldest,
) -> Memory:
    """A memory with one more OVT for each of `samples`, which are new ones of one `user` (by default its first).

    They are tuned in one program, as `memory.settings` say, for `device` at `sigma`, by default those that the memory
    was learned for, and coded with the user's codec as it is. No other OVT changes.

    A sample replaces an OVT that was learned from the same question; of several samples with one question the last
    counts. In a full bank `victim` chooses the OVT that makes room (`bank.oldest`, `least_used`,
    `oldest_of_fullest_domain`), again and again until there is enough; the last OVT moves into each slot that becomes
    free. With None the bank of every user gets more slots instead, and programs that read it compile anew.

    ValueError without samples, for one without an answer, for more than the bank has slots, for a user whom the memory
    does not hold, for a memory of another model, and for one that does not say its device and sigma.
    """
    return fill(key, model, make_room(memory, samples, user, victim=victim), device, sigma=sigma)


def make_room(
    memory: Memory, samples: Sequence[Sample], user: str | None = None, *, victim: Victim | None = bank.oldest
) -> Growing:
    """Free a slot for each of `samples` in the bank of a user, as `grow` says. Nothing is tuned yet."""
    at, new = memory.at(user), {sample.question: sample for sample in samples}
    own, samples_held = _own(memory.bank, at), memory.block.selected.samples[at]
    _check(memory, len(new), most=own.capacity if victim else None)
    own = own._replace(origin=own.origin._replace(sample=jnp.arange(own.capacity)))  # of `samples_held`, for now
    own = bank.drop(own, jnp.array([sample is not None and sample.question in new for sample in samples_held]))
    needed = int(own.count) + len(new)
    if victim:
        for _ in range(needed - own.capacity):
            own = growth.evict(own, victim=victim)
    else:
        own = bank.grown(own, max(own.capacity, text.bucket(needed, SLOTS)))
    kept = [samples_held[slot] for slot in np.asarray(own.origin.sample)[: int(own.count)]]
    return Growing(_holding(memory, at, own, kept), at, tuple(new.values()))


def _check(memory: Memory, new: int, *, most: int | None) -> None:
    """ValueError for no samples, for more than `most`, and for settings that the memory was not learned with."""
    if not new:
        raise ValueError("there are no samples: give at least one, with its answer")
    if most is not None and new > most:
        raise ValueError(
            f"{new} samples are more than the {most} slots of the bank: give fewer, or let it have more slots "
            "(victim=None, --evict none)"
        )
    tokens, rows = memory.settings.tokens, memory.bank.prompts.shape[-2]
    if tokens != rows:
        raise ValueError(
            f"the memory holds OVTs of {rows} virtual tokens and its settings ask for {tokens}: load it with the "
            "settings that it was learned with"
        )


def fill(
    key: PRNGKeyArray,
    model: Model,
    growing: Growing,
    device: str | Device | None = None,
    *,
    sigma: float | None = None,
    report: Report = lambda progress: None,
) -> Memory:
    """Tune an OVT for each of the new samples, as `grow` says, and put them into the free slots."""
    memory, at, samples = growing
    memory.require(model)
    condition, own = condition_of(memory, device, sigma), _own(memory.bank, at)
    kept = memory.block.selected.samples[at][: int(own.count)]
    person = memory.users[at]._replace(history=(*memory.users[at].history, *samples))
    codec = jax.tree.map(lambda leaf: np.asarray(leaf)[at : at + 1], memory.codec)
    block = Block(memory.task, [person], Selected([list(samples)], jnp.ones((1, len(samples)), bool)), codec)
    new = _own(tune_bank(key, model, block, condition, settings=memory.settings, report=report), 0)
    about, origin = _told(memory.about, samples, device, new.origin)
    for slot in range(len(samples)):
        each = jax.tree.map(lambda leaf, slot=slot: leaf[slot], (new.prompts, new.keys, origin))
        own = growth.append(own, bank.Ovt(*each))
    return _holding(memory._replace(about=about), at, own, [*kept, *samples])


def _told(
    about: About, samples: Sequence[Sample], device: str | Device | None, origin: bank.Origin
) -> tuple[About, bank.Origin]:
    """The description with new samples of now, and the origin of their OVTs, with indices into its lists."""
    name = about.device or "" if device is None else device if isinstance(device, str) else ""
    about = about if about.devices else replace(about, devices=("",))  # of the OVTs there are, it is unknown
    number, about = about.numbered("devices", name)
    domains = []
    for sample in samples:
        domain, about = about.numbered("domains", sample.domain) if sample.domain else (-1, about)
        domains.append(domain)
    return about, origin._replace(
        domain=jnp.array(domains),
        device=jnp.full_like(origin.device, number),
        time=jnp.full_like(origin.time, int(time.time())),
    )


def _own(banks: bank.Bank, at: int) -> bank.Bank:
    """The bank of one user, in memory of its own. Cut by NumPy: JAX would compile a program for every shape."""
    return jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)[at]), banks)


def _holding(memory: Memory, at: int, own: bank.Bank, samples: Sequence[Sample | None]) -> Memory:
    """The memory in which the bank of one user is `own`, whose slots were learned from `samples`, one after the other.

    Samples are then numbered by slot, and the user's history holds no others, as in a memory that was on disk: nothing
    is said any more of those that made room.
    """
    rows = [samples if user == at else row for user, row in enumerate(memory.block.selected.samples)]
    rows = [[*row, *[None] * (own.capacity - len(row))] for row in rows]

    def put(leaf, own):
        whole = np.array(leaf)
        whole[at] = own
        return jnp.asarray(whole)

    banks = jax.tree.map(put, jax.vmap(partial(bank.grown, capacity=own.capacity))(memory.bank), own)
    numbers = np.indices((len(rows), own.capacity), np.int32)
    banks = banks._replace(origin=banks.origin._replace(user=jnp.asarray(numbers[0]), sample=jnp.asarray(numbers[1])))
    users = list(memory.users)
    users[at] = users[at]._replace(history=tuple(filter(None, samples)))
    selected = Selected(rows, jnp.asarray(taken(banks)))
    about = replace(memory.about, samples=tuple(map(tuple, rows)), provenance=provenance())
    return memory._replace(block=memory.block._replace(users=users, selected=selected), bank=banks, about=about)

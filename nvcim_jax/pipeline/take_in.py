"""New OVTs of many people into the memories that they have: one codec for all, who makes room, what is said of whom."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

from nvcim_jax.core.codec import Fit
from nvcim_jax.llm.weights import Model
from nvcim_jax.memory import bank
from nvcim_jax.memory.storage.about import About, taken
from nvcim_jax.people import Sample
from nvcim_jax.pipeline import compiled
from nvcim_jax.pipeline.block import Block
from nvcim_jax.pipeline.encode import content_codes, fit_codecs
from nvcim_jax.pipeline.grow import Victim
from nvcim_jax.pipeline.memory import Memory
from nvcim_jax.pipeline.select import Selected
from nvcim_jax.provenance import provenance

Rows = Sequence[Sequence[Sample | None]]  # by person and slot


def take_in(
    memory: Memory, block: Block, new: bank.Bank, times: Mapping[Sample, int], *, victim: Victim = bank.oldest
) -> Memory:
    """The memory with the OVTs in `new`, tuned for the same people's samples in `block`, met at `times`.

    An OVT of a question that a new one has goes; then `victim` makes room where there is too little. What is said of
    those that are gone goes with them. The memory has the codec of `block`.
    """
    held, fresh = memory.block.selected.samples, block.selected.samples
    gone = _asked_again(held, fresh, memory.bank.capacity)
    about, origin = _named(memory.about, block, new, times)
    before = _numbered(memory.bank, first=0)
    ovts = bank.Ovt(new.prompts, new.keys, _from(origin, memory.bank.capacity))
    after = compiled.take_in(before, ovts, new.valid, gone, victim=victim)
    rows = _texts(after, [[*own, *more] for own, more in zip(held, fresh, strict=True)])
    after = _numbered(after, first=0)
    users = [user._replace(history=tuple(filter(None, row))) for user, row in zip(memory.users, rows, strict=True)]
    whole = Block(memory.task, users, Selected(rows, jnp.asarray(taken(after))), block.codec)
    about = replace(about, samples=tuple(map(tuple, rows)), provenance=provenance())
    return memory._replace(block=whole, bank=after, about=about)


def renewed(key: PRNGKeyArray, model: Model, memory: Memory, block: Block, *, fit: Fit) -> tuple[Memory, Block]:
    """A memory and new samples with one codec, fitted to the samples of both; the OVTs there are are coded with it.

    Prompts are decoded with the codec that they had; search keys are made of their samples again.
    """
    held = memory.block.selected.samples
    if not any(map(any, held)):
        return memory._replace(block=memory.block._replace(codec=block.codec)), block
    known = [
        user._replace(history=(*filter(None, row), *user.history)) for user, row in zip(block.users, held, strict=True)
    ]
    codec = fit_codecs(key, model, memory.task, known, fit=fit)
    prompts = compiled.codes_of(codec, compiled.prompts_of(memory.codec, memory.bank.prompts))
    blank = block.selected.learned[0]  # in free slots, where anything may stand
    contents = [[sample or blank for sample in row] for row in held]
    codes = content_codes(model, contents, codec, memory.settings.tokens)
    keys = compiled.search_keys(codes, prompts, key=memory.settings.key)
    coded = bank.rewritten(memory.bank, memory.bank._replace(prompts=prompts, keys=keys))
    return memory._replace(bank=coded, block=memory.block._replace(codec=codec)), block._replace(codec=codec)


def _asked_again(held: Rows, fresh: Rows, capacity: int) -> Bool[Array, "users slots"]:
    """Which OVTs are of a question that somebody's new samples have."""
    found = np.zeros((len(held), capacity), bool)
    for own, (row, more) in zip(found, zip(held, fresh, strict=True), strict=True):
        asked = {sample.question for sample in more if sample}
        own[: len(row)] = [sample is not None and sample.question in asked for sample in row]
    return jnp.asarray(found)


def _named(about: About, block: Block, new: bank.Bank, times: Mapping[Sample, int]) -> tuple[About, bank.Origin]:
    """The description that lists all domains, and the origin of new OVTs with the numbers that these have there."""
    numbers = []
    for name in block.selected.domains:
        number, about = about.numbered("domains", name)
        numbers.append(number)
    known = np.array([*numbers, -1], np.int32)  # the last is what -1 finds
    seconds = np.array([[times.get(sample, 0) if sample else 0 for sample in row] for row in block.selected.samples])
    return about, new.origin._replace(
        domain=jnp.asarray(known[np.asarray(new.origin.domain)]), time=jnp.asarray(seconds.astype(np.uint32))
    )


def _from(origin: bank.Origin, first: int) -> bank.Origin:
    """The origin with samples numbered by slot from `first` on, and users by their place."""
    user, slot = jnp.indices(origin.sample.shape, origin.sample.dtype)
    return origin._replace(user=user, sample=slot + first)


def _numbered(banks: bank.Bank, *, first: int) -> bank.Bank:
    return banks._replace(origin=_from(banks.origin, first))


def _texts(banks: bank.Bank, known: Rows) -> list[list[Sample | None]]:
    """The sample of every slot, by its number in what is `known` of its user."""
    return [
        [row[number] if is_taken else None for number, is_taken in zip(numbers, valid, strict=True)]
        for row, numbers, valid in zip(known, np.asarray(banks.origin.sample), taken(banks), strict=True)
    ]

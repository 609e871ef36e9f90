"""Ways to live: what a device answers after so many moments, by what it makes of them (`life_study` compares them).

All ways see the same moments, keep the same of them in a buffer of the same size, tune on equally many samples after
each round, and are asked the same questions, whose domains may not have been met for long.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from nvcim_jax import tuning
from nvcim_jax.core.selection import cluster_count
from nvcim_jax.data import lamp
from nvcim_jax.data.toy_stream import Stream
from nvcim_jax.data.users import Users
from nvcim_jax.evaluation import methods, retrieved
from nvcim_jax.evaluation.methods import Cell
from nvcim_jax.llm.weights import Model
from nvcim_jax.memory import bank
from nvcim_jax.people import EMBEDDED_WORLD, Sample, User
from nvcim_jax.pipeline import compiled, encode, keep, keys, retrieve
from nvcim_jax.pipeline import learn as learning
from nvcim_jax.pipeline import life as lives
from nvcim_jax.pipeline.answer import BARE, answer_room, generate
from nvcim_jax.pipeline.block import Block
from nvcim_jax.pipeline.grow import Victim
from nvcim_jax.pipeline.life import Life, Rules
from nvcim_jax.pipeline.presets import PAPER, Settings
from nvcim_jax.pipeline.select import Selected

NAME = "life"
IN_CONTEXT = 3  # samples that stand before a question


class World(NamedTuple):
    """Users with their streams, and what all ways have in common."""

    model: Model
    task: lamp.Task
    streams: list[Stream]
    at: Cell  # the device
    slots: int  # of the buffer
    every: int  # moments of a round
    small: int  # OVTs of a memory that has to evict
    key: PRNGKeyArray
    settings: Settings  # that are recommended for the model

    @property
    def rounds(self) -> int:
        return len(self.streams[0].asked)

    @property
    def steps(self) -> int:
        """Samples that a round's tuning reads of each user: those of all OVTs of a buffer."""
        return self.settings.steps(cluster_count(self.slots))

    @property
    def one_prompt(self) -> Settings:
        """The settings of one prompt for many samples."""
        together = self.settings.together
        if together is None:
            return replace(self.settings, learning_rate=methods.ONE_RATE)
        return learning.settings_of_many(self.task, together)

    def asked(self, number: int) -> list[tuple[Sample, ...]]:
        """The questions after a round, user by user."""
        return [each.asked[number] for each in self.streams]


class Checkpoint(NamedTuple):
    """What stands after a round: the answers, user by user, OVTs held on average, and tokens tuned on so far."""

    answers: list[str]
    ovts: float
    tokens: int


Way = Callable[[World], Iterator[Checkpoint]]


def untouched(world: World) -> Iterator[Checkpoint]:
    """The model as it is."""
    for number in range(world.rounds):
        yield Checkpoint(_answers(world, number), 0, 0)


def ovts(
    world: World, *, settings: Settings | None = None, is_small: bool = False, victim: Victim = bank.oldest
) -> Iterator[Checkpoint]:
    """OVTs in a memory that has room for all, or that is small, so that `victim` makes room.

    By default they are learned by the settings that are recommended for the model.
    """
    settings = world.settings if settings is None else settings
    most = world.small if is_small else world.rounds * cluster_count(world.slots)
    rules = Rules(
        device=world.at.device, sigma=world.at.sigma, settings=settings, slots=world.slots, every=world.every,
        capacity=max(most, cluster_count(world.slots)), victim=victim,
    )  # fmt: skip
    people = [each.user for each in world.streams]
    now = lives.begin_life(world.key, world.model, world.task, people, rules=rules)
    tokens: list[int] = []
    for at, samples in enumerate(zip(*(each.moments for each in world.streams), strict=True)):
        seen = lives.observe(world.model, now, samples, time=at, report=lambda done: tokens.append(done.tokens))
        now = seen.life
        if seen.has_learned:
            now, answers = ask(world, now, now.counts.rounds - 1)
            memory = now.memory
            yield Checkpoint(answers, 0 if memory is None else float(memory.bank.count.mean()), sum(tokens))


def ask(world: World, now: Life, number: int) -> tuple[Life, list[str]]:
    """Everybody's answers to the questions after a round, and the life in which the OVTs found are used once more."""
    memory, settings = now.memory, now.rules.settings
    if memory is None:
        return now, _answers(world, number)
    people = [user._replace(queries=queries) for user, queries in zip(memory.users, world.asked(number), strict=True)]
    block = memory.block._replace(users=people)
    key = lives.key_of(now.key, "program")
    banks = retrieve.program(key, block, memory.bank, world.at.condition, settings=settings)
    match = retrieve.search(world.model, block, banks, settings=settings)
    prompts = compiled.prompts_of(memory.codec, match.prompt[:, 0])
    found = np.asarray(match.index[:, 0])
    for person, slots in enumerate(found):
        for slot, count in Counter(slots.tolist()).items():
            now = lives.used(now, person, slot, count)
    front = tuning.Adapted(front=prompts.reshape(-1, *prompts.shape[2:]))
    return now, _answers(world, number, front, settings)


def one_prompt(world: World, *, settings: Settings | None = None, of_all: bool) -> Iterator[Checkpoint]:
    """One prompt for everything, tuned after each round on what its buffer kept, or on all that buffers kept so far.

    It starts from what it was, in a codec fitted to the same samples, and lies in one slot of the array.
    """
    settings = world.one_prompt if settings is None else settings
    training = replace(settings.training, steps=world.steps, per_step=1)
    how, pooled, start, tokens = replace(settings, training=training), None, None, []
    for number, people in enumerate(kept_rounds(world)):
        order_key, codec_key, tune_key, write_key = jax.random.split(lives.key_of(world.key, "one prompt", number), 4)
        pooled = people if pooled is None or not of_all else [
            before._replace(history=before.history + user.history)
            for before, user in zip(pooled, people, strict=True)
        ]  # fmt: skip
        codec = encode.fit_codecs(codec_key, world.model, world.task, pooled)
        firsts = [user.history[-1] for user in pooled]
        selected = Selected([[sample] for sample in firsts], jnp.ones((len(pooled), 1), bool))
        block = Block(world.task, pooled, selected, codec, start)
        own = keys.of_users(order_key, pooled, "order")
        pools = [_in_turn(key, user.history, world.steps) for key, user in zip(own, pooled, strict=True)]
        rows = learning.Rows([(at, 0) for at in range(len(pooled))], firsts, pools)
        tuned = learning.tune(
            tune_key, world.model, block, rows, world.at.condition, settings=how,
            report=lambda done: tokens.append(done.tokens),
        )  # fmt: skip
        codes = encode.stored(world.model, tuned.values, codec, settings=how)[:, None]
        start = compiled.prompts_of(codec, codes)[:, 0]
        banks = bank.new(codes, codes, bank.unknown(codes.shape[:2]), jnp.ones(len(pooled), jnp.int32))
        read = retrieve.program(write_key, block, banks, world.at.condition, settings=how)
        prompts = compiled.prompts_of(codec, read.prompts[:, 0])
        front = tuning.Adapted(front=jnp.repeat(prompts[:, 0], len(world.asked(number)[0]), axis=0))
        yield Checkpoint(_answers(world, number, front, how), 1, sum(tokens))


def in_context(world: World) -> Iterator[Checkpoint]:
    """Of all that buffers kept so far the samples nearest to a question, as text before it; nothing is tuned."""
    pooled = [User(each.user, (), ()) for each in world.streams]
    for number, people in enumerate(kept_rounds(world)):
        pooled = [
            before._replace(history=before.history + user.history, queries=queries)
            for before, user, queries in zip(pooled, people, world.asked(number), strict=True)
        ]
        found = [retrieved.nearest(world.model, user, IN_CONTEXT) for user in pooled]
        asked = [
            retrieved.in_context(world.task, query, samples)
            for user, row in zip(pooled, found, strict=True)
            for query, samples in zip(user.queries, row, strict=True)
        ]
        yield Checkpoint(_generated(world, asked), 0, 0)


WAYS: dict[str, Way] = {
    "no adaptation": untouched,
    "one prompt, this buffer": partial(one_prompt, of_all=False),
    "one prompt, all so far": partial(one_prompt, of_all=True),
    "OVTs, paper": partial(ovts, settings=PAPER),
    "OVTs, recommended": ovts,
    **{f"OVTs, small memory, {name}": partial(ovts, is_small=True, victim=rule) for name, rule in bank.VICTIMS.items()},
    "samples in the context": in_context,
}


def kept_rounds(world: World) -> Iterator[list[User]]:
    """What the buffer keeps of every round, user by user."""
    for number in range(world.rounds):
        part = slice(number * world.every, (number + 1) * world.every)
        people = Users(
            world.task, tuple(User(each.user, each.moments[part], ()) for each in world.streams), EMBEDDED_WORLD
        )
        yield list(keep.keep(world.key, world.model, people, slots=world.slots).users)


def _in_turn(key: PRNGKeyArray, samples: Sequence[Sample], count: int) -> list[Sample]:
    """`count` samples: all in random order, again and again."""
    order = np.asarray(jax.random.permutation(key, len(samples)))
    return [samples[order[at % len(order)]] for at in range(count)]


def _answers(world: World, number: int, front: tuning.Adapted = BARE, settings: Settings | None = None) -> list[str]:
    return _generated(world, [query for row in world.asked(number) for query in row], front, settings)


def _generated(world: World, asked, front: tuning.Adapted = BARE, settings: Settings | None = None) -> list[str]:
    settings = world.settings if settings is None else settings
    known = [User(each.user, each.moments, ()) for each in world.streams]  # the same room whatever was met
    room = answer_room(world.model, known)
    return generate(world.model, asked, front, new_tokens=room, wording=settings.wording)

"""Lives compared: what a device answers after so many moments, by what it makes of them; cells of a study.

All ways see the same moments, keep the same of them in a buffer of the same size, tune on equally many samples after
each round, and are asked the same questions, whose domains may not have been met for long.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from nvcim_jax import tuning
from nvcim_jax.core.selection import cluster_count
from nvcim_jax.data import lamp
from nvcim_jax.data.synthetic import HELD_OUT
from nvcim_jax.data.toy_stream import Stream, stream
from nvcim_jax.data.users import Users
from nvcim_jax.evaluation import methods, retrieved
from nvcim_jax.evaluation.ladder import metric_of
from nvcim_jax.evaluation.main_job import BLOCK
from nvcim_jax.evaluation.methods import Cell
from nvcim_jax.evaluation.studies import CHOOSING
from nvcim_jax.evaluation.study import Json, Measured, Span, Study
from nvcim_jax.llm.fingerprint import fingerprint
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
from nvcim_jax.pipeline.model import load_model
from nvcim_jax.pipeline.presets import PAPER, RECOMMENDED, Settings
from nvcim_jax.pipeline.select import Selected

NAME = "life"
IN_CONTEXT = 3  # samples that stand before a question


class World(NamedTuple):
    """Users of the toy world with their streams, and what all ways have in common."""

    model: Model
    task: lamp.Task
    streams: list[Stream]
    at: Cell  # the device
    slots: int  # of the buffer
    every: int  # moments of a round
    small: int  # OVTs of a memory that has to evict
    key: PRNGKeyArray

    @property
    def rounds(self) -> int:
        return len(self.streams[0].asked)

    @property
    def steps(self) -> int:
        """Samples that a round's tuning reads of each user: those of all OVTs of a buffer."""
        return RECOMMENDED.training.steps * cluster_count(self.slots)

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
    world: World, *, settings: Settings, is_small: bool = False, victim: Victim = bank.oldest
) -> Iterator[Checkpoint]:
    """OVTs in a memory that has room for all, or that is small, so that `victim` makes room."""
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


def one_prompt(world: World, *, settings: Settings, of_all: bool) -> Iterator[Checkpoint]:
    """One prompt for everything, tuned after each round on what its buffer kept, or on all that buffers kept so far.

    It starts from what it was, in a codec fitted to the same samples, and lies in one slot of the array.
    """
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
    "one prompt, this buffer": partial(
        one_prompt, settings=replace(RECOMMENDED, learning_rate=methods.ONE_RATE), of_all=False
    ),
    "one prompt, all so far": partial(
        one_prompt, settings=replace(RECOMMENDED, learning_rate=methods.ONE_RATE), of_all=True
    ),
    "OVTs, paper": partial(ovts, settings=PAPER),
    "OVTs, recommended": partial(ovts, settings=RECOMMENDED),
    **{
        f"OVTs, small memory, {name}": partial(ovts, settings=RECOMMENDED, is_small=True, victim=rule)
        for name, rule in bank.VICTIMS.items()
    },
    "samples in the context": in_context,
}


@dataclass(frozen=True)
class Plan:
    """What decides a comparison of lives beside the ways."""

    users: int = 32
    task: str = "LaMP-2"
    moments: int = 200
    run: int = 25  # moments of one domain in a row, about
    every: int = 25  # moments of a round
    slots: int = 16  # of the buffer
    small: int = 16  # OVTs of a memory that has to evict
    questions: int = 8  # after each round
    device: str = "NVM-3"
    sigma: float = 0.1
    seed: int = 0


def study(plan: Plan = Plan(), *, ways: Sequence[str] = tuple(WAYS)) -> Study:
    """Ways to live by blocks of toy users. ValueError for a way that is not known."""
    if unknown := [name for name in ways if name not in WAYS]:
        raise ValueError(f"unknown way {unknown[0]!r}: choose of {', '.join(WAYS)}")
    shared = {name: value for name, value in asdict(plan).items() if name != "users"}
    cells = tuple({**shared, "users": block, "way": name} for block in blocks(plan.users) for name in ways)
    settings = {**asdict(plan), "ways": list(ways), "model": fingerprint(toy())}
    return Study(NAME, settings, cells, measure, ("users",), (CHOOSING,))


def blocks(users: int) -> list[Span]:
    """Held-out users in blocks that live together."""
    return [(HELD_OUT + at, min(BLOCK, users - at)) for at in range(0, users, BLOCK)]


def measure(cell: Json) -> Measured:
    """One way of living of one block of users: their scores after each round, and a row for every question."""
    world = _world(cell)
    metric = metric_of(world.task)
    scores: dict[str, list[float]] = {each.user: [] for each in world.streams}
    rows, held, tokens = [], [], []
    for number, stands in enumerate(WAYS[cell["way"]](world)):
        held.append(stands.ovts)
        tokens.append(stands.tokens)
        given = iter(stands.answers)
        for own in world.streams:
            told = [(query, next(given)) for query in own.asked[number]]
            each = [metric(answer, query.answer) for query, answer in told]
            scores[own.user].append(float(np.mean(each)))
            until = (number + 1) * world.every
            rows += [
                {
                    "user": own.user, "round": number, "domain": query.domain, "gap": gap(own, until, query),
                    "score": score, "answer": answer,
                }
                for (query, answer), score in zip(told, each, strict=True)
            ]  # fmt: skip
    return Measured({"scores": scores, "ovts": held, "tokens": tokens}, rows)


def gap(own: Stream, until: int, query: Sample) -> int:
    """How many moments ago the domain of a question was met last, of the first `until`."""
    domains = [moment.domain for moment in own.moments[:until]]
    return domains[::-1].index(query.domain)


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


def _answers(world: World, number: int, front: tuning.Adapted = BARE, settings: Settings = RECOMMENDED) -> list[str]:
    return _generated(world, [query for row in world.asked(number) for query in row], front, settings)


def _generated(world: World, asked, front: tuning.Adapted = BARE, settings: Settings = RECOMMENDED) -> list[str]:
    known = [User(each.user, each.moments, ()) for each in world.streams]  # the same room whatever was met
    room = answer_room(world.model, known)
    return generate(world.model, asked, front, new_tokens=room, wording=settings.wording)


def _world(cell: Json) -> World:
    task, (first, count) = lamp.task(cell["task"]), cell["users"]
    how = {name: cell[name] for name in ("moments", "run", "every", "questions")}
    streams = [stream(task, first + at, **how, shuffled=cell.get("shuffled", False)) for at in range(count)]
    return World(
        toy(), task, streams, Cell(cell["device"], cell["sigma"]), cell["slots"], cell["every"], cell["small"],
        jax.random.key(cell["seed"]),
    )  # fmt: skip


@cache
def toy() -> Model:
    """The toy model, loaded once."""
    return load_model("toy")

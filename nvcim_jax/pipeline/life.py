"""The life of a device: moments arrive, a small buffer keeps some, the device learns, and answers in between.

One state, a `Life`, and two modes: `observe` lets a moment in and learns where that is due, `reply` answers with the
memory as it stands. Neither depends on anything but the state: the same moments give the same bits. A life may be that
of several people who meet moments in step; all are learned in one program.
"""

import time as clock
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from nvcim_jax.core.selection import cluster_count
from nvcim_jax.data import fields
from nvcim_jax.data.lamp import Task
from nvcim_jax.data.tasks import task as task_called
from nvcim_jax.hardware import catalogue
from nvcim_jax.llm.weights import Model
from nvcim_jax.memory import bank
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline import answer as answering
from nvcim_jax.pipeline import compiled, keep, keys
from nvcim_jax.pipeline.block import Block, gather
from nvcim_jax.pipeline.grow import Victim
from nvcim_jax.pipeline.learn import Report, tune_bank
from nvcim_jax.pipeline.learn import pools as learn_pools
from nvcim_jax.pipeline.memory import Memory, remembered
from nvcim_jax.pipeline.presets import RECOMMENDED, Settings
from nvcim_jax.pipeline.select import Selected
from nvcim_jax.pipeline.synthesis import Restate, Tally, restate
from nvcim_jax.pipeline.take_in import renewed, take_in
from nvcim_jax.stream import buffer as buffers
from nvcim_jax.stream import lexicon, metrics, policies
from nvcim_jax.stream.buffer import NOWHERE, Buffer, Decision
from nvcim_jax.stream.lexicon import Lexicon
from nvcim_jax.stream.metrics import Reading
from nvcim_jax.stream.policies import Policy

NOTHING = -1  # the slot of an answer that the model gave alone, before anything was learned


@dataclass(frozen=True)
class Rules:
    """What decides a life; chosen once. ValueError for a buffer or a memory that holds nothing."""

    device: str = "NVM-3"
    sigma: float = 0.1
    settings: Settings = RECOMMENDED
    slots: int = 16  # moments that the buffer holds
    every: int | None = None  # moments between two learnings; None: learn when the buffer is full
    policy: Policy = policies.all_three  # who makes room in a full buffer, where `every` lets it be full
    reading: Reading = metrics.RECOMMENDED
    capacity: int = 64  # OVTs that the memory holds
    victim: Victim = bank.oldest  # who makes room in a full memory
    restate: Restate | None = None  # more samples like the ones that are learned, `synthesis.Restate`

    def __post_init__(self):
        if self.slots < 1:
            raise ValueError(f"a buffer of {self.slots} moments: at least one has to fit")
        if self.every is not None and self.every < 1:
            raise ValueError(f"learning every {self.every} moments: at least one has to come")
        if self.capacity < cluster_count(self.slots):
            raise ValueError(
                f"a memory of {self.capacity} OVTs: a buffer of {self.slots} moments gives {cluster_count(self.slots)} "
                "at once, which have to fit"
            )


class Told(NamedTuple):
    """A moment in the buffer: what was said, and when, in seconds since 1970."""

    sample: Sample
    time: int


class Counts(NamedTuple):
    """How far a life is. OVTs and tokens are those of all its people together."""

    moments: int = 0
    waiting: int = 0  # moments since it learned
    rounds: int = 0  # times that it learned
    tuned: int = 0  # OVTs
    samples: int = 0  # that these were tuned on, restatements included
    restated: int = 0  # restatements that were used
    refused: int = 0  # and that were not
    made_room: int = 0  # OVTs that are gone: for others, or for one of the same question


class Life(NamedTuple):
    """A device at one moment. Arrays have fixed shapes, whatever happens; texts stand beside them."""

    rules: Rules
    task: Task
    people: tuple[str, ...]
    source: str | None
    words: Lexicon
    buffer: Buffer  # [people, slots, ...]
    held: tuple[tuple[Told | None, ...], ...]  # what the buffer holds, by person and slot
    memory: Memory | None  # None before the first learning
    counts: Counts
    key: PRNGKeyArray


class Observed(NamedTuple):
    """A life after a moment, what became of the moment, and whether the device learned then."""

    life: Life
    decision: Decision  # [people]
    has_learned: bool


class Replied(NamedTuple):
    """A life after a question, in which the OVT that answered has one more use, and the answer."""

    life: Life
    answer: answering.Answer


def begin_life(
    key: PRNGKeyArray,
    model: Model,
    task: Task | str = "free",
    people: Sequence[str] = ("me",),
    *,
    rules: Rules = Rules(),
    words: Lexicon | None = None,
    source: str | None = None,
) -> Life:
    """A device that has met nothing yet. `words` are the toy world's if none are given. ValueError without people."""
    if not people or len(set(people)) < len(people):
        raise ValueError("a life is that of one person at least, and names nobody twice")
    catalogue.condition(rules.device, rules.sigma)  # a wrong name is told now
    known = task_called(task) if isinstance(task, str) else task
    words = lexicon.toy() if words is None else words
    nobody = ((None,) * rules.slots,) * len(people)
    counts, dim = Counts(), model.config.dim
    buffer = _empty(key, rules, tuple(people), counts, dim)
    return Life(rules, known, tuple(people), source, words, buffer, nobody, None, counts, key)


def observe(
    model: Model,
    life: Life,
    samples: Sample | Sequence[Sample],
    *,
    time: float | None = None,
    report: Report = lambda progress: None,
) -> Observed:
    """Let a moment in, and learn if it is time to. Raises as `let_in` does."""
    seen = let_in(model, life, samples, time=time)
    return seen._replace(life=learn(model, seen.life, report=report), has_learned=True) if is_due(seen.life) else seen


def let_in(model: Model, life: Life, samples: Sample | Sequence[Sample], *, time: float | None = None) -> Observed:
    """Let a moment in, one of each person's, at `time` (by default now), without learning from it.

    A domain that nobody names is the lexicon's. ValueError for a moment without a question or an answer.
    """
    said = _one_each(life, samples)
    rules, time = life.rules, int(clock.time() if time is None else time)
    items = keep.read_texts(model, [keep.said(each) for each in said], life.words, reading=rules.reading)
    one = jax.tree.map(lambda leaf: leaf[:, None], items)
    buffer, decision = compiled.push_all(life.buffer, one, policy=rules.policy)
    decision = jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], decision)
    held = []
    for row, sample, domain, slot in zip(life.held, said, decision.domain, decision.slot, strict=True):
        named = sample if sample.domain or domain < 0 else sample._replace(domain=life.words.name(int(domain)))
        held.append(row if slot == NOWHERE else (*row[:slot], Told(named, time), *row[slot + 1 :]))
    counts = life.counts._replace(moments=life.counts.moments + 1, waiting=life.counts.waiting + 1)
    return Observed(life._replace(buffer=buffer, held=tuple(held), counts=counts), decision, False)


def is_due(life: Life) -> bool:
    """Whether it is time to learn: the buffer is full, or `Rules.every` moments have come."""
    if life.rules.every is not None:
        return life.counts.waiting >= life.rules.every
    return all(told is not None for row in life.held for told in row)


def learn(model: Model, life: Life, *, report: Report = lambda progress: None) -> Life:
    """Select, tune and take in what the buffer holds, which is then empty. ValueError if it holds nothing.

    A codec is fitted anew to all samples that have an OVT and to the new ones, and the older OVTs are coded with it.
    """
    rules, met = life.rules, [_by_arrival(life, at) for at in range(len(life.people))]
    if not all(met):
        raise ValueError("the buffer is empty: there is nothing to learn from")
    people = [User(name, tuple(each.sample for each in row), ()) for name, row in zip(life.people, met, strict=True)]
    own = key_of(life.key, "learn", life.counts.rounds)
    gather_key, restate_key, codec_key, tune_key = jax.random.split(own, 4)
    block = gather(gather_key, model, life.task, people, settings=replace(rules.settings, buffer=rules.slots))
    block, settings, tally = _restated(restate_key, block, rules)
    memory = _nothing_learned(model, life, block) if life.memory is None else life.memory
    memory, block = renewed(codec_key, model, memory, block, fit=rules.settings.fit_codec)
    condition = catalogue.condition(rules.device, rules.sigma)
    new = tune_bank(tune_key, model, block, condition, settings=settings, report=report)
    times = {each.sample: each.time for row in met for each in row}
    after = take_in(memory, block, new, times, victim=rules.victim)
    counts = _counted(life.counts, memory, after, new, learn_pools(block, settings), tally)
    nobody = ((None,) * rules.slots,) * len(life.people)
    buffer = _empty(life.key, rules, life.people, counts, model.config.dim)
    return life._replace(buffer=buffer, held=nobody, memory=after, counts=counts)


def reply(model: Model, life: Life, question: Sample | str, *, user: str | None = None) -> Replied:
    """Answer a question of one of the people (by default the first) with the memory as it stands.

    Every slot has its own noise, the same whenever it is read. Before anything is learned the model answers alone.
    ValueError for an empty question, and for a person whose life it is not.
    """
    name = life.people[0] if user is None else user
    if name not in life.people:
        raise ValueError(f"this is not the life of {name!r}, but of {', '.join(life.people[:5])}")
    asked = answering.question(life.task, question)
    if life.memory is None:
        known = [User(name, tuple(told.sample for row in life.held for told in row if told), (asked,))]
        room = answering.answer_room(model, known)
        (text,) = answering.generate(model, [asked], new_tokens=room, wording=life.rules.settings.wording)
        return Replied(life, answering.Answer(text, None, NOTHING, 0.0, 0.0, True))
    own = key_of(life.key, "program")
    (told,) = answering.answer(own, model, life.memory, [asked], life.rules.device, sigma=life.rules.sigma, user=name)
    return Replied(used(life, life.people.index(name), told.slot), told)


def used(life: Life, person: int, slot: int, times: int = 1) -> Life:
    """The life in which an OVT answered so many times more; of `NOTHING` nothing is counted."""
    if slot == NOTHING or life.memory is None:
        return life
    uses = life.memory.bank.origin.uses.at[person, slot].add(times)
    origin = life.memory.bank.origin._replace(uses=uses)
    return life._replace(memory=life.memory._replace(bank=life.memory.bank._replace(origin=origin)))


def at(life: Life, model: Model, counts: Counts, memory: Memory | None) -> Life:
    """A life that has just begun, or learned, with the counts and the memory that it then had."""
    buffer = _empty(life.key, life.rules, life.people, counts, model.config.dim)
    return life._replace(buffer=buffer, counts=counts, memory=memory)


def _restated(key: PRNGKeyArray, block: Block, rules: Rules) -> tuple[Block, Settings, Tally]:
    """The block whose samples stand with their restatements, which their OVTs are then tuned on in turn."""
    if rules.restate is None:
        return block, rules.settings, Tally()
    kept, tally = restate(key, block.selected.learned, rules.restate)
    clusters: list[list[tuple[Sample, ...]]] = [[()] * len(row) for row in block.selected.samples]
    of_cluster = block.selected.clusters if rules.settings.learn_from == "cluster" else None
    for (user, slot), sample, more in zip(block.selected.slots, block.selected.learned, kept, strict=True):
        clusters[user][slot] = (*((sample,) if of_cluster is None else of_cluster[user][slot]), *more)
    training = replace(rules.settings.training, per_step=1)  # as many samples as without restatements
    settings = replace(rules.settings, learn_from="cluster", training=training)
    return block._replace(selected=block.selected._replace(clusters=clusters)), settings, tally


def _nothing_learned(model: Model, life: Life, block: Block) -> Memory:
    """A memory of the same people that holds nothing yet."""
    rules, people = life.rules, len(life.people)
    one = bank.empty(rules.capacity, rules.settings.tokens, block.codec.encoder[-1][1].shape[-1])
    banks = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (people, *leaf.shape)), one)
    rows: list[list[Sample | None]] = [[None] * rules.capacity for _ in life.people]
    users = [user._replace(history=()) for user in block.users]
    whole = Block(life.task, users, Selected(rows, banks.valid), block.codec)
    how = {"settings": rules.settings, "source": life.source, "device": rules.device, "sigma": rules.sigma}
    return remembered(model, whole, banks, **how)


def _counted(counts: Counts, before: Memory, after: Memory, new: bank.Bank, pools: Sequence, tally: Tally) -> Counts:
    """How far a life is after it has learned."""
    held, tuned, now = (int(jnp.sum(each.count)) for each in (before.bank, new, after.bank))
    return counts._replace(
        waiting=0, rounds=counts.rounds + 1, tuned=counts.tuned + tuned,
        samples=counts.samples + sum(map(len, pools)), restated=counts.restated + tally.used,
        refused=counts.refused + tally.asked - tally.used, made_room=counts.made_room + held + tuned - now,
    )  # fmt: skip


def _one_each(life: Life, samples: Sample | Sequence[Sample]) -> list[Sample]:
    """One moment for each person. ValueError as `let_in` says."""
    said = [samples] if isinstance(samples, Sample) else list(samples)
    if len(said) != len(life.people):
        raise ValueError(f"{len(said)} moments for {len(life.people)} people: one of each is needed")
    for name, sample in zip(life.people, said, strict=True):
        missing = [part for part in ("question", "answer") if not (getattr(sample, part) or "").strip()]
        if missing or not keep.said(sample):
            raise ValueError(f"the moment of {name!r} has no {missing[0] if missing else 'text'}: say what it was")
        for text in (sample.question, sample.answer, sample.content):
            fields.whole(text)
    return said


def _by_arrival(life: Life, person: int) -> list[Told]:
    """What the buffer holds of a person, the oldest first."""
    row, arrival = life.held[person], np.asarray(life.buffer.arrival[person])
    return [told for at in np.argsort(arrival, kind="stable") if (told := row[at]) is not None]


def _empty(key: PRNGKeyArray, rules: Rules, people: tuple[str, ...], counts: Counts, dim: int) -> Buffer:
    """Everybody's buffer after a learning, which draws other numbers than the one before."""
    names = [User(name, (), ()) for name in people]
    own = keys.of_users(key_of(key, "buffer", counts.rounds), names, "keep")
    return jax.vmap(partial(buffers.empty, slots=rules.slots, dim=dim))(own)


def key_of(key: PRNGKeyArray, stage: str, number: int = 0) -> PRNGKeyArray:
    """The key of the n-th time that something is done."""
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(stage.encode())), number)

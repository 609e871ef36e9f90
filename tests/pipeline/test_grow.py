"""A memory that grows: what is new is what learning would have given, what was there stays, and both are told apart."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvcim_jax as nv
from nvcim_jax import tuning
from nvcim_jax.memory import bank
from nvcim_jax.pipeline.grow import make_room

KEY, GROW = jax.random.split(jax.random.key(0))
SMALL = replace(nv.RECOMMENDED, training=tuning.Training(steps=2), tokens=8)
SEEN, HELD = 6, 3  # samples that a user was learned from, and representatives of them


@pytest.fixture(scope="module")
def everyone():
    return nv.toy_users("LaMP-2", 2)


@pytest.fixture(scope="module")
def new(everyone):
    """Two new samples of the second user, one of them of a domain that nobody had."""
    first, second = everyone[1].history[SEEN : SEEN + 2]
    return first, second._replace(domain="aardvarks")


@pytest.fixture(scope="module")
def memory(model, everyone, new):
    """A memory of both users, which has read more of the second than it has OVTs of: often the last words of `new`."""
    short = replace(everyone, people=tuple(user._replace(history=user.history[:SEEN]) for user in everyone))
    learned = nv.learn(KEY, model, short, "NVM-3", sigma=0.1, settings=SMALL)
    read = tuple(sample._replace(content=" ".join(sample.content.split()[-5:])) for sample in new) * 5
    first, second = learned.users
    users = [first, second._replace(history=second.history + read)]
    return learned._replace(block=learned.block._replace(users=users))


@pytest.fixture(scope="module")
def grown(model, memory, everyone, new):
    return nv.grow(GROW, model, memory, new, user=everyone[1].id)


def samples(memory, user):
    """What the OVTs of a user were learned from, by slot."""
    held = memory.block.selected.samples[user]
    assert len(held) == memory.bank.capacity and not any(held[int(memory.bank.count[user]) :])
    return held[: int(memory.bank.count[user])]


def ovts(memory, user, slots=slice(None)):
    """Prompts, search keys and origins of a user's OVTs, as NumPy arrays."""
    count = int(memory.bank.count[user])
    return jax.tree.map(lambda leaf: np.asarray(leaf)[user, :count][slots], memory.bank[:3])


def names(memory, user, kind):
    """What the description calls the domains or devices of a user's OVTs."""
    origin = ovts(memory, user)[2]
    return [memory.about.name(f"{kind}s", int(number)) for number in getattr(origin, kind)]


def assert_same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def filled(memory, times=(), uses=()):
    """The memory whose first user has all slots taken, by copies of the first OVT under questions of their own."""
    held, capacity = memory.block.selected.samples, memory.bank.capacity
    first = samples(memory, 0)[0]
    row = [first._replace(question=f"question {slot}") for slot in range(capacity)]
    spread = jax.tree.map(lambda leaf: leaf.at[0].set(leaf[0, :1]), memory.bank[:3])
    origin = spread[2]._replace(
        time=spread[2].time.at[0].set(jnp.array(times or range(1, capacity + 1), jnp.uint32)),
        uses=spread[2].uses.at[0].set(jnp.array(uses or [0] * capacity)),
    )
    whole = memory.bank._replace(origin=origin, count=memory.bank.count.at[0].set(capacity))
    selected = memory.block.selected._replace(samples=[row, *held[1:]], valid=whole.valid)
    return memory._replace(bank=whole, block=memory.block._replace(selected=selected))


def questions(growing):
    return [sample.question for sample in samples(growing.memory, 0)]


def test_emptied_and_grown_by_its_own_samples_a_memory_is_again_what_was_learned(model, everyone):
    alone = replace(everyone, people=(everyone[0]._replace(history=everyone[0].history[:HELD]),))
    learned = nv.learn(KEY, model, alone, "NVM-3", sigma=0.1, settings=SMALL)
    empty = learned._replace(bank=jax.tree.map(jnp.zeros_like, learned.bank))
    _, tune_key = jax.random.split(KEY)  # as `learn` splits it
    again = nv.grow(tune_key, model, empty, samples(learned, 0))
    assert len(samples(learned, 0)) == HELD and samples(again, 0) == samples(learned, 0)
    since = lambda memory: ovts(memory, 0)[2]._replace(time=0)  # noqa: E731
    assert_same(ovts(again, 0)[:2], ovts(learned, 0)[:2])
    assert_same(since(again), since(learned))


def test_what_was_there_keeps_its_bits(memory, grown):
    assert_same(ovts(grown, 0), ovts(memory, 0))
    assert_same(ovts(grown, 1, slice(HELD)), ovts(memory, 1))
    assert_same(grown.codec, memory.codec)
    assert (grown.settings, grown.version, grown.task) == (memory.settings, memory.version, memory.task)


def test_a_memory_says_of_new_ovts_where_they_come_from(memory, grown, new):
    assert np.asarray(grown.bank.count).tolist() == [HELD, HELD + 2]
    np.testing.assert_array_equal(grown.block.selected.valid, grown.bank.valid)
    assert samples(grown, 0) == samples(memory, 0) and samples(grown, 1) == [*samples(memory, 1), *new]
    assert grown.about.samples == tuple(map(tuple, grown.block.selected.samples))
    assert grown.users[1].history == (*samples(memory, 1), *new) and grown.users[0] == memory.users[0]
    origin = ovts(grown, 1)[2]
    assert grown.about.of_slots(grown.bank)[1][: HELD + 2] == samples(grown, 1)
    assert names(grown, 1, "domain") == [each.domain for each in samples(grown, 1)]
    assert names(grown, 1, "device") == ["NVM-3"] * (HELD + 2)
    assert grown.about.domains[:-1] == memory.about.domains and grown.about.domains[-1] == "aardvarks"
    fresh = jax.tree.map(lambda leaf: leaf[HELD:], origin)
    assert (fresh.time >= origin.time[0]).all() and np.isfinite(fresh.loss).all() and not fresh.uses.any()
    assert len(np.unique(origin.key, axis=0)) == HELD + 2 and np.abs(ovts(grown, 1)[0]).max(axis=(1, 2)).min() > 0


def test_it_makes_no_difference_whether_a_memory_was_on_disk_before_or_after(
    model, memory, everyone, grown, new, tmp_path
):
    nv.save(tmp_path / "memory", memory)
    later = nv.grow(GROW, model, nv.load(tmp_path / "memory", model, settings=SMALL), new, user=everyone[1].id)
    assert nv.save(tmp_path / "memory", later).version == 2
    loaded = nv.load(tmp_path / "memory", model, settings=SMALL)
    for user in (0, 1):
        assert samples(loaded, user) == samples(grown, user)
        assert_same(ovts(loaded, user)[:2], ovts(grown, user)[:2])
        assert_same(ovts(loaded, user)[2]._replace(time=0), ovts(grown, user)[2]._replace(time=0))
    assert loaded.about.domains == grown.about.domains and loaded.users[1] == grown.users[1]._replace(queries=())


def test_answers_find_what_is_new(model, memory, grown, everyone, new):
    ask = lambda memory: nv.answer(KEY, model, memory, new, user=everyone[1].id, sigma=0.0)  # noqa: E731
    assert [told.found for told in ask(grown)] == list(new) and [told.slot for told in ask(grown)] == [HELD, HELD + 1]
    assert all(told.found in samples(memory, 1) for told in ask(memory))


def test_in_a_full_bank_the_rule_says_who_makes_room_and_nothing_more_is_said_of_them(memory, new):
    full = filled(memory, times=(5, 1, 3, 2, 8, 7, 6, 4), uses=(1, 9, 9, 9, 2, 9, 9, 9))
    assert questions(make_room(full, new))[:6] == [f"question {slot}" for slot in (0, 7, 2, 6, 4, 5)]
    growing = make_room(full, new, victim=bank.least_used)
    assert questions(growing) == [f"question {slot}" for slot in (7, 1, 2, 3, 6, 5)] and growing.samples == new
    assert not {"question 0", "question 4"} & {each.question for each in growing.memory.about.samples[0] if each}
    assert np.asarray(growing.memory.bank.origin.time)[0, :6].tolist() == [4, 1, 3, 2, 6, 7]
    assert_same(ovts(growing.memory, 1), ovts(memory, 1))


def test_without_a_rule_every_user_gets_more_slots(memory, new):
    growing = make_room(filled(memory), new, victim=None)
    assert growing.memory.bank.capacity == 16 and questions(growing) == [f"question {slot}" for slot in range(8)]
    assert_same(ovts(growing.memory, 1), ovts(memory, 1))
    assert len(samples(growing.memory, 1)) == HELD and make_room(memory, new, victim=None).memory.bank.capacity == 8


def test_a_sample_takes_the_place_of_an_ovt_of_the_same_question_and_the_last_of_several_counts(memory, new):
    first, second, third = samples(memory, 0)
    mended = second._replace(answer="better")
    growing = make_room(memory, [second._replace(answer="worse"), new[0], mended])
    assert samples(growing.memory, 0) == [first, third] and growing.samples == (mended, new[0])
    growing = make_room(filled(memory), [new[0]._replace(question="question 3")])  # and nobody else makes room
    assert questions(growing) == [f"question {slot}" for slot in (0, 1, 2, 4, 5, 6, 7)]


def test_the_device_of_new_ovts_is_told_where_it_has_a_name(model, memory, new):
    def device_of(told, memory):
        return names(nv.grow(GROW, model, memory, new[:1], told, sigma=0.1), 0, "device")

    assert device_of("NVM-5", memory) == ["NVM-3"] * HELD + ["NVM-5"]
    assert device_of(nv.device("NVM-5"), memory) == ["NVM-3"] * HELD + [""]
    silent = memory._replace(about=replace(memory.about, devices=()))
    assert device_of("NVM-5", silent) == [""] * HELD + ["NVM-5"]


def test_what_growing_refuses(model, memory, new):
    with pytest.raises(ValueError, match="there are no samples: give at least one"):
        nv.grow(GROW, model, memory, [])
    with pytest.raises(ValueError, match="has no answer: there is nothing to learn from it"):
        nv.grow(GROW, model, memory, [new[0], new[1]._replace(answer=" ")])
    with pytest.raises(ValueError, match="the memory holds no user 'Ann'"):
        nv.grow(GROW, model, memory, new, user="Ann")
    other = model._replace(params=jax.tree.map(lambda leaf: leaf + 1, model.params))
    with pytest.raises(ValueError, match="the memory was learned with another model"):
        nv.grow(GROW, other, memory, new)
    many = [new[0]._replace(question=str(number)) for number in range(9)]
    with pytest.raises(ValueError, match="9 samples are more than the 8 slots of the bank: give fewer, or"):
        nv.grow(GROW, model, memory, many)
    with pytest.raises(ValueError, match="holds OVTs of 8 virtual tokens and its settings ask for 16"):
        nv.grow(GROW, model, memory._replace(settings=nv.RECOMMENDED), new)
    nameless = memory._replace(about=replace(memory.about, settings={}))
    with pytest.raises(ValueError, match="does not say what device and sigma it was learned for"):
        nv.grow(GROW, model, nameless, new)

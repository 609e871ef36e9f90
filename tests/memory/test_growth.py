"""A bank that grows: append, replace, remove, evict; constant in time and never growth anew."""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvcim_jax.memory import bank, growth

ROWS, DIM = 4, 6


def ovt(number, *, domain=0, time=0, uses=0):
    origin = bank.unknown()._replace(
        sample=jnp.int32(number), domain=jnp.int32(domain), time=jnp.uint32(time), uses=jnp.int32(uses)
    )
    return bank.Ovt(jnp.full((ROWS, DIM), float(number)), jnp.full((ROWS, DIM), -float(number)), origin)


def filled(ovts, capacity=6):
    grown = bank.empty(capacity, ROWS, DIM)
    for each in ovts:
        grown = growth.append(grown, each)
    return grown


def held(grown):
    """The numbers of the OVTs in slot order, after checking that prompt, key and origin still belong together."""
    count = int(grown.count)
    prompts, keys = np.asarray(grown.prompts)[:count, 0, 0], np.asarray(grown.keys)[:count, 0, 0]
    np.testing.assert_array_equal(prompts, -keys)
    np.testing.assert_array_equal(prompts, grown.origin.sample[:count])
    assert (np.asarray(grown.prompts)[:count] == prompts[:, None, None]).all()
    return [int(number) for number in prompts]


def test_append_fills_the_slots_in_order():
    grown = filled([ovt(1), ovt(2)])
    assert held(grown) == [1, 2] and np.asarray(grown.valid).tolist() == [True, True] + [False] * 4


def test_a_full_bank_refuses_to_append_and_says_what_helps():
    full = filled([ovt(number) for number in range(6)])
    with pytest.raises(ValueError, match="all 6 slots are taken: evict"):
        bank.append(full, ovt(7))
    assert held(bank.append(bank.grown(full, 8), ovt(7))) == [0, 1, 2, 3, 4, 5, 7]
    with pytest.raises(ValueError, match="all 6 slots are taken"):
        growth.append(full, ovt(7))
    assert held(jax.jit(bank.append)(full, ovt(7))) == [0, 1, 2, 3, 4, 5]


def test_replace_and_remove():
    grown = growth.replace(filled([ovt(n) for n in (1, 2, 3, 4)]), 1, ovt(9))
    assert held(grown) == [1, 9, 3, 4]
    grown = growth.remove(grown, 0)
    assert held(grown) == [4, 9, 3]
    assert held(growth.remove(grown, 2)) == [4, 9]


def test_writes_of_slots_are_counted_by_hand():
    grown = filled([ovt(n) for n in (1, 2, 3, 4)])
    assert np.asarray(grown.writes).tolist() == [1, 1, 1, 1, 0, 0]
    grown = growth.replace(grown, 1, ovt(9))
    assert np.asarray(grown.writes).tolist() == [1, 2, 1, 1, 0, 0]
    grown = growth.remove(grown, 0)  # the last one moves into slot 0
    assert np.asarray(grown.writes).tolist() == [2, 2, 1, 1, 0, 0]
    grown = growth.remove(grown, 2)  # the last one itself: nothing moves
    assert np.asarray(grown.writes).tolist() == [2, 2, 1, 1, 0, 0]
    grown = bank.drop(filled([ovt(n) for n in (1, 2, 3, 4)]), jnp.array([False, True, False, False, False, False]))
    assert held(grown) == [1, 3, 4] and np.asarray(grown.writes).tolist() == [1, 2, 2, 1, 0, 0]
    assert np.asarray(bank.grown(grown, 8).writes).tolist() == [1, 2, 2, 1, 0, 0, 0, 0]


def test_taking_in_writes_a_slot_once_at_most_and_not_what_it_holds():
    full = filled([ovt(n, time=n) for n in range(1, 7)])
    two = jax.tree.map(lambda *leaves: jnp.stack(leaves), ovt(7, time=7), ovt(8, time=8))
    after = bank.take_in(full, two, jnp.array([True, True]), jnp.zeros(6, bool))
    changed = np.asarray(after.prompts[:, 0, 0] != full.prompts[:, 0, 0])
    assert sorted(held(after)) == [3, 4, 5, 6, 7, 8] and changed.sum() >= 2
    np.testing.assert_array_equal(after.writes, full.writes + changed)


def test_codes_that_stay_are_not_written_again():
    grown = filled([ovt(1), ovt(2)])
    other = grown._replace(keys=grown.keys.at[1, 0, 0].add(1.0))
    assert np.asarray(bank.rewritten(grown, other).writes).tolist() == [1, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("slot", [-1, 2, 5, 6])
def test_removing_an_empty_slot_changes_nothing(slot):
    same = growth.remove(filled([ovt(1), ovt(2)]), slot)
    assert held(same) == [1, 2] and np.asarray(same.writes).tolist() == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("slot", [-2, 6])
def test_removing_past_the_ends_of_a_full_bank_changes_nothing(slot):
    assert held(growth.remove(filled([ovt(number) for number in range(6)]), slot)) == [0, 1, 2, 3, 4, 5]


def test_the_rules_of_eviction_by_hand():
    ovts = [
        ovt(0, time=50, uses=3, domain=1),
        ovt(1, time=20, uses=0, domain=2),
        ovt(2, time=10, uses=9, domain=3),
        ovt(3, time=60, uses=0, domain=1),
        ovt(4, time=30, uses=4, domain=2),
        ovt(5, time=40, uses=4, domain=1),
    ]
    full = filled(ovts)
    assert int(bank.oldest(full)) == 2
    assert int(bank.least_used(full)) == 1  # 0 uses, as 3, but older
    assert int(bank.oldest_of_fullest_domain(full)) == 5  # of domain 1
    full = growth.add(full, ovt(9, time=70), victim=bank.oldest)
    assert held(full) == [0, 1, 9, 3, 4, 5]
    assert held(growth.evict(full, victim=bank.least_used)) == [0, 5, 9, 3, 4]
    assert held(growth.evict(filled([]))) == []


def keyed(number, *values, time=0):
    """An OVT with its own search key, in which all is 0 but the first of each row."""
    key = jnp.zeros((ROWS, DIM)).at[0, : len(values)].set(jnp.array(values, float))
    return ovt(number, time=time)._replace(key=key)


def test_of_the_two_most_alike_the_older_is_redundant():
    """Their length does not count: (1, 0) and (9, 1) are nearer in angle than (0, 1) and (0.5, 1)."""
    ovts = [keyed(0, 1, 0, time=5), keyed(1, 0, 1, time=1), keyed(2, 9, 1, time=3), keyed(3, 0.5, 1, time=2)]
    assert int(bank.most_redundant(filled(ovts))) == 2
    assert int(bank.most_redundant(filled([*ovts, keyed(4, 0, 7, time=4)]))) == 1  # alike to the last one
    assert int(bank.most_redundant(filled(ovts[:1]))) == 0


def taken_in(grown, ovts, new, gone=(), victim=bank.oldest):
    """Compiled once for each rule: three OVTs at most."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ovts)
    gone = jnp.array([slot in gone for slot in range(grown.capacity)])
    return jax.jit(partial(bank.take_in, victim=victim))(grown, stacked, jnp.array(new), gone)


def test_new_ovts_are_taken_in_and_room_is_made_first():
    three = [ovt(7, time=1), ovt(8, time=1), ovt(9, time=1)]
    some = filled([ovt(n, time=10 + n) for n in range(2)])
    assert held(taken_in(some, three, [True, False, True])) == [0, 1, 7, 9]
    full = filled([ovt(n, time=10 + n) for n in range(6)])
    assert held(taken_in(full, three, [False, True, True])) == [5, 4, 2, 3, 8, 9]  # 0 and 1 made room, not 8
    assert held(taken_in(full, three, [True, True, True], gone=(1, 3, 5))) == [0, 2, 4, 7, 8, 9]
    assert held(taken_in(full, three, [False] * 3, gone=(2,))) == [0, 1, 3, 4, 5]
    assert held(taken_in(filled([], capacity=2), three, [True, True, True])) == [7, 8]  # more than fit are lost


def test_banks_of_many_people_are_taken_in_as_each_alone():
    three = [ovt(7, time=1), ovt(8, time=1), ovt(9, time=1)]
    banks = [filled([ovt(n, time=10 + n) for n in range(count)]) for count in (2, 6)]
    new, gone = jnp.array([[True, False, True], [True, True, False]]), jnp.zeros((2, 6), bool)
    stack = partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    both = jax.jit(jax.vmap(partial(bank.take_in, victim=bank.oldest)))(
        stack(*banks), stack(*[stack(*three)] * 2), new, gone
    )
    for at, grown in enumerate(banks):
        assert held(jax.tree.map(lambda leaf, at=at: leaf[at], both)) == held(taken_in(grown, three, new[at]))


@pytest.mark.parametrize("rule", list(bank.VICTIMS.values()))
def test_rules_look_at_taken_slots_only(rule):
    grown = filled([ovt(1, time=6, uses=6, domain=7), ovt(2, time=5, uses=5, domain=7)])
    assert int(rule(grown)) == 1


def test_drop_by_domain_keeps_the_order_of_the_rest():
    grown = filled([ovt(n, domain=n % 2) for n in range(5)])
    assert held(bank.drop(grown, grown.origin.domain == 1)) == [0, 2, 4]
    assert held(bank.drop(grown, grown.origin.domain == 5)) == [0, 1, 2, 3, 4]


def test_uses_are_counted_also_twice_at_once():
    grown = growth.used(filled([ovt(1), ovt(2)]), jnp.array([1, 1, 0]))
    assert np.asarray(grown.origin.uses).tolist() == [1, 2, 0, 0, 0, 0]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "replace"]), st.integers(0, 5)), max_size=20))
def test_any_history_is_that_of_a_plain_list(steps):
    """Against a Python list that appends, swaps the last in for a removed one, and evicts its oldest when full."""
    grown, plain = bank.empty(6, ROWS, DIM), []
    for now, (what, slot) in enumerate(steps, start=1):
        if what == "add":
            grown = growth.add(grown, ovt(now, time=now))
            if len(plain) < 6:
                plain.append(now)
            else:
                plain[plain.index(min(plain))] = now
        elif slot < len(plain) and what == "remove":
            grown = growth.remove(grown, slot)
            plain[slot] = plain[-1]
            plain.pop()
        elif slot < len(plain):
            grown = growth.replace(grown, slot, ovt(now, time=now))
            plain[slot] = now
    assert held(grown) == plain


def test_nothing_recompiles_as_a_bank_grows():
    grown = filled([ovt(1)])
    growth.add(filled([ovt(1)]), ovt(2)), growth.remove(filled([ovt(1)]), 0)
    programs = (growth._append, growth.add, growth.remove)
    before = [each._cache_size() for each in programs]
    for number in range(5):
        grown = growth.append(grown, ovt(number))
    for number in range(5):
        grown = growth.add(grown, ovt(number))
    for slot in range(6):
        grown = growth.remove(grown, slot)
    assert [each._cache_size() for each in programs] == before


def seconds_to_add(capacity, call):
    grown = bank.empty(capacity, 16, 48)
    new = bank.Ovt(jnp.ones((16, 48)), jnp.ones((16, 48)), bank.unknown())
    times = []
    for _ in range(30):
        start = time.perf_counter()
        grown = jax.block_until_ready(call(grown, new))
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize("change", [growth.append, growth.add])
def test_growing_is_constant_in_time(change):
    """A copy of the large bank alone would take a hundred times the small one's time."""
    small, large = seconds_to_add(64, change), seconds_to_add(50_000, change)
    assert large < 10 * small + 1e-3


def test_a_bank_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one slot"):
        bank.empty(0, ROWS, DIM)
    with pytest.raises(ValueError, match="128 columns"):
        bank.empty(4, 129, 48)
    with pytest.raises(ValueError, match="does not shrink"):
        bank.grown(bank.empty(4, ROWS, DIM), 3)


def test_arrays_by_hand():
    assert bank.arrays(1, 16) == 4  # prompts and three scales, one array each
    assert bank.arrays(9, 16) == 2 + 2 + 1 + 1  # 8 prompts, 8, 16 and 32 copies to an array
    assert bank.arrays(2, 100, scales=(1,)) == 4  # 128 columns hold one set of 100, not more

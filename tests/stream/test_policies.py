"""Policies against plain Python on random streams, by hand, and their laws."""

from collections import Counter
from functools import partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from nvcim_jax.stream import buffer as buffers
from nvcim_jax.stream import metrics, policies
from nvcim_jax.stream.buffer import NOWHERE, REASONS, Buffer, Decision, Item, Scores

KEY = jax.random.key(0)
SCORED = [
    name for name in policies.POLICIES if name.startswith(("all-three", "eoe", "dss", "idd", "released", "length"))
]
DRAWN = ("random", "reservoir")


@partial(jax.jit, static_argnames=("policy",))
def run(buffer, items, policy):
    return policies.push_all(buffer, items, policy=policy)


def stream(seed, count, *, dim=6, domains=3):
    """A random stream; a tenth of it has no domain."""
    rng = np.random.default_rng(seed)
    domain = np.where(rng.random(count) < 0.1, metrics.NONE, rng.integers(0, domains, count))
    made = rng.normal(size=(count, dim)) + 2 * rng.normal(size=(domains + 1, dim))[domain]
    return Item(
        jnp.array(made, jnp.float32), *jnp.array(rng.random((2, count)), jnp.float32), jnp.array(domain, jnp.int32),
        jnp.array(rng.permutation(10 * count)[:count], jnp.int32), jnp.ones(count, bool),
    )  # fmt: skip


def at(items, number):
    return jax.tree.map(lambda leaf: leaf[number], items)


class Plain:
    """The same by lists and loops: what is stored as (slot -> number of the moment)."""

    def __init__(self, items, slots):
        self.items = jax.tree.map(np.asarray, items)
        self.vectors = self.items.embedding.astype(np.float64)
        self.slots, self.stored, self.arrived = slots, [], {}

    def idd(self, number, others):
        one = self.vectors[number]
        told = [
            1 - one @ self.vectors[each] / np.linalg.norm(one) / np.linalg.norm(self.vectors[each])
            for each in others
            if each != number and self.items.domain[each] == self.items.domain[number]
        ]
        return np.mean(told) if told else 1.0

    def scores(self, number, *, stale=False):
        idd = self.arrived[number][2] if stale else self.idd(number, self.stored)
        return self.items.eoe[number], self.items.dss[number], idd

    def all_three(self, number, *, same_domain=False, stale=False):
        new, stored = self.scores(number), [self.scores(each, stale=stale) for each in self.stored]
        if not new[0] > min(each[0] for each in stored):
            return None
        below = [
            slot
            for slot, each in enumerate(stored)
            if all(theirs < own for theirs, own in zip(each, new))
            and not (same_domain and self.items.domain[self.stored[slot]] != self.items.domain[number])
        ]
        ranks = lambda slot: sum(other[part] < stored[slot][part] for other in stored for part in range(3))  # noqa: E731
        return min(below, key=lambda slot: (ranks(slot), self.stored[slot]), default=None)

    def one(self, number, value):
        values = [value(each) for each in self.stored]
        smallest = min(range(self.slots), key=lambda slot: (values[slot], self.stored[slot]))
        return smallest if value(number) > values[smallest] else None

    def released(self, number, value):
        own = [slot for slot, each in enumerate(self.stored) if self.items.domain[each] == self.items.domain[number]]
        if not own:
            return None
        smallest = min(own, key=lambda slot: (value(self.stored[slot], True), self.stored[slot]))
        return smallest if value(self.stored[smallest], True) > value(number, False) else None

    def k_center(self, number):
        everyone = [*self.stored, number]
        apart = lambda one, two: np.linalg.norm(self.vectors[one] - self.vectors[two])  # noqa: E731
        pair = min(combinations(everyone, 2), key=lambda two: apart(*two))
        rest = [each for each in everyone if each not in pair]
        goes = min(sorted(pair), key=lambda each: min((apart(each, other) for other in rest), default=0))
        return None if goes == number else self.stored.index(goes)

    def slot_of(self, name, number):
        score = lambda part: lambda each, stale=False: self.scores(each, stale=stale)[part]  # noqa: E731
        alike = lambda each, stale: 1 - self.scores(each, stale=stale)[2]  # noqa: E731
        rules = {
            "all-three": self.all_three,
            "all-three-same-domain": partial(self.all_three, same_domain=True),
            "all-three-stale": partial(self.all_three, stale=True),
            **{each: partial(self.one, value=score(part)) for part, each in enumerate(("eoe", "dss", "idd"))},
            **{
                f"released-{each}": partial(self.released, value=score(part))
                for part, each in enumerate(("eoe", "dss"))
            },
            "released-idd": partial(self.released, value=alike),
            "length": partial(self.one, value=lambda each: self.items.length[each]),
            "fifo": lambda _: self.stored.index(min(self.stored)),
            "k-center": self.k_center,
            "keep-all": lambda _: None,
        }
        return rules[name](number)

    def run(self, name):
        """Per moment its slot or None, the moment that it displaced or None, its three scores."""
        told = []
        for number in range(len(self.vectors)):
            self.arrived[number] = self.scores(number)
            if len(self.stored) < self.slots:
                self.stored.append(number)
                told.append((len(self.stored) - 1, None, self.arrived[number]))
                continue
            slot = self.slot_of(name, number)
            told.append((slot, None if slot is None else self.stored[slot], self.arrived[number]))
            if slot is not None:
                self.stored[slot] = number
        return told


@pytest.mark.parametrize("slots", [1, 2, 7])
@pytest.mark.parametrize("name", [name for name in policies.POLICIES if name not in DRAWN])
def test_it_is_what_plain_python_does(name, slots):
    for seed in range(3):
        items = stream(seed, 120)
        after, told = run(buffers.empty(KEY, slots, 6), items, policies.POLICIES[name])
        plain = Plain(items, slots)
        expected = plain.run(name)
        none = lambda value: NOWHERE if value is None else value  # noqa: E731
        assert np.asarray(told.slot).tolist() == [none(slot) for slot, *_ in expected]
        assert np.asarray(told.displaced).tolist() == [none(displaced) for _, displaced, _ in expected]
        np.testing.assert_allclose(np.stack(told.scores, 1), [scores for *_, scores in expected], atol=2e-6)
        assert np.asarray(after.arrival).tolist() == plain.stored
        np.testing.assert_allclose(after.products, after.embeddings @ after.embeddings.T, rtol=1e-4, atol=1e-4)
        now = [plain.scores(each) for each in plain.stored]
        np.testing.assert_allclose(np.stack(buffers.refreshed(after), 1), now, atol=2e-6)


def test_random_streams_do_replace():
    """Else the law above would hold of a policy that does nothing."""
    for name in set(policies.POLICIES) - {"keep-all"}:
        told = [run(buffers.empty(KEY, 7, 6), stream(seed, 120), policies.POLICIES[name])[1] for seed in range(3)]
        least = 1 if name == "released-idd" else 3  # the first of a domain has the similarity 0: what could be below?
        assert sum(np.sum(np.asarray(each.displaced) != NOWHERE) for each in told) >= least, name


def filled(eoe, dss, idd, *, embeddings=None):
    """A full buffer with these scores; its moments stand at right angles in one domain, unless told otherwise."""
    count = len(eoe)
    vectors = jnp.eye(count, 4) if embeddings is None else jnp.array(embeddings, jnp.float32)
    empty = buffers.empty(KEY, count, vectors.shape[1])
    return empty._replace(
        embeddings=vectors, products=vectors @ vectors.T, scores=Scores(*map(jnp.array, (eoe, dss, idd))),
        domain=jnp.zeros(count, jnp.int32), arrival=jnp.arange(count), seen=jnp.int32(count),
    )  # fmt: skip


def moment(eoe=0.0, dss=0.0, *, embedding=(0.0, 0, 0, 1), domain=0):
    return Item(
        jnp.array(embedding, jnp.float32), jnp.float32(eoe), jnp.float32(dss), jnp.int32(domain), jnp.int32(1),
        jnp.array(True),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("eoe", "dss", "idd", "slot", "reason"),
    [
        (0.6, 0.15, 0.3, 0, "above the displaced in all three"),
        (0.45, 0.05, 0.9, NOWHERE, "above no stored one in all three"),
        (0.39, 0.9, 0.9, NOWHERE, "its EOE is not above the smallest"),
        (0.5, 0.15, 0.3, NOWHERE, "above no stored one in all three"),  # equal in one score is not above
        (0.6, 0.10, 0.3, NOWHERE, "above no stored one in all three"),
    ],
)
def test_the_printed_policy_by_hand(eoe, dss, idd, slot, reason):
    """A, B, C of one domain; the newcomer's vector makes its IDD what is printed."""
    stored = filled((0.5, 0.7, 0.4), (0.1, 0.05, 0.2), (0.2, 0.6, 0.1))
    cosine = 1 - idd
    rest = (1 - 3 * cosine**2) ** 0.5 if 3 * cosine**2 < 1 else None
    if rest is None:  # three at right angles cannot all be so near: let all be of one direction
        stored = stored._replace(embeddings=jnp.eye(4)[jnp.zeros(3, int)], products=jnp.ones((3, 3)))
        vector = (cosine, (1 - cosine**2) ** 0.5, 0, 0)
    else:
        vector = (cosine, cosine, cosine, rest)
    after, told = policies.all_three(stored, moment(eoe, dss, embedding=vector), stale=True)
    assert float(told.scores.idd) == pytest.approx(idd, abs=1e-6)
    assert (int(told.slot), REASONS[int(told.reason)]) == (slot, reason)
    assert int(told.displaced) == slot and int(after.seen) == 4
    assert int(after.arrival[0]) == (3 if slot == 0 else 0)


def test_of_several_below_the_lowest_ranked_goes_of_equals_the_oldest():
    push = partial(policies.all_three, stale=True)
    three = filled((0.5, 0.3, 0.4), (0.1, 0.2, 0.1), (0.2, 0.1, 0.1))
    _, told = push(three, moment(0.9, 0.9, embedding=(0, 0, 0, 1)))
    assert int(told.slot) == 2  # ranks 3, 2, 1
    equal = filled((0.5, 0.5), (0.1, 0.1), (0.2, 0.2))._replace(arrival=jnp.array([4, 2]), seen=jnp.int32(5))
    _, told = push(equal, moment(0.9, 0.9))
    assert int(told.displaced) == 2


def test_a_stored_idd_is_that_of_now():
    """Both moments are alike, but were stored when nothing like them was there."""
    stored = filled((0.1, 0.1), (0.1, 0.1), (1.0, 1.0), embeddings=[(1, 0, 0, 0)] * 2)
    new = moment(0.9, 0.9, embedding=(0.6, 0.8, 0, 0))
    assert int(policies.all_three(stored, new)[1].slot) == 0
    assert float(policies.all_three(stored, new)[1].displaced_scores.idd) == pytest.approx(0, abs=1e-6)
    assert int(policies.all_three(stored, new, stale=True)[1].slot) == NOWHERE


def test_the_only_one_of_its_domain_is_safe_from_its_like():
    """Its IDD is 1, which only what points away exceeds; so a buffer of one hardly ever changes."""
    stored = filled((0.1,), (0.1,), (1.0,))
    for domain in (0, 1):
        assert int(policies.all_three(stored, moment(0.9, 0.9, domain=domain))[1].slot) == NOWHERE
    away = moment(0.9, 0.9, embedding=(-1, 0, 0, 0))
    assert int(policies.all_three(stored, away)[1].slot) == 0


def test_what_holds_no_word_displaces_nothing():
    """Its DSS is 0, and no stored one is below that."""
    items = stream(1, 100)._replace(dss=jnp.zeros(100), domain=jnp.full(100, metrics.NONE))
    _, told = run(buffers.empty(KEY, 7, 6), items, policies.all_three)
    assert not np.any(np.asarray(told.displaced) != NOWHERE)


def test_the_released_rule_goes_the_wrong_way():
    push = policies.POLICIES["released-eoe"]
    stored = filled((0.8, 0.6), (0.0, 0.0), (0.0, 0.0))
    assert int(push(stored, moment(0.7))[1].slot) == NOWHERE
    assert int(push(stored, moment(0.5))[1].slot) == 1
    assert int(push(stored, moment(0.5, domain=1))[1].slot) == NOWHERE  # a domain without a slot gets none


def test_the_released_idd_is_a_similarity_and_only_what_points_away_enters():
    push = policies.POLICIES["released-idd"]
    stored = filled((0.0, 0.0), (0.0, 0.0), (1.0, 0.2), embeddings=[(1, 0, 0, 0)] * 2)  # similarities 0 and .8
    assert int(push(stored, moment(embedding=(1, 0, 0, 0)))[1].slot) == NOWHERE
    assert int(push(stored, moment(embedding=(-1, 0, 0, 0)))[1].slot) == 0


@pytest.mark.parametrize(("new", "kept"), [(1.0, {0.0, 10.0}), (6.0, {0.0, 10.0}), (21.0, {0.0, 21.0})])
def test_k_center_by_hand(new, kept):
    stored = filled((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), embeddings=[[0.0], [10.0]])
    after, _ = policies.k_center(stored, moment(embedding=(new,)))
    assert set(np.asarray(after.embeddings)[:, 0].tolist()) == kept


def test_k_center_covers_its_stream_about_as_well_as_can_be():
    """The largest distance of a moment to what is kept, against the best of all choices of as many."""
    ratios = []
    for seed in range(6):
        points = np.random.default_rng(seed).normal(size=(14, 2)).astype(np.float32)
        items = stream(0, 14, dim=2)._replace(embedding=jnp.array(points))
        apart = np.linalg.norm(points[:, None] - points[None], axis=2)
        radius = lambda some, apart=apart: apart[list(some)].min(0).max()  # noqa: E731
        after, _ = run(buffers.empty(KEY, 4, 2), items, policies.k_center)
        best = min(map(radius, combinations(range(14), 4)))
        ratios.append(radius(np.asarray(after.arrival)) / best)
    assert np.max(ratios) < 2.5 and np.mean(ratios) < 2


def many(name, slots, count, users):
    """How often each moment of a stream is kept by as many users."""
    keys = jax.random.split(jax.random.key(5), users)
    empty = jax.vmap(partial(buffers.empty, slots=slots, dim=1))(keys)
    push = jax.jit(jax.vmap(partial(policies.push_all, policy=policies.POLICIES[name]), in_axes=(0, None)))
    after, told = push(empty, stream(0, count, dim=1))
    return np.bincount(np.asarray(after.arrival).ravel(), minlength=count), np.asarray(told.slot)


def test_a_reservoir_is_uniform():
    kept, slot = many("reservoir", 3, 12, 4000)
    assert kept.sum() == 3 * 4000
    assert chisquare(kept).pvalue > 0.01
    entered = (slot[:, 3:] != NOWHERE).mean(0)  # the t-th with probability 3 / t
    np.testing.assert_allclose(entered, 3 / np.arange(4, 13), atol=0.03)


def test_random_forgets():
    kept, slot = many("random", 3, 12, 4000)
    assert np.all(slot != NOWHERE)
    expected = 4000 * np.array([(2 / 3) ** 9] * 3 + [(2 / 3) ** (11 - each) for each in range(3, 12)])
    assert chisquare(kept, expected * kept.sum() / expected.sum()).pvalue > 0.01


def test_fifo_keeps_the_latest():
    after, _ = run(buffers.empty(KEY, 5, 6), stream(0, 43), policies.fifo)
    assert sorted(np.asarray(after.arrival).tolist()) == list(range(38, 43))


def same(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two)):
        a, b = (jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in (a, b))
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", policies.POLICIES)
def test_two_halves_are_the_whole_and_gaps_are_nothing(name):
    policy, items = policies.POLICIES[name], stream(2, 60)
    whole, told = run(buffers.empty(KEY, 5, 6), items, policy)
    half, first = run(buffers.empty(KEY, 5, 6), jax.tree.map(lambda leaf: leaf[:23], items), policy)
    both, second = run(half, jax.tree.map(lambda leaf: leaf[23:], items), policy)
    same(both, whole)
    same(jax.tree.map(lambda *parts: jnp.concatenate(parts), first, second), told)
    gaps = np.sort(np.random.default_rng(0).permutation(75)[:15])
    spread = jax.tree.map(lambda leaf: jnp.zeros((75, *leaf.shape[1:]), leaf.dtype).at[~np.isin(np.arange(75), gaps)].set(leaf), items)  # fmt: skip
    padded, said = run(buffers.empty(KEY, 5, 6), spread, policy)
    same(padded, whole)
    assert np.all(np.asarray(said.arrival)[gaps] == NOWHERE) and np.all(np.asarray(said.slot)[gaps] == NOWHERE)
    assert {REASONS[each] for each in np.asarray(said.reason)[gaps]} == {"no moment"}


@pytest.mark.parametrize("name", policies.POLICIES)
def test_many_users_at_once_are_each_alone_and_no_buffer_overflows(name):
    policy, users = policies.POLICIES[name], [stream(seed, 40) for seed in range(4)]
    keys = jax.random.split(KEY, 4)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *users)
    empty = jax.vmap(partial(buffers.empty, slots=5, dim=6))(keys)
    after, told = jax.jit(jax.vmap(partial(policies.push_all, policy=policy)))(empty, stacked)
    for user, items in enumerate(users):
        alone, said = run(buffers.empty(keys[user], 5, 6), items, policy)
        for number, (one, two) in enumerate(zip((after.arrival[user], told.slot[user], told.reason[user]), (alone.arrival, said.slot, said.reason))):  # fmt: skip
            np.testing.assert_array_equal(one, two, err_msg=str(number))
        np.testing.assert_allclose(told.scores.idd[user], said.scores.idd, atol=2e-6)
        held = np.asarray(alone.arrival)
        assert len(held) == 5 and len(set(held.tolist())) == 5 and np.all(held >= 0)
        replay = {}
        for decision in zip(*map(np.asarray, (said.arrival, said.slot, said.displaced)), strict=True):
            number, slot, displaced = map(int, decision)
            assert -1 <= slot < 5
            if slot >= 0:
                assert replay.get(slot, NOWHERE) == displaced
                replay[slot] = number
        assert replay == dict(enumerate(held.tolist()))


def test_a_push_is_traced_once():
    traced = Counter()
    for name, policy in policies.POLICIES.items():

        def push(buffer, item, name=name, policy=policy):
            traced[name] += 1
            return policy(buffer, item)

        push, buffer, items = jax.jit(push), buffers.empty(KEY, 3, 6), stream(0, 8)
        for number in range(8):
            buffer, _ = push(buffer, at(items, number))
    assert set(traced.values()) == {1} and len(traced) == len(policies.POLICIES)


def test_a_copy_has_no_dissimilarity():
    items = stream(0, 3)
    items = jax.tree.map(lambda leaf: jnp.stack([leaf[0]] * 3), items)
    _, told = run(buffers.empty(KEY, 3, 6), items, policies.all_three)
    np.testing.assert_allclose(told.scores.idd, [1, 0, 0], atol=1e-6)


@pytest.mark.parametrize("slots", [0, -1])
def test_a_buffer_holds_at_least_one(slots):
    with pytest.raises(ValueError, match=f"a buffer of {slots} moments: at least one is needed"):
        buffers.empty(KEY, slots, 4)


def test_records_are_what_they_say():
    buffer, told = run(buffers.empty(KEY, 4, 6), stream(0, 9), policies.fifo)
    assert isinstance(buffer, Buffer) and isinstance(told, Decision) and told.slot.shape == (9,)
    assert bool(jnp.all(buffer.held)) and int(buffer.seen) == 9

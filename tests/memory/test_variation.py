"""Retrieval under variation: the closed form against laws, an independent integral and brute force; keyed trials."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from nvcim_jax.core.similarity import aligned, aligned_mean, cosine_of_means, maxsim, mips, pairwise_mean, stored_wmsdp
from nvcim_jax.hardware.catalogue import RATIOS, device
from nvcim_jax.hardware.crossbar import write_cells, write_values
from nvcim_jax.hardware.devices import Device
from nvcim_jax.memory import monte_carlo, variation

NVM3 = device("NVM-3")
UNEVEN = Device(jnp.array([0.3, 1.5, 0.6, 1.0]))  # Table II is symmetric and would hide a reversed order
ALIGNED = partial(stored_wmsdp, reduce=aligned)
FIDELITIES = [(variation.value_law, write_values), (variation.cell_law, write_cells)]
wins = jax.jit(variation.win_probabilities)
win_table = jax.jit(variation.win_table, static_argnames=("score", "scales", "law"))
bank_law = jax.jit(variation.bank_law, static_argnames=("law",))
chip_law = jax.jit(variation.chip_law, static_argnames=("score",))
score_law = jax.jit(variation.score_law, static_argnames=("score",))


def bank_of(ovts, rows=4, dim=8, queries=12, seed=0):
    """Keys, queries near some of them, which slots are valid, and the OVT each query looks for."""
    a, b = jax.random.split(jax.random.key(seed))
    keys = jax.random.normal(a, (ovts, rows, dim))
    target = np.arange(queries) * 7 % ovts
    asked = 0.7 * keys[target] + jax.random.normal(b, (queries, rows, dim))
    return keys, asked, jnp.ones(ovts, bool), jnp.asarray(np.arange(ovts)[None] == target[:, None])


def by_dense_sum(mean, variance, points=400_001):
    """The same integral in float64 on a fine even grid, without any of the module's devices."""
    mean, std = np.asarray(mean, float), np.sqrt(np.asarray(variance, float))
    x = np.linspace((mean - 9 * std).min(), (mean + 9 * std).max(), points)
    below = [ndtr((x - m) / s) for m, s in zip(mean, std)]
    out = []
    for j, (m, s) in enumerate(zip(mean, std)):
        density = np.exp(-0.5 * ((x - m) / s) ** 2) / (s * np.sqrt(2 * np.pi))
        others = np.prod([b for i, b in enumerate(below) if i != j], axis=0)
        out.append(np.sum(density * others) * (x[1] - x[0]))
    return np.array(out)


def test_two_scores_by_hand():
    # N(1, 1/2) against N(0, 1/2): their difference is N(1, 1), above zero with probability Phi(1)
    np.testing.assert_allclose(wins(jnp.array([1.0, 0.0]), jnp.array([0.5, 0.5])), [0.8413447, 0.1586553], atol=1e-6)


def test_three_equal_scores_share():
    np.testing.assert_allclose(wins(jnp.full(3, 7.0), jnp.full(3, 2.0)), np.full(3, 1 / 3), atol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 1.0, 2.5])  # of the deviations, in powers of ten
def test_the_integral_against_a_dense_sum(spread):
    rng = np.random.default_rng(3)
    mean = rng.normal(size=9).astype(np.float32)
    variance = (10 ** rng.uniform(-spread, 0.3, 9)).astype(np.float32) ** 2
    np.testing.assert_allclose(wins(mean, variance), by_dense_sum(mean, variance), atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-50, 50, width=32), min_size=12, max_size=12),
    st.lists(st.floats(-3, 2), min_size=12, max_size=12),
    st.floats(-100, 100, width=32),
)
def test_somebody_wins_wherever_the_scores_lie(mean, log_std, shift):
    mean, variance = jnp.array(mean, jnp.float32), 10.0 ** (2 * jnp.array(log_std, jnp.float32))
    out = wins(mean, variance)
    assert abs(float(out.sum()) - 1) < 2e-3 and float(out.min()) >= 0
    moved = wins(2 * mean + shift, 4 * variance)
    np.testing.assert_allclose(moved, out, atol=2e-3)


def test_the_order_of_the_ovts_does_not_matter():
    mean, variance = jax.random.normal(jax.random.key(0), (2, 20))
    order = jax.random.permutation(jax.random.key(1), 20)
    out = wins(mean, variance**2)
    np.testing.assert_allclose(wins(mean[order], variance[order] ** 2), out[order], atol=1e-6)


def test_without_variance_the_largest_mean_wins_and_equals_share():
    np.testing.assert_allclose(wins(jnp.array([1.0, 3.0, 2.0]), jnp.zeros(3)), [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(wins(jnp.array([3.0, 3.0, 2.0]), jnp.zeros(3)), [0.5, 0.5, 0], atol=1e-5)
    np.testing.assert_allclose(wins(jnp.zeros(2), jnp.zeros(2)), [0.5, 0.5], atol=1e-5)
    np.testing.assert_allclose(wins(jnp.array([-2.0]), jnp.zeros(1)), [1], atol=1e-5)


def test_a_certain_score_among_uncertain_ones():
    # N(0, 1) beats the constant 0.5 with probability 1 - Phi(0.5)
    np.testing.assert_allclose(wins(jnp.array([0.0, 0.5]), jnp.array([1.0, 0.0])), [0.3085375, 0.6914625], atol=1e-4)


def test_slots_that_are_not_valid_never_win():
    out = wins(jnp.array([1.0, -jnp.inf, 0.0]), jnp.array([0.5, 0.0, 0.5]))
    np.testing.assert_allclose(out, [0.8413447, 0, 0.1586553], atol=1e-6)


@pytest.mark.parametrize(("law", "write"), FIDELITIES)
@pytest.mark.parametrize("of", [NVM3, UNEVEN], ids=["symmetric", "uneven"])
def test_the_law_of_a_read_is_that_of_the_write(law, write, of):
    from nvcim_jax.memory.programming import store

    values = jnp.linspace(-1, 1, 24).reshape(4, 6) ** 3
    reads = jax.vmap(lambda key: store(key, values, of, sigma=0.1, write=write))(
        jax.random.split(jax.random.key(0), 20_000)
    )
    said = law(values, of, sigma=0.1)
    std = np.sqrt(said.variance)
    assert np.all(np.abs(reads.mean(0) - said.mean) <= 4.5 * std / 20_000**0.5 + 1e-6)
    np.testing.assert_allclose(reads.std(0), std, rtol=4.5 / 40_000**0.5, atol=1e-7)


@pytest.mark.parametrize(("levels", "read_noise"), [(2, None), (8, 0.2), (16, None)])
def test_the_law_of_cells_of_any_levels(levels, read_noise):
    from nvcim_jax.memory.programming import store

    factors = jnp.linspace(0.0, 2.0, levels) ** 2  # each level varies as no other does
    of = Device(factors, read_noise=None if read_noise is None else jnp.float32(read_noise))
    values = jnp.linspace(-1, 1, 24).reshape(4, 6) ** 3
    each = jax.jit(jax.vmap(lambda key: store(key, values, of, sigma=0.1, write=write_cells)))
    reads = each(jax.random.split(jax.random.key(0), 5000))
    said = variation.cell_law(values, of, sigma=0.1)
    std = np.sqrt(said.variance)
    assert np.all(np.abs(reads.mean(0) - said.mean) <= 4.5 * std / 5000**0.5 + 1e-6)
    np.testing.assert_allclose(reads.std(0), std, rtol=4.5 / 10_000**0.5, atol=1e-7)


def test_eight_levels_by_hand():
    # a magnitude of 15 bits in 3-bit cells, places 8^4 to 1: 32767 is 77777, 4 is 00004
    upper = Device(jnp.array([0.0, 0, 0, 0, 0.9, 0.9, 0.9, 0.9]))
    law = variation.cell_law(jnp.array([[32767.0, 0.0, 3.0, -4.0]]), upper, sigma=0.1)
    expected = (0.1 * 0.9 * 7) ** 2 * np.array([sum(64**at for at in range(5)), 0, 0, 1])
    np.testing.assert_allclose(law.variance[0], expected, rtol=1e-5)


def test_stuck_cells_have_no_closed_form():
    stuck = NVM3._replace(stuck=jnp.array([0.1, 0.0]))
    with pytest.raises(ValueError, match="stuck cells.*--draws"):
        variation.cell_law(jnp.ones((1, 1)), stuck, sigma=0.1)


@pytest.mark.parametrize("reduce", [aligned, aligned_mean, pairwise_mean])
@pytest.mark.parametrize(("law", "write"), FIDELITIES)
def test_closed_form_against_brute_force(law, write, reduce):
    keys, queries, valid, right = bank_of(30)
    score = partial(stored_wmsdp, reduce=reduce)
    table = win_table(queries, keys, valid, UNEVEN, sigma=0.5, score=score, law=law)
    trial = partial(monte_carlo.retrieve_once, score=score, write=write)
    arguments = (queries, keys, valid, UNEVEN, jnp.float32(0.5))
    found = np.concatenate(list(monte_carlo.monte_carlo(jax.random.key(1), trial, arguments, draws=4000)))
    counted = (found[..., None] == np.arange(30)).mean(0)
    expected = float(variation.expected_accuracy(table, right).mean())
    table = np.clip(table, 0, 1)
    often = table * 4000 > 20  # counts of fewer are not nearly normal
    error = np.sqrt(table * (1 - table) / 4000) + 1e-5
    assert often.sum() > 30 and np.max((np.abs(counted - table) / error)[often]) < 4.5
    rare = table[~often].sum()
    assert abs(counted[~often].sum() - rare) < 4.5 * (rare / 4000) ** 0.5
    hits = np.asarray(right)[np.arange(12)[None], found].mean(1)
    assert abs(hits.mean() - expected) < 3 * hits.std() / 4000**0.5


@pytest.mark.parametrize(
    ("rows", "sigmas"),  # at which neither every question nor hardly any finds its OVT
    [
        pytest.param(2, (0.1, 0.2, 0.4), id="small"),
        pytest.param(16, (0.8, 1.6, 3.2), id="full", marks=pytest.mark.slow),
    ],
)
def test_200_ovts_five_devices_three_sigmas_20_000_draws(rows, sigmas):
    """Expected accuracy within 3 standard errors, every cell of the grid reading the same draws."""
    keys, queries, valid, right = bank_of(200, rows=rows, dim=3 * rows, queries=10)
    devices = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(device, RATIOS))
    over_grid = lambda f: jax.vmap(jax.vmap(f, (None, 0)), (0, None))(devices, jnp.array(sigmas))  # noqa: E731

    def table(of, sigma):
        return variation.win_table(queries, keys, valid, of, sigma=sigma, score=ALIGNED)

    def trial(key, queries, keys, right):
        def one(of, sigma):
            found = monte_carlo.retrieve_once(key, queries, keys, valid, of, sigma, score=ALIGNED)
            return jnp.mean(jnp.take_along_axis(right, found[:, None], axis=1))

        return over_grid(one)

    expected = jax.vmap(jax.vmap(lambda t: variation.expected_accuracy(t, right).mean()))(
        jax.jit(over_grid, static_argnums=0)(table)
    )
    hits = np.concatenate(
        list(monte_carlo.monte_carlo(jax.random.key(1), trial, (queries, keys, right), draws=20_000, chunk=4000))
    )
    error = np.maximum(hits.std(0) / 20_000**0.5, 1 / 20_000)  # what no draw has shown may still be that frequent
    off = np.abs(hits.mean(0) - expected) / error
    assert hits.shape == (20_000, 5, 3) and 0.02 < float(expected.min()) < 0.98
    assert np.max(off) < 3, off


def test_a_chip_has_the_covariance_of_its_cells():
    keys, queries, valid, _ = bank_of(3, queries=4)
    queries = queries.at[3].set(queries[0])  # a repeated question
    copies = bank_law(keys, UNEVEN, sigma=0.3)
    law = chip_law(queries, copies, valid, score=ALIGNED)
    scores = jax.vmap(variation.chip_scores, (0, None))(jax.random.split(jax.random.key(0), 20_000), law)
    np.testing.assert_allclose(scores[..., 3, :], scores[..., 0, :], atol=2e-3)  # reads the same noise

    def by_cells(key):
        from nvcim_jax.memory.programming import program

        stored = program(key, keys, keys, valid, UNEVEN, sigma=0.3)
        return jax.vmap(lambda q: jax.vmap(lambda *c: ALIGNED(q, c))(*stored.keys))(queries)

    reads = np.concatenate(list(monte_carlo.monte_carlo(jax.random.key(2), by_cells, draws=20_000)))
    for ovt in range(3):
        ours, theirs = np.cov(scores[..., ovt].T), np.cov(reads[..., ovt].T)
        scale = np.sqrt(np.outer(np.diag(theirs), np.diag(theirs)))
        assert np.max(np.abs(ours - theirs) / scale) < 4.5 * 2**0.5 / 20_000**0.5
        across = np.corrcoef(scores[..., 0, 0], scores[..., 0, ovt])[0, 1]
        assert ovt == 0 or abs(across) < 4.5 / 20_000**0.5  # OVTs are independent


@pytest.mark.parametrize("law", [variation.value_law, variation.cell_law])
def test_the_marginal_of_a_chip_is_the_law_of_one_query(law):
    keys, queries, valid, _ = bank_of(6, queries=5)
    copies = bank_law(keys, NVM3, sigma=0.2, law=law)
    chips = chip_law(queries, copies, valid.at[2].set(False), score=ALIGNED)
    for at, query in enumerate(queries):
        one = score_law(query, copies, valid.at[2].set(False), score=ALIGNED)
        np.testing.assert_allclose(chips.mean[:, at], one.mean, rtol=1e-5, atol=1e-5)
        spread = np.sum(np.asarray(chips.root)[:, at] ** 2, axis=1)
        np.testing.assert_allclose(spread[valid.at[2].set(False)], one.variance[valid.at[2].set(False)], rtol=1e-3)


def test_gradients_are_those_of_finite_differences():
    keys, queries, valid, right = bank_of(10, queries=4)

    def accuracy(sigma, weights, keys):
        def score(query, copies):
            return sum(w * aligned(query[: c.shape[0]], c) for w, c in zip(weights, copies))

        copies = variation.bank_law(keys, NVM3, sigma=sigma)
        laws = jax.vmap(lambda query: variation.score_law(query, copies, valid, score=score))(queries)
        return variation.expected_accuracy(jax.vmap(variation.win_probabilities)(*laws), right).mean()

    point = (jnp.float32(0.4), jnp.array([1.0, 0.8, 0.6]), keys)
    slopes = jax.jit(jax.grad(accuracy, argnums=(0, 1, 2)))(*point)
    assert all(bool(jnp.all(jnp.isfinite(slope))) for slope in slopes) and abs(float(slopes[0])) > 1e-3
    value, step = jax.jit(accuracy), 1e-2
    high, low = value(point[0] + step, *point[1:]), value(point[0] - step, *point[1:])
    np.testing.assert_allclose(slopes[0], (high - low) / (2 * step), rtol=0.02)
    for at in range(3):
        high, low = (value(point[0], point[1].at[at].add(sign * step), keys) for sign in (1, -1))
        np.testing.assert_allclose(slopes[1][at], (high - low) / (2 * step), rtol=0.03, atol=2e-4)
    assert float(jnp.abs(slopes[2]).max()) > 1e-3  # a key can be moved where it is found more often


@pytest.mark.parametrize("variance", [0.0, 1e-12, 1.0])
def test_gradients_are_finite_at_the_edges(variance):
    mean = jnp.array([1.0, -jnp.inf, 0.0, 1.0])
    slopes = jax.jit(jax.grad(lambda m, v: variation.win_probabilities(m, v)[0], (0, 1)))(mean, jnp.full(4, variance))
    assert all(bool(jnp.all(jnp.isfinite(slope))) for slope in slopes)


def test_more_variation_finds_less():
    keys, queries, valid, right = bank_of(40)
    table = lambda s: win_table(queries, keys, valid, NVM3, sigma=s, score=ALIGNED)  # noqa: E731
    found = [float(variation.expected_accuracy(table(sigma), right).mean()) for sigma in (0.0, 0.2, 0.5, 2.0)]
    assert found == sorted(found, reverse=True) and found[0] > found[-1] + 0.2


@pytest.mark.parametrize("score", [partial(mips, reduce=maxsim), partial(mips, reduce=cosine_of_means)])
def test_a_score_that_is_not_linear_is_refused(score):
    keys, queries, valid, _ = bank_of(5)
    over_copies = lambda query, copies: score(query, copies[0])  # noqa: E731
    with pytest.raises(ValueError, match="not linear.*monte_carlo"):
        variation.win_table(queries, keys, valid, NVM3, sigma=0.1, score=over_copies)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_bits_of_a_trial_do_not_depend_on_the_chunk(chunk):
    keys, queries, valid, _ = bank_of(10)

    def trial(key, keys):
        return {"found": monte_carlo.retrieve_once(key, queries, keys, valid, NVM3, jnp.float32(0.5), score=ALIGNED),
                "read": write_values(key, (1000 * keys[0]).astype(jnp.int16), NVM3, sigma=0.1)}  # fmt: skip

    run = partial(monte_carlo.monte_carlo, jax.random.key(3), trial, (keys,), draws=100)
    parts, whole = list(run(chunk=chunk)), next(iter(run(chunk=100)))
    assert len(parts) == -(-100 // chunk)
    for name in whole:
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole[name])
    assert len(np.unique(whole["read"], axis=0)) == 100  # every trial has a draw of its own


def test_a_study_is_resumed_where_it_stopped():
    trial = lambda key: jax.random.normal(key, (3,))  # noqa: E731
    run = partial(monte_carlo.monte_carlo, jax.random.key(0), trial)
    first = next(iter(run(draws=1000, chunk=40)))  # 40 of 1000 are finished, then the run is broken off
    rest = list(run(draws=100, chunk=33, start=40))
    whole = np.concatenate(list(run(draws=100)))
    np.testing.assert_array_equal(np.concatenate([first, *rest]), whole)
    assert list(run(draws=40, start=40)) == []


def test_chunks_of_one_length_share_a_program():
    traces = []

    def trial(key, x):
        traces.append(1)
        return x * jax.random.normal(key)

    for value in (1.0, 2.0):
        list(monte_carlo.monte_carlo(jax.random.key(0), trial, (jnp.float32(value),), draws=50, chunk=8))
    assert len(traces) <= 2  # its shape, and its program


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: list(monte_carlo.monte_carlo(jax.random.key(0), lambda key: key, draws=0)), "0 draws"),
        (lambda: list(monte_carlo.monte_carlo(jax.random.key(0), lambda key: key, draws=9, chunk=0)), "chunks of 0"),
        (lambda: variation.win_probabilities(jnp.zeros(0), jnp.zeros(0)), "at least one OVT"),
        (lambda: variation.bank_law(jnp.ones((2, 129, 48)), NVM3, sigma=0.1), "at most 128"),
        (lambda: variation.bank_law(jnp.ones((2, 16, 49)), NVM3, sigma=0.1), "49 dimensions"),
    ],
)
def test_bad_input_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()

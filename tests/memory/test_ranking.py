"""The closed form of rankings: by hand, against drawn scores, and its laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.memory import ranking, variation

THREE = jnp.array([0.5, 0.4, 0.3]), jnp.full(3, 0.01)


def test_three_scores_by_hand():
    first = ranking.rank_probabilities(*THREE, k=1)[:, 0]
    np.testing.assert_allclose(first, [0.72875, 0.22410, 0.04715], atol=2e-5)
    np.testing.assert_allclose(ranking.top_probabilities(*THREE, k=2), [0.95285, 0.77590, 0.27125], atol=2e-5)


@pytest.fixture(scope="module")
def many():
    keys = jax.random.split(jax.random.key(0), 3)
    mean = jax.random.normal(keys[0], (23,))
    variance = jax.random.uniform(keys[1], (23,), minval=1e-3, maxval=0.6)
    return mean.at[4].set(-jnp.inf), variance, jax.random.bernoulli(keys[2], 0.3, (23,)).at[4].set(False)


def test_every_rank_is_taken_by_somebody(many):
    ranks = ranking.rank_probabilities(*many[:2], k=7)
    np.testing.assert_allclose(ranks.sum(0), 1, atol=1e-5)
    assert not ranks[4].any() and float(ranks.min()) >= 0


def test_all_documents_are_among_all():
    np.testing.assert_allclose(ranking.top_probabilities(*THREE, k=3), 1, atol=1e-5)


def test_the_first_rank_is_the_probability_to_win(many):
    wins = variation.win_probabilities(*many[:2])
    np.testing.assert_allclose(ranking.rank_probabilities(*many[:2], k=3)[:, 0], wins, atol=1e-5)


@pytest.mark.parametrize("k", [1, 5])
def test_expected_worth_against_drawn_rankings(many, k):
    mean, variance, right = many
    drawn = mean[None] + jnp.sqrt(variance)[None] * jax.random.normal(jax.random.key(1), (40_000, 23))
    order = jax.lax.top_k(drawn, k)[1]
    ours = ranking.expected(mean, variance, right, k=k)
    theirs = ranking.measured(order, right)
    for name, one, other in zip(ours._fields, ours, theirs, strict=True):
        assert float(one) == pytest.approx(float(other), abs=3 * 0.5 / 200), name  # 3 standard errors at most


def test_without_variance_the_ranking_is_that_of_the_means():
    mean, right = jnp.array([0.1, 0.9, 0.5, 0.7]), jnp.array([True, False, True, False])
    worth = ranking.expected(mean, jnp.zeros(4), right, k=3)
    np.testing.assert_allclose(
        ranking.rank_probabilities(mean, jnp.zeros(4), k=3)[:, :2], [[0, 0], [1, 0], [0, 0], [0, 1]], atol=5e-4
    )
    # ranks: 1, 3, 2, 0: of the two right ones the third place is found
    wanted = (1, 0.5, 1 / 3, 0.5 / (1 + 1 / np.log2(3)), 1 / 3)
    np.testing.assert_allclose(list(worth), wanted, atol=5e-4)


def test_of_two_right_documents_the_first_counts():
    """Of three alike, two are right: two of them hold a right one for sure, first with 2/3, else second."""
    worth = ranking.expected(jnp.zeros(3), jnp.ones(3), jnp.array([True, True, False]), k=2)
    assert float(worth.success) == pytest.approx(1, abs=1e-4)
    assert float(worth.mrr) == pytest.approx(2 / 3 + 1 / 3 / 2, abs=1e-4)
    assert float(worth.recall) == pytest.approx(2 / 3, abs=1e-4)


def test_a_question_without_a_right_document_is_worth_nothing():
    worth = ranking.expected(*THREE, jnp.zeros(3, bool), k=2)
    assert [float(each) for each in worth] == [0] * 5


def test_gradients_are_those_of_finite_differences():
    right = jnp.array([False, True, True])

    def value(mean, scale):
        return sum(ranking.expected(mean, scale * THREE[1], right, k=2)[1:])

    slope_mean, slope_scale = jax.grad(value, argnums=(0, 1))(THREE[0], jnp.float32(1))
    step = 0.02
    for at in range(3):
        move = jnp.zeros(3).at[at].set(step)
        wanted = (value(THREE[0] + move, 1.0) - value(THREE[0] - move, 1.0)) / (2 * step)
        assert float(slope_mean[at]) == pytest.approx(float(wanted), abs=0.03)
    wanted = (value(THREE[0], 1.1) - value(THREE[0], 0.9)) / 0.2
    assert float(slope_scale) == pytest.approx(float(wanted), abs=0.01)


@pytest.mark.parametrize("k", [0, 4])
def test_a_k_that_cannot_be_filled_is_refused(k):
    with pytest.raises(ValueError, match=f"k = {k}, but there are 3 documents"):
        ranking.rank_probabilities(*THREE, k=k)


def test_narrow_scores_far_apart_are_resolved():
    """Deviations of a hundredth of the spread: the quadrature must not step over them."""
    mean = jax.random.normal(jax.random.key(3), (60,))
    ranks = ranking.rank_probabilities(mean, jnp.full(60, 1e-4), k=10)
    np.testing.assert_allclose(ranks.sum(0), 1, atol=1e-3)
    order = jnp.argsort(-mean)
    clear = jnp.flatnonzero(jnp.abs(jnp.diff(mean[order]))[:10] > 0.1)
    assert clear.size and bool((ranks[order[: int(clear[-1]) + 1]].sum(1) > 0.999).all())

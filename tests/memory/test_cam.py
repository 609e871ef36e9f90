"""Content-addressable search: a distance that saturates, sensing with a limit, its probabilities, merging."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.memory.cam import cam_distance, merged, sensed, sensed_probabilities
from nvcim_jax.memory.variation import win_probabilities

KEY, DRAWS = jax.random.key(0), 40_000
chances = jax.jit(sensed_probabilities)


def test_a_distance_by_hand():
    stored = jnp.array([[0.0, 1.0, 3.0], [2.0, 2.0, 2.0]])
    np.testing.assert_allclose(cam_distance(jnp.array([0, 1, 0]), stored, most=2.0), [4, 4 + 1 + 4])
    np.testing.assert_allclose(cam_distance(jnp.array([0, 1, 0]), stored, most=9.0), [9, 9])
    with pytest.raises(ValueError, match="saturate at 0 levels"):
        cam_distance(jnp.array([0, 1, 0]), stored, most=0.0)


def test_rows_within_the_limit_are_taken_alike_and_no_others():
    scores = jnp.array([1.0, 0.95, 0.8, -jnp.inf])
    taken = jax.vmap(lambda key: sensed(key, scores, 0.1))(jax.random.split(KEY, 4000))
    share = np.bincount(taken, minlength=4) / 4000
    assert abs(share[0] - 0.5) < 0.04 and share[2] == share[3] == 0
    assert int(sensed(KEY, scores, 0.0)) == 0


def test_merging_finds_the_array_and_the_row():
    scores = jnp.array([[0.1, 0.5], [0.9, 0.2], [0.3, 0.4]])
    assert tuple(map(int, merged(KEY, scores, 0.0))) == (1, 0)


@pytest.mark.parametrize("limit", [0.2, 1.0])
def test_the_chances_are_those_of_draws(limit):
    mean, std = jnp.array([0.0, 0.3, -0.4, 0.1, -jnp.inf]), jnp.array([0.3, 0.5, 0.2, 0.4, 1.0])
    found = np.asarray(chances(mean, std**2, limit))
    drawn = np.random.default_rng(0).normal(size=(DRAWS, 4)) * np.asarray(std[:4]) + np.asarray(mean[:4])
    alike = drawn >= drawn.max(1, keepdims=True) - limit
    share = (alike / alike.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(found[:4], share, atol=0.007)
    assert found[4] == 0 and abs(found.sum() - 1) < 1e-3


def test_without_a_limit_they_are_the_chances_to_win_and_with_a_wide_one_all_are_alike():
    mean, variance = jnp.array([0.0, 0.3, -0.4]), jnp.array([0.1, 0.2, 0.05])
    np.testing.assert_allclose(chances(mean, variance, 0.0), win_probabilities(mean, variance), atol=1e-4)
    np.testing.assert_allclose(chances(mean, variance, 50.0), np.full(3, 1 / 3), atol=1e-3)

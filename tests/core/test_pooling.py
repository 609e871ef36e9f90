"""Pooling and resampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.pooling import avg_pool, pyramid, resample

ROWS = jnp.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]])


def test_the_tutorials_example():
    np.testing.assert_array_equal(avg_pool(ROWS, 2), [[1.5, 1.5], [3.5, 3.5]])
    np.testing.assert_array_equal(avg_pool(ROWS, 4), [[2.5, 2.5]])
    np.testing.assert_array_equal(avg_pool(ROWS, 1), ROWS)


def test_a_ragged_tail_is_the_mean_of_what_it_holds():
    np.testing.assert_allclose(avg_pool(ROWS, 3), [[2.0, 2.0], [4.0, 4.0]], rtol=1e-6)


def test_the_pyramid_has_one_level_per_scale():
    assert [level.shape for level in pyramid(ROWS)] == [(4, 2), (2, 2), (1, 2)]


def test_no_scale_below_one():
    with pytest.raises(ValueError, match="scale of 0"):
        avg_pool(ROWS, 0)


def test_resampling_to_the_same_length_changes_nothing():
    np.testing.assert_allclose(resample(ROWS, 4), ROWS, rtol=1e-6)


def test_resampling_by_hand():
    np.testing.assert_allclose(resample(ROWS, 2), [[1.5, 1.5], [3.5, 3.5]], rtol=1e-6)
    np.testing.assert_allclose(resample(ROWS[:3], 2)[:, 0], [(1 + 2 / 2) / 1.5, (2 / 2 + 3) / 1.5], rtol=1e-6)
    np.testing.assert_allclose(resample(ROWS[:1], 3), [[1.0, 1.0]] * 3, rtol=1e-6)


@pytest.mark.parametrize("length", [1, 3, 7, 16, 23])
def test_resampling_keeps_the_mean_and_ignores_the_padding(length):
    x = jax.random.normal(jax.random.key(length), (23, 5))
    out = resample(x, 16, length=length)
    np.testing.assert_allclose(out.mean(0), x[:length].mean(0), atol=1e-6)
    np.testing.assert_allclose(out, resample(x[:length], 16), atol=1e-6)

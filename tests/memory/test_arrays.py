"""Vectors over several arrays: what shares a largest value, and how many arrays that takes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.quantise import Layout, least_error_step, peak_step, to_codes
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.crossbar import Tile
from nvcim_jax.memory import arrays, programming

KEY, TILE = jax.random.key(0), Tile(12, 3)  # three values of eight bits down, three vectors across
VECTORS = jax.random.normal(jax.random.key(1), (7, 8))
BYTE = Layout(bits=8)
by_array = partial(arrays.each_array, layout=BYTE, tile=TILE)


def peak(key, matrix):
    return jnp.full(matrix.shape, jnp.max(jnp.abs(matrix)))


@pytest.mark.parametrize("cut", [arrays.each_vector, by_array])
def test_what_is_cut_is_joined_again(cut):
    np.testing.assert_array_equal(cut(KEY, lambda key, matrix: matrix, VECTORS), VECTORS)


def test_a_largest_value_for_each_vector():
    np.testing.assert_array_equal(arrays.each_vector(KEY, peak, VECTORS)[:, 0], jnp.abs(VECTORS).max(axis=1))


def test_a_largest_value_for_each_array():
    found = np.asarray(by_array(KEY, peak, VECTORS))
    for down, across in ((0, 0), (3, 3), (6, 6)):
        part = np.s_[across : across + 3, down : down + 3]
        np.testing.assert_array_equal(found[part], np.abs(VECTORS[part]).max())


def test_a_vectors_draw_depends_on_its_place_alone():
    store = partial(programming.store, device=device("NVM-3"), sigma=0.1, bits=8)
    whole = arrays.each_vector(KEY, store, VECTORS)
    np.testing.assert_array_equal(arrays.each_vector(KEY, store, VECTORS[:4]), whole[:4])


def test_how_many_arrays_vectors_take():
    assert (
        arrays.arrays(100, 64, layout=Layout(bits=8, sign="offset"), tile=Tile(64, 64)) == 4 * 2
    )  # of RoCR's 8 x 64 x 64
    assert arrays.arrays(100, 384, layout=Layout(bits=8, sign="offset"), tile=Tile(64, 64)) == 48
    assert arrays.arrays(128, 96, layout=BYTE) == 2  # above zero and below
    assert arrays.arrays(129, 97, layout=BYTE) == 2 * 2 * 2


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_step_of_least_error_errs_no_more_than_that_of_the_peak(bits):
    for row in VECTORS:
        errors = []
        for step in (least_error_step, peak_step):
            codes = to_codes(row[None], bits=bits, step=step)
            errors.append(float(jnp.sum((codes.integers * codes.step - row[None]) ** 2)))
        assert errors[0] <= errors[1] + 1e-6


def test_one_bit_is_the_sign_and_two_are_three_values():
    row = jnp.array([[0.5, -0.1, 0.3, -0.9]])
    one, two = (to_codes(row, bits=bits, step=least_error_step) for bits in (1, 2))
    np.testing.assert_array_equal(one.integers, [[1, -1, 1, -1]])
    assert float(one.step) == pytest.approx(0.45)  # the mean magnitude
    assert set(np.asarray(two.integers).ravel().tolist()) <= {-1, 0, 1}


def test_zeros_are_stored_as_zeros():
    found = to_codes(jnp.zeros((1, 3)), bits=4, step=least_error_step)
    assert not found.integers.any() and float(found.step) > 0

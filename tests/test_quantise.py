"""Codes and cell levels."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvcim_jax.quantise import Codes, from_codes, from_levels, slices, to_codes, to_levels


def test_the_largest_value_takes_the_largest_code():
    codes = to_codes(jnp.array([[0.5, -2.0, 0.0]]))
    np.testing.assert_array_equal(codes.integers, [[8192, -32767, 0]])
    assert float(codes.step) == pytest.approx(2 / 32767)


def test_zeros_stay_zero():
    codes = to_codes(jnp.zeros((2, 2)))
    np.testing.assert_array_equal(from_codes(codes), 0)


@settings(deadline=None)  # the first example compiles
@given(st.lists(st.floats(-100, 100, width=32), max_size=20).map(lambda values: [*values, 1.0]))
def test_rounding_is_off_by_half_a_step_at_most(values):
    values = jnp.array([values], jnp.float32)
    codes = to_codes(values)
    assert np.all(np.abs(np.asarray(from_codes(codes) - values)) <= 0.5001 * float(codes.step) + 1e-6)


def test_levels_by_hand():
    # -32768 + 0b11_01_00_00_00_00_00_10 = -32768 + 53250
    np.testing.assert_array_equal(to_levels(jnp.array([[20482]], jnp.int16))[0, 0], [3, 1, 0, 0, 0, 0, 0, 2])


def test_levels_come_back_exactly_over_the_whole_range():
    integers = jnp.arange(-32768, 32768, dtype=jnp.int32).astype(jnp.int16).reshape(256, 256)
    np.testing.assert_array_equal(from_levels(to_levels(integers)), integers.astype(jnp.float32))


@pytest.mark.parametrize("cell_bits", [1, 2, 4, 8])
def test_other_cells(cell_bits):
    integers = jnp.array([[-128, -1, 0, 1, 127]], jnp.int16)
    levels = to_levels(integers, bits=8, cell_bits=cell_bits)
    assert levels.shape == (1, 5, 8 // cell_bits) and levels.max() < 2**cell_bits
    np.testing.assert_array_equal(from_levels(levels, bits=8, cell_bits=cell_bits), integers.astype(jnp.float32))


def test_cells_must_divide_the_code():
    with pytest.raises(ValueError, match="do not cut"):
        slices(16, 3)
    with pytest.raises(ValueError, match="2 to 16"):
        to_codes(jnp.ones((1, 1)), bits=17)


def test_codes_is_a_record():
    assert Codes._fields == ("integers", "step")

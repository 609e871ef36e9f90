"""Codes and cell levels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvcim_jax.core.quantise import (
    DIFFERENTIAL,
    OFFSET_BINARY,
    SIGN_MAGNITUDE,
    Codes,
    Layout,
    check_codes,
    from_codes,
    from_levels,
    signs_of,
    to_codes,
    to_levels,
)


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


def there_and_back(integers, layout):
    return from_levels(to_levels(integers, layout), layout, signs_of(integers, layout))


def test_a_magnitude_by_hand():
    # 2 x 20482 = 40964 = 0b10_10_00_00_00_00_01_00, each cell worth half of its place, the sign beside it
    codes = jnp.array([[20482, -20482, 32767, 0, -1]], jnp.int16)
    levels = to_levels(codes)[0]
    np.testing.assert_array_equal(levels[0], [2, 2, 0, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(levels[1], levels[0])
    np.testing.assert_array_equal(levels[2:], [[3] * 7 + [2], [0] * 8, [0] * 7 + [2]])  # the largest fills the cells
    np.testing.assert_array_equal(signs_of(codes), [[1, -1, 1, 1, -1]])
    assert SIGN_MAGNITUDE.places == (8192, 2048, 512, 128, 32, 8, 2, 0.5) and SIGN_MAGNITUDE.limits == (-32767, 32767)


def test_offset_binary_by_hand():
    # -32768 + 0b11_01_00_00_00_00_00_10 = -32768 + 53250
    found = to_levels(jnp.array([[20482]], jnp.int16), OFFSET_BINARY)
    np.testing.assert_array_equal(found[0, 0], [3, 1, 0, 0, 0, 0, 0, 2])


def test_a_differential_pair_by_hand():
    # 6 = 0b01_10; the other run of cells stays empty
    layout = Layout(bits=5, cell_bits=2, sign="pair")
    np.testing.assert_array_equal(to_levels(jnp.array([[6, -6, 0]]), layout)[0], [[1, 2, 0, 0], [0, 0, 1, 2], [0] * 4])
    assert layout.places == (4, 1, -4, -1) and DIFFERENTIAL.limits == (-32767, 32767)


@pytest.mark.parametrize("layout", [SIGN_MAGNITUDE, OFFSET_BINARY, DIFFERENTIAL], ids=lambda layout: layout.sign)
def test_levels_come_back_exactly_over_the_whole_range(layout):
    integers = jnp.arange(layout.limits[0], 32768, dtype=jnp.int32)[None]
    np.testing.assert_array_equal(there_and_back(integers, layout), integers.astype(jnp.float32))


@pytest.mark.parametrize("sign", ["digital", "offset", "pair"])
@pytest.mark.parametrize("bits, cell_bits", [(8, 1), (8, 2), (8, 8), (5, 2), (7, 3), (2, 1), (2, 2), (16, 5), (24, 4)])
def test_codes_of_any_width_in_cells_of_any_width(bits, cell_bits, sign):
    layout = Layout(bits=bits, cell_bits=cell_bits, sign=sign)
    low, high = layout.limits
    integers = jnp.unique(jnp.linspace(low, high, 999).astype(jnp.int32))[None]
    levels = to_levels(integers, layout)
    held, runs = bits - (sign != "offset"), 1 + (sign == "pair")
    assert levels.shape[-1] == len(layout.places) == -(-held // cell_bits) * runs
    assert levels.min() == 0 and levels.max() <= layout.full == 2**cell_bits - 1
    np.testing.assert_array_equal(there_and_back(integers, layout), integers.astype(jnp.float32))


def test_bad_layouts_and_codes_are_refused():
    with pytest.raises(ValueError, match="1 bits: 2 to 24"):
        Layout(bits=1)
    with pytest.raises(ValueError, match="9-bit cells: 1 to 8"):
        Layout(cell_bits=9)
    with pytest.raises(ValueError, match="a sign held by 'magic': digital, offset or pair"):
        Layout(sign="magic")
    with pytest.raises(ValueError, match="a sign held by 'digital' and no signs"):
        from_levels(jnp.zeros((1, 1, 8)))
    with pytest.raises(ValueError, match="a sign held by 'offset' and signs"):
        from_levels(jnp.zeros((1, 1, 8)), OFFSET_BINARY, jnp.ones((1, 1), jnp.int8))
    with pytest.raises(ValueError, match="1 to 16"):
        to_codes(jnp.ones((1, 1)), bits=17)
    with pytest.raises(ValueError, match="code 128 lies outside -127 to 127"):
        to_levels(jnp.array([[3, 128]]), Layout(bits=8))
    with pytest.raises(ValueError, match=r"empty matrix.*\(0, 48\)"):
        check_codes(jnp.zeros((0, 48), jnp.int16), -1, 1)
    with pytest.raises(ValueError, match="1 NaN"):
        to_codes(jnp.array([[1.0, jnp.nan]]))


def test_a_constant_inside_a_trace_is_coded_and_checked():
    one, broken = jnp.array([[1.0, -0.5]]), jnp.array([[1.0, jnp.inf]])
    np.testing.assert_array_equal(jax.jit(lambda x: x * to_codes(one).integers)(1), [[32767, -16384]])
    with pytest.raises(ValueError, match="1 NaN or infinite"):
        jax.jit(lambda x: x * to_codes(broken).integers)(1)


@pytest.mark.parametrize(("sign", "lowest"), [("digital", -127), ("offset", -128), ("pair", -127)])
def test_under_a_trace_codes_saturate(sign, lowest):
    round_trip = jax.jit(lambda x: there_and_back(x, Layout(bits=8, sign=sign)))
    np.testing.assert_array_equal(round_trip(jnp.array([[300, -300, 5]])), [[127, lowest, 5]])


def test_codes_is_a_record():
    assert Codes._fields == ("integers", "step")

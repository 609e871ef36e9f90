"""Converters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.hardware.adc import Adc, Traced, ideal


def test_by_hand():
    # two bits for 0 to 6: 0, 2, 4, 6
    np.testing.assert_allclose(Adc(2, top=6.0)(jnp.array([-3.0, 0.9, 1.1, 4.9, 5.1, 80.0]), 9), [0, 0, 2, 4, 6, 6])


@pytest.mark.parametrize("bits, exact", [(7, False), (8, True), (12, True)])
def test_enough_bits_pass_whole_levels_exactly(bits, exact):
    sums = jnp.arange(145.0)
    assert bool(jnp.all(Adc(bits)(sums, 144) == sums)) == exact
    assert float(Adc(bits)(sums, 144).max()) == pytest.approx(144)


def test_ideal_is_the_identity():
    sums = jnp.array([-1.5, 1e9])
    np.testing.assert_array_equal(ideal(sums, 3), sums)


def test_the_gradient_is_that_of_the_clip():
    slope = jax.grad(lambda x: jnp.sum(Adc(3, top=7.0)(x, 7)))(jnp.array([-1.0, 0.4, 6.6, 9.0]))
    np.testing.assert_array_equal(slope, [0, 1, 1, 0])


def test_a_range_that_holds_nothing_is_refused():
    with pytest.raises(ValueError, match="range 0 to 0.0: the top must be above zero"):
        Adc(4, top=0.0)
    with pytest.raises(ValueError, match="range 0 to nan"):
        Adc(4, top=float("nan"))
    with pytest.raises(ValueError, match="0 bits.*`ideal`"):
        Adc(0)


def traced(bits, share=1.0, *, saturates=True, rounds=True):
    return Traced(jnp.float32(2**bits - 1), jnp.float32(share), jnp.array(saturates), jnp.array(rounds))


@pytest.mark.parametrize("bits", [1, 4, 8, 12])
def test_a_converter_as_arrays_is_the_converter(bits):
    sums = jnp.linspace(-5, 160, 331)
    np.testing.assert_allclose(traced(bits)(sums, 144), Adc(bits)(sums, 144), rtol=1e-6)


def test_each_error_alone_by_hand():
    # two bits over half of 0 to 12 are steps of 2 up to 6
    sums = jnp.array([-1.0, 2.9, 3.1, 6.9, 9.1])
    np.testing.assert_allclose(traced(2, 0.5)(sums, 12), [0, 2, 4, 6, 6])
    np.testing.assert_allclose(traced(2, 0.5, rounds=False)(sums, 12), [0, 2.9, 3.1, 6, 6])
    np.testing.assert_allclose(traced(2, 0.5, saturates=False)(sums, 12), [0, 2, 4, 6, 10])  # -0.5 rounds to even
    np.testing.assert_array_equal(traced(2, 0.5, saturates=False, rounds=False)(sums, 12), sums)

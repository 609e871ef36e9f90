"""IR drop to first order, against Kirchhoff's equations of the whole network."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.quantise import OFFSET_BINARY
from nvcim_jax.hardware.crossbar import Matrix, Tile, multiply
from nvcim_jax.hardware.devices import Device
from nvcim_jax.hardware.wires import lost_to_wires

ONE = Device(jnp.ones(4), conductance_us=jnp.array([2.0, 150.0]))
RANDOM = np.random.default_rng(0)
LEVELS = RANDOM.integers(0, 4, (5, 6))  # rows, columns
FIRED = np.array([1.0, 0, 1, 1, 1])


def solved(ohm, levels, fired, below=0):
    """Column currents of the full network at one volt, in levels: every wire segment is a resistor."""
    rows, columns = levels.shape
    siemens = 1e-6 * (2 + levels / 3 * 148) * fired[:, None]
    word, bit = (np.arange(rows * columns).reshape(rows, columns) + at * rows * columns for at in (0, 1))
    matrix, source = np.zeros((2 * rows * columns,) * 2), np.zeros(2 * rows * columns)

    def resistor(a, b, conductance):
        for one, other in ((a, b), (b, a)):
            matrix[one, one] += conductance
            matrix[one, other] -= conductance

    for i in range(rows):
        matrix[word[i, 0], word[i, 0]] += 1 / ohm
        source[word[i, 0]] += fired[i] / ohm
        for j in range(columns):
            resistor(word[i, j], bit[i, j], siemens[i, j])
            if j + 1 < columns:
                resistor(word[i, j], word[i, j + 1], 1 / ohm)
            if i + 1 < rows:
                resistor(bit[i, j], bit[i + 1, j], 1 / ohm)
    out = 1 / (ohm * (1 + below))
    matrix[bit[-1], bit[-1]] += out
    volts = np.linalg.solve(matrix, source)
    return (volts[bit[-1]] * out - 2e-6 * fired.sum()) / 148e-6 * 3


def first_order(ohm, levels, fired):
    held = jnp.array(levels.T[:, None, :, None], jnp.float32)
    missing = lost_to_wires(jnp.array(fired[None, None], jnp.float32), held, ONE, ohm=ohm, columns=128)
    return fired @ levels - np.asarray(missing)[0, 0, 0]


def test_halving_the_wires_resistance_quarters_what_the_first_order_misses():
    errors = [np.abs(first_order(ohm, LEVELS, FIRED) - solved(ohm, LEVELS, FIRED)) for ohm in (20.0, 10.0)]
    drop = np.abs(solved(20.0, LEVELS, FIRED) - FIRED @ LEVELS)
    assert np.all(errors[0] < 0.3 * drop)
    np.testing.assert_allclose(errors[0] / errors[1], 4, rtol=0.15)


def test_a_place_far_from_the_sense_amplifier_has_the_rows_below_in_its_way():
    held = jnp.array(np.stack([LEVELS.T, 0 * LEVELS.T], axis=-1)[:, None], jnp.float32)
    bits = jnp.array(FIRED[None, None], jnp.float32)
    missing = np.asarray(lost_to_wires(bits, held, ONE, ohm=1.0, columns=128))[0, 0, 0]
    np.testing.assert_allclose(FIRED @ LEVELS - missing, solved(1.0, LEVELS, FIRED, below=5), rtol=2e-3)


def test_each_tile_across_has_drivers_of_its_own():
    held = jnp.array(RANDOM.integers(0, 4, (5, 1, 4, 2)), jnp.float32)
    bits = jnp.ones((3, 1, 4))
    both = lost_to_wires(bits, held, ONE, ohm=3.0, columns=3)
    alone = lost_to_wires(bits, held[3:], ONE, ohm=3.0, columns=3)
    np.testing.assert_allclose(both[..., 3:], alone, rtol=1e-5)


def test_wires_take_from_the_product_of_an_array_and_perfect_ones_take_nothing():
    held = Matrix(jnp.full((4, 10, 8), 3.0), None)
    of = partial(multiply, jax.random.key(0), jnp.full(10, 5), held, ONE, input_bits=4, layout=OFFSET_BINARY)
    product = [float(of(tile=Tile(wire_ohm=ohm))[0]) for ohm in (0.0, 1.0)]
    assert product[0] == 10 * 5 * 32767 and product[1] < product[0]
    assert float(of(tile=Tile(rows=16, wire_ohm=1.0))[0]) > product[1]  # shorter bit lines lose less


def test_cells_that_are_cut_off_carry_no_current():
    held = jnp.array(RANDOM.integers(0, 4, (5, 1, 4, 2)), jnp.float32)
    bits, present = jnp.ones((1, 1, 4)), jnp.ones((5, 1, 4), bool).at[:, :, 2].set(False)
    cut_off = lost_to_wires(bits, held, ONE, ohm=3.0, columns=5, present=present)
    not_fired = lost_to_wires(bits.at[0, 0, 2].set(0), held, ONE, ohm=3.0, columns=5)
    np.testing.assert_allclose(cut_off, not_fired, rtol=1e-5)


def test_wires_need_conductances():
    with pytest.raises(ValueError, match="set off_us and on_us"):
        lost_to_wires(jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2, 1)), Device(jnp.ones(4)), ohm=1.0, columns=4)

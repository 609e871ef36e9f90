"""The laws of a cell: a pulse, verified pulses, stuck cells, time, reads."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.quantise import Layout
from nvcim_jax.hardware import ageing, cells
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.devices import Device

KEY = jax.random.key(0)
COUNT = 40_000  # cells of each level
EACH_LEVEL = jnp.repeat(jnp.arange(4), COUNT).reshape(4, 1, COUNT)
UNEVEN = Device(jnp.array([0.25, 0.5, 1.0, 2.0]))  # a reversed level order shows


def within(measured, expected, error):
    """Four standard errors."""
    np.testing.assert_array_less(np.abs(np.asarray(measured) - expected), 4 * np.asarray(error))


@pytest.mark.parametrize("one", [device("NVM-3"), UNEVEN], ids=["NVM-3", "uneven"])
def test_each_level_varies_as_its_own_factor_says(one):
    error = np.asarray(cells.program(KEY, EACH_LEVEL, one, sigma=0.1) - EACH_LEVEL)[:, 0]
    std = 0.1 * 3 * np.asarray(one.levels)
    within(error.mean(1), 0, std / COUNT**0.5)
    within(error.std(1), std, std / (2 * COUNT) ** 0.5)


@pytest.mark.parametrize("most", [1, 3, 8])
def test_the_tail_of_program_and_verify(most):
    done = cells.program_verify(KEY, EACH_LEVEL, UNEVEN, sigma=0.2, tolerance=0.1, most=most)
    off = np.asarray(jnp.abs(done.last - EACH_LEVEL) > 0.1 * 3)[:, 0]
    pulses = np.asarray(done.pulses)[:, 0]
    hit = np.array([math.erf(0.1 / (0.2 * factor) / 2**0.5) for factor in (0.25, 0.5, 1.0, 2.0)])
    tail = (1 - hit) ** most
    within(off.mean(1), tail, (tail * (1 - tail) / COUNT) ** 0.5 + 1e-9)
    within(pulses.mean(1), (1 - tail) / hit, pulses.std(1) / COUNT**0.5 + 1e-9)
    assert pulses.min() == 1 and pulses.max() <= most and np.all(pulses[off] == most)


def test_a_step_deviates_by_the_root_of_its_share_of_the_range():
    """After one step an error has the variance std^2 E|first error| / full: it corrects all of what was off before."""
    done = cells.program_verify(KEY, EACH_LEVEL, UNEVEN, sigma=0.1, tolerance=0.0, most=2, pulse=cells.step)
    error = np.asarray(done.last - EACH_LEVEL)[:, 0]
    std = 0.1 * 3 * np.array([0.25, 0.5, 1.0, 2.0])
    after = std * (std * (2 / math.pi) ** 0.5 / 3) ** 0.5
    within(error.mean(1), 0, after / COUNT**0.5)
    within(error.std(1), after, 1.2 * after / (2 * COUNT) ** 0.5)  # its tails are longer than a Gaussian's
    assert done.pulses.min() == 2


def test_a_step_by_hand():
    # half of the range missing, at full 3: moves by 1.5 and deviates by std times the root of a half; none, by nothing
    held, levels, std = jnp.array([[[0.5, 2.0]]]), jnp.array([[[2, 2]]]), jnp.full((1, 1, 2), 0.4)
    moved = cells.step(KEY, held, held, levels, std, 3) - held
    normal = jax.random.normal(KEY, (1, 1, 2))
    np.testing.assert_allclose(moved, jnp.array([[[1.5 + 0.4 * 0.5**0.5 * normal[0, 0, 0], 0.0]]]), rtol=1e-6)


def test_steps_settle_and_stuck_cells_do_not():
    done = cells.program_verify(
        KEY, EACH_LEVEL, Device(jnp.ones(4)), sigma=0.1, tolerance=0.01, most=20, pulse=cells.step
    )
    assert float(jnp.mean(jnp.abs(done.last - EACH_LEVEL) <= 0.03 + 1e-6)) > 0.999 and float(done.pulses.mean()) < 5
    faulty = Device(jnp.zeros(4), stuck=jnp.array([0.2, 0.1]))
    done = cells.program_verify(KEY, EACH_LEVEL, faulty, sigma=0.1, tolerance=0.05, most=5, pulse=cells.step)
    np.testing.assert_array_equal(done.first, done.last)


def test_verified_cells_are_spread_as_a_cut_gaussian():
    done = cells.program_verify(KEY, EACH_LEVEL, UNEVEN, sigma=0.2, tolerance=0.1, most=60)
    error = np.asarray(done.last - EACH_LEVEL)[3, 0] / 3  # deviates by 0.4, cut at 0.1: nearly even
    cut = 0.1 / 0.4
    mass = math.erf(cut / 2**0.5)
    std = 0.4 * (1 - 2 * cut * math.exp(-(cut**2) / 2) / (2 * math.pi) ** 0.5 / mass) ** 0.5
    assert np.abs(error).max() <= 0.1 + 1e-6
    assert abs(error.std() / std - 1) < 4 / (2 * COUNT) ** 0.5


def test_a_level_that_does_not_vary_takes_one_pulse():
    done = cells.program_verify(KEY, EACH_LEVEL, Device(jnp.array([0.0, 1, 1, 1])), sigma=0.2, tolerance=0.01, most=9)
    assert done.pulses[0].max() == 1 and done.pulses[1:].max() == 9


def test_a_noisy_read_lets_cells_pass_that_are_off():
    blurred = Device(jnp.ones(4), read_noise=jnp.float32(0.1))
    done = cells.program_verify(KEY, EACH_LEVEL, blurred, sigma=0.2, tolerance=0.1, most=60)
    assert float(jnp.mean(jnp.abs(done.last - EACH_LEVEL) > 0.3)) > 0.1


def test_stuck_cells_are_as_many_as_stated():
    faulty = UNEVEN._replace(stuck=jnp.array([0.03, 0.01]))
    held = np.asarray(cells.program(KEY, EACH_LEVEL, faulty, sigma=0.1))
    for value, share in ((0.0, 0.03), (3.0, 0.01)):
        within((held == value).mean(), share, (share * (1 - share) / held.size) ** 0.5)


def test_stuck_cells_take_every_pulse_in_vain():
    faulty = Device(jnp.zeros(4), stuck=jnp.array([0.2, 0.1]))
    done = cells.program_verify(KEY, EACH_LEVEL, faulty, sigma=0.1, tolerance=0.05, most=5)
    np.testing.assert_array_equal(done.first, done.last)  # the same cells at every pulse
    np.testing.assert_array_equal(done.pulses, jnp.where(done.last == EACH_LEVEL, 1, 5))


def test_conductances_decay_with_their_exponent():
    drifting = UNEVEN._replace(drift=jnp.float32(0.07), conductance_us=jnp.array([2.0, 20.0]))
    seconds = np.array([1.0, 10.0, 1e3, 1e6])
    held = jnp.array([[[0.0, 1.5, 3.0]]])
    aged = np.stack([ageing.age(held, drifting, seconds=t)[0, 0] for t in seconds])
    conductance = 2 + aged / 3 * 18
    slopes = np.polyfit(np.log(seconds), np.log(conductance), 1)[0]
    np.testing.assert_allclose(slopes, -0.07, rtol=1e-4)
    np.testing.assert_array_equal(aged[0], held[0, 0])  # one second changes nothing
    np.testing.assert_allclose(conductance[0], [2, 11, 20], rtol=1e-6)
    assert aged[3, 0] < 0


def test_each_read_has_a_noise_of_its_own():
    blurred = UNEVEN._replace(read_noise=jnp.float32(0.02))
    held = cells.program(KEY, EACH_LEVEL, blurred, sigma=0.1)
    first, second = (np.asarray(cells.sense(jax.random.key(at), held, blurred) - held) for at in (1, 2))
    within(first.std(), 0.06, 0.06 / (2 * first.size) ** 0.5)
    within((first * second).mean(), 0, 0.06**2 / first.size**0.5)


@pytest.mark.parametrize("pulse", [cells.anew, cells.step])
def test_gradients_reach_sigma_and_the_device_and_are_finite(pulse):
    @jax.jit
    def total(sigma, one):
        done = cells.program_verify(KEY, EACH_LEVEL[:, :, :50], one, sigma=sigma, tolerance=0.1, most=4, pulse=pulse)
        return jnp.sum(cells.sense(KEY, ageing.age(done.last, one, seconds=100.0), one) ** 2)

    full = UNEVEN._replace(
        read_noise=jnp.float32(0.01), drift=jnp.float32(0.05), stuck=jnp.array([0.01, 0.01]), conductance_us=jnp.array([1.0, 20.0])
    )  # fmt: skip
    leaves = jax.tree.leaves(jax.grad(total, argnums=(0, 1))(0.1, full))
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves)
    sigma, levels, read_noise, conductance, drift, _ = leaves
    assert min(float(jnp.abs(leaf).min()) for leaf in (sigma, levels, read_noise, conductance, drift)) > 0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="0 pulses per cell: at least one"):
        cells.program_verify(KEY, EACH_LEVEL, UNEVEN, sigma=0.1, tolerance=0.1, most=0)
    with pytest.raises(ValueError, match="4 levels in cells of 3 bits, which need 8: use cell_bits=2"):
        cells.check_device(UNEVEN, Layout(cell_bits=3))


@pytest.mark.parametrize("name, value", [("sigma", -0.1), ("sigma", float("nan")), ("tolerance", -1.0)])
def test_impossible_numbers_are_named(name, value):
    settings = {"sigma": 0.1, "tolerance": 0.1, name: value}
    with pytest.raises(ValueError, match=f"{name} is {value}: a number from 0 on"):
        cells.program_verify(KEY, EACH_LEVEL, UNEVEN, most=2, **settings)


def test_time_starts_at_one_second():
    with pytest.raises(ValueError, match="seconds is 0.0: a number from 1 on"):
        ageing.age(EACH_LEVEL.astype(jnp.float32), UNEVEN, seconds=0.0)

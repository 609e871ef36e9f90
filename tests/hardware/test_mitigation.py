"""Mitigation: what each method does to the error, and what it costs."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core import codec
from nvcim_jax.core.quantise import DIFFERENTIAL, OFFSET_BINARY, SIGN_MAGNITUDE, Layout, signs_of, to_codes, to_levels
from nvcim_jax.hardware import cells, mitigation
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.crossbar import Matrix
from nvcim_jax.hardware.devices import Device
from nvcim_jax.hardware.mitigation import (
    Cost,
    Verify,
    by_cell,
    by_value,
    correctnet,
    curvature,
    cxdnn,
    plain,
    read,
    selective_write_verify,
)
from nvcim_jax.memory import programming

KEY = jax.random.key(0)
SWV = jax.jit(selective_write_verify, static_argnames=("layout", "verify"))  # budgets share a program
NVM3, EVEN = device("NVM-3"), Device(jnp.ones(4))
CODE = jax.random.normal(jax.random.key(5), (16, 48))
INTEGERS = to_codes(CODE).integers
METHODS = [plain, SWV, partial(SWV, verify=Verify(rank=by_cell)), cxdnn, correctnet]
NAMES = ["plain", "by value", "by cell", "cxdnn", "correctnet"]


def error(write, sigma=0.1, key=KEY, one=NVM3, integers=INTEGERS, **bound):
    stored = write(key, integers, one, sigma=sigma, **bound)
    return np.asarray(read(KEY, stored, one) - integers), stored.cost


@pytest.mark.parametrize("layout", [SIGN_MAGNITUDE, OFFSET_BINARY, DIFFERENTIAL], ids=lambda layout: layout.sign)
@pytest.mark.parametrize("write", [*METHODS[:-1], partial(correctnet, clip=1.0)], ids=NAMES)
def test_without_variation_every_method_returns_what_was_written(write, layout):
    stored = write(KEY, INTEGERS, NVM3, sigma=0.0, layout=layout)
    np.testing.assert_allclose(read(KEY, stored, NVM3, layout=layout), INTEGERS.astype(jnp.float32), atol=0.6)


@pytest.mark.parametrize("write", METHODS, ids=NAMES)
def test_every_method_is_the_write_of_a_bank(write):
    put = partial(mitigation.write_and_read, write=write)
    stored = programming.store(KEY, CODE, NVM3, sigma=0.05, write=put)
    assert 0 < float(jnp.abs(stored - CODE).max()) < 5 and bool(jnp.all(jnp.isfinite(stored)))


def test_a_sensitivity_reaches_the_write_that_ranks_by_it():
    wanted = jnp.zeros(INTEGERS.shape).at[7, 20].set(1.0)
    room = 1.0 + 8 * 12 / INTEGERS.size / 8  # pulses for about one value
    put = partial(mitigation.write_and_read, write=partial(SWV, budget=room, verify=Verify(0.01, 200)))
    ranked, unranked = (put(KEY, INTEGERS, EVEN, sigma=0.1, sensitivity=given) - INTEGERS for given in (wanted, None))
    assert abs(ranked[7, 20]) <= 0.01 * 3 * 10922.5 < abs(unranked[7, 20])


@pytest.mark.parametrize("write", [plain, cxdnn, correctnet], ids=["plain", "cxdnn", "correctnet"])
def test_methods_that_do_not_rank_take_no_sensitivity(write):
    with pytest.raises(TypeError, match="unexpected keyword argument 'sensitivity'"):
        mitigation.write_and_read(KEY, INTEGERS, EVEN, sigma=0.1, write=write, sensitivity=jnp.ones(INTEGERS.shape))


@pytest.mark.parametrize("budget", [1.0, 1.1, 2.0])
@pytest.mark.parametrize("rank", [by_value, by_cell])
def test_the_budget_is_spent_and_not_exceeded(budget, rank):
    _, cost = error(partial(SWV, budget=budget, verify=Verify(0.02, rank=rank)))
    per_cell = int(cost.pulses) / (INTEGERS.size * 8)
    assert per_cell <= budget and per_cell > budget - 20 / (INTEGERS.size * 8)


def test_without_a_limit_every_cell_is_verified():
    done = SWV(KEY, INTEGERS, EVEN, sigma=0.1, budget=99.0, verify=Verify(most=99))
    levels = np.asarray(to_levels(INTEGERS))
    assert np.abs(np.asarray(done.matrix.levels) - levels).max() <= 0.05 * 3 + 1e-6
    assert int(done.cost.checks) == int(done.cost.pulses)


def test_the_most_sensitive_values_are_verified_first():
    wanted = jnp.zeros(INTEGERS.shape).at[3, 5:15].set(jnp.arange(1.0, 11.0))
    deviation = lambda budget: error(  # noqa: E731
        partial(SWV, budget=budget, verify=Verify(0.01, 200)), one=EVEN, sensitivity=wanted
    )[0]
    all_ten, none = deviation(1.4), deviation(1.0)
    place_sum = 0.01 * 3 * 10922.5
    assert np.abs(all_ten[3, 5:15]).max() <= place_sum < np.abs(none[3, 5:15]).max()
    top_one = deviation(1.0 + 8 * 12 / INTEGERS.size / 8)  # room for about one value
    assert abs(top_one[3, 14]) <= place_sum
    np.testing.assert_array_equal(top_one[3, 5:10], none[3, 5:10])


def test_ties_are_broken_by_magnitude():
    large = np.unravel_index(np.argmax(np.abs(INTEGERS)), INTEGERS.shape)
    room = 1.0 + 8 * 20 / INTEGERS.size / 8
    write = partial(SWV, budget=room, verify=Verify(0.01, 200))
    assert abs(error(write, one=EVEN)[0][large]) <= 0.01 * 3 * 10922.5


def verified_cells(rank, cells_paid, device, integers, sensitivity):
    """Which cells change after their first pulse when the budget pays for so many, each of which takes four pulses."""
    layout, most = Layout(bits=4, sign="offset"), 4  # two cells a value, worth 4 and 1
    write = partial(
        selective_write_verify, KEY, integers, device,
        sigma=0.1, layout=layout, sensitivity=sensitivity, verify=Verify(0.0, most, rank=rank),
    )  # fmt: skip
    budget = 1 + cells_paid * (most - 1) / (2 * integers.size)
    stored, first = write(budget=budget), write(budget=1.0)
    changed = np.argwhere(np.asarray(stored.matrix.levels != first.matrix.levels)).tolist()
    assert stored.cost == Cost(2 * integers.size + cells_paid * (most - 1), checks=cells_paid * most)
    return changed


def test_cells_are_ranked_by_the_square_of_what_their_place_makes_of_their_deviation():
    # sensitivities 1 and 5: by squares 16, 1 and 80, 5; by places alone it would be 4, 1 and 20, 5
    twos = jnp.array([[2, 2]])  # 8 + 2 = 10 = 22 in base 4: both cells of both values at level 2
    sensitivity = jnp.array([[1.0, 5.0]])
    assert verified_cells(by_cell, 2, EVEN, twos, sensitivity) == [[0, 0, 0], [0, 1, 0]]
    assert verified_cells(by_value, 2, EVEN, twos, sensitivity) == [[0, 1, 0], [0, 1, 1]]


def test_cells_are_ranked_by_the_deviation_of_their_level():
    loud_below = Device(jnp.array([3.0, 1.0, 1.0, 0.1]))
    values = jnp.array([[-5, 4]])  # 3 = 03 and 12 = 30: squares (4 x 3)^2, 0.1^2 and (4 x 0.1)^2, 3^2
    assert verified_cells(by_cell, 2, loud_below, values, jnp.ones((1, 2))) == [[0, 0, 0], [0, 1, 1]]


def test_what_is_kept_digitally_is_applied_in_order():
    # codes 1, 2 and 3, 4 times 2 and 3, plus 10 and 20: 12, 14 and 29, 32; then their sum and their difference
    codes = jnp.array([[1, 2], [3, 4]])
    held = Matrix(to_levels(codes).astype(jnp.float32), signs_of(codes))
    kept = {"gain": jnp.array([2.0, 3.0]), "shift": jnp.array([10.0, 20.0]), "mixing": jnp.array([[1.0, 1], [1, -1]])}
    stored = mitigation.Stored(held, Cost(0), **kept)
    np.testing.assert_array_equal(read(KEY, stored, EVEN), [[26, -2], [61, -3]])


def test_cxdnn_leaves_no_error_that_a_gain_and_a_shift_could_take():
    stored = cxdnn(KEY, INTEGERS, EVEN, sigma=0.3)
    left = np.asarray(read(KEY, stored, EVEN) - INTEGERS, np.float64)
    seen = np.asarray(read(KEY, stored._replace(gain=None, shift=None), EVEN), np.float64)
    size = np.abs(left).mean()
    assert size > 1000 and np.abs(stored.shift).max() > 100
    assert np.abs(left.mean(1)).max() < 1e-3 * size  # without the shift it would be the shift
    assert np.abs((left * seen).mean(1)).max() < 1e-3 * size * np.abs(seen).mean()
    gain, shift = mitigation._line(jnp.array([0.0, 2, 4]), jnp.array([1.0, 2, 3]))
    assert (float(gain), float(shift)) == (0.5, 1.0)


def test_steps_reach_what_pulses_written_anew_do_not():
    """At the same budget, most cells within a hundredth of the range."""
    rms = {
        pulse: np.sqrt((error(partial(SWV, budget=4.0, verify=Verify(0.01, pulse=pulse)), sigma=0.1)[0] ** 2).mean())
        for pulse in (cells.anew, cells.step)
    }
    assert rms[cells.step] < 0.5 * rms[cells.anew]


def test_knowing_the_place_buys_more_than_verifying_whole_values():
    rms = {
        rank: np.sqrt((error(partial(SWV, budget=1.5, verify=Verify(rank=rank)))[0] ** 2).mean())
        for rank in (by_value, by_cell)
    }
    unverified = np.sqrt((error(plain)[0] ** 2).mean())
    assert rms[by_cell] < 0.5 * rms[by_value] and rms[by_value] < unverified


def test_curvature_of_separate_values_is_exact_with_one_probe():
    weights = jnp.arange(-3.0, 9.0).reshape(3, 4)
    found = curvature(KEY, lambda x: jnp.sum(weights * x**3), jnp.full((3, 4), 0.5), probes=1)
    np.testing.assert_allclose(found, jnp.abs(weights) * 3, rtol=1e-5)


def test_curvature_of_values_that_interact_is_right_on_average():
    matrix = jax.random.normal(KEY, (12, 12))
    hessian = matrix @ matrix.T
    loss = lambda x: 0.5 * x.reshape(-1) @ hessian @ x.reshape(-1)  # noqa: E731
    found = np.asarray(curvature(KEY, loss, jnp.ones((3, 4)), probes=4000)).reshape(-1)
    off = np.asarray(hessian) - np.diag(np.diag(hessian))
    assert np.all(np.abs(found - np.diag(hessian)) < 4.5 * np.sqrt((off**2).sum(1) / 4000))


def test_a_quiet_token_gains_from_its_own_range():
    quiet = (INTEGERS // jnp.where(jnp.arange(16) < 8, 20, 1)[:, None].astype(jnp.int16)).astype(jnp.int16)
    rms = [np.sqrt((error(write, integers=quiet, sigma=0.05)[0][:8] ** 2).mean()) for write in (plain, cxdnn)]
    assert rms[1] < 0.2 * rms[0]


def test_a_common_decay_is_undone_by_the_gain():
    drifting = Device(jnp.zeros(4), drift=jnp.float32(0.05), conductance_us=jnp.array([0.0, 20.0]))
    # the same decay at every level, met when the array is calibrated late: a gain and a shift
    held = Matrix(to_levels(INTEGERS).astype(jnp.float32), signs_of(INTEGERS))
    seen = read(KEY, mitigation.Stored(held, Cost(0)), drifting, seconds=1e4)
    gain, _ = jax.vmap(mitigation._line)(seen, INTEGERS.astype(jnp.float32))
    np.testing.assert_allclose(gain, 1e4**0.05, rtol=1e-4)


def test_clipping_trades_the_largest_codes_for_less_noise():
    inner = np.abs(np.asarray(INTEGERS)) <= np.quantile(np.abs(INTEGERS), 0.9)
    rms = [np.sqrt((error(write, one=EVEN)[0][inner] ** 2).mean()) for write in (plain, correctnet)]
    ratio = np.quantile(np.abs(INTEGERS), 0.9) / 32767
    assert rms[1] / rms[0] == pytest.approx(ratio, rel=0.05)
    clean = error(correctnet, sigma=0.0)[0]
    assert np.abs(clean[inner]).max() <= 1 and np.abs(clean[~inner]).max() > 1000


def test_the_compensator_lowers_the_error_of_chips_it_was_not_fitted_on():
    low_rank = jax.random.normal(KEY, (2, 16, 6)) @ jax.random.normal(jax.random.key(1), (6, 48))
    codes = jnp.stack([to_codes(one).integers for one in low_rank])
    matrix = jax.jit(partial(mitigation.fit_compensator, sigma=0.1, draws=8))(jax.random.key(2), codes, NVM3)

    def squared(one, compensator):
        return np.square(error(partial(correctnet, compensator=compensator), integers=one)[0]).mean()

    bare, mixed = (np.mean([squared(one, each) for one in codes]) for each in (None, matrix))
    assert mixed < 0.5 * bare


def test_costs_by_hand():
    size, count = 16 * 48, 16 * 48 * 8
    assert error(plain)[1] == (count, 0, 0, 0, size)  # one bit a value: its sign
    assert plain(KEY, INTEGERS, NVM3, sigma=0.1, layout=OFFSET_BINARY).cost == (count, 0, 0, 0, 0)
    assert error(cxdnn)[1] == (count, count, 4 * size, size, 2 * 16 * 16 + size)
    assert error(correctnet)[1] == (count, 0, 0, size, 16 + size)
    mixed = error(partial(correctnet, compensator=jnp.eye(48)))[1]
    assert mixed == (count, 0, 0, 49 * size, 16 * (1 + 48 * 48) + size)
    assert error(partial(SWV, budget=1.0))[1] == (count, 0, 0, 0, size)


def test_the_default_codecs_decoder_is_orthonormal():
    fitted = codec.fit_pca(KEY, jax.random.normal(KEY, (500, 64)), jnp.ones(500))
    weight = fitted.decoder[0][0]
    np.testing.assert_allclose(weight @ weight.T, np.eye(48), atol=1e-5)


def test_draws_map_and_gradients_are_finite():
    def total(sigma):
        each = lambda key: SWV(key, INTEGERS[:4], NVM3, sigma=sigma, verify=Verify(most=4))  # noqa: E731
        stored = jax.vmap(each)(jax.random.split(KEY, 3))
        return jnp.sum(jax.vmap(partial(read, KEY, device=NVM3))(stored) ** 2)

    slope = float(jax.jit(jax.grad(total))(0.1))
    assert np.isfinite(slope) and slope != 0


def test_a_budget_below_the_first_pulses_is_refused():
    with pytest.raises(ValueError, match="budget of 0.5 pulses per cell"):
        selective_write_verify(KEY, INTEGERS, NVM3, sigma=0.1, budget=0.5)

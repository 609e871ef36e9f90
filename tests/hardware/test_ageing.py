"""What time does to cells: the laws of drift with a spread, retention, wandering and flicker, and what undoes them."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.hardware import ageing, catalogue, cells, compensation, crossbar, mitigation
from nvcim_jax.hardware.devices import Device, stack

KEY, DRAWS = jax.random.key(0), 20_000
PLAIN = Device(jnp.array([0.01, 0.03, 0.02, 0.04]), conductance_us=jnp.array([2.0, 20.0]))
EACH = jnp.broadcast_to(jnp.arange(4.0)[None, :, None], (1, 4, DRAWS))
CODES = jnp.array([[3000, -20_000, 700, 31_000], [-5, 12_000, -32_767, 9000]])
PCM = catalogue.device("PCM-Joshi")


def conductance(held, device=PLAIN):
    off, on = np.asarray(device.conductance_us)
    return off + np.asarray(held) / 3 * (on - off)


def test_exponents_are_those_of_the_levels_and_spread_as_stated():
    device = PLAIN._replace(drift=jnp.array([0.1, 0.05, 0.06, 0.02]), drift_std=jnp.array([0.01, 0.01, 0.02, 0.002]))
    aged = ageing.age(EACH, device, seconds=1e4, life=KEY)
    nu = -np.log(conductance(aged) / conductance(EACH)) / np.log(1e4)
    np.testing.assert_allclose(nu[0].mean(-1), device.drift, atol=5e-4)
    np.testing.assert_allclose(nu[0].std(-1), device.drift_std, rtol=0.03)


def test_a_cells_exponent_is_its_own_at_every_time():
    device = PLAIN._replace(drift=jnp.float32(0.05), drift_std=jnp.float32(0.02))
    nu = [
        -np.log(conductance(ageing.age(EACH, device, seconds=t, life=KEY)) / conductance(EACH)) / np.log(t)
        for t in (1e2, 1e6)
    ]
    np.testing.assert_allclose(*nu, atol=1e-3)
    assert nu[0].min() > -1e-3  # none gains


def test_drift_begins_when_the_device_says():
    device = PLAIN._replace(drift=jnp.float32(0.05), drift_from=jnp.float32(20))
    np.testing.assert_array_equal(ageing.age(EACH, device, seconds=20.0), EACH)
    later = ageing.age(EACH, device, seconds=2000.0)
    np.testing.assert_allclose(conductance(later), conductance(EACH) * 100**-0.05, rtol=1e-5)


def test_retention_moves_levels_towards_each_other_by_hand():
    device = PLAIN._replace(retention=jnp.float32(0.1))
    aged = ageing.age(jnp.array([[[0.0, 1.0, 2.0, 3.0]]]), device, seconds=1e3)  # 0.7 of the way is left
    np.testing.assert_allclose(aged[0, 0], 1.5 + 0.7 * np.array([-1.5, -0.5, 0.5, 1.5]), rtol=1e-5)
    np.testing.assert_allclose(ageing.age(EACH[:, :, :1], device, seconds=1e12), 1.5)  # and never cross


def test_wandering_grows_with_the_root_of_the_decades():
    device = PLAIN._replace(wander=jnp.array([0.0, 0.01, 0.02, 0.03]))
    for decades in (1, 4):
        moved = np.asarray(ageing.age(EACH, device, seconds=10.0**decades, life=KEY) - EACH)[0]
        np.testing.assert_allclose(moved.std(-1), 3 * np.asarray(device.wander) * decades**0.5, rtol=0.03)


def test_flicker_is_a_share_of_the_conductance_and_grows():
    device = PLAIN._replace(flicker=jnp.array([0.1, 0.05, 0.02, 0.01]))
    for seconds in (1.0, 1e6):
        std = ageing.flicker(EACH[:, :, :1], EACH[:, :, :1], device, seconds=seconds)[0, :, 0]
        grown = math.sqrt(math.log((seconds + 250e-9) / 500e-9))
        np.testing.assert_allclose(std * 18 / 3, device.flicker * np.array([2, 8, 14, 20]) * grown, rtol=1e-5)


@pytest.mark.parametrize("name", ["PCM-Joshi", "RRAM-Wan", "SONOS-Agrawal"])
def test_moments_are_those_of_drawn_cells(name):
    device, seconds, sigma = catalogue.device(name), 1e5, 1.0
    write, life, read = jax.random.split(KEY, 3)
    held = cells.program(write, EACH.astype(int), device, sigma=sigma)
    aged = ageing.age(held, device, seconds=seconds, life=life)
    seen = np.asarray(cells.sense(read, aged, device, flicker=ageing.flicker(held, aged, device, seconds=seconds)))[0]
    law = ageing.moments(device, sigma=sigma, seconds=seconds)
    np.testing.assert_array_less(np.abs(seen.mean(-1) - law.mean), 4.5 * np.sqrt(law.variance / DRAWS) + 1e-4)
    np.testing.assert_allclose(seen.var(-1), law.variance, rtol=0.06, atol=1e-7)


def test_a_drift_of_one_exponent_by_hand():
    law = ageing.moments(PLAIN._replace(drift=jnp.float32(0.1)), sigma=1.0, seconds=1e5)
    np.testing.assert_allclose(conductance(law.mean), np.array([2, 8, 14, 20]) * 1e5**-0.1, rtol=1e-5)
    np.testing.assert_allclose(np.sqrt(law.variance), 3 * np.asarray(PLAIN.levels) * 1e5**-0.1, rtol=1e-4)


def test_a_common_deviation_is_a_share_of_the_variance():
    device = PLAIN._replace(correlation=jnp.float32(0.3))
    levels = jnp.full((1, 2, 100), 3)
    drawn = jax.vmap(lambda key: cells.program(key, levels, device, sigma=1.0))(jax.random.split(KEY, 4000)) - 3
    means = np.asarray(drawn.mean((1, 2, 3)))
    assert np.asarray(drawn).std() == pytest.approx(0.12, rel=0.05)
    assert means.var() / 0.12**2 == pytest.approx(0.3 + 0.7 / 200, rel=0.1)


def test_levels_lie_where_their_means_say():
    device = Device(jnp.zeros(4), means=jnp.array([0.0, 0.2, 0.7, 1.1]))
    held = cells.program(KEY, jnp.arange(4).reshape(1, 1, 4), device, sigma=1.0)
    np.testing.assert_allclose(held[0, 0], [0, 0.6, 2.1, 3.3], rtol=1e-6)


@pytest.mark.parametrize("name", ["global", "reference", "column"])
def test_a_gain_undoes_a_drift_that_all_cells_share(name):
    device = PLAIN._replace(drift=jnp.float32(0.07))
    matrix = crossbar.program(KEY, CODES, device, sigma=0.0)
    back = crossbar.read(KEY, matrix, device, seconds=1e6, compensate=compensation.named(name))
    np.testing.assert_allclose(back, CODES, rtol=1e-4, atol=1)
    assert np.abs(crossbar.read(KEY, matrix, device, seconds=1e6) - CODES).max() > 10_000


def test_what_each_compensation_looks_at():
    fresh = jnp.array([[[2.0, 4.0]], [[6.0, 8.0]]])
    own = compensation.Pair(fresh, fresh * jnp.array([0.5, 0.25])[:, None, None])
    reference = compensation.Pair(jnp.full((1, 1, 2), 3.0), jnp.full((1, 1, 2), 2.0))
    assert float(compensation.global_scale(own, reference)[0, 0, 0]) == pytest.approx(20 / 6.5)
    assert float(compensation.reference_column(own, reference)[0, 0, 0]) == pytest.approx(1.5)
    np.testing.assert_allclose(compensation.per_column(own, reference)[:, 0, 0], [2, 4])


def test_refresh_writes_anew_and_age_counts_from_there():
    times, age = mitigation.refreshes(7.5, 2.0)
    assert int(times) == 3 and float(age) == pytest.approx(1.5)
    device = PLAIN._replace(drift=jnp.float32(0.2))
    kept = partial(mitigation.kept, KEY, CODES, device, sigma=0.0, refresh=100.0)
    np.testing.assert_allclose(kept(seconds=1000.0), CODES, atol=0.01)  # written at that very second
    old = np.asarray(kept(seconds=1099.0) - CODES)
    np.testing.assert_allclose(
        old, mitigation.write_and_read(KEY, CODES, device, sigma=0.0, seconds=99.0) - CODES, rtol=1e-5
    )
    noisy = partial(mitigation.kept, KEY, CODES, device, sigma=1.0, refresh=100.0)
    assert np.abs(np.asarray(noisy(seconds=1000.0) - noisy(seconds=1100.0))).min() > 0  # with noise of its own


@pytest.mark.parametrize("fields", [{}, {"drift_std": jnp.float32(0.0)}, {"wander": jnp.float32(0.0)}])
def test_where_nothing_spreads_all_is_as_without(fields):
    device = PLAIN._replace(drift=jnp.float32(0.05))
    matrix = crossbar.program(KEY, CODES, device, sigma=0.0)
    other = crossbar.program(KEY, CODES, device._replace(**fields), sigma=0.0)
    there = crossbar.read(KEY, matrix, device, seconds=1e3)
    np.testing.assert_allclose(crossbar.read(KEY, other, device._replace(**fields), seconds=1e3), there, rtol=1e-5)


def test_a_product_flickers_as_its_cells_do():
    device = PLAIN._replace(flicker=jnp.float32(0.05), levels=jnp.zeros(4))
    matrix = crossbar.aged(crossbar.program(KEY, jnp.full((2000, 4), 32_767), device, sigma=0.0), device, seconds=1e6)
    sums = np.asarray(crossbar.multiply(KEY, jnp.array([1, 1, 1, 1]), matrix, device, input_bits=2))
    assert (matrix.signs == 1).all()
    places = np.array(cells.layout_of(device).places)
    cell = np.asarray(ageing.flicker(matrix.levels[:1], matrix.levels[:1], device, seconds=1e6))  # [1, rows, cells]
    assert sums.std() == pytest.approx(np.sqrt(((cell * places) ** 2).sum()), rel=0.08)  # one bit of the input is set


def test_devices_that_age_stack_with_those_that_do_not():
    both = stack([PCM, PLAIN._replace(drift=jnp.float32(0.1))])
    assert both.drift.shape == (2, 4) and both.flicker.shape == (2, 4)
    np.testing.assert_allclose(both.drift_from, [20, 1])
    each = jax.vmap(lambda device: ageing.age(EACH[:, :, :3], device, seconds=1e3, life=KEY))(both)
    np.testing.assert_allclose(each[0], ageing.age(EACH[:, :, :3], PCM, seconds=1e3, life=KEY), rtol=1e-5)
    alone = ageing.age(EACH[:, :, :3], PLAIN._replace(drift=jnp.float32(0.1)), seconds=1e3)
    np.testing.assert_allclose(each[1], alone, rtol=1e-5, atol=1e-5)


def test_what_follows_no_gaussian_is_named():
    assert ageing.without_gaussian(PCM, 3600.0) is None
    assert "exponents so different" in str(ageing.without_gaussian(PCM._replace(drift_std=jnp.float32(0.1)), 1e6))
    assert "deviate together" in str(ageing.without_gaussian(PLAIN._replace(correlation=jnp.float32(0.1))))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="age by chance: give the key"):
        ageing.age(EACH, PCM, seconds=100.0)
    with pytest.raises(ValueError, match="unknown compensation 'x': choose one of none, global, reference, column"):
        compensation.named("x")
    with pytest.raises(ValueError, match="a refresh every 0.5 seconds: once a second"):
        mitigation.kept(KEY, CODES, PLAIN, sigma=0.1, seconds=10.0, refresh=0.5)
    with pytest.raises(ValueError, match=r"Eq. 4\) knows no time"):
        crossbar.write_values(KEY, CODES, PLAIN, sigma=0.1, seconds=10.0)


@pytest.mark.parametrize("name", catalogue.published())
def test_published_devices_survive_their_own_file(name, tmp_path):
    sheet = catalogue.sheet(name)
    (tmp_path / "own.toml").write_text(catalogue.to_toml(sheet))
    assert catalogue.load(tmp_path / "own.toml") == sheet
    assert sheet.licence and sheet.name == name and sheet.seconds_range[1] >= 1
    odd = dataclasses.replace(sheet, name='a "quoted" \\ name é')
    (tmp_path / "odd.toml").write_text(catalogue.to_toml(odd), encoding="utf-8")
    assert catalogue.load(tmp_path / "odd.toml") == odd


def test_published_numbers_are_those_of_their_formulas():
    ratio = (0.25 + np.arange(4) / 3 * 24.75) / 25
    noise = (0.26348 + 1.965 * ratio - 1.1731 * ratio**2) / 24.75
    np.testing.assert_allclose(catalogue.sheet("PCM-Joshi").noise, noise, rtol=1e-3)
    wan, ratio = catalogue.sheet("RRAM-Wan"), (1 + np.arange(4) * 13) / 40
    after = [np.polyval(c, ratio) / 39 for c in ([-16.815, 45.393, -43.853, 16.030, 0.348],
                                                 [-11.934, 37.062, -43.507, 20.274, 0.782])]  # fmt: skip
    np.testing.assert_allclose(wan.noise, after[0], rtol=1e-3)
    law = ageing.moments(wan.device, sigma=1.0, seconds=172_800)
    np.testing.assert_allclose(np.sqrt(law.variance) / 3, after[1], rtol=0.03)  # two days, which nothing was set by

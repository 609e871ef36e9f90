"""Table II, a user's own device, and a whole grid of devices in one program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.hardware import catalogue, cells
from nvcim_jax.hardware.catalogue import Sheet, device, load, sheet
from nvcim_jax.hardware.devices import Device, stack, sweep, with_levels

TABLE_II = {
    "NVM-1": ("0.0100", "0.0100", "0.0100", "0.0100"),
    "NVM-2": ("0.0067", "0.0135", "0.0135", "0.0067"),
    "NVM-3": ("0.0049", "0.0146", "0.0146", "0.0049"),
    "NVM-4": ("0.0038", "0.0151", "0.0151", "0.0038"),
    "NVM-5": ("0.0026", "0.0155", "0.0155", "0.0026"),
}
TOML = """
name = "PCM-4"
source = "a paper, Fig. 3"
levels = 4
noise = [0.01, 0.03, 0.02, 0.01]
sigma_range = [1, 1]
seconds_range = [1, 1e6]
read_noise = 0.005
off_us = 0.1
on_us = 20
drift_exponent = 0.05
stuck_off = 0.01
stuck_on = 0.002
"""


@pytest.mark.parametrize("name", TABLE_II)
def test_table_ii_to_the_last_digit(name):
    assert tuple(f"{0.01 * float(level):.4f}" for level in device(name).levels) == TABLE_II[name]


def test_factors_are_in_the_order_of_eq_4():
    np.testing.assert_array_equal(Device(jnp.array([0.0, 1.0, 2.0, 3.0])).factors, [3.0, 2.0, 1.0, 0.0])


def test_other_level_counts_meet_eq_4_quarter_by_quarter():
    np.testing.assert_allclose(Device(jnp.array([1.0, 2.0])).factors, [2, 2, 1, 1])
    eight = Device(jnp.array([1.0, 7.0, 2.0, 2.0, 3.0, 3.0, 0.0, 0.0]))
    np.testing.assert_allclose(eight.factors, [0, 3, 2, 5], rtol=1e-6)  # 5 = sqrt((1 + 49) / 2)


def test_unknown_devices_are_refused_with_the_list():
    with pytest.raises(ValueError, match=r"NVM-6.*NVM-1, NVM-2.*\.toml"):
        device("NVM-6")


def test_a_users_own_device(tmp_path):
    path = tmp_path / "pcm.toml"
    path.write_text(TOML)
    own = device(str(path))
    np.testing.assert_allclose(own.levels, [0.01, 0.03, 0.02, 0.01])
    np.testing.assert_allclose(own.conductance_us, [0.1, 20])
    np.testing.assert_allclose(own.stuck, [0.01, 0.002])
    assert float(own.drift) == pytest.approx(0.05) and float(own.read_noise) == pytest.approx(0.005)
    assert load(path).source == "a paper, Fig. 3" and load(path).endurance is None


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("levels = 4", "levels = 8", "8 levels but 4 noise values: give one per level"),
        ("levels = 4", "levels = 3", "3 levels: a power of two"),
        ("levels = 4", "levels = 4.0", "levels is 4.0: a whole number from 2 to 256 is needed"),
        ("0.03", "nan", "noise is .*nan.*: one number from 0 to 10 for each level is needed"),
        ("0.03", "-0.03", "noise is .*-0.03.*: one number from 0 to 10"),
        ("0.03", '"x"', "noise is .*'x'.*: one number from 0 to 10"),
        ('source = "a paper, Fig. 3"', 'source = " "', "no source"),
        ('source = "a paper, Fig. 3"', "", "lacks source"),
        ("read_noise", "reed_noise", "unknown entry 'reed_noise'.*read_noise"),
        ("read_noise = 0.005", 'read_noise = "little"', "read_noise is 'little': a number"),
        ("stuck_off = 0.01", "stuck_off = 0.999", "exceed 1"),
        ("on_us = 20", "", "one of off_us and on_us"),
        ("on_us = 20", "on_us = 0.05", "on_us 0.05 must exceed off_us 0.1"),
        ("[1, 1e6]", "[1e6, 1]", "seconds_range .* is empty"),
        ("[1, 1e6]", "[1]", "two numbers from 0 to 1e.30"),
        ("levels = 4", "levels = = 4", "is no TOML"),
        ("levels = 4", "levels = true", "levels is True: a whole number"),
        ("0.03", "1e39", "noise is .*1e.39.*: one number from 0 to 10"),  # infinite in float32
        ("read_noise = 0.005", "read_noise = 1e39", "read_noise is 1e.39: a number from 0 to 10 is needed"),
        ("read_noise = 0.005", f"read_noise = {10**400}", r"read_noise is 10+\.\.\.: a number from 0 to 10"),
        ("read_noise = 0.005", f"read_noise = {'9' * 5000}", "is no TOML .*digits"),
        ("on_us = 20", "on_us = 0.10000000001", "on_us 0.10000000001 must exceed off_us 0.1, also in float32"),
        ("PCM-4", "PCM\\u0007-4", r"name is 'PCM\\x07-4': text on one line, of 60 characters"),
        ("PCM-4", "", "name is '': text on one line"),
        ("levels = 4", "levels = " + "[" * 5000, "is no TOML"),
    ],
)
def test_a_wrong_file_gets_one_clear_sentence(tmp_path, old, new, message):
    assert old in TOML
    path = tmp_path / "pcm.toml"
    path.write_text(TOML.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.toml cannot be read \(No such file"):
        device(str(tmp_path / "none.toml"))


def test_outside_its_range_a_device_is_not_believed():
    sheet("NVM-3").check(sigma=0.1)
    with pytest.raises(ValueError, match=r"sigma 0.2 is outside 0 to 0.15.*NVM-3.*Table II"):
        sheet("NVM-3").check(sigma=0.2)
    with pytest.raises(ValueError, match="seconds 100 is outside 1 to 1"):
        sheet("NVM-3").check(sigma=0.1, seconds=100.0)


def test_what_a_sheet_leaves_out_a_device_does_not_do():
    assert device("NVM-1")._replace(levels=None, conductance_us=None) == (None,) * len(Device._fields)
    plain = Sheet(name="x", source="y", levels=2, noise=(0.1, 0.1), sigma_range=(1.0, 1.0))
    assert plain.device.conductance_us is None


def test_stacked_devices_do_by_zero_what_they_do_not():
    noisy = device("NVM-1")._replace(read_noise=jnp.float32(0.1), stuck=jnp.array([0.1, 0.2]))
    both = stack([noisy, device("NVM-5")])
    np.testing.assert_allclose(both.read_noise, [0.1, 0])
    np.testing.assert_allclose(both.stuck, [[0.1, 0.2], [0, 0]])
    assert both.drift is None and both.levels.shape == (2, 4)


def test_devices_that_do_not_stack_are_refused():
    with pytest.raises(ValueError, match=r"\[2, 4\] levels do not stack"):
        stack([Device(jnp.ones(2)), Device(jnp.ones(4))])
    with pytest.raises(ValueError, match="only some of the devices give conductances"):
        stack([device("NVM-1"), Device(jnp.ones(4))])


def test_a_grid_is_one_program_with_paired_draws():
    traces = []
    levels = jnp.arange(4)[None, :, None]

    def trial(key, one, sigma):
        traces.append(1)
        return cells.program(key, levels, one, sigma=sigma) - levels

    keys = jax.random.split(jax.random.key(0), 3)
    names, sigmas = list(catalogue.RATIOS), jnp.array([0.1, 0.2])
    grid = jax.jit(lambda *args: sweep(trial, *args))(keys, stack([device(n) for n in names]), sigmas)
    assert grid.shape == (5, 2, 3, 1, 4, 1) and len(traces) == 1
    np.testing.assert_allclose(grid[4, 1, 2], trial(keys[2], device("NVM-5"), 0.2), rtol=2e-6)
    stds = np.stack([device(name).levels for name in names])[:, None] * np.asarray(sigmas)[None, :, None]
    unit = np.asarray(grid)[:, :, :, 0, :, 0] / stds[:, :, None]
    np.testing.assert_allclose(unit, np.broadcast_to(unit[:1, :1], unit.shape), atol=1e-4)


def test_other_numbers_of_levels_are_read_off_between_those_that_a_device_has():
    own = Device(jnp.array([0.0, 3.0, 6.0, 3.0]), read_noise=jnp.float32(0.1), means=jnp.array([0.0, 0.3, 0.6, 1.0]))
    np.testing.assert_array_equal(with_levels(own, 4).levels, own.levels)
    two, seven = with_levels(own, 2), with_levels(own, 7)
    np.testing.assert_allclose(two.levels, [0, 3])
    np.testing.assert_allclose(two.means, [0, 1])
    np.testing.assert_allclose(seven.levels, [0, 1.5, 3, 4.5, 6, 4.5, 3], rtol=1e-6)
    assert seven.read_noise == own.read_noise and seven.drift is None
    with pytest.raises(ValueError, match="at least 2"):
        with_levels(own, 1)

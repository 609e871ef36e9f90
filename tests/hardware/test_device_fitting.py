"""Devices from measurements: they recover what made the cells, say what they cannot, and refuse what cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.evaluation import fitted
from nvcim_jax.hardware import ageing, catalogue, cells
from nvcim_jax.hardware.fitting import fit_device
from nvcim_jax.hardware.measured import Reads, read_csv
from tests.helpers.measured_cells import OFF, ON, Truth, measure, missed

HEAD = "level,cell,seconds,conductance"


def csv(path, lines, head=HEAD):
    path.write_text("\n".join([head, *lines]))
    return path


def some_lines(levels=(0, 1), count=8, **changed):
    """Lines of `count` cells a level, of 1 and 10 uS."""
    rows = []
    for level in levels:
        for at in range(count):
            own = {"level": level, "cell": f"{level}-{at}", "seconds": 1, "conductance": 1 + 9 * level + 0.01 * at}
            rows.append(own | changed)
    return [",".join(str(value) for value in row.values()) for row in rows]


def test_a_device_recovers_what_made_its_cells():
    fit = fit_device(measure(0, 10_000))
    assert missed(fit.estimates) == []
    assert fit.sheet.noise == pytest.approx(Truth().noise, rel=0.1) and fit.sheet.means is None
    assert fit.sheet.drift_exponent == pytest.approx(Truth().exponent, abs=1e-3)
    assert fit.sheet.on_us == pytest.approx(ON, rel=0.02) and fit.sheet.off_us == pytest.approx(OFF, rel=0.05)
    assert fit.sheet.seconds_range == (1, 1e5)


@pytest.mark.slow
def test_the_intervals_hold_together_as_often_as_they_say():
    failed = [missed(fit_device(measure(seed, 10_000)).estimates) for seed in range(40)]
    assert sum(map(bool, failed)) <= 6  # of 40 two are expected; more than six in 0.3 % of the cases


def test_few_cells_say_what_they_cannot_tell():
    fit = fit_device(measure(1, 200))
    said = " ".join(fit.untold)
    assert "Correlation: no more than" in said and "Stuck on: no more than" in said
    assert missed(fit.estimates) == []
    wide, narrow = (each.estimates["noise of level 2"] for each in (fit, fit_device(measure(1, 5000))))
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_one_time_tells_nothing_of_time():
    fit = fit_device(measure(2, 400, times=(1.0,)))
    assert any("All reads are of one time" in line for line in fit.untold)
    assert fit.sheet.drift_exponent == 0 and fit.sheet.read_noise == 0
    assert not any(name.startswith("exponent") for name in fit.estimates)


def test_without_a_column_of_arrays_nothing_is_said_of_them():
    fit = fit_device(measure(2, 400)._replace(array_of=None))
    assert any("No column names the array" in line for line in fit.untold) and fit.sheet.correlation == 0


def test_uneven_levels_are_kept_where_they_lie():
    drawn = np.random.default_rng(0)
    level = np.arange(4000) % 4
    start = np.array([2.0, 5.0, 15.0, 20.0])[level] + 0.2 * drawn.standard_normal(4000)
    fit = fit_device(Reads(start, np.ones(4000), np.arange(4000), level, None))
    assert fit.sheet.means == pytest.approx((0, 3 / 18, 13 / 18, 1), abs=3e-3)
    assert fit.sheet.noise == pytest.approx([0.2 / 18] * 4, rel=0.1)


def test_cells_of_the_package_are_fitted_as_its_own_device():
    sheet = catalogue.sheet("SONOS-Agrawal")
    device = sheet.device._replace(
        wander=None, read_noise=jnp.float32(0.002), drift=jnp.array([0.05, 0.04, 0.03, 0.02]),
        conductance_us=jnp.array([4.0, 16.0]), drift_from=None, drift_std=jnp.float32(0.004),
    )  # fmt: skip
    write, life, read = jax.random.split(jax.random.key(0), 3)
    levels = jnp.tile(jnp.arange(4), 500).reshape(1, 1, -1)
    held, times = cells.program(write, levels, device, sigma=1.0), np.array([1.0, 1e2, 1e4, 1e6])
    seen = [
        cells.sense(key, ageing.age(held, device, seconds=float(t), life=life), device)[0, 0]
        for key, t in zip(jax.random.split(read, 4), times)
    ]
    conductance = 4 + np.stack(seen, -1) / 3 * 12
    number = np.repeat(np.arange(2000), 4)
    fit = fit_device(Reads(conductance.ravel(), np.tile(times, 2000), number, np.asarray(levels)[0, 0], None))
    for at in range(4):
        for name, value in (
            ("exponent", device.drift[at]),
            ("noise", device.levels[at]),
            ("spread of exponents", 0.004),
        ):
            found = fit.estimates[f"{name} of level {at}"]
            assert found.low <= value <= found.high, (name, at)


def test_the_sheet_survives_its_file_and_the_picture_is_drawn(tmp_path):
    fit = fit_device(measure(3, 800), name="mine")
    (tmp_path / "mine.toml").write_text(catalogue.to_toml(fit.sheet))
    assert catalogue.load(tmp_path / "mine.toml") == fit.sheet
    fitted.picture(tmp_path / "fit.png", fit)
    assert (tmp_path / "fit.png").stat().st_size > 10_000
    assert min(fitted.fits_gaussian(fit)) > 1e-3 and fitted.as_json(fit)["cells"]


def test_a_file_is_read_as_its_numbers(tmp_path):
    made = measure(4, 64, arrays=8, times=(1.0, 100.0))
    rows = [
        f"{made.level_of[cell]},{cell},{seconds},{float(g)!r},{made.array_of[cell]}"
        for cell, seconds, g in zip(made.cell, made.seconds, made.conductance)
    ]
    found = read_csv(csv(tmp_path / "cells.csv", rows, f"{HEAD},array"))
    np.testing.assert_array_equal(found.conductance, made.conductance)
    np.testing.assert_array_equal(found.level_of[found.cell], made.level_of[made.cell])
    np.testing.assert_array_equal(found.array_of[found.cell], made.array_of[made.cell])


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], "holds no reads"),
        (some_lines(seconds=0), "line 2: seconds is '0': time counts from programming, and must be above 0"),
        (some_lines(conductance=-1), "line 2: conductance is '-1': a conductance, in uS, is never below 0"),
        (some_lines(conductance="nan"), "line 2: conductance is 'nan': a number is needed"),
        (some_lines(conductance=""), "line 2: conductance is '': a number is needed"),
        (some_lines(levels=(0,)), "hold one level only"),
        (some_lines(levels=(0, 2)), "no cell at level 1 of 3"),
        (some_lines(levels=(0, 1, 2)), "hold 3 levels: a power of two"),
        (some_lines(count=3), "hold 3 cells at level 0: 8 are the least"),
        (some_lines(level=0.5), "line 2: level is '0.5': a whole number"),
        (some_lines(cell="same"), "line 10: level is '1': this cell holds another level above"),
        (some_lines(conductance=5), "level 1 conducts 5 uS, no more than level 0"),
    ],
)
def test_wrong_measurements_get_one_clear_sentence(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        fit_device(csv(tmp_path / "cells.csv", lines))


def test_a_missing_column_or_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="lacks the columns seconds, conductance: the first line must name"):
        read_csv(csv(tmp_path / "cells.csv", ["0,1"], "level,cell"))
    with pytest.raises(ValueError, match="cannot be read .there is no such file"):
        read_csv(tmp_path / "none.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read .it is no UTF-8"):
        read_csv(tmp_path / "bytes.csv")

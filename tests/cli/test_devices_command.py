"""`nvcim devices`, and what the commands say of a device that is asked beyond what is known of it."""

import pytest

from tests.helpers.command import nvcim
from tests.helpers.measured_cells import measure

OWN = """
name = "{name}"
source = "a paper"
levels = {levels}
noise = {noise}
sigma_range = [0.5, 1]
"""


def own_device(folder, *noise, name="mine", more=""):
    path = folder / f"{name}.toml"
    path.write_text(OWN.format(name=name, levels=len(noise), noise=list(noise)) + more)
    return path


def row(text, name, table):
    """The cells of the row called `name` in the table that has the heading `table`."""
    lines = text[text.index(table) :].splitlines()
    return [cell.strip() for cell in next(line for line in lines if f"│ {name} " in line).split("│")[1:-1]]


def test_every_heading_stands_above_its_own_values(tmp_path):
    path = own_device(tmp_path, 0.1, 0.2, 0.3, 0.4)
    text = nvcim("devices", "--device", path, "--device", "NVM-3")
    assert row(text, "mine", "L0") == ["mine", "its own", "1", "0.1000", "0.2000", "0.3000", "0.4000"]
    effect = "a value, as a share"
    assert row(text, "mine", effect) == ["mine", "0.1 ± 0.100", "0.3 ± 0.200", "0.6 ± 0.300", "0.9 ± 0.400"]
    assert row(text, "NVM-3", effect)[1:] == ["0.1 ± 0.049", "0.3 ± 0.146", "0.6 ± 0.146", "0.9 ± 0.049"]


def test_devices_of_two_and_of_many_levels(tmp_path):
    two, many = own_device(tmp_path, 0.1, 0.4, name="two"), own_device(tmp_path, *[0.25] * 16, name="many")
    text = nvcim("devices", "--device", two, "--device", many, "--sigma", "0.5")
    assert row(text, "two", "L0")[:5] == ["two", "its own", "0.5", "0.0500", "0.2000"]
    assert row(text, "two", "a value")[1:] == ["0.1 ± 0.050", "0.3 ± 0.050", "0.6 ± 0.200", "0.9 ± 0.200"]
    assert "many: 0.1250 0.1250" in text and "16 levels" in text


@pytest.mark.parametrize("words", [["devices"], ["run", "--model", "/nonexistent"]])
def test_beyond_table_ii_figures_are_called_extrapolated(words):
    for sigma, said in ((0.2, True), (0.15, False)):
        text = nvcim(*words, "--sigma", sigma, code=2 if words[1:] else 0).replace("\n", " ")
        assert ("Sigma 0.2 lies outside 0 to 0.15, for which" in text and "extrapolated" in text) == said


def test_beyond_its_seconds_a_device_is_refused_or_called_extrapolated():
    words = ["run", "--model", "/nonexistent", "--device", "PCM-Joshi", "--sigma", 1, "--seconds", 1e6]
    text = nvcim(*words, code=2).replace("\n", " ")
    assert "seconds 1e+06 is outside 1 to 86400, for which PCM-Joshi is known" in text and "--extrapolate" in text
    text = nvcim(*words, "--extrapolate", code=2).replace("\n", " ")
    assert "Seconds 1e+06 lie outside 1 to 86400, for which PCM-Joshi is known" in text and "extrapolated" in text
    assert "seconds 60 is outside 1 to 1, for which NVM-3" in nvcim(*words[:3], "--seconds", 60, code=2).replace(
        "\n", " "
    )


def test_compensation_without_time_is_refused():
    text = nvcim("run", "--compensation", "global", code=2)
    assert "give --seconds, too" in text.replace("\n", " ")
    text = nvcim("run", "--seconds", 60, "--compensation", "x", code=2).replace("\n", " ")
    assert "unknown compensation 'x': choose one of none, global, reference, column" in text


def test_published_devices_are_listed_with_what_they_do_and_whose_numbers_they_are():
    text = nvcim("devices")
    assert all(word in text for word in ("PCM-Joshi", "SONOS-Agrawal", "1/f", "wanders", "aihwkit", "BSD-3-Clause"))


def test_a_device_is_fitted_to_a_file(tmp_path):
    made = measure(0, 80, times=(1.0, 100.0, 1e4))
    lines = [
        f"{made.level_of[cell]},{cell},{seconds},{g}"
        for cell, seconds, g in zip(made.cell, made.seconds, made.conductance)
    ]
    (tmp_path / "cells.csv").write_text("\n".join(["level,cell,seconds,conductance", *lines]))
    text = nvcim("devices", "fit", tmp_path / "cells.csv", "--name", "mine", "--out", tmp_path / "out")
    assert "noise of level 3" in text and "No column names the array" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"device.toml", "fit.json", "fit.png"}
    assert "mine" in nvcim("devices", "--device", tmp_path / "out" / "device.toml")
    (tmp_path / "bad.csv").write_text("level,cell\n0,1")
    assert "lacks the columns seconds, conductance" in nvcim("devices", "fit", tmp_path / "bad.csv", code=2).replace(
        "\n", " "
    )


def test_a_device_of_ones_own_is_not_believed_outside_its_range(tmp_path):
    text = nvcim("devices", "--device", own_device(tmp_path, 0.1, 0.2), "--sigma", "0.1", code=2)
    assert "sigma 0.1 is outside 0.5 to 1, for which mine is known" in text.replace("\n", " ")

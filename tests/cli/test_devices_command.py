"""`nvcim devices`, and what the commands say of a device that is asked beyond what is known of it."""

import pytest

from tests.helpers.command import nvcim

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


def test_a_device_of_ones_own_is_not_believed_outside_its_range(tmp_path):
    text = nvcim("devices", "--device", own_device(tmp_path, 0.1, 0.2), "--sigma", "0.1", code=2)
    assert "sigma 0.1 is outside 0.5 to 1, for which mine is known" in text.replace("\n", " ")

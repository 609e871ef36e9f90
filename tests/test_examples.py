"""Every example runs as a user would run it, and prints what it is there to show."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
MOST_LINES = 40
SHOWN = {  # what must be printed, in this order
    "quickstart": r"(.+, as in: She .+ \(leads by 0\.\d+\)\n){8}",
    "own_device": r"PCM-4 at sigma 1: .* 9\d\.\d% \(numbers made up.*\nNVM-3 at sigma 0\.1: .*\nNVM-3 at sigma 0\.15: ",
    "own_history": r"answered: A short history of .*\n.*\n.*\n.*answered: my buddy .*\n.*\n.*\n.*answered: comedy\n",
    "own_tuning_method": r"LowRank\(rank=4\): \d OVTs, mean loss 0\.\d+, [6-8] of 8 questions right",
    "monte_carlo": r"sigma 0\.00: found 1\.000 .*\nsigma 0\.05: found 0\.9.*\nsigma 0\.10: .*\nsigma 0\.15: found 0\.[67]",
    "growing_bank": r"version 1: 6 OVTs .*\nversion 2: 8 OVTs .*\nfound what is new: \[True, True\]\nversion 3: 8 OVTs in 8 slots\n"
    r"made room: slots \[0, 1\]\nversion 4: 9 OVTs in 16 slots",
}


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_prints_what_it_shows(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert re.search(SHOWN[name], capsys.readouterr().out)


def test_every_example_is_run_is_short_and_says_how_to_run_it():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SHOWN)
    for path in EXAMPLES.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert len(source.splitlines()) <= MOST_LINES, path.name
        assert f"`python examples/{path.name}`" in source.split('"""')[1], path.name

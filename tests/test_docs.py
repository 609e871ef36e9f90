"""Every Python block of README and docs runs as it is printed."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{at}")
    for page in PAGES
    for at, block in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs_as_printed_and_prints_something(block, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "block", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_test_that_the_docs_name_exists():
    """`test_x.py::test_name…`, or `…::test_name…` of the file named last."""
    for page in PAGES:
        named, missing = None, []
        for file, test in re.findall(r"`(test_\w+\.py|…)(?:::(test_\w+))?…?`", page.read_text(encoding="utf-8")):
            named = named if file == "…" else next((ROOT / "tests").rglob(file), ROOT / file)
            if not named.is_file() or (test and f"def {test}" not in named.read_text(encoding="utf-8")):
                missing.append(f"{named.name}::{test}")
        assert not missing, f"{page.name} names tests that do not exist: {missing}"

"""Every Python block of README and docs runs as it is printed, every command has the options that are given to it."""

import re
import runpy
import shlex
import sys
from argparse import ArgumentParser
from functools import reduce
from importlib import import_module
from pathlib import Path

import pytest

import nvcim_jax as nv
from experiments import remake
from tests.helpers.command import nvcim

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
README_LINES = 120
INSTALL = """\
python3 -m venv --without-pip .venv && python3 -m pip --python .venv/bin/python install -q . && .venv/bin/nvcim run
python3 -m venv --without-pip .venv && python3 -m pip --python .venv/bin/python install -q -e '.[test]' && \
.venv/bin/python -m pytest
"""  # what a newcomer is told, and `.ci/run` does


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def shell_blocks(page: Path) -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", text_of(page), re.M | re.S)


def scripts_of(text: str) -> list[str]:
    """What follows `python` where an experiment is called, as code or in its own docstring."""
    found = re.findall(r"`python\s+(experiments/[^`]+)`", text) + re.findall(
        r"^    python (experiments/.+)$", text, re.M
    )
    return [" ".join(each.split()) for each in found if not each.endswith("\\\\")]


SCRIPTS = sorted({
    command for page in [*PAGES, *(ROOT / "experiments").glob("*.py")] for command in scripts_of(text_of(page))
})  # fmt: skip
BLOCKS = [
    pytest.param(code, output, id=f"{page.relative_to(ROOT)}-{at}")
    for page in PAGES
    for at, (code, output) in enumerate(
        re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", text_of(page), re.M | re.S)
    )
]
COMMANDS = [
    line for page in PAGES for block in shell_blocks(page) for line in block.splitlines() if line.startswith("nvcim ")
]
COMMANDS += re.findall(r"^\| `(nvcim [^`]+)`", text_of(ROOT / "README.md"), re.M)
COMMANDS += re.findall(r"`(nvcim [^`]+)`", text_of(ROOT / "docs" / "results" / "index.md"))


@pytest.mark.parametrize(("code", "output"), BLOCKS)
def test_a_block_runs_as_printed_and_prints_what_stands_below_it(code, output, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "block", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert printed.strip()
    assert output in ("", printed)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_the_options_that_it_is_given(command):
    """With --help it does nothing, but an option or a command that does not exist is refused before."""
    assert "Usage" in nvcim(*shlex.split(command, comments=True)[1:], "--help")


class Parsed(Exception):
    """The options of a script were read, which is as far as a test goes."""


@pytest.mark.parametrize("command", SCRIPTS)
def test_an_experiment_has_the_options_that_it_is_given(command, monkeypatch):
    read = ArgumentParser.parse_args

    def read_and_stop(*args, **options):
        read(*args, **options)
        raise Parsed

    script, *words = shlex.split(command, comments=True)
    monkeypatch.setattr(ArgumentParser, "parse_args", read_and_stop)
    monkeypatch.setattr(sys, "argv", [script, *words])
    monkeypatch.syspath_prepend(ROOT / "experiments")  # as where a script is run
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / script), run_name="__main__")


def test_every_page_of_results_stands_in_their_index_with_the_command_that_makes_it():
    index, results = text_of(ROOT / "docs" / "results" / "index.md"), ROOT / "docs" / "results"
    for page in results.glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index
    made = {f"experiments/{words} --out out/{name}" for name, (_, words) in remake.PAGES.items()}
    assert made <= set(scripts_of(index))


def test_every_benchmark_that_the_docs_name_exists():
    named = {name for page in PAGES for name in re.findall(r"python -m bench\.([a-z_]+)", text_of(page))}
    assert len(named) > 6 and all((ROOT / "bench" / f"{name}.py").is_file() for name in named)


def test_the_first_block_of_readme_is_what_the_build_runs():
    first, *_ = re.findall(r"^```\w*\n(.*?)^```", text_of(ROOT / "README.md"), re.M | re.S)
    assert first == INSTALL


def test_readme_is_short():
    assert len(text_of(ROOT / "README.md").splitlines()) <= README_LINES


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(page)):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_test_that_the_docs_name_exists():
    """`test_x.py::test_name…`, or `…::test_name…` of the file named last."""
    for page in PAGES:
        named, missing = None, []
        for file, test in re.findall(r"`(test_\w+\.py|…)(?:::(test_\w+))?…?`", text_of(page)):
            named = named if file == "…" else next((ROOT / "tests").rglob(file), ROOT / file)
            if not named.is_file() or (test and f"def {test}" not in text_of(named)):
                missing.append(f"{named.name}::{test}")
        assert not missing, f"{page.name} names tests that do not exist: {missing}"


def place_of(name: str):
    """What a dotted name leads to, from the front door or from a module of the package; AttributeError if nothing."""
    within = name.split(".")
    for most in range(len(within), 0, -1):
        try:
            found = import_module(".".join(["nvcim_jax", *within[:most]]))
        except ModuleNotFoundError:
            continue
        return reduce(attribute, within[most:], found)
    return reduce(attribute, within, nv)


def attribute(value, name: str):
    fields = getattr(value, "__dataclass_fields__", {})
    return fields[name] if name in fields else getattr(value, name)


def test_the_glossary_names_places_that_exist():
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| ([^|]+) \|$", text_of(ROOT / "docs" / "glossary.md"), re.M)
    names = [name for row in rows[1:] for name in re.findall(r"`([\w.]+)[^`]*`", row) if "/" not in row]
    assert len(names) > 60
    for name in names:
        assert place_of(name) is not None

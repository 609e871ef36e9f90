"""What results say of the program that made them, whatever is installed beside it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nvcim_jax import provenance

ROOT = Path(__file__).parents[1]
IDENTITY = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]


@pytest.fixture
def checkout(tmp_path):
    """A checkout of a project called as its pyproject.toml is told, of one commit."""

    def make(name):
        package = tmp_path / name / "nvcim_jax"
        package.mkdir(parents=True)
        (package / "job.py").write_text("")
        (package.parent / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
        for words in (["init", "-q"], ["add", "."], [*IDENTITY, "commit", "-q", "-m", "first"]):
            subprocess.run(["git", *words], cwd=package.parent, check=True)
        return package.parent

    if shutil.which("git") is None:
        pytest.skip("no git here")
    return make


def test_a_checkout_gives_its_commit(checkout):
    root = checkout("nvcim_jax")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout
    commit = provenance._commit(root)
    assert len(commit) == 12 and head.startswith(commit)
    (root / "nvcim_jax" / "job.py").write_text("changed")
    assert provenance._commit(root) == f"{commit}-dirty"


def test_a_foreign_checkout_around_the_package_gives_none(checkout):
    root = checkout("their_project")
    assert provenance._commit(root) is None  # copied into it
    installed = root / ".venv" / "lib" / "site-packages"
    installed.mkdir(parents=True)
    assert provenance._commit(installed) is None  # installed inside it


def test_without_git_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance._commit(ROOT) is None
    for text in ("exit 1", "echo /", "printf '\\377'"):
        (tmp_path / "git").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "git").chmod(0o755)
        assert provenance._commit(ROOT) is None


def test_a_package_that_is_not_installed_has_no_version():
    assert provenance._version("jax") and provenance._version("no-such-package") is None


def test_provenance_is_of_the_beginning(monkeypatch):
    before = provenance.provenance()
    monkeypatch.setattr(provenance, "_commit", lambda root: "another")
    assert provenance.provenance() == before


@pytest.mark.slow
def test_learning_and_costing_need_no_other_program(tmp_path):
    for words in (["cost", "--out", "cost"], ["learn", "--out", "bank"]):
        done = subprocess.run(
            [sys.executable, "-m", "nvcim_jax", *words],
            cwd=tmp_path, env={"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "cost" / "cost.json").is_file() and (tmp_path / "bank" / "000001").is_dir()

"""Compiled programs between commands: kept in a private folder, bounded, and never a reason to fail."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from nvcim_jax.cli import cache

ROOT = Path(__file__).parents[2]
NAMES = (
    "jax_enable_compilation_cache", "jax_compilation_cache_dir", "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)  # fmt: skip


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A user's cache folder, for a JAX that keeps programs; what is set is set back."""
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def folder(home):
    return home / "nvcim_jax" / f"programs-{cache._processor()}"


def test_programs_are_kept_in_a_private_folder(home):
    cache.keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(folder(home))
    assert folder(home).stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_compilation_cache_max_size == 1 << 28
    cache.keep_programs()  # the folder is there by now
    assert jax.config.jax_compilation_cache_dir == str(folder(home))


def test_the_users_own_choice_stands(home, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    cache.keep_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "theirs")
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    cache.keep_programs()
    assert jax.config.jax_compilation_cache_dir is None
    assert not folder(home).exists()


def a_link(made):
    made.parent.mkdir()
    (made.parent / "elsewhere").mkdir(mode=0o700)
    made.symlink_to(made.parent / "elsewhere")


def open_to_others(made):
    made.mkdir(parents=True)
    made.chmod(0o770)


def a_file(made):
    made.parent.mkdir()
    made.write_text("")


@pytest.mark.parametrize("hostile", [a_link, open_to_others, a_file])
def test_a_folder_that_others_could_write_is_not_trusted(home, hostile):
    hostile(folder(home))
    with pytest.warns(UserWarning, match="cannot keep compiled programs .*: every command compiles anew") as told:
        cache.keep_programs()
    assert len(told) == 1 and jax.config.jax_compilation_cache_dir is None


def test_anothers_folder_is_not_trusted(home, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.warns(UserWarning, match="another user's"):
        cache.keep_programs()


def test_without_a_home_folder_nothing_is_made(home, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: Path("~/.cache") / name)
    with pytest.warns(UserWarning, match="there is no home folder"):
        cache.keep_programs()
    assert not list(tmp_path.iterdir())


DAMAGE = """
import sys, jax
from pathlib import Path
from nvcim_jax.cli.cache import keep_programs
keep_programs()
double = lambda: float(jax.jit(lambda x: 2 * x + 1)(3.0))
assert double() == 7
kept = list(Path(jax.config.jax_compilation_cache_dir).glob("*-cache"))
assert kept
for path in kept:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data[: len(data) - {cut}])
jax.clear_caches()
assert double() == 7
"""


@pytest.mark.parametrize("cut", [0, 40])
def test_a_damaged_program_is_compiled_anew(tmp_path, cut):
    env = {"XDG_CACHE_HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": ""}
    command = [sys.executable, "-c", DAMAGE.format(cut=cut)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done.stderr

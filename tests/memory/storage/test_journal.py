"""Lines beside a version: on the disk when they are written, whole or not at all, and nobody else's in between."""

import os
import stat

import jax.numpy as jnp
import pytest

from nvcim_jax.memory import bank
from nvcim_jax.memory.storage import journal, store
from nvcim_jax.memory.storage.checkpoint import Damaged, StoreError
from nvcim_jax.memory.storage.journal import NAME


@pytest.fixture
def folder(tmp_path):
    store.save(tmp_path / "bank", bank.empty(2, 4, 8))
    return tmp_path / "bank"


def written(folder, *entries, size=0):
    for entry in entries:
        size = journal.append(folder, 1, entry, size=size)
    return size


def test_what_is_written_is_read_in_order(folder):
    assert journal.read(folder, 1) == ([], 0)
    size = written(folder, {"moment": "ä\n"}, ["two"], None)
    assert journal.read(folder, 1) == ([{"moment": "ä\n"}, ["two"], None], size)
    assert size == (folder / "000001" / NAME).stat().st_size
    assert stat.S_IMODE((folder / "000001" / NAME).stat().st_mode) == 0o600
    assert int(store.load(folder).bank.count) == 0  # a bank like any other


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_half_a_line_of_a_killed_process_never_was(folder, cut):
    size = written(folder, "one")
    written(folder, "two", size=size)
    path = folder / "000001" / NAME
    os.truncate(path, path.stat().st_size - cut)
    assert journal.read(folder, 1) == (["one"], size)
    written(folder, "three", size=size)
    assert journal.read(folder, 1).entries == ["one", "three"]


@pytest.mark.parametrize("at", range(0, 60, 7))
def test_a_flipped_bit_is_told_by_its_line(folder, at):
    written(folder, "one", "another one")
    path = folder / "000001" / NAME
    data = bytearray(path.read_bytes())
    line = 1 + data[:at].count(b"\n")
    data[at] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(Damaged, match=f"line {line} is damaged"):
        journal.read(folder, 1)


def test_what_somebody_else_wrote_is_not_built_on(folder):
    size = written(folder, "mine")
    written(folder, "theirs", size=size)
    with pytest.raises(StoreError, match="gone on with by another process"):
        written(folder, "mine again", size=size)
    (folder / "000001" / NAME).unlink()
    with pytest.raises(StoreError, match="gone on with by another process"):
        written(folder, "mine again", size=size)


def test_a_version_that_is_not_the_newest_gets_no_more_lines(folder):
    store.save(folder, bank.empty(2, 4, 8)._replace(count=jnp.int32(1)), over=1)
    with pytest.raises(StoreError, match="holds version 2, not 1 any more"):
        written(folder, "late")


def test_a_link_is_not_written_through(folder, tmp_path):
    (folder / "000001" / NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="cannot be written"):
        written(folder, "one")
    assert not (tmp_path / "elsewhere").exists()

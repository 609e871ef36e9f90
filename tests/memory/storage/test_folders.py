"""The folder of a bank: who may read it, what stands in its way, its lock."""

import errno
import fcntl
import os
import stat

import pytest

from nvcim_jax.memory.storage import folders, store
from nvcim_jax.memory.storage.repair import repair
from tests.memory.storage.test_store import ABOUT, CODEC, bank, collected, folder, same

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
__all__ = ["collected", "folder"]


def test_a_bank_is_closed_to_all_but_its_owner(tmp_path):
    before = os.umask(0)
    try:
        (tmp_path / "bank").mkdir()
        store.save(tmp_path / "bank", bank(), CODEC, ABOUT)
        store.save(tmp_path / "new" / "bank", bank(), CODEC, ABOUT)
        store.count_uses(tmp_path / "bank", 1, 0, [2])
    finally:
        os.umask(before)
    for place in (tmp_path / "bank", tmp_path / "new" / "bank"):
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (place, *place.rglob("*"))}
        assert {path for path in modes if modes[path] != (0o700 if path.is_dir() else 0o600)} == set()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o777  # only the bank is private


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder"])
def test_a_lock_that_is_no_file_empties_nothing_and_is_told(folder, tmp_path, kind):
    (tmp_path / "diary").write_text("rain")
    (folder / ".lock").unlink()
    if kind == "folder":
        (folder / ".lock").mkdir()
    else:
        (folder / ".lock").symlink_to(tmp_path / ("diary" if kind == "link" else "none"))
    for call in (lambda: store.save(folder, bank(3), CODEC, ABOUT, over=1), lambda: repair(folder)):
        with pytest.raises(
            store.StoreError, match="cannot be written .(Too many levels of symbolic links|Is a directory)"
        ):
            call()
    assert (tmp_path / "diary").read_text() == "rain" and not (tmp_path / "none").exists()
    assert same(store.load(folder).bank, bank())


def test_a_lock_with_content_keeps_it_and_a_pipe_does_not_hang(folder):
    (folder / ".lock").write_text("kept")
    store.save(folder, bank(3), CODEC, ABOUT, over=1)
    assert (folder / ".lock").read_text() == "kept"
    (folder / ".lock").unlink()
    os.mkfifo(folder / ".lock")
    store.save(folder, bank(4), CODEC, ABOUT, over=2)


def test_the_real_reason_of_a_lock_is_told(folder, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    with (
        monkeypatch.context() as remote,
        pytest.raises(store.StoreError, match="cannot be written .No locks available."),
    ):
        remote.setattr(fcntl, "flock", no_locks)
        store.save(folder, bank(3), CODEC, ABOUT, over=1)
    monkeypatch.setattr(folders, "PATIENCE", 0.1)
    with store.locked(folder), pytest.raises(store.StoreError, match="is being saved by another process"):
        store.save(folder, bank(3), CODEC, ABOUT, over=1)
    assert store.save(folder, bank(3), CODEC, ABOUT, over=1) == 2


@pytest.mark.parametrize("name", ["000002", "000002.orbax-checkpoint-tmp"])
@pytest.mark.parametrize("kind", ["link", "pipe", "file"])
def test_what_stands_in_the_way_of_a_new_version_is_named(folder, tmp_path, name, kind):
    (tmp_path / "diary").mkdir()
    path = folder / name
    {"link": lambda: path.symlink_to(tmp_path / "diary"), "pipe": lambda: os.mkfifo(path), "file": path.touch}[kind]()
    with pytest.raises(store.StoreError, match=f"holds {name}, which no save has left: remove it"):
        store.save(folder, bank(3), CODEC, ABOUT, over=1)
    assert list((tmp_path / "diary").iterdir()) == [] and os.path.lexists(path)

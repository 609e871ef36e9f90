"""Uses are counted beside a version: exactly, at once, and without ever standing in the way."""

import json
import multiprocessing
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.memory.storage import folders, store
from tests.memory.storage.test_store import ABOUT, CODEC, bank, collected, folder

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
__all__ = ["collected", "folder"]


def uses(folder):
    return np.asarray(store.load(folder).bank.origin.uses).tolist()


def test_uses_are_counted_and_saved_with_the_next_version(folder):
    assert uses(folder) == [2] * 8
    for slots in ([1], [1, 4], [1, 1]):
        assert store.count_uses(folder, 1, 0, slots) is None
    assert uses(folder) == [2, 6, 2, 2, 3, 2, 2, 2]
    loaded = store.load(folder)
    assert store.save(folder, loaded.bank, loaded.codec, loaded.about, over=1) == 2
    assert uses(folder) == [2, 6, 2, 2, 3, 2, 2, 2]
    store.count_uses(folder, 2, 0, np.array([0]))
    assert uses(folder) == [3, 6, 2, 2, 3, 2, 2, 2]
    assert np.asarray(store.load(folder, version=1).bank.origin.uses).tolist() == [2, 6, 2, 2, 3, 2, 2, 2]


def test_users_of_a_block_are_counted_apart(tmp_path):
    block, codecs = (jax.tree.map(lambda *two: jnp.stack(two), *pair) for pair in ((bank(0), bank(0)), (CODEC, CODEC)))
    store.save(tmp_path / "bank", block, codecs, ABOUT | {"users": ["Ann", "Bob"]})
    store.count_uses(tmp_path / "bank", 1, 1, [3])
    store.count_uses(tmp_path / "bank", 1, 7, [3])  # no such user
    assert uses(tmp_path / "bank") == [[0] * 8, [0, 0, 0, 1, 0, 0, 0, 0]]


def test_a_count_that_cannot_be_written_is_told_and_raises_nothing(folder, tmp_path, monkeypatch):
    store.save(folder, bank(3), CODEC, ABOUT, over=1)
    assert "holds version 2, not 1 any more" in store.count_uses(folder, 1, 0, [0])
    assert "is no bank" in store.count_uses(tmp_path / "none", 1, 0, [0])
    monkeypatch.setattr(folders, "PATIENCE", 0.05)
    with store.locked(folder):
        assert "is being saved by another process" in store.count_uses(folder, 2, 0, [0])
    (folder / "000002" / "uses.json").mkdir()
    assert "uses.json is no regular file" in store.count_uses(folder, 2, 0, [0])
    with pytest.warns(UserWarning, match="uses are left out .*no regular file"):
        assert uses(folder) == [3] * 8
    (folder / "000002" / "uses.json").rmdir()
    assert uses(folder) == [3] * 8


def test_a_folder_that_may_only_be_read_is_asked_all_the_same(folder):
    user = os.geteuid()
    for path in (folder, *folder.parents[:3]):
        os.chmod(path, 0o555)
    try:
        if user == 0:  # whom permissions do not stop
            os.seteuid(65534)
        assert "Permission denied" in store.count_uses(folder, 1, 0, [0])
    finally:
        os.seteuid(user)
        os.chmod(folder.parent, 0o700)
    assert uses(folder) == [2] * 8


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"uses": []}', '{"uses": [[0, 1, 1]], "digest": "0"}', '{"uses": {"0": 1}, "digest": "?"}',
     '{"uses": [[0, 1, -1]], "digest": "?"}', '{"uses": [[0, 1, 1e9]], "digest": "?"}', "[" * 100_000,
     '{"uses": [[0, 1, 9999999999999]], "digest": "?"}', '{"uses": [[0]], "digest": "?"}', '{"uses": 5, "digest": "?"}'],
)  # fmt: skip
def test_damaged_counts_are_left_out_with_a_warning(folder, text):
    path = folder / "000001" / "uses.json"
    if "?" in text:
        told = json.loads(text)
        text = json.dumps(told | {"digest": store.uses.digests.of_text(told["uses"])})
    path.write_text(text)
    with pytest.warns(UserWarning, match="uses.json is damaged .*are left out"):
        assert uses(folder) == [2] * 8
    with pytest.warns(UserWarning, match="are left out"):
        assert store.count_uses(folder, 1, 0, [2]) is None
    assert uses(folder) == [2, 2, 3, 2, 2, 2, 2, 2]


def count_many(folder, slot, answers):
    answers.put((slot, sum(store.count_uses(folder, 1, 0, [slot]) is None for _ in range(20))))


def test_several_who_ask_at_once_lose_no_count(folder):
    """Who waits too long for the lock is told; every use that was counted is there."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    asking = [context.Process(target=count_many, args=(folder, slot, answers)) for slot in (0, 0, 5)]
    for each in asking:
        each.start()
    expected = [2] * 8
    for _ in asking:
        slot, counted = answers.get(timeout=120)
        assert counted > 0
        expected[slot] += counted
    for each in asking:
        each.join()
    assert uses(folder) == expected

"""Banks on disk: exact, digested, atomic, refused when wrong."""

import contextlib
import errno
import gc
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.codec import Codec, fit_autoencoder, fit_pca
from nvcim_jax.llm.fingerprint import fingerprint
from nvcim_jax.memory import bank as banks
from nvcim_jax.memory.storage import checkpoint, schema, store
from nvcim_jax.memory.storage.about import About
from nvcim_jax.pipeline.memory import identity

# Orbax leaves the exceptions of its failed reads unretrieved.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

WORDS = jax.random.normal(jax.random.key(0), (30, 12))
CODEC = fit_pca(jax.random.key(1), WORDS, jnp.ones(30), dim=8)
ABOUT = {"model": "none", "task": "LaMP-2", "users": ["Ann"]}
KNOWN = About.from_json(ABOUT)


@pytest.fixture(autouse=True)
def collected():
    """Orbax's abandoned coroutines are collected in the test that they belong to."""
    yield
    gc.collect()


def bank(mark=2):
    """Six OVTs in eight slots, every array of which says `mark`."""
    codes = jax.random.normal(jax.random.key(mark), (8, 4, 8))
    origin = banks.unknown((8,))._replace(uses=jnp.full(8, mark), loss=jnp.full(8, mark / 7))
    return banks.new(codes, 2 * codes, origin, jnp.int32(6))


def same(one, other) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        a.dtype == b.dtype and np.array_equal(a, b, equal_nan=np.issubdtype(a.dtype, np.floating))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other))
    )


@pytest.fixture
def folder(tmp_path):
    store.save(tmp_path / "bank", bank(), CODEC, ABOUT)
    return tmp_path / "bank"


@pytest.mark.parametrize("fit", [fit_pca, fit_autoencoder, None])
def test_what_is_saved_is_what_is_loaded(tmp_path, fit):
    codec = fit and fit(jax.random.key(1), WORDS, jnp.ones(30), dim=8)
    assert store.save(tmp_path / "bank", bank(), codec, ABOUT) == 1
    saved = store.load(tmp_path / "bank")
    assert same(saved.bank, bank()) and same(saved.codec, codec) and saved.about == KNOWN


def test_a_block_of_users_is_one_bank(tmp_path):
    block, codecs = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *pair) for pair in ((bank(1), bank(2)), [CODEC] * 2)
    )
    store.save(tmp_path / "bank", block, codecs, ABOUT | {"users": ["Ann", "Bob"]})
    assert same(store.load(tmp_path / "bank").bank, block)


def test_versions_count_up_and_the_last_two_stay(folder):
    assert [store.save(folder, bank(mark), CODEC, ABOUT, over=mark - 2) for mark in (3, 4)] == [2, 3]
    assert store.versions(folder) == [2, 3]
    assert same(store.load(folder).bank, bank(4)) and same(store.load(folder, version=2).bank, bank(3))


def test_nothing_is_overwritten_without_being_asked(folder, tmp_path):
    with pytest.raises(store.StoreError, match="exists already"):
        store.save(folder, bank(3))
    with pytest.raises(store.StoreError, match="holds version 1, not 5 any more"):
        store.save(folder, bank(3), over=5)
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "monday.txt").write_text("rain")
    with pytest.raises(store.StoreError, match=r"exists already and is no bank \(it holds monday.txt\)"):
        store.save(tmp_path / "diary", bank())
    with pytest.raises(store.StoreError, match="nothing to save over"):
        store.save(tmp_path / "none", bank(), over=1)
    assert same(store.load(folder).bank, bank()) and (tmp_path / "diary" / "monday.txt").read_text() == "rain"


def test_a_change_that_somebody_else_made_is_not_lost(folder):
    mine, theirs = store.load(folder), store.load(folder)
    store.save(folder, bank(3), CODEC, ABOUT, over=theirs.version)
    with pytest.raises(store.StoreError, match="holds version 2, not 1 any more: load it again"):
        store.save(folder, bank(4), CODEC, ABOUT, over=mine.version)
    assert same(store.load(folder).bank, bank(3))


def test_another_model_is_refused(tmp_path, model):
    store.save(tmp_path / "bank", bank(), None, {"model": fingerprint(model)})
    store.load(tmp_path / "bank", model=identity(model))
    nudged = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].add(1), model.params)
    with pytest.raises(store.StoreError, match="another model"):
        store.load(tmp_path / "bank", model=identity(model._replace(params=nudged)))


def test_banks_of_earlier_releases_know_their_model(model):
    """The fingerprint of the embedded model is the one that the first banks were saved with, in any type that holds it."""
    assert fingerprint(model) == "91f7069033da60a0ec1a0ea39743d24f"
    rounded = model._replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params))
    wide = rounded._replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rounded.params))
    assert fingerprint(model) != fingerprint(rounded) == fingerprint(wide)


def test_virtual_tokens_of_another_space_are_refused(tmp_path):
    of = store.Identity("f00", 12, "post_scale")
    store.save(tmp_path / "bank", bank(), CODEC, {"model": "f00", "prompt_space": "pre_scale"})
    with pytest.raises(store.StoreError, match="live in 'pre_scale', the models here take 'post_scale'"):
        store.load(tmp_path / "bank", model=of)


def test_another_codec_and_another_code_width_are_refused(folder):
    store.load(folder, codec=CODEC)
    with pytest.raises(store.StoreError, match="coded with another codec"):
        store.load(folder, codec=jax.tree.map(lambda leaf: leaf + 1e-6, CODEC))
    with pytest.raises(store.StoreError, match="codes of 8 values, the codec given makes 6"):
        store.load(folder, codec=fit_pca(jax.random.key(1), WORDS, jnp.ones(30), dim=6))


def test_no_bank_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path, tmp_path / "file"):
        with pytest.raises(store.StoreError, match="is no bank"):
            store.load(path)


def test_a_version_that_is_a_link_out_of_the_folder_is_not_followed(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "000002").symlink_to(folder / "000001")
    with pytest.raises(store.StoreError, match="is no bank"):
        store.load(other)


def test_a_newer_schema_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "SCHEMA", 9)
    store.save(tmp_path / "bank", bank())
    monkeypatch.undo()
    with pytest.raises(store.StoreError, match="schema 9, this program reads up to 3: use a newer"):
        store.load(tmp_path / "bank")


def test_a_bank_of_schema_1_is_migrated_and_saved_as_the_newest(tmp_path):
    with tarfile.open(Path(__file__).parents[2] / "data" / "bank-schema-1.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    saved = store.load(tmp_path / "bank")
    codes = jax.random.normal(jax.random.key(2), (2, 3, 4, 8))
    np.testing.assert_array_equal(saved.bank.prompts, codes)
    np.testing.assert_array_equal(saved.bank.keys, 2 * codes)
    assert np.asarray(saved.bank.count).tolist() == [2, 2] and saved.version == 0
    assert saved.about.domains == ("a", "b", "c") and saved.about.devices == ("NVM-3",)
    assert np.asarray(saved.bank.origin.domain).tolist() == [[1, 0, -1], [0, 2, -1]]
    assert np.asarray(saved.bank.writes).tolist() == [[1, 1, 0], [1, 1, 0]]
    assert isinstance(saved.codec, Codec) and saved.codec.encoder[0][0].shape == (2, 12, 8)
    for over in (0, 1):
        store.save(tmp_path / "bank", saved.bank, saved.codec, saved.about, over=over)
        again = store.load(tmp_path / "bank")
        assert same(again.bank, jax.tree.map(jnp.asarray, saved.bank)) and again.about == saved.about
    assert sorted(path.name for path in (tmp_path / "bank").iterdir()) == [".lock", "000001", "000002"]


@pytest.mark.parametrize(("name", "value"), [("prompts", np.nan), ("keys", np.inf), ("keys", -np.inf), ("keys", 1e30)])
def test_values_that_are_not_finite_are_refused_on_saving_and_on_loading(tmp_path, monkeypatch, name, value):
    good = bank()
    bad = good._replace(**{name: getattr(good, name).at[5, 0, 0].set(value)})
    free = good._replace(**{name: getattr(good, name).at[6, 0, 0].set(value)})
    with pytest.raises(store.StoreError, match="1 OVTs hold NaN, infinite or huge values"):
        store.save(tmp_path / "bank", bad, CODEC, ABOUT)
    assert not (tmp_path / "bank").exists()
    store.save(tmp_path / "bank", free, CODEC, ABOUT)  # a free slot may hold anything
    with monkeypatch.context() as unchecked:
        unchecked.setattr(store, "require_sound", lambda *_: KNOWN)
        store.save(tmp_path / "bank", bad, CODEC, ABOUT, over=1)
    with pytest.raises(store.StoreError, match="1 OVTs hold NaN, infinite or huge values"):
        store.load(tmp_path / "bank")
    with pytest.raises(store.StoreError, match="the codec holds NaN"):
        store.save(tmp_path / "other", good, jax.tree.map(lambda leaf: leaf.at[0].set(value), CODEC), ABOUT)


def without(leaf):
    return lambda held: held._replace(**{leaf: getattr(held, leaf)[:-1]})


@pytest.mark.parametrize(
    ("change", "about", "said"),
    [
        (without("keys"), ABOUT, "keys is of shape .7, 4, 8., beside prompts of .8, 4, 8."),
        (lambda held: held._replace(count=jnp.int32(9)), ABOUT, "a bank of 8 slots cannot hold 9 OVTs"),
        (lambda held: held._replace(count=jnp.int32(-1)), ABOUT, "a bank of 8 slots cannot hold -1 OVTs"),
        (lambda held: held._replace(count=np.int64(3)), ABOUT, "count holds int64: numbers of at most 32 bits"),
        (lambda held: held._replace(count=jnp.ones(8, jnp.int32)), ABOUT, "count is of shape"),
        (
            lambda held: held._replace(prompts=held.prompts.astype(jnp.int32)),
            ABOUT,
            "prompts holds values of type int32",
        ),
        (lambda held: held, {"users": "Ann"}, "users is a text: a list is needed"),
        (lambda held: held, {"settings": {"x": object()}}, "not JSON serializable"),
        (lambda held: held, {"users": ["Ann"], "samples": [[], []]}, "names 1 users, but has samples of 2"),
    ],
)
def test_what_is_no_bank_is_not_saved(tmp_path, change, about, said):
    with pytest.raises(store.StoreError, match=said):
        store.save(tmp_path / "bank", change(bank()), CODEC, about)
    assert not (tmp_path / "bank").exists()


# Corruption


def noticed(folder) -> bool:
    """Whether loading was refused; if it was not, what was loaded is exactly what was saved."""
    try:
        saved = store.load(folder)
    except store.StoreError:
        return True
    assert same(saved.bank, bank()) and same(saved.codec, CODEC) and saved.about == KNOWN and saved.version == 1
    return False


def damage(folder, times, seed):
    """Flip one bit or cut one file short, load, and mend it again, `times` times; how often it was noticed."""
    rng = np.random.default_rng(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    seen = 0
    for turn in range(times):
        path = files[turn % len(files)]
        whole = path.read_bytes()
        at = int(rng.integers(len(whole)))
        flipped = whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :]
        path.write_bytes(whole[:at] if turn // len(files) % 3 == 0 else flipped)
        seen += noticed(folder)
        path.write_bytes(whole)
    assert not noticed(folder)
    return seen


def test_damage_is_noticed_or_harmless(folder):
    assert damage(folder, 60, seed=0) > 20


@pytest.mark.slow
def test_damage_is_noticed_or_harmless_500_times(folder):
    assert damage(folder, 500, seed=1) > 150


# Crashes, full disks, two writers


def small_bank(mark):
    """As `bank`, without a codec and with NumPy alone: quick in a process that is about to die."""
    return banks.Bank(
        np.full((64, 16, 48), mark, np.float32), np.full((64, 16, 48), -mark, np.float32),
        jax.tree.map(lambda leaf: np.full(leaf.shape, mark, leaf.dtype), banks.unknown((64,))), np.int32(mark), np.full(64, mark, np.int32),
    )  # fmt: skip


WRITER = """
import sys
from nvcim_jax.memory.storage import store
from tests.memory.storage import test_store as t
folder = sys.argv[1]
version = store.load(folder).version
while True:
    version = store.save(folder, t.small_bank(version % 50 + 1), None, {"mark": version % 50 + 1}, over=version)
    print("saved", flush=True)
"""


def assert_one_bank(folder) -> int:
    saved = store.load(folder)
    mark = saved.about.more["mark"]
    assert same(saved.bank, jax.tree.map(jnp.asarray, small_bank(mark))), "a mixture of two banks"
    return saved.version


def killed_writers(folder, times, seed):
    """Kill a process that does nothing but save, at a random moment, `times` times; how often something was left."""
    store.save(folder, small_bank(1), None, {"mark": 1})
    random.seed(seed)
    left, last = 0, 1
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    for _ in range(times):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, env=env) as writer:
            assert writer.stdout.readline() == b"saved\n"
            time.sleep(random.random() * 0.3)
            writer.send_signal(signal.SIGKILL)
        version = assert_one_bank(folder)
        assert version > last, "an old bank came back"
        last = version
        left += bool(store.leftovers(folder))
    version = store.save(folder, small_bank(7), None, {"mark": 7}, over=last)
    assert store.leftovers(folder) == [] and store.versions(folder) == [last, version]
    return left


def test_a_killed_writer_leaves_the_old_bank_or_the_new(tmp_path):
    killed_writers(tmp_path / "bank", 3, seed=0)


@pytest.mark.slow
def test_a_killed_writer_leaves_the_old_bank_or_the_new_50_times(tmp_path):
    assert killed_writers(tmp_path / "bank", 50, seed=1) > 5  # some died in the middle of a save


def large_bank():
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((2048, 16, 48), dtype=np.float32)
    return banks.Bank(
        codes, codes, jax.tree.map(np.asarray, banks.unknown((2048,))), np.int32(2048), np.ones(2048, np.int32)
    )


def test_a_full_disk_keeps_the_old_bank_and_says_so(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        store.save(disk / "bank", bank(), CODEC, ABOUT)
        with pytest.raises(store.StoreError, match="the disk is full.*the bank that was there is unharmed"):
            store.save(disk / "bank", large_bank(), over=1)
        assert same(store.load(disk / "bank").bank, bank()) and store.leftovers(disk / "bank") == []
        assert store.save(disk / "bank", bank(3), CODEC, ABOUT, over=1) == 2
        with pytest.raises(store.StoreError, match="nothing was saved"):
            store.save(disk / "other", large_bank())
        assert not (disk / "other").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


SAVING = """
import sys
from nvcim_jax.memory import bank
from nvcim_jax.memory.storage import store
try:
    store.save(sys.argv[1], bank.empty(8, 16, 48))
except store.StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("free", [60, 140, 220])  # kilobytes
def test_a_nearly_full_disk_says_one_sentence_and_leaves_no_folder(tmp_path, free):
    """By a process of its own: what runs on in the background after an error prints at its end."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        (disk / "ballast").write_bytes(bytes((4096 - free) * 1024))
        done = subprocess.run(
            [sys.executable, "-c", SAVING, str(disk / "new")],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert done.stdout == f"{disk / 'new'} cannot be written (the disk is full): nothing was saved\n"
        assert done.stderr == ""
        assert [path.name for path in disk.iterdir()] == ["ballast"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def limited_save(folder, answers):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    for place, over in ((folder, 1), (folder.with_name("new"), -1)):
        try:
            store.save(place, large_bank(), over=over)
            answers.put("saved")
        except store.StoreError as error:
            answers.put(str(error))


def test_a_file_that_may_not_grow_keeps_the_old_bank(folder):
    """What a quota does, for machines on which no disk can be mounted."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=limited_save, args=(folder, answers))
    process.start()
    said, new = answers.get(timeout=120), answers.get(timeout=120)
    process.join()
    assert "cannot be written" in said and "unharmed" in said
    assert "cannot be written" in new and "nothing was saved" in new and not folder.with_name("new").exists()
    assert same(store.load(folder).bank, bank())


def test_a_writer_that_goes_on_behind_its_error_leaves_nothing(tmp_path, monkeypatch):
    """As Orbax does where threads are slow: it raises, and goes on writing behind the error for a while."""

    def goes_on(path, seconds=0.8):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            half = path.with_name(f"{path.name}.orbax-checkpoint-tmp")
            with contextlib.suppress(OSError):
                half.mkdir(parents=True)
                (half / "part").write_bytes(b"half")
            time.sleep(0.02)

    def fails(path, arrays, about):
        writers.append(threading.Thread(target=goes_on, args=(path,)))
        writers[0].start()
        raise OSError(errno.EFBIG, "File too large")

    writers = []

    monkeypatch.setattr(checkpoint, "write", fails)
    with pytest.raises(store.StoreError, match="nothing was saved"):
        store.save(tmp_path / "bank", bank())
    writers[0].join()
    assert not (tmp_path / "bank").exists()


def save_at_once(folder, mark, go, answers):
    content = small_bank(mark)
    go.wait()
    try:
        answers.put((mark, store.save(folder, content, None, {"mark": mark}, over=1)))
    except store.StoreError as error:
        answers.put((mark, str(error)))


def test_of_two_savers_one_wins_whole_and_the_other_is_told(tmp_path):
    context = multiprocessing.get_context("spawn")
    store.save(tmp_path / "bank", small_bank(1), None, {"mark": 1})
    go, answers = context.Barrier(2), context.Queue()
    savers = [context.Process(target=save_at_once, args=(tmp_path / "bank", mark, go, answers)) for mark in (3, 4)]
    for saver in savers:
        saver.start()
    said = dict(answers.get(timeout=120) for _ in savers)
    for saver in savers:
        saver.join()
    (winner,) = [mark for mark, answer in said.items() if answer == 2]
    (told,) = [answer for answer in said.values() if answer != 2]
    assert "being saved by another process" in told or "holds version 2, not 1 any more" in told
    assert assert_one_bank(tmp_path / "bank") == 2 and store.load(tmp_path / "bank").about.more == {"mark": winner}


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(store.StoreError, match="/proc/nvcim cannot be written"):
        store.save("/proc/nvcim", bank())

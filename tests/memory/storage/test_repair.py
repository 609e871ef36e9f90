"""Repair keeps what is whole, takes from the version before what was lost, and neither deletes nor guesses."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.codec import fit_pca
from nvcim_jax.memory import bank as banks
from nvcim_jax.memory.storage import schema, store
from nvcim_jax.memory.storage.repair import repair, set_aside
from tests.memory.storage.test_store import ABOUT, collected, same

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
__all__ = ["collected"]
WORDS = jax.random.normal(jax.random.key(0), (90, 80))
CODEC = fit_pca(jax.random.key(1), WORDS, jnp.ones(90), dim=8)
SHAPE = (16, 8)  # of a code; smaller arrays would not lie in the files as they are
SAMPLES = [{"question": f"q{at}", "answer": "a", "content": f"c{at}", "domain": f"d{at % 2}"} for at in range(9)]


@pytest.fixture
def folder(tmp_path):
    store.save(tmp_path / "bank", bank(), CODEC, ABOUT)
    return tmp_path / "bank"


def bank(mark=2):
    """Six OVTs in eight slots."""
    codes = jax.random.normal(jax.random.key(mark), (8, *SHAPE))
    return banks.new(codes, 2 * codes, banks.unknown((8,)), jnp.int32(6))


def contents(path):
    """Every file in a folder, by its name."""
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def flip_in_data(folder, version=1, values=None):
    """Flip a bit in a version's data: in the middle of `values`, or of the last search key that is taken."""
    values = np.asarray(store.load(folder, version=version).bank.keys[..., 5, :, :] if values is None else values)
    for path in (folder / f"{version:06d}").rglob("d/*"):
        whole = bytearray(path.read_bytes())
        at = whole.find(values.tobytes())
        if at >= 0:
            whole[at + values.nbytes // 2] ^= 1
            path.write_bytes(whole)
            return
    raise AssertionError("these values are not on disk")


def flip_in_metadata(folder, version):
    path = folder / f"{version:06d}" / "_CHECKPOINT_METADATA"
    path.write_bytes(path.read_bytes().replace(b'"digests"', b'"digestz"'))


def numbers(held):
    """Which OVTs of `numbered` a bank holds, after checking that prompt, key and sample belong together."""
    count = int(held.count)
    prompts = np.asarray(held.prompts)[:count, 0, 0]
    np.testing.assert_array_equal(np.asarray(held.keys)[:count, 0, 0], -prompts)
    return [int(number) for number in prompts]


def numbered(*ovts, capacity=8, **origin):
    """A bank of OVTs that consist of their number, with a sample and a domain of their own."""
    codes = np.zeros((capacity, *SHAPE), np.float32)
    codes[: len(ovts)] = np.array(ovts, np.float32)[:, None, None]
    own = np.resize(np.array([*ovts, *[0] * (capacity - len(ovts))], np.int32), capacity)
    fields = {"sample": own, "domain": own % 2, "loss": own / 8, **origin}
    fields = {name: jnp.asarray(value, jnp.float32 if name == "loss" else jnp.int32) for name, value in fields.items()}
    return banks.Bank(
        codes,
        -codes,
        banks.unknown((capacity,))._replace(**fields),
        np.int32(len(ovts)),
        np.arange(capacity, dtype=np.int32),
    )


def about(**more):
    return ABOUT | {"samples": [SAMPLES], "domains": ["d0", "d1"]} | more


# Whole, or whole again


def test_a_whole_bank_is_left_alone(folder):
    store.save(folder, bank(3), CODEC, ABOUT, over=1)
    before = contents(folder)
    assert repair(folder) == "version 2 is whole; 0 leftovers removed"
    assert contents(folder) == before


def test_a_damaged_older_version_is_renamed(folder):
    store.save(folder, bank(3), CODEC, ABOUT, over=1)
    flip_in_data(folder, version=1)
    assert repair(folder) == "version 2 is whole; the damaged one is kept as 000001.damaged; 0 leftovers removed"
    assert same(store.load(folder).bank, bank(3)) and store.versions(folder) == [2]


def test_what_the_version_before_holds_alike_is_mended_exactly(tmp_path):
    folder = tmp_path / "bank"
    store.save(folder, numbered(1, 2, 3), CODEC, about())
    store.save(folder, numbered(1, 2, 3, 4), CODEC, about(), over=1)
    for values in (np.full(SHAPE, 2, np.float32), CODEC.decoder[0][0]):
        version = store.newest(folder)
        flip_in_data(folder, version, values)
        before = contents(folder / f"{version:06d}")
        with pytest.raises(store.Damaged, match="nvcim bank repair"):
            store.load(folder)
        said = repair(folder)
        assert said.startswith(
            f"version {version} was damaged; 4 OVTs are whole, 0 are lost: this is version {version + 1}; "
        )
        assert same(store.load(folder).bank, jax.tree.map(jnp.asarray, numbered(1, 2, 3, 4)))
        assert contents(folder / f"{version:06d}.damaged") == before
    assert store.versions(folder) == [1, 4]  # nothing was deleted


# Lost, or come back


def test_a_single_damaged_byte_costs_one_ovt(tmp_path):
    folder = tmp_path / "bank"
    store.save(folder, numbered(1, 2), CODEC, about())
    store.save(folder, numbered(1, 2, 3, 4, 5), CODEC, about(), over=1)
    flip_in_data(folder, 2, np.full(SHAPE, -4, np.float32))
    said = repair(folder)
    assert said.startswith("version 2 was damaged; 4 OVTs are whole, 1 are lost: this is version 3; ")
    kept = store.load(folder)
    assert numbers(kept.bank) == [1, 2, 3, 5] and np.asarray(kept.bank.origin.sample[:4]).tolist() == [1, 2, 3, 5]


def test_what_was_lost_comes_back_from_the_version_before(tmp_path):
    """In the newer version the OVT moved to another slot, and the lists that origins count in are other ones."""
    folder = tmp_path / "bank"
    store.save(folder, numbered(1, 2, 3), CODEC, about())
    turned = about(samples=[[SAMPLES[0], *SAMPLES[4:]]], domains=["d1", "d0"])
    store.save(folder, numbered(4, 2, sample=[0, 1, *[0] * 6], domain=[1, -1, *[0] * 6]), CODEC, turned, over=1)
    flip_in_data(folder, 2, np.full(SHAPE, 4, np.float32))
    said = repair(folder)
    assert "1 OVTs are whole, 1 are lost; 2 OVTs came back from version 1: this is version 3" in said
    kept = store.load(folder)
    assert numbers(kept.bank) == [2, 1, 3]
    found = [kept.about.sample(0, int(at)) for at in kept.bank.origin.sample[:3]]
    assert [sample.content for sample in found] == ["c4", "c1", "c3"]  # the newer one's own word on 2
    assert [kept.about.name("domains", int(at)) for at in kept.bank.origin.domain[:3]] == ["", "d1", "d1"]


def test_a_full_bank_grows_for_what_comes_back(tmp_path):
    folder = tmp_path / "bank"
    store.save(folder, numbered(1, 2, 3, 4, capacity=4), CODEC, about())
    store.save(folder, numbered(5, 6, 7, 8, capacity=4), CODEC, about(), over=1)
    flip_in_data(folder, 2, np.full(SHAPE, 7, np.float32))
    repair(folder)
    assert numbers(store.load(folder).bank) == [5, 6, 8, 1, 2, 3, 4]


def test_codes_of_another_codec_are_not_mixed(tmp_path):
    folder = tmp_path / "bank"
    other = fit_pca(jax.random.key(7), WORDS, jnp.ones(90), dim=8)
    store.save(folder, numbered(1, 2), other, about())
    store.save(folder, numbered(2, 3), CODEC, about(), over=1)
    flip_in_data(folder, 2, np.full(SHAPE, 2, np.float32))
    assert "1 OVTs are whole, 1 are lost: this is version 3" in repair(folder)
    assert numbers(store.load(folder).bank) == [3] and same(store.load(folder).codec, CODEC)


def block(*users):
    return jax.tree.map(lambda *leaves: np.stack(list(map(np.asarray, leaves))), *users)


def test_a_damaged_user_of_a_block_comes_back_by_name(tmp_path):
    folder, codecs = tmp_path / "bank", block(CODEC, CODEC)
    ann, bob = numbered(1, 2), numbered(3, 4, user=[1] * 8)
    old = about(users=["Ann", "Bob"], samples=[SAMPLES, SAMPLES])
    store.save(folder, block(ann, bob), codecs, old)
    moved = block(numbered(5), numbered(6, 7, user=[1] * 8))
    store.save(folder, moved, codecs, old | {"users": ["Bob", "Ann"]}, over=1)
    flip_in_data(folder, 2, np.full(SHAPE, 6, np.float32))
    assert "1 OVTs are whole, 0 are lost, and everything of 1 users; 2 OVTs came back from version 1" in repair(folder)
    kept = store.load(folder)
    rows = [jax.tree.map(lambda leaf, at=at: leaf[at], kept.bank) for at in (0, 1)]
    assert [numbers(row) for row in rows] == [[5], [1, 2]] and same(kept.codec, jax.tree.map(jnp.asarray, codecs))
    assert np.asarray(rows[1].origin.user[:2]).tolist() == [1, 1]


def test_ovts_that_are_not_finite_are_taken_out(tmp_path, monkeypatch):
    folder = tmp_path / "bank"
    broken = numbered(1, 2, 3)
    broken.keys[1, 2, 3] = np.nan
    monkeypatch.setattr(store, "require_sound", lambda folder, bank, codec, about: store.About.from_json(about))
    store.save(folder, broken, CODEC, about())
    monkeypatch.undo()
    with pytest.raises(store.StoreError, match="1 OVTs hold NaN, infinite or huge values.*`nvcim bank repair` does"):
        store.load(folder)
    assert "2 OVTs are whole, 1 are lost: this is version 2" in repair(folder)
    assert numbers(store.load(folder).bank) == [1, 3] and (folder / "000001.damaged").is_dir()


# Damaged through


def test_damaged_metadata_goes_back_and_keeps_the_files(folder):
    store.save(folder, bank(3), CODEC, ABOUT, over=1)
    flip_in_metadata(folder, 2)
    said = (
        "version 2 was damaged; went back to version 1; the damaged one is kept as 000002.damaged; 0 leftovers removed"
    )
    before = contents(folder / "000002")
    assert repair(folder) == said
    assert same(store.load(folder).bank, bank()) and contents(folder / "000002.damaged") == before
    store.save(folder, bank(4), CODEC, ABOUT, over=1)
    flip_in_metadata(folder, 2)
    assert "000002.damaged1" in repair(folder) and contents(folder / "000002.damaged") == before


def test_what_is_damaged_through_is_refused_and_left(folder):
    flip_in_data(folder, 1, CODEC.decoder[0][0])
    before = contents(folder)
    with pytest.raises(
        store.StoreError, match="decoder_0_weight is damaged, without which no OVT can be read; restore"
    ):
        repair(folder)
    flip_in_metadata(folder, 1)
    with pytest.raises(store.StoreError, match="metadata is damaged.*nothing was changed"):
        repair(folder)
    assert contents(folder).keys() == before.keys()


def test_a_damaged_bank_of_schema_1_is_refused_and_left(tmp_path):
    with tarfile.open(Path(__file__).parents[2] / "data" / "bank-schema-1.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    path = tmp_path / "bank" / "_CHECKPOINT_METADATA"
    path.write_bytes(path.read_bytes().replace(b"NVM-3", b"NVM-4"))
    before = contents(tmp_path / "bank")
    with pytest.raises(store.StoreError, match="its digest differs"):
        repair(tmp_path / "bank")
    assert contents(tmp_path / "bank") == before | {".lock": b""}


# Unreadable, but perhaps whole


def test_a_newer_schema_stops_it(folder, monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(schema, "SCHEMA", 9)
        store.save(folder, bank(3), CODEC, ABOUT, over=1)
    before = contents(folder)
    with pytest.raises(store.StoreError, match="has schema 9.*use a newer nvcim_jax; nothing was changed; if it lasts"):
        repair(folder)
    assert contents(folder) == before


def test_a_version_that_cannot_be_read_for_a_moment_stops_it(folder, monkeypatch):
    store.save(folder, bank(3), CODEC, ABOUT, over=1)
    before = contents(folder)
    honest = store.files.read_bytes

    def without_permission(path):
        if "000002" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return honest(path)

    with monkeypatch.context() as now:
        now.setattr(store.files, "read_bytes", without_permission)
        with pytest.raises(
            store.StoreError, match=r"version 2: .*cannot be read \(Permission denied\).*nothing was changed"
        ):
            repair(folder)
    assert contents(folder) == before and "version 2 is whole" in repair(folder)


REPAIR = """
import resource, sys
from nvcim_jax.memory.storage import store
from nvcim_jax.memory.storage.repair import repair
store.load(sys.argv[1])  # so that all that is imported is open
import os
taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
[os.close(each) for each in taken[:4]]  # too few to read a checkpoint
try:
    print(repair(sys.argv[1]))
except store.StoreError as error:
    print("refused:", error)
"""


def test_too_many_open_files_is_no_damage(folder):
    store.save(folder, bank(3), CODEC, ABOUT, over=1)
    before = contents(folder)
    done = subprocess.run([sys.executable, "-c", REPAIR, str(folder)], capture_output=True, text=True, check=True)
    assert "Too many open files" in done.stdout and "refused" in done.stdout, done.stdout + done.stderr
    assert contents(folder) == before and same(store.load(folder).bank, bank(3))


def test_a_cut_file_stops_it_and_can_be_set_aside(folder):
    store.save(folder, bank(3), CODEC, ABOUT, over=1)
    path = next((folder / "000002").rglob("manifest.ocdbt"))
    path.write_bytes(path.read_bytes()[:20])
    before = contents(folder)
    with pytest.raises(store.StoreError, match="if it lasts, `nvcim bank repair --set-aside 2` renames it"):
        repair(folder)
    assert contents(folder) == before
    assert set_aside(folder, 2) == "version 2 is kept as 000002.aside; version 1 is the bank"
    assert same(store.load(folder).bank, bank())
    for version in (1, 7):
        with pytest.raises(store.StoreError, match="name one of several"):
            set_aside(folder, version)


def test_leftovers_are_removed_and_links_and_pipes_of_their_name_left(folder, tmp_path):
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "monday").write_text("rain")
    (folder / "000002.orbax-checkpoint-tmp").symlink_to(tmp_path / "diary")
    (folder / "000003.old").mkdir()
    os.mkfifo(folder / "000004.old")
    assert repair(folder) == "version 1 is whole; 1 leftovers removed"
    assert (tmp_path / "diary" / "monday").read_text() == "rain" and store.leftovers(folder) == []


def test_forged_numbers_stop_it(tmp_path, monkeypatch):
    folder = tmp_path / "bank"
    with monkeypatch.context() as forged:
        forged.setattr(store.About, "check", lambda *_: None)
        store.save(folder, numbered(1, 2, domain=[5] * 8), CODEC, about())
    with pytest.raises(store.StoreError, match="an OVT is of domain 5, but the bank's list of domains has none such"):
        repair(folder)
    assert store.versions(folder) == [1]

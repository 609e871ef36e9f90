"""Rows in blocks: in their own order, told as they go, and kept so that a run that was cut off goes on."""

import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax import tuning
from nvcim_jax.core.codec import fit_pca
from nvcim_jax.data import text
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.llm import decoder
from nvcim_jax.llm.layers import precision
from nvcim_jax.tuning import blocks, train
from tests.llm.test_decoder import TINY

NVM3, CODE, STEPS = device("NVM-3"), tuning.CodePrompt(), 6
LENGTHS = (30, 4, 9, 33, 5)


@pytest.fixture(scope="module")
def params():
    return weights()


def weights():
    return decoder.Decoder(TINY).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


def job(params, lengths=LENGTHS):
    rng, rows = np.random.default_rng(0), len(lengths)
    sentence = lambda size: list(map(int, rng.integers(1, 37, size)))  # noqa: E731
    codec = fit_pca(jax.random.key(1), params["embedding"]["embedding"], jnp.ones(37), dim=16)
    return tuning.Job(
        jax.random.split(jax.random.key(3), rows), 0.1 * jax.random.normal(jax.random.key(2), (rows, 4, 16)),
        jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape)), codec),
        jnp.full(rows, 0.01), jnp.full(rows, jnp.inf), text.batch([[(sentence(size), sentence(2))] for size in lengths]),
    )  # fmt: skip


def run(params, work, steps=STEPS, sigma=0.1, rows=2, **options):
    training = tuning.Training(steps=steps, rows=rows)
    return tuning.run(params, work, Condition(NVM3, sigma), config=TINY, method=CODE, training=training, **options)


def test_blocks_by_length_are_one_batch(params):
    work = job(params)
    training = tuning.Training(steps=STEPS)
    whole = tuning.tune(params, work, Condition(NVM3, 0.1), config=TINY, method=CODE, training=training)
    parts = run(params, work)
    np.testing.assert_allclose(parts.values, whole.values, atol=1e-5)
    np.testing.assert_allclose(parts.losses, whole.losses, atol=1e-5)


def test_side_by_side_blocks_train_to_the_bits_that_they_have_alone(params, monkeypatch, tmp_path):
    work, alone, told = job(params), run(params, job(params), rows=1), []
    monkeypatch.setattr(blocks, "SIDE_BY_SIDE", 0)
    assert blocks._lanes(params, work, tuning.Training(steps=STEPS)) == 2
    assert blocks._lanes(params, blocks._rows(work, slice(1)), tuning.Training(steps=STEPS)) == 1
    assert blocks._lanes(params, work, tuning.Training(steps=STEPS, rows=1)) == 1  # no memory for two
    both = run(params, work, report=told.append)
    np.testing.assert_array_equal(both.values, alone.values)
    np.testing.assert_array_equal(both.losses, alone.losses)
    assert sum(each.row_steps for each in told) == 5 * STEPS

    def stopped(progress):
        told.append(progress)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(params, work, folder=tmp_path / "kept", report=stopped)
    assert list((tmp_path / "kept").iterdir())  # what was done is kept
    resumed = run(params, work, folder=tmp_path / "kept")
    np.testing.assert_array_equal(resumed.values, alone.values)


def test_side_by_side_blocks_know_the_precision_that_was_asked_for(params, monkeypatch):
    seen = []
    monkeypatch.setattr(blocks, "SIDE_BY_SIDE", 0)
    inner = blocks._block
    monkeypatch.setattr(blocks, "_block", lambda *given: seen.append(precision()) or inner(*given))
    with jax.default_matmul_precision("float32"):
        run(params, job(params))
    assert set(seen) == {"float32"}


def test_lengths_share_a_program_by_bucket(params):
    train.advance.clear_cache()
    run(params, job(params))
    assert train.advance._cache_size() == 3  # up to 16, 32 and 48 tokens
    run(params, job(params, lengths=(3, 14, 29, 20, 40, 33)))
    assert train.advance._cache_size() == 3


def test_all_that_is_done_is_told(params):
    told = []
    tuned = run(params, job(params), report=told.append)
    assert sum(each.row_steps for each in told) == len(LENGTHS) * STEPS
    # blocks of two by length (4 and 5, 9 and 30, 33), padded to a multiple of 16, behind 4 virtual tokens
    assert sum(each.tokens for each in told) == STEPS * (2 * (16 + 4) + 2 * (32 + 4) + 1 * (48 + 4))
    assert told[-1].loss == pytest.approx(float(tuned.losses[-1, 3]))


def stop_after(reports):
    left = [reports]

    def report(_):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize("reports", [1, 3])
def test_an_interrupted_run_goes_on_bit_by_bit(params, tmp_path, reports):
    work = job(params)
    with pytest.raises(KeyboardInterrupt):
        run(params, work, folder=tmp_path / "kept", report=stop_after(reports))
    kept = {path: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    assert kept
    told = []
    resumed = run(params, work, folder=tmp_path / "kept", report=told.append)
    jax.tree.map(np.testing.assert_array_equal, resumed, run(params, work))
    assert sum(each.row_steps for each in told) == len(LENGTHS) * STEPS
    assert told[0].tokens == 0 and told[0].row_steps > 0  # what was found is told first


def test_a_killed_run_goes_on_bit_by_bit(params, tmp_path):
    script = f"""
        import os, signal
        from nvcim_jax.tuning import blocks
        from tests.tuning import test_blocks as own
        blocks.KEEP_EVERY = 0.0
        params, reports = own.weights(), []

        def report(done):
            reports.append(done)
            if len(reports) == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        own.run(params, own.job(params), folder=own.Path({str(tmp_path)!r}) / "kept", report=report)
    """
    script = script.replace("own.Path", "__import__('pathlib').Path")
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL and list((tmp_path / "kept").glob("*.safetensors"))
    told = []
    resumed = run(params, job(params), folder=tmp_path / "kept", report=told.append)
    jax.tree.map(np.testing.assert_array_equal, resumed, run(params, job(params)))
    assert told[0].tokens == 0 and told[0].row_steps > 0


def test_another_jobs_leavings_are_refused(params, tmp_path):
    run(params, job(params), folder=tmp_path)
    for options in ({"sigma": 0.2}, {"steps": STEPS + 1}):
        with pytest.raises(ValueError, match="keeps another job"):
            run(params, job(params), folder=tmp_path, **options)
    other = job(params)._replace(learning_rate=jnp.full(len(LENGTHS), 0.02))
    with pytest.raises(ValueError, match="keeps another job"):
        run(params, other, folder=tmp_path)


def test_a_damaged_file_is_named(params, tmp_path):
    run(params, job(params), folder=tmp_path)
    path = min(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="rows-0000000.safetensors is damaged"):
        run(params, job(params), folder=tmp_path)


def test_a_row_without_a_finite_loss_keeps_its_last_values(params):
    work = job(params)
    work = work._replace(learning_rate=work.learning_rate.at[2].set(jnp.inf))
    tuned = run(params, work)
    np.testing.assert_array_equal(tuned.values[2], work.start[2])
    assert list(np.flatnonzero(tuned.broken)) == [2]


def test_what_a_run_kept_is_closed_to_others_and_discarded(params, tmp_path):
    kept = tmp_path / "kept"
    run(params, job(params), folder=kept)
    assert {path.stat().st_mode & 0o777 for path in kept.iterdir()} == {0o600} and kept.stat().st_mode & 0o777 == 0o700
    torn = kept / ".nvcim-part-x"  # as a killed run leaves it
    torn.mkdir()
    (torn / "rows-0000000.safetensors").write_bytes(b"half")
    more = job(params, (3,) * 7)
    run(params, more, folder=kept / tuning.FIRST)  # what a start was trained by, in more blocks
    run(params, job(params), folder=kept)  # goes on beside it
    tuning.discard(kept)
    assert not kept.exists()
    tuning.discard(kept)  # which is there no more
    (kept / tuning.FIRST).mkdir(parents=True)  # killed before anything was kept
    tuning.discard(kept)
    assert not kept.exists()


def foreign(folder, what):
    """Put something into a folder of unfinished tuning that tuning did not write."""
    diary = folder.parent / "diary"
    diary.mkdir()
    (diary / "rows-0000000.safetensors").write_text("rain")
    path = folder / {"text": "notes.txt", "folder": "sub", "link as ours": tuning.FIRST}.get(
        what, "rows-0000096.safetensors"
    )
    if what in ("text", "named as ours"):
        path.write_text("rain")
    elif what == "tensors of others":
        from safetensors.numpy import save_file

        save_file({"a": np.zeros(3)}, path)
    elif what == "link":
        path.symlink_to(diary / "rows-0000000.safetensors")
    elif what == "link as ours":
        path.symlink_to(diary)
    elif what == "linked part":
        (folder / ".nvcim-part-x").symlink_to(diary)
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    "what", ["text", "named as ours", "tensors of others", "link", "link as ours", "linked part", "pipe", "folder"]
)
def test_nothing_is_discarded_or_trained_where_others_keep_something(params, tmp_path, what):
    kept = tmp_path / "kept"
    kept.mkdir()
    foreign(kept, what)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    for call in (tuning.discard, lambda folder: run(params, job(params), folder=folder)):
        with pytest.raises(ValueError, match="which tuning did not write|is damaged|no folder that tuning made"):
            call(kept)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert (tmp_path / "diary" / "rows-0000000.safetensors").read_text() == "rain"


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_folder_that_is_none_is_refused(params, tmp_path, kind):
    (tmp_path / "diary").mkdir()
    if kind == "link":
        (tmp_path / "kept").symlink_to(tmp_path / "diary")
    else:
        (tmp_path / "kept").write_text("rain")
    for call in (tuning.discard, lambda folder: run(params, job(params), folder=folder)):
        with pytest.raises(ValueError, match="no folder that tuning made: move it away"):
            call(tmp_path / "kept")
    assert (tmp_path / "diary").is_dir() and (tmp_path / "kept").exists()


def test_files_of_more_rows_are_another_job(params, tmp_path):
    run(params, job(params, lengths=(*LENGTHS, 7, 8)), folder=tmp_path)
    with pytest.raises(ValueError, match="keeps another job"):
        run(params, job(params), folder=tmp_path)


def test_a_full_disk_is_a_sentence_and_keeps_what_was_written(params, tmp_path, monkeypatch):
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 10, hard))
    try:
        with pytest.raises(OSError, match=r"rows-0000000.safetensors cannot be written \(File too large\): make room"):
            run(params, job(params), folder=tmp_path / "kept")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "kept").iterdir()) == []
    run(params, job(params), folder=tmp_path / "kept")

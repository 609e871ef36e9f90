"""Banks under variation: closed form, chips and programmed trials agree; trials are kept and resumed."""

import json
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_cli import nvcim

from nvcim_jax import retrieval
from nvcim_jax.presets import PAPER

DEVICES, SIGMAS = ["NVM-1", "NVM-5"], [0.2, 0.6]
GRID = {"settings": PAPER, "fidelity": "value"}


@pytest.fixture(scope="module")
def case():
    """Two users with six OVTs, one slot empty, and five questions, the second user with three."""
    a, b = jax.random.split(jax.random.key(0))
    keys = jax.random.normal(a, (2, 6, 8, 12))
    asked = jnp.array([[True] * 5, [True] * 3 + [False] * 2])
    queries = keys[:, :5] * 0.3 + jax.random.normal(b, (2, 5, 8, 12))
    valid = jnp.ones((2, 6), bool).at[1, 5].set(False)
    right = jnp.broadcast_to(jnp.arange(6)[None, None] == jnp.arange(5)[None, :, None], (2, 5, 6))
    return retrieval.Case(queries, asked, keys, valid, right)


def run(case, draws, key=3, **options):
    return retrieval.by_trials(jax.random.key(key), case, DEVICES, SIGMAS, draws=draws, **GRID, **options)


@pytest.mark.parametrize("fidelity", retrieval.FIDELITIES)
def test_programmed_banks_and_chips_agree_with_the_closed_form(case, fidelity):
    bound = {"settings": PAPER, "fidelity": fidelity}
    found = retrieval.closed_form(jax.random.key(1), case, DEVICES, SIGMAS, chips=500, **bound)
    trials = retrieval.by_trials(jax.random.key(2), case, DEVICES, SIGMAS, draws=1000, **bound)
    expected = (found.expected * np.array([5, 3])).sum(-1) / 8  # over questions, as trials count
    assert found.expected.shape == (2, 2, 2) and trials.shape == (1000, 2, 2)
    assert np.all(np.abs(trials.mean(0) - expected) < 4 * trials.std(0) / 1000**0.5 + 1e-3)
    assert np.all(found.worst[:, 1] < found.expected[:, 1] - 0.05)  # at 0.2 most chips make no mistake


def test_chips_have_the_expected_accuracy(case):
    from nvcim_jax import variation

    found = retrieval.closed_form(jax.random.key(1), case, DEVICES, SIGMAS, chips=20, **GRID)
    grid = (retrieval._stack(DEVICES), jnp.array(SIGMAS))
    drawn = np.asarray(
        retrieval._chips(jax.random.key(4), case, *grid, score=PAPER.score, law=variation.value_law, chips=4000)
    )
    assert drawn.shape == (2, 2, 2, 4000)
    assert np.all(np.abs(drawn.mean(-1) - found.expected) < 4.5 * drawn.std(-1) / 4000**0.5 + 1e-6)


def test_finished_trials_are_kept_and_gone_on_from(case, tmp_path):
    keep = tmp_path / retrieval.TRIALS
    told = []
    whole = run(case, 60)
    first = run(case, 25, keep=keep)
    again = run(case, 60, keep=keep, report=told.append)
    np.testing.assert_array_equal(again, whole)
    np.testing.assert_array_equal(first, whole[:25])
    assert told[0] == 25 and sum(told) == 60
    np.testing.assert_array_equal(run(case, 10, keep=keep), whole[:10])  # fewer were asked for


def test_an_interrupt_keeps_the_finished_chunks(case, tmp_path):
    keep = tmp_path / retrieval.TRIALS

    def stop(count, seen=[]):  # noqa: B006
        seen.append(count)
        if sum(seen) >= 250:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(case, 600, keep=keep, report=stop)
    with np.load(keep) as kept:
        assert len(kept["trials"]) == 250
    np.testing.assert_array_equal(run(case, 600, keep=keep), run(case, 600))


def test_trials_of_another_study_or_a_damaged_file_are_refused(case, tmp_path):
    keep = tmp_path / retrieval.TRIALS
    run(case, 5, keep=keep)
    with pytest.raises(ValueError, match="another study"):
        run(case, 5, keep=keep, key=4)
    with pytest.raises(ValueError, match="another study"):
        run(case._replace(keys=case.keys + 1), 5, keep=keep)
    keep.write_bytes(keep.read_bytes()[:-40])
    with pytest.raises(ValueError, match="damaged"):
        run(case, 5, keep=keep)


def test_the_command_on_embedded_users(tmp_path):
    words = ["vary", "--users", 2, "--sigma", 0.1, "--sigma", 0.3, "--device", "NVM-1", "--draws", 30, "--chips", 50]
    text = nvcim(*words, "--out", tmp_path)
    assert "sigma 0.3" in text and "programmed" in text and "domain is found" in text
    report = json.loads((tmp_path / "vary.json").read_text())
    assert report["settings"]["seed"] == 0 and report["provenance"]["versions"]["jax"]
    assert [cell["sigma"] for cell in report["cells"]] == [0.1, 0.3]
    assert all(0 <= cell["programmed"] <= 1 and cell["users"] == 2 for cell in report["cells"])
    assert (tmp_path / "vary.png").read_bytes().startswith(b"\x89PNG")
    nvcim(*words, "--out", tmp_path)  # finished trials are read back
    assert json.loads((tmp_path / "vary.json").read_text()) == report
    assert "another study" in nvcim(*words, "--seed", 1, "--out", tmp_path, code=2).replace("\n", " ")


def test_the_command_on_a_saved_bank(tmp_path):
    nvcim("learn", "--task", "LaMP-5", "--out", tmp_path / "bank")
    text = nvcim("vary", tmp_path / "bank", "--sigma", 0.1, "--device", "NVM-2", "--fidelity", "cell")
    assert "1 users" in text and "cell fidelity" in text
    assert "leave out --preset" in nvcim("vary", tmp_path / "bank", "--preset", "paper", code=2).replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "NVM-9"], "unknown device 'NVM-9'"),
        (["--sigma", "-1"], "--sigma -1.0"),
        (["--sigma", "nan"], "--sigma nan"),
        (["--fidelity", "atom"], "unknown fidelity 'atom': choose one of value, cell"),
        (["--preset", "best"], "unknown preset 'best'"),
        (["--task", "LaMP-9"], "unknown task 'LaMP-9'"),
        (["/nonexistent"], "is no bank"),
        (["--out", "/proc/nvcim"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(words, said):
    text = nvcim("vary", *words, code=2)
    assert said in text.replace("\n", " ") and text.count("error:") == 1


@pytest.mark.slow
def test_ctrl_c_keeps_the_finished_trials(tmp_path):
    words = ["vary", "--users", "2", "--draws", "200000", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "nvcim_jax", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.time() + 300
    while not (tmp_path / retrieval.TRIALS).exists() and time.time() < deadline and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "goes on from them" in text.replace("\n", " ") and "Traceback" not in text
    with np.load(tmp_path / retrieval.TRIALS) as kept:
        assert 0 < len(kept["trials"]) < 200_000

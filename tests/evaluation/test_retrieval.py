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

from nvcim_jax.evaluation import retrieval
from nvcim_jax.pipeline.presets import PAPER
from tests.helpers.command import nvcim

ROWS = retrieval.rows(["NVM-1", "NVM-5"], [0.2, 0.6])
GRID = {"settings": PAPER, "fidelity": "value"}
EIGHT = """
name = "eight"
source = "made up, each level unlike all others"
levels = 8
noise = [0.0, 0.5, 0.5, 1.0, 1.0, 2.0, 3.0, 4.0]
sigma_range = [0, 1]
read_noise = 0.5
"""


def own_row(tmp_path, more="", sigmas=(0.2, 0.6)):
    path = tmp_path / "own.toml"
    path.write_text(EIGHT + more)
    (row,) = retrieval.rows([str(path)], sigmas)
    return row


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


def run(case, draws, key=3, rows=ROWS, **options):
    """[draws, devices x sigmas]"""
    return np.concatenate(retrieval.by_trials(jax.random.key(key), case, rows, draws=draws, **GRID | options), axis=1)


def agrees(table, trials):
    """Whether programmed banks find what the closed form expects; over questions, as trials count."""
    expected = (table.expected * np.array([5, 3])).sum(-1) / 8
    return np.all(np.abs(trials.mean(0) - expected) < 4 * trials.std(0) / len(trials) ** 0.5 + 1e-3)


@pytest.mark.parametrize("fidelity", retrieval.FIDELITIES)
def test_programmed_banks_and_chips_agree_with_the_closed_form(case, fidelity, tmp_path):
    """In cells with a device of eight levels, no two alike, that reads with noise."""
    bound = {"settings": PAPER, "fidelity": fidelity}
    row = ROWS[1] if fidelity == "value" else own_row(tmp_path)
    (trials,) = retrieval.by_trials(jax.random.key(2), case, [row], draws=1000, **bound)
    found = retrieval.closed_form(jax.random.key(1), case, row, chips=500, **bound)
    assert found.expected.shape == (2, 2) and trials.shape == (1000, 2) and agrees(found, trials)
    assert np.all(found.worst[1] < found.expected[1] - 0.05)  # at 0.2 most chips make no mistake


def test_stuck_cells_are_drawn_and_not_integrated(case, tmp_path):
    stuck = own_row(tmp_path, more="stuck_off = 0.4\nstuck_on = 0.3\n", sigmas=[0.2])
    bound = {"settings": PAPER, "fidelity": "cell"}
    assert list(retrieval.without_closed_form([ROWS[0], stuck], "cell")) == ["eight"]
    assert retrieval.without_closed_form([stuck], "value") == {}
    with pytest.raises(ValueError, match="stuck cells"):
        retrieval.closed_form(jax.random.key(1), case, stuck, chips=20, **bound)
    (drawn,) = retrieval.by_trials(jax.random.key(2), case, [stuck], draws=200, **bound)
    assert 0.1 < drawn.mean() < 0.9
    picture = retrieval.dots([stuck], [None], [drawn])["eight"]["0.2"]
    assert picture.value == drawn.mean() and picture.low < picture.value


def test_chips_have_the_expected_accuracy(case):
    from nvcim_jax.memory import variation

    for row in ROWS:
        found = retrieval.closed_form(jax.random.key(1), case, row, chips=20, **GRID)
        at = (row.sheet.device, jnp.array(row.sigmas))
        law = variation.value_law
        drawn = np.asarray(retrieval._chips(jax.random.key(4), case, *at, score=PAPER.score, law=law, chips=4000))
        assert drawn.shape == (2, 2, 4000)
        assert np.all(np.abs(drawn.mean(-1) - found.expected) < 4.5 * drawn.std(-1) / 4000**0.5 + 1e-6)


def test_each_device_is_asked_where_it_is_known(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(EIGHT.replace("[0, 1]", "[0.5, 2]"))
    both = ["NVM-3", str(path), "NVM-3"]
    assert [(row.name, row.sigmas) for row in retrieval.rows(both)] == [("NVM-3", retrieval.SIGMAS), ("eight", (1.0,))]
    assert [row.sigmas for row in retrieval.rows(both, [0.1, 1.0])] == [(0.1, 1.0), (1.0,)]
    with pytest.raises(ValueError, match="sigma 0.1 is outside 0.5 to 2, for which eight is known"):
        retrieval.rows(both, [0.1])  # nothing in common
    with pytest.raises(ValueError, match="sigma 3 is outside 0.5 to 2, for which eight is known"):
        retrieval.rows([str(path)], [1.0, 3.0])
    other = tmp_path / "other.toml"
    other.write_text(EIGHT)
    assert [row.name for row in retrieval.rows([str(path), str(other)])] == [f"eight ({path})", f"eight ({other})"]


def test_notes_say_what_is_left_out_and_what_is_extrapolated(tmp_path):
    own = own_row(tmp_path, more="stuck_off = 0.1\ndrift_exponent = 0.05\n")
    assert retrieval.notes([ROWS[0], own], "value") == [
        "Sigma 0.2, 0.6 lies outside 0 to 0.15, for which NVM-1 is known: figures there are extrapolated.",
        "value fidelity leaves out the read noise and the stuck cells and the drift of eight.",
    ]
    assert retrieval.notes([own], "cell") == [
        "Sigma is a share of a cell's range; in level steps, as SWIM counts, it is 7 times as much.",
        "cell fidelity leaves out the drift after the first second of eight.",
    ]


def test_finished_trials_are_kept_and_gone_on_from(case, tmp_path):
    keep = tmp_path / retrieval.TRIALS
    told = []
    whole = run(case, 60)
    first = run(case, 25, keep=keep)
    again = run(case, 60, keep=keep, report=lambda *each: told.append(each))
    np.testing.assert_array_equal(again, whole)
    np.testing.assert_array_equal(first, whole[:25])
    assert told == [(25, True), (35, False)]
    np.testing.assert_array_equal(run(case, 10, keep=keep), whole[:10])  # fewer were asked for


def test_an_interrupt_keeps_the_finished_chunks(case, tmp_path):
    keep = tmp_path / retrieval.TRIALS

    def stop(count, kept, seen=[]):  # noqa: B006
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
    with pytest.raises(ValueError, match="another study"):
        run(case, 5, keep=keep, rows=ROWS[::-1])
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
    for name in ("vary.json", "vary.png"):
        assert f"holds {name}" in nvcim(*words, "--out", tmp_path, code=2).replace("\n", " ")
        (tmp_path / name).unlink()
    nvcim(*words, "--out", tmp_path)  # finished trials are read back
    assert json.loads((tmp_path / "vary.json").read_text()) == report
    for name in ("vary.json", "vary.png"):
        (tmp_path / name).unlink()
    assert "another study" in nvcim(*words, "--seed", 1, "--out", tmp_path, code=2).replace("\n", " ")


def test_the_command_on_a_saved_bank(tmp_path):
    nvcim("learn", "--task", "LaMP-5", "--out", tmp_path / "bank")
    text = nvcim("vary", tmp_path / "bank", "--sigma", 0.1, "--device", "NVM-2", "--fidelity", "cell")
    assert "1 users" in text and "cell fidelity" in text
    text = nvcim("vary", tmp_path / "bank", "--draws", 10**9, "--hours", 2, code=2).replace("\n", " ")
    assert "1000 chips and 1000000000 draws would take about" in text and "--hours" in text
    assert "leave out --preset" in nvcim("vary", tmp_path / "bank", "--preset", "paper", code=2).replace("\n", " ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "NVM-9"], "unknown device 'NVM-9'"),
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sigma", "-1"], "'--sigma': '-1': a number from 0 to 10 is needed"),
        (["--sigma", "nan"], "'--sigma': 'nan': a number from 0 to 10 is needed"),
        (["--chips", "1000000000"], "'--chips': '1000000000': a whole number from 20 to 1000000 is needed"),
        (["--draws", "-1"], "'--draws': '-1': a whole number from 0"),
        (["--users", "0"], "'--users': '0': a whole number from 1"),
        (["--out", ""], "'--out': the path is empty"),
    ],
)
def test_options_are_checked_where_they_are_declared(words, said):
    assert said in nvcim("vary", *words, code=2).replace("\n", " ")


def test_stuck_cells_without_draws_are_refused_before_any_work(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(EIGHT + "stuck_on = 0.1\n")
    words = ["vary", "--model", "/nonexistent", "--device", path, "--fidelity", "cell"]
    assert "eight: no closed form for stuck cells" in nvcim(*words, code=2).replace("\n", " ")
    assert "--draws 2000" in nvcim(*words, code=2) and "neither a folder" in nvcim(*words, "--draws", 9, code=2)


def test_work_that_never_ends_is_refused_beforehand(case):
    each = 2 * 6 * 4 * 8 * 12 * 1.75  # users, OVTs, devices and sigmas, values of a key in three scales
    assert retrieval.normals(case, ROWS, fidelity="value", chips=0, draws=10) == each * 10
    assert retrieval.normals(case, ROWS, fidelity="cell", chips=0, draws=10) == each * 80
    assert retrieval.normals(case, ROWS, fidelity="cell", chips=7, draws=0) == 2 * 6 * 4 * 7 * 25


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

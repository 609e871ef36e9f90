"""`nvcim study`: run, go on, share out, look at it; with cells that take no time."""

import json
import sys
from contextlib import suppress

import pytest

from nvcim_jax.data import lamp, synthetic
from nvcim_jax.evaluation import pictures, studies, study
from nvcim_jax.evaluation.study import Measured
from tests.helpers import fake_table
from tests.helpers.command import nvcim
from tests.helpers.fake_study import fake, rows_of

with suppress(ImportError):  # its log takes the streams that there are when it is first imported
    import submitit  # noqa: F401

SMALL = ("study", "table1", "--users", 3, "--draws", 1, "--task", "LaMP-2", "--device", "NVM-3")
CELLS = 3 + 8


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(studies, "measure", fake_table.measured)
    monkeypatch.setattr(pictures, "write", lambda *_: [])  # they take a second each


def test_a_study_is_run_once_and_shown_again(tmp_path):
    text = nvcim(*SMALL, "--out", tmp_path)
    assert f"table1: {CELLS} of {CELLS} cells are done" in text
    written = "table.md, table.tex, report.html and results.parquet"
    assert f"{written} are in {tmp_path}" in text
    assert "the paper's NVCiM-PT" in text and "3 of 3 users and 6 questions a figure" in text
    names = {path.name.split("-")[0] for path in tmp_path.iterdir()}
    assert names == {*written.replace(" and", ",").split(", "), "study.json", "results", "questions"}
    before = rows_of(tmp_path)
    assert nvcim(*SMALL, "--out", tmp_path) == text  # nothing was left to do
    assert rows_of(tmp_path) == before and len(list(tmp_path.glob("results-*"))) == 1


def test_what_ctrl_c_leaves_is_gone_on_with(tmp_path, monkeypatch):
    def stopped(cell, source):
        if len(list(tmp_path.glob("results-*"))) and len(study.read(tmp_path).cells) == 4:
            raise KeyboardInterrupt
        return fake_table.measured(cell)

    with monkeypatch.context() as patch:
        patch.setattr(studies, "measure", stopped)
        text = nvcim(*SMALL, "--out", tmp_path, code=130)
    assert f"interrupted: finished cells are in {tmp_path}: the same command goes on from them" in text
    assert f"4 of {CELLS} cells are done" in (tmp_path / "table.md").read_text()
    assert f"4 of {CELLS} cells are done" in nvcim("study", "status", tmp_path)
    nvcim(*SMALL, "--out", tmp_path)
    nvcim(*SMALL, "--out", tmp_path / "whole")
    assert rows_of(tmp_path) == rows_of(tmp_path / "whole")


def test_two_shards_are_the_whole_study(tmp_path):
    many = ("study", "table1", "--users", 20, "--draws", 1, "--task", "LaMP-2", "--device", "NVM-3")
    text = nvcim(*many, "--out", tmp_path / "a", "--shard", "1/2")
    assert f"table1: {2 * CELLS} of {3 * CELLS} cells are done" in text  # two of three blocks of users
    nvcim(*many, "--out", tmp_path / "a", "--shard", "2/2")
    nvcim(*many, "--out", tmp_path / "b")
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")


def test_status_and_report_need_no_study_to_be_run(tmp_path):
    nvcim(*SMALL, "--out", tmp_path)
    for name in ("table.md", "report.html"):
        (tmp_path / name).unlink()
    (path,) = tmp_path.glob("results-*")
    path.write_bytes(path.read_bytes()[:-1])
    text = nvcim("study", "status", tmp_path)
    assert f"{CELLS - 1} of {CELLS} cells are done" in text and "1 lines were half written and do not count" in text
    assert not (tmp_path / "table.md").exists()
    nvcim("study", "report", tmp_path)
    assert (tmp_path / "table.md").is_file() and "half written" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shard", "5/4"], "shard '5/4': give i/n with i from 1 to n, such as 2/4"),
        (["--task", "LaMP-8"], "unknown task 'LaMP-8'"),
        (["--task", "LaMP-4"], "the toy world has no users of LaMP-4"),
        (["--device", "NVM-9"], "unknown device 'NVM-9'"),
        (["--data", "nowhere", "--task", "LaMP-5"], "nowhere is not a folder"),
        (["--data", "nowhere"], "a LaMP folder holds one task: name it"),
        (["--chosen-on", 4], "--chosen-on is about --data"),
        (["--model", "nowhere/at-all", "--task", "LaMP-2"], "nowhere/at-all"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(words, said, tmp_path):
    text = nvcim("study", "table1", "--out", tmp_path / "out", *words, code=2)
    assert said in text.replace("\n", " ") and text.count("error:") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_settings_is_left_alone(tmp_path):
    nvcim(*SMALL, "--out", tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    text = nvcim(*SMALL, "--out", tmp_path, "--sigma", 0.2, code=2)
    assert f"{tmp_path} was made with settings: sigma [0.1], not [0.2]: choose another folder" in text.replace(
        "\n", " "
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    about = json.loads((tmp_path / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps(about | {"version": 2}))
    for words in (("study", "status", tmp_path), ("study", "report", tmp_path), (*SMALL, "--out", tmp_path)):
        assert "of a newer nvcim_jax" in nvcim(*words, code=2)
    assert "is no folder of a study" in nvcim("study", "status", tmp_path / "elsewhere", code=2)


def test_a_study_of_ones_own_has_a_status_and_no_report(tmp_path):
    study.run(fake(), tmp_path)
    assert "fake: 12 of 12 cells are done" in nvcim("study", "status", tmp_path)
    assert "holds the study 'fake', which has no table here" in nvcim("study", "report", tmp_path, code=2)


def test_an_error_in_a_cell_keeps_the_others(tmp_path, monkeypatch):
    def full(cell, source):
        if cell["method"].endswith("CxDNN"):
            raise OSError(28, "No space left on device")
        return fake_table.measured(cell)

    monkeypatch.setattr(studies, "measure", full)
    assert "No space left on device" in nvcim(*SMALL, "--out", tmp_path, code=2)
    assert len(study.read(tmp_path).cells) == 5


STUDIES = ("table1", "table3", "table4", "fig1", "fig2", "fig5", "ablation", "variation")


def test_help_says_what_to_expect():
    listed = nvcim("study", "list")
    for name in STUDIES:
        text = nvcim("study", name, "--help")
        assert f"nvcim study {name}" in text and "minute" in text and "--shard" in text and "--slurm" in text
        assert name in listed
        if not name.startswith("fig"):
            assert "Expect" in text and "--model" in text and "--data" in text and "--users" in text
    for name in ("list", *STUDIES, "status", "report"):
        assert name in nvcim("study", "--help")


@pytest.mark.parametrize("name", ["table3", "fig1"])
def test_every_study_of_answers_is_run_and_gone_on_with(name, tmp_path):
    words = ("study", name, "--users", 2, "--draws", 1, "--out", tmp_path)
    few = ["--buffer", 10, "--buffer", 60] if name == "table3" else []
    text = nvcim(*words, "--task", "LaMP-2", *few)
    assert "table.md" in text and "Paired differences" in text
    assert nvcim(*words, "--task", "LaMP-2", *few) == text and len(list(tmp_path.glob("results-*"))) == 1


def test_the_figures_of_the_cost_model_need_no_model(tmp_path):
    text = nvcim("study", "fig2", "--out", tmp_path)
    assert "fig2: 2 of 2 cells are done" in text and (tmp_path / "table.tex").is_file()
    assert "unknown device 'NVM-9'" in nvcim("study", "fig5", "--device", "NVM-9", "--out", tmp_path / "a", code=2)


def test_slurm_is_refused_in_one_sentence_where_it_is_missing(tmp_path, monkeypatch):
    text = nvcim(*SMALL, "--out", tmp_path / "a", "--slurm", 2, code=2)
    assert "no Slurm" in text or "needs submitit" in text
    monkeypatch.setitem(sys.modules, "submitit", None)
    text = nvcim(*SMALL, "--out", tmp_path / "b", "--slurm", 2, code=2)
    assert "--slurm needs submitit: pip install 'nvcim_jax[slurm]', or use --shard" in text.replace("\n", " ")
    assert text.count("error:") == 1 and not (tmp_path / "b").exists()


@pytest.mark.filterwarnings("always")
def test_people_without_a_gold_answer_are_refused_or_left_out(tmp_path):
    task = lamp.task("LaMP-5")
    synthetic.write(tmp_path / "data", task, 5)
    (golds,) = (tmp_path / "data").glob("*_outputs.json")
    told = json.loads(golds.read_text())
    lost = told["golds"].pop(3)
    told["golds"].append({"id": "nobody", "output": "a title"})
    golds.write_text(json.dumps(told))
    words = ("study", "table1", "--data", tmp_path / "data", "--task", "LaMP-5", "--device", "NVM-3", "--users", 3)
    text = nvcim(*words, "--out", tmp_path / "out", code=2).replace("\n", " ")
    assert f"has no gold answer of id {lost['id']!r}" in text and not (tmp_path / "out").exists()
    text = nvcim(*words, "--skip-bad", "--out", tmp_path / "out").replace("\n", " ")
    assert "questions without one gold answer of their own: 1 left out" in text
    assert "gold answers without a question: 1 left out, the first of id 'nobody'" in text
    assert "cells are done" in text


def test_a_cell_without_rows_is_a_result_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "measure", lambda cell, source: Measured(fake_table.measured(cell).result))
    assert "cells are done" in nvcim(*SMALL, "--out", tmp_path)

"""Results on the terminal."""

from io import StringIO

import numpy as np

from nvcim_jax.cli import show
from nvcim_jax.cli.terminal import Terminal
from nvcim_jax.data import lamp
from nvcim_jax.evaluation import methods
from nvcim_jax.evaluation.main_job import TaskResult
from nvcim_jax.evaluation.methods import Method
from nvcim_jax.evaluation.worth import Worth, as_json
from nvcim_jax.people import Sample, User


def test_methods_stand_under_their_group_by_their_own_names():
    rows = [
        Method("base: plain", None),
        Method("never scored", None),
        Method("flat", None, "paper"),
        Method("x: y", None, "paper"),
    ]
    scores = {row.label: np.array([0.25, 0.75]) for row in rows if row.name != "never scored"}
    users = [User(str(at), (), ()) for at in range(2)]
    console = Terminal(file=StringIO(), width=160)
    result = TaskResult(lamp.task("LaMP-2"), users, scores, {}, [], {name: [[]] for name in scores})
    show.results(console, [result], rows, {"device": "NVM-3", "sigma": 0.1, "draws": 1})
    table = [line.split("│")[1] for line in console.file.getvalue().splitlines() if line.startswith("│")]
    assert [name.rstrip() for name in table] == [" base: plain", " paper", "   flat", "   x: y"]
    assert "0.50±" in console.file.getvalue()


def test_lamps_own_metrics_stand_in_a_table_of_their_own():
    ratings = [User("Ann", (), tuple(Sample("", gold, "", id=gold) for gold in "24"))]
    tags = [User("Ann", (), (Sample("", "comedy", "", id="1"),))]
    best = methods.whole("recommended")
    rows = [row for row in methods.rows() if row.label in (methods.BASE, best)]
    scores = {row.label: np.array([0.5]) for row in rows}
    results = [
        TaskResult(lamp.task("LaMP-3"), ratings, scores, {}, [], {methods.BASE: [["4", "4"]], best: [["2", "4"], ["1", "?"]]}),
        TaskResult(lamp.task("LaMP-2"), tags, scores, {}, [], {methods.BASE: [["classic"]], best: [["comedy"], ["classic"]]}),
    ]  # fmt: skip
    console = Terminal(file=StringIO(), width=80)
    show.results(console, results, rows, {"device": "NVM-3", "sigma": 0.1, "draws": 2})
    lines = console.file.getvalue().splitlines()
    at = next(at for at, line in enumerate(lines) if "┃ metric" in line)
    assert [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines[at + 2 : at + 6]] == [
        ["LaMP-3", "MAE", "1.000", "1.000"],  # of the draws 0 and (1 + 3) / 2
        ["", "RMSE", "1.414", "1.118"],  # 0 and the root of (1 + 9) / 2
        ["LaMP-2", "accuracy", "0.000", "0.500"],
        ["", "macro F1", "0.000", "0.033"],  # a fifteenth, and 0
    ]
    assert "of MAE and RMSE less is better" in " ".join(line.strip() for line in lines[:at])


def test_a_score_of_all_samples_together_has_no_interval():
    console = Terminal(file=StringIO(), width=120)
    scores = {
        "accuracy": Worth(np.array([0.0, 0.0, 1.0]), np.array([1.0, 1.0, 1.0])),
        "MAE": Worth(np.array(1.25), np.array(0.5)),
    }
    show.worth(console, scores)
    said = console.file.getvalue()
    (line,) = (line for line in said.splitlines() if "MAE" in line)
    assert [cell.strip() for cell in line.split("│")[1:-1]] == ["MAE", "1.25", "0.50", "-0.75"]
    assert "the latest 3 samples" in said and "accuracy: 3 samples cannot tell" in said
    assert as_json(scores)["MAE"] == {"base_model": {"mean": 1.25}, "with_ovts": {"mean": 0.5}}
    assert as_json(scores)["accuracy"]["with_ovts"]["mean"] == 1

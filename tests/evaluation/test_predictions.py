"""Predictions in the form of LaMP's own files."""

import json
import stat

import numpy as np
import pytest

from nvcim_jax.data import lamp
from nvcim_jax.evaluation import main_job, methods, metrics, predictions
from nvcim_jax.people import Sample, User

TASK = lamp.task("LaMP-5")
ASKED = [Sample(f"question {name}", f"gold {name}", name, id=name) for name in ("410", "7", "z")]
USERS = [User("Ann", (), tuple(ASKED[:2])), User("Bob", (), (ASKED[2],))]
BEST = methods.whole("recommended")


def result(**changes):
    answers = {methods.BASE: [["a", "b", "c"]], BEST: [["gold 410", "gold", "x"], ["y", "gold 7", "gold z"]]}
    scores = {name: np.zeros(2) for name in answers}
    return main_job.TaskResult(TASK, USERS, scores, {}, [], answers)._replace(**changes)


def test_a_file_has_lamps_form():
    assert predictions.as_lamp(TASK, ASKED, ["a", "", "ü"]) == {
        "task": "LaMP_5",
        "golds": [{"id": "410", "output": "a"}, {"id": "7", "output": ""}, {"id": "z", "output": "ü"}],
    }


def test_every_method_has_a_folder_and_the_golds_have_one(tmp_path):
    folder = tmp_path / "predictions"
    tags = result(task=lamp.task("LaMP-2"))
    predictions.write(folder, [result(), tags])
    best = "recommended-mean-pooled-mips-three-copies"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.json")) == [
        f"{name}/LaMP_{task}.json" for name in ("base-model", "golds", best) for task in (2, 5)
    ]
    told, golds = (json.loads((folder / name / "LaMP_5.json").read_text()) for name in (best, "golds"))
    assert {each["id"]: each["output"] for each in told["golds"]} == {"410": "gold 410", "7": "gold", "z": "x"}
    assert golds["task"] == "LaMP_5" and [each["id"] for each in golds["golds"]] == ["410", "7", "z"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*.json")} == {0o600}


def test_what_is_written_as_golds_is_read_as_golds(tmp_path):
    predictions.write(tmp_path, [result()])
    questions = [{"id": each.id, "input": each.question, "profile": []} for each in ASKED]
    users = lamp.parse(questions, json.loads((tmp_path / "golds/LaMP_5.json").read_text()), TASK)
    assert [user.queries[0] for user in users] == [each._replace(content=each.question) for each in ASKED]


def test_no_two_methods_share_a_folder():
    folders = [predictions.folder_of(row.label) for row in methods.rows()]
    assert len({*folders, predictions.GOLDS}) == len(folders) + 1


@pytest.mark.parametrize("ids", [("1", None, "3"), ("1", "2", "1")])
def test_a_question_without_an_id_of_its_own_is_refused(ids):
    asked = [sample._replace(id=name) for sample, name in zip(ASKED, ids)]
    with pytest.raises(ValueError, match="an id of its own for every question"):
        predictions.as_lamp(TASK, asked, ["a", "b", "c"])


def test_lamps_metrics_are_of_all_questions_together_averaged_over_draws():
    held, golds = result(), [each.answer for each in ASKED]
    draws = [metrics.official(TASK, answers, golds) for answers in held.answers[BEST]]
    # word by word: gold 410 is all, "gold" one of two words, x nothing; then nothing, all, all
    assert [draw["ROUGE-1"] for draw in draws] == pytest.approx([(1 + 2 / 3) / 3, 2 / 3])
    assert main_job.official(held, BEST)["ROUGE-1"] == pytest.approx(((1 + 2 / 3) / 3 + 2 / 3) / 2)
    told = main_job.as_json([held], {})["tasks"]["LaMP-5"]
    assert told["methods"][BEST]["official"] == main_job.official(held, BEST) and told["questions"] == 3

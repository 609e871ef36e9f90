"""Scores of answers."""

import pytest

from nvcim_jax.data import lamp, tasks
from nvcim_jax.evaluation.metrics import (
    accuracy,
    exact,
    macro_f1,
    mean_absolute_error,
    numbers,
    official,
    root_mean_squared_error,
    rouge1,
    rouge_l,
)


def test_exact_match_ignores_surrounding_space_only():
    assert exact(" comedy ", "comedy") == 1 and exact("dark comedy", "comedy") == 0


def test_rouge1_by_hand():
    # two of three answer words are among the four gold words: P 2/3, R 2/4
    assert rouge1("the warm oven", "the cold oven door") == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert rouge1("", "a title") == 0


def test_rouge_l_by_hand():
    # "the door" is the longest part in the same order: two of three words, two of four; "oven" is out of its order
    assert rouge_l("oven the door", "the cold oven door") == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert rouge1("oven the door", "the cold oven door") == pytest.approx(2 * 1 * (3 / 4) / (1 + 3 / 4))


def test_macro_f1_by_hand():
    assert macro_f1(["a", "a", "b"], ["a", "b", "b"]) == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_a_label_that_occurs_nowhere_lowers_the_macro_f1_of_all_labels():
    # a: 1 of 1 answers right, 1 of 2 found, so 2/3; b: 1 of 1, 1 of 1, so 1; c and d: 0
    answers, golds = ["a", " b\n", "nonsense"], ["a", "b", "a"]
    assert macro_f1(answers, golds, labels=["a", "b", "c", "d"]) == pytest.approx((2 / 3 + 1) / 4)
    assert macro_f1(answers, golds) == pytest.approx((2 / 3 + 1) / 2)
    assert accuracy(answers, golds) == pytest.approx(2 / 3)


def test_a_rating_is_any_number_and_what_is_none_is_as_wrong_as_can_be():
    golds = ["4", "2", "5", "3", "1", "4", "2", "4"]
    answers = [" 4.5\n", "none", "9", "", "-1", "5 stars", "nan", "inf"]
    assert numbers(answers, golds) == [4.5, 5, 9, 5, -1, 1, 5, 1]  # of 3 both ends are as far: the upper one
    assert mean_absolute_error(answers, golds) == pytest.approx((0.5 + 3 + 4 + 2 + 2 + 3 + 3 + 3) / 8)
    squares = 0.25 + 9 + 16 + 4 + 4 + 9 + 9 + 9
    assert root_mean_squared_error(answers, golds) == pytest.approx((squares / 8) ** 0.5)
    assert numbers(["?"], ["2"], lowest=0, highest=3) == [0]


def test_what_lamp_reports_of_each_task():
    tags = official(lamp.task("LaMP-2"), ["comedy", "comedy"], ["comedy", "classic"])
    assert tags == pytest.approx({"accuracy": 1 / 2, "macro F1": (2 / 3) / 15})
    citations = official(lamp.task("LaMP-1"), ["[1]", "[1]"], ["[1]", "[2]"])
    assert citations == pytest.approx({"accuracy": 1 / 2, "macro F1": (2 / 3) / 2})
    ratings = official(lamp.task("LaMP-3"), ["5", "2", "4"], ["5", "5", "5"])
    assert ratings == pytest.approx({"MAE": 4 / 3, "RMSE": (10 / 3) ** 0.5})
    for task in (*(lamp.task(f"LaMP-{number}") for number in (4, 5, 6, 7)), tasks.FREE):
        words = official(task, ["oven the door", "a"], ["the cold oven door", "a"])
        assert words == pytest.approx({"ROUGE-1": (6 / 7 + 1) / 2, "ROUGE-L": (4 / 7 + 1) / 2})


@pytest.mark.parametrize("metric", [accuracy, macro_f1, mean_absolute_error, root_mean_squared_error])
def test_answers_and_golds_must_pair_up(metric):
    for answers, golds in ((["a"], []), ([], []), (["1", "2"], ["1"])):
        with pytest.raises(ValueError, match="one each"):
            metric(answers, golds)

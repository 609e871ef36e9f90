"""Scores of answers."""

import pytest

from nvcim_jax.evaluation.metrics import exact, macro_f1, mean_absolute_error, rouge1, rouge_l


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


def test_an_answer_that_is_no_rating_is_as_wrong_as_can_be():
    assert mean_absolute_error(["3", "none", "9"], ["4", "2", "5"]) == pytest.approx((1 + 3 + 4) / 3)


def test_answers_and_golds_must_pair_up():
    with pytest.raises(ValueError, match="one each"):
        macro_f1(["a"], [])

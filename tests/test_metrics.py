"""Scores and intervals."""

import numpy as np
import pytest

from nvcim_jax.metrics import exact, interval, macro_f1, mean_absolute_error, rouge1


def test_exact_match_ignores_surrounding_space_only():
    assert exact(" comedy ", "comedy") == 1 and exact("dark comedy", "comedy") == 0


def test_rouge1_by_hand():
    # two of three answer words are among the four gold words: P 2/3, R 2/4
    assert rouge1("the warm oven", "the cold oven door") == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert rouge1("", "a title") == 0


def test_macro_f1_by_hand():
    assert macro_f1(["a", "a", "b"], ["a", "b", "b"]) == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_an_answer_that_is_no_rating_is_as_wrong_as_can_be():
    assert mean_absolute_error(["3", "none", "9"], ["4", "2", "5"]) == pytest.approx((1 + 3 + 4) / 3)


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = [
        low <= 0.3 <= high for _, low, high, _ in (interval(rng.random(60) < 0.3, resamples=400) for _ in range(300))
    ]
    assert 0.90 <= np.mean(covered) <= 0.98


def test_the_interval_of_equal_values_is_a_point():
    assert interval([0.5] * 7) == (0.5, 0.5, 0.5, 7)


def test_an_interval_needs_users():
    with pytest.raises(ValueError, match="at least one"):
        interval([])
    with pytest.raises(ValueError, match="one each"):
        macro_f1(["a"], [])


def test_the_interval_of_many_normal_users_is_196_standard_errors_to_each_side():
    values = np.random.default_rng(0).normal(size=1000)
    found = interval(values)
    half = 1.96 * values.std() / 1000**0.5
    assert found.high - found.mean == pytest.approx(half, rel=0.08)
    assert found.mean - found.low == pytest.approx(half, rel=0.08)

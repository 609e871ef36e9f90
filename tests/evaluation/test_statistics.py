"""Intervals over users."""

import numpy as np
import pytest

from nvcim_jax.evaluation.statistics import (
    bootstrap,
    bootstrap_difference,
    clear,
    difference,
    interval,
    ratio_of_gains,
    smallest_seen,
    student,
)


@pytest.mark.parametrize(
    ("mean", "draw"),
    [
        (0.3, lambda rng, users: rng.random(users) < 0.3),
        (0.9, lambda rng, users: rng.binomial(8, 0.9, users) / 8),
        (0.99, lambda rng, users: rng.binomial(8, 0.99, users) / 8),  # most users at the ceiling
        (0.975, lambda rng, users: np.where(rng.random(users) < 0.05, 0.5, 1.0)),  # one in twenty does badly
        (20 / 21, lambda rng, users: rng.binomial(8, rng.beta(20, 1, users)) / 8),
    ],
)
@pytest.mark.parametrize("users", [12, 16, 50])
def test_the_interval_covers_the_mean_as_often_as_it_says(users, mean, draw):
    rng = np.random.default_rng(users)
    covered = [low <= mean <= high for _, low, high, _ in (interval(draw(rng, users)) for _ in range(600))]
    assert 0.90 <= np.mean(covered) <= 0.995  # the percentile bootstrap: 0.43 to 0.90 near the ceiling


@pytest.mark.parametrize("users", [12, 50])
def test_the_interval_of_a_difference_covers_it_as_often_as_it_says(users):
    rng = np.random.default_rng(users)
    draw = lambda: rng.binomial(8, 0.95, users) / 8, lambda: rng.binomial(8, 0.9, users) / 8
    covered = [found.low <= 0.05 <= found.high for found in (difference(*(f() for f in draw)) for _ in range(600))]
    assert 0.92 <= np.mean(covered) <= 0.98


def test_intervals_by_hand():
    t11 = 2.2009851600916384  # the 97.5 % quantile of Student's distribution with 11 degrees of freedom
    whole = interval([1.0] * 12)  # Wilson at the ceiling: 1 / (1 + t^2 / n) to 1
    assert whole.low == pytest.approx(1 / (1 + t11**2 / 12)) and whole.high == pytest.approx(1) and whole.mean == 1
    yes_or_no = interval([1.0] * 6 + [0.0] * 6)  # 12 / 11 of the variance of a fair coin: as good as 11 users
    half = t11 / (2 * (11 + t11**2) ** 0.5)
    assert (yes_or_no.low, yes_or_no.high) == pytest.approx((0.5 - half, 0.5 + half))
    assert interval([0.5]) == (0.5, 0.0, 1.0, 1)
    gained = difference([0.5, 0.75, 1.0], [0.5, 0.5, 0.5])  # 0, 1/4, 1/2: standard error 1/4 / sqrt 3
    assert gained.mean == 0.25 and gained.half == pytest.approx(4.302652729749464 * 0.25 / 3**0.5)
    assert difference([1.0] * 30, [1.0] * 30)[:3] == pytest.approx((0.0, -0.1, 0.1))  # the rule of three


def test_the_sign_of_a_difference_is_the_first_less_the_second():
    assert difference([0.9, 0.8, 1.0], [0.1, 0.2, 0.1]).low > 0 > difference([0.1, 0.2, 0.1], [0.9, 0.8, 1.0]).high


def test_the_share_of_a_gain_by_hand():
    base, whole = np.zeros(4), np.array([0.4, 0.6, 0.4, 0.6])
    half = ratio_of_gains(whole / 2, whole, base)
    assert half[:3] == pytest.approx((0.5, 0.5, 0.5))  # the same share of everyone's gain leaves no doubt
    doubtful = ratio_of_gains(np.array([0.2, 0.5, 0.1, 0.4]), whole, base)
    assert doubtful.mean == pytest.approx(0.6) and doubtful.low < 0.6 < doubtful.high
    assert ratio_of_gains([0.5, 0.6, 0.7], [0.5, 0.2, 0.9], [0.4, 0.4, 0.4]) is None  # nothing to take a share of
    rng = np.random.default_rng(0)
    drawn = (rng.normal(0.5, 0.2, 20) for _ in range(800))
    covered = [
        found.low <= 0.8 <= found.high
        for gain in drawn
        if (found := ratio_of_gains(0.8 * gain + rng.normal(0, 0.1, 20), gain, np.zeros(20)))
    ]
    assert 0.92 <= np.mean(covered) <= 0.98


def test_of_many_differences_that_are_none_hardly_any_is_called_clear():
    rng = np.random.default_rng(0)
    none = [(rng.normal(size=20), rng.normal(size=20)) for _ in range(200)]
    assert sum(clear(none)) <= 1  # uncorrected, ten would be
    real = [(own + 2, other) for own, other in none[:20]]
    assert sum(clear(real + none[20:])) >= 19
    assert clear([([1.0, 1.0], [1.0, 1.0])]) == [False] and clear([]) == []


def test_an_interval_needs_users():
    with pytest.raises(ValueError, match="at least one"):
        interval([])


def test_a_difference_of_other_users_and_scores_outside_the_scale_are_refused():
    with pytest.raises(ValueError, match="the same users"):
        difference([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="needs 0 to 1"):
        interval([-0.1, 0.3])
    with pytest.raises(ValueError, match="not finite"):
        interval([float("nan")])


def test_the_bootstrap_is_scipys_and_the_same_every_time():
    scores = np.random.default_rng(1).beta(5, 2, 30)
    found = bootstrap(scores)
    assert found == bootstrap(list(scores)) and found.mean == pytest.approx(scores.mean()) and found.users == 30
    t = student(scores)
    assert found.low == pytest.approx(t.low, abs=0.02) and found.high == pytest.approx(t.high, abs=0.02)
    assert found.high - found.mean < found.mean - found.low  # of scores with a long lower tail, unlike Student's
    gaps = bootstrap_difference(scores, scores[::-1])
    assert gaps.mean == pytest.approx(0) and gaps.low < 0 < gaps.high


def test_where_users_agree_there_is_nothing_to_draw_again():
    for same in ([1.0] * 12, [0.5] * 3, [0.25]):
        assert bootstrap(same) == interval(same)
    assert bootstrap_difference([0.75] * 5, [0.25] * 5) == difference([0.75] * 5, [0.25] * 5)
    for few in ([0.0, 1.0], [1.0, 1.0, 0.5]):
        found = bootstrap(few)
        assert np.isfinite(found[:3]).all() and 0 <= found.low <= found.mean <= found.high <= 1
    assert student([1.0, 1.0, 0.0]).high == 1 and student([0.0, 0.1, 0.0]).low == 0


def test_the_smallest_difference_that_is_seen_is_seen_as_often_as_it_says():
    rng = np.random.default_rng(3)
    size = smallest_seen(rng.normal(0, 0.2, 40), np.zeros(40))
    assert size == pytest.approx(2.87 * 0.2 / 40**0.5, rel=0.25)  # t(0.975) + t(0.8), by the spread drawn
    true = smallest_seen(np.tile([0.2, -0.2], 20), np.zeros(40))
    seen = [clear([(true + rng.normal(0, 0.2, 40), np.zeros(40))])[0] for _ in range(500)]
    assert 0.74 <= np.mean(seen) <= 0.86
    assert smallest_seen([0.5], [0.1]) == 1 and smallest_seen([0.5] * 30, [0.5] * 30) == 0.1  # the rule of three


def test_users_who_all_differ_alike_are_told_apart_only_if_there_are_enough():
    alike = lambda users: ([0.75] * users, [0.5] * users)  # noqa: E731
    assert [clear([alike(users)])[0] for users in (2, 4, 6, 12)] == [False, False, True, True]

"""Intervals over users, paired differences, and which of many differences are clear."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Scores = Sequence[float] | np.ndarray  # one for each user
RESAMPLES = 2000  # of the bootstrap
FEW = 20  # users under whom Student's interval stands beside the bootstrap's


class Interval(NamedTuple):
    """A mean over users with its 95 % interval."""

    mean: float
    low: float
    high: float
    users: int

    @property
    def half(self) -> float:
        """Half of the interval's width."""
        return (self.high - self.low) / 2

    @property
    def holds_zero(self) -> bool:
        """Whether zero lies inside: a difference that these users cannot tell from none."""
        return self.low <= 0 <= self.high


def interval(scores: Scores) -> Interval:
    """Mean over users of scores from 0 to 1, and its 95 % interval.

    Wilson's score interval with Student's quantile, for the number of users with which independent yes-or-no answers
    would have the variance that the users show (the effective sample size of survey statistics; Franco et al.,
    2019). It stays between 0 and 1 and is never without width: `n` users who all score 1 give about 1 - 4/n to 1.
    ValueError for no users or scores outside 0 to 1.
    """
    scores = _over_users(scores)
    if scores.min() < 0 or scores.max() > 1:
        raise ValueError(f"scores from {scores.min()} to {scores.max()}: an interval of scores needs 0 to 1")
    users, mean = scores.size, float(scores.mean())
    if users == 1:
        return Interval(mean, 0.0, 1.0, 1)
    spread, most = float(scores.var(ddof=1)), mean * (1 - mean)
    effective = max(users * most / spread, 1.0) if spread > 0 else users
    share = _student(users) ** 2 / effective
    centre = (mean + share / 2) / (1 + share)
    half = (share * most + share**2 / 4) ** 0.5 / (1 + share)
    return Interval(mean, max(centre - half, 0.0), min(centre + half, 1.0), users)


def difference(one: Scores, other: Scores) -> Interval:
    """Mean over users of `one - other`, the users being the pairs, and its 95 % interval (Student's).

    Where no user differs, the rule of three bounds it: `n` users without a difference do not exclude 3/n. ValueError
    unless both hold scores of the same users.
    """
    gaps = _gaps(one, other)
    users, mean = gaps.size, float(gaps.mean())
    if users == 1:
        return Interval(mean, -1.0, 1.0, 1)
    spread = float(gaps.std(ddof=1))
    half = _student(users) * spread / users**0.5 if spread > 0 else min(3 / users, 1.0)
    return Interval(mean, mean - half, mean + half, users)


def bootstrap(scores: Scores) -> Interval:
    """Mean over users of scores from 0 to 1, and its 95 % interval by the bootstrap (BCa; Efron, 1987).

    The users are drawn again `RESAMPLES` times. Where all of them agree there is nothing to draw: `interval` bounds it
    then.
    """
    return _resampled(_over_users(scores)) or interval(scores)


def bootstrap_difference(one: Scores, other: Scores) -> Interval:
    """Mean over users of `one - other`, its 95 % interval by the bootstrap; where no user differs, `difference`'s."""
    return _resampled(_gaps(one, other)) or difference(one, other)


def student(scores: Scores) -> Interval:
    """Mean over users of scores from 0 to 1 with Student's 95 % interval, cut off at 0 and 1.

    Of few users the bootstrap's is too narrow.
    """
    found = difference(scores, np.zeros(len(scores)))
    return found._replace(low=max(found.low, 0.0), high=min(found.high, 1.0))


def smallest_seen(one: Scores, other: Scores, *, power: float = 0.8) -> float:
    """The difference that a paired t-test at 5 % of users who vary as these do finds with a chance of `power`."""
    from scipy.stats import t

    gaps = _gaps(one, other)
    users = gaps.size
    if users == 1 or np.ptp(gaps) == 0:
        return min(3 / users, 1.0)  # the rule of three
    reach = _student(users) + float(t.ppf(power, users - 1))
    return min(reach * float(gaps.std(ddof=1)) / users**0.5, 1.0)


def _resampled(values: np.ndarray) -> Interval | None:
    """The interval of a mean by BCa; None where values that all agree, or nearly so, leave it undefined."""
    from scipy.stats import bootstrap

    if values.size == 1 or np.ptp(values) == 0:
        return None
    found = bootstrap((values,), np.mean, n_resamples=RESAMPLES, rng=np.random.default_rng(0)).confidence_interval
    low, high = float(found.low), float(found.high)
    return Interval(float(values.mean()), low, high, values.size) if np.isfinite([low, high]).all() else None


def clear(pairs: Sequence[tuple[Scores, Scores]], *, rate: float = 0.05) -> list[bool]:
    """Which of many paired differences are told from none at a false discovery rate of `rate`.

    Paired t-tests, or where all users differ alike sign tests, under Benjamini and Hochberg's (1995) correction: of the
    differences called clear, a share of `rate` is expected to be none.
    """
    from scipy.stats import false_discovery_control, ttest_1samp

    def chance(one, other) -> float:
        gaps = _gaps(one, other)
        if gaps.size == 1 or not gaps.any():
            return 1.0
        if not gaps.std():
            return 0.5 ** (gaps.size - 1)  # of a sign test, as there is no spread to go by
        return float(ttest_1samp(gaps, 0.0).pvalue)  # pyright: ignore[reportAttributeAccessIssue]

    return [bool(p <= rate) for p in false_discovery_control([chance(*pair) for pair in pairs])] if pairs else []


def ratio_of_gains(kept: Scores, whole: Scores, base: Scores) -> Interval | None:
    """Mean gain of `kept` over `base` as a share of that of `whole`, with its 95 % interval (Fieller, 1954).

    None where the yardstick, the gain of `whole`, cannot be told from zero: a share of it would mean nothing.
    """
    part, full = _gaps(kept, base), _gaps(whole, base)
    yardstick = difference(whole, base)
    if yardstick.low <= 0:
        return None
    # The share r at which mean(part - r full) is just told from zero: a quadratic in r.
    users = part.size
    square = _student(users) ** 2 / users
    covariance = np.cov(part, full)
    a = full.mean() ** 2 - square * covariance[1, 1]
    b = part.mean() * full.mean() - square * covariance[0, 1]
    c = part.mean() ** 2 - square * covariance[0, 0]
    root = float(np.sqrt(max(b * b - a * c, 0.0)))
    return Interval(float(part.mean() / full.mean()), float((b - root) / a), float((b + root) / a), users)


def _student(users: int) -> float:
    """The 97.5 % quantile of Student's distribution for the mean of so many users."""
    from scipy.stats import t

    return float(t.ppf(0.975, users - 1))


def _over_users(values: Scores) -> np.ndarray:
    values = np.asarray(values, float)
    if values.size == 0:
        raise ValueError("an interval over no users: at least one is needed")
    if not np.isfinite(values).all():
        raise ValueError("an interval over scores that are not finite: every user needs a score")
    return values


def _gaps(one: Scores, other: Scores) -> np.ndarray:
    one, other = _over_users(one), _over_users(other)
    if one.shape != other.shape:
        raise ValueError(f"scores of {one.size} and of {other.size} users: a paired difference needs the same users")
    return one - other

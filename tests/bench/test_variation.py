"""What the benchmark of variation counts, by hand; its timings are no test."""

import numpy as np
import pytest

from bench.variation import draws_needed


def test_draws_for_one_query_are_not_those_for_the_mean():
    # two queries of accuracy 0.5: 0.25 / 0.01 each; always one of both right: the mean is certain
    assert draws_needed(np.array([0.5, 0.5]), np.array([0.5, 0.5, 0.5]), 0.1) == (pytest.approx(25), 0)
    # both right or both wrong: variance 1/3 of three draws
    together = draws_needed(np.array([0.5, 0.9]), np.array([0.0, 1.0, 1.0]), 0.1)
    assert together == (pytest.approx(17), pytest.approx(100 / 3))

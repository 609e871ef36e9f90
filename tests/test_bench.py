"""What the benchmarks count, by hand; their timings are no test."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest


def bench(name):
    spec = importlib.util.spec_from_file_location(f"bench_{name}", Path(__file__).parents[1] / "bench" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_draws_for_one_query_are_not_those_for_the_mean():
    # two queries of accuracy 0.5: 0.25 / 0.01 each; always one of both right: the mean is certain
    assert bench("variation").draws_needed(np.array([0.5, 0.5]), np.array([0.5, 0.5, 0.5]), 0.1) == (
        pytest.approx(25),
        0,
    )
    # both right or both wrong: variance 1/3 of three draws
    together = bench("variation").draws_needed(np.array([0.5, 0.9]), np.array([0.0, 1.0, 1.0]), 0.1)
    assert together == (pytest.approx(17), pytest.approx(100 / 3))

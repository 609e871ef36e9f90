"""What a fitted device looks like beside its measurements."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from nvcim_jax.evaluation.figures import Line, Panel, curves
from nvcim_jax.hardware.catalogue import to_toml
from nvcim_jax.hardware.fitting import Fit


def picture(path: Path, fit: Fit, *, most: int = 400) -> None:
    """Goodness of fit: quantiles of programming beside a Gaussian's by level, and mean conductance against time."""
    quantiles, means = {}, {}
    for level, own in enumerate(fit.residuals):
        at = np.linspace(0, len(own) - 1, min(most, len(own))).astype(int)
        normal = stats.norm.ppf((at + 0.5) / len(own))
        quantiles[f"level {level}"] = Line(normal.tolist(), own[at].tolist(), ".", f"C{level % 10}")
    ends = [-3.5, 3.5]
    quantiles["a Gaussian"] = Line(ends, ends, "-", "black", 0.8)
    for level, (times, measured, fitted) in enumerate(fit.curves):
        means[f"level {level}"] = Line(times.tolist(), measured.tolist(), "o", f"C{level % 10}")
        means[f"level {level}, fitted"] = Line(times.tolist(), fitted.tolist(), "-", f"C{level % 10}")
    panels = [
        Panel("programming", "quantile of a Gaussian", "deviations measured", quantiles),
        Panel("time", "seconds after programming", "mean conductance, uS", means, scale="log"),
    ]
    curves(path, panels, title=f"{fit.sheet.name}: measured and fitted", notes=fit.untold)


def fits_gaussian(fit: Fit) -> list[float]:
    """By level the probability that as many Gaussian cells lie as far from their law (Kolmogorov and Smirnov)."""
    return [float(stats.kstest(own, "norm").pvalue) for own in fit.residuals]


def as_json(fit: Fit) -> dict[str, Any]:
    """Everything of a fit but its curves."""
    return {
        "device": to_toml(fit.sheet), "untold": fit.untold,
        "estimates": {name: each._asdict() for name, each in fit.estimates.items()},
        "gaussian_p": fits_gaussian(fit), "cells": [len(own) for own in fit.residuals],
    }  # fmt: skip

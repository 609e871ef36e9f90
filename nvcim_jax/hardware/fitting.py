"""A device from measurements of its cells: a sheet, how far each of its numbers is known, and what cannot be told.

Each cell's reads are fitted by `g(t) = g (t / t0)^-nu`, by least squares in conductance. What varies between cells of
a level is then programming and the spread of exponents, once the error of each cell's own fit is taken off. Intervals
hold all together with 95 % (Bonferroni): normal for means, chi-squared for deviations, Clopper and Pearson's for
shares, F for the correlation. Retention, wandering and 1/f noise are not fitted.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from nvcim_jax.hardware.measured import Reads, checked, read_csv
from nvcim_jax.hardware.sheet import Sheet

TOGETHER = 0.95  # probability with which all intervals hold
OUTLIER = 6.0  # robust deviations from its level from which on a cell may be stuck
SURE = 5.0  # a level's conductance over the noise of a read, from which on its exponent can be told


class Estimate(NamedTuple):
    """A number and the interval that holds it."""

    value: float
    low: float
    high: float

    @property
    def is_told(self) -> bool:
        """Whether the measurements tell it from zero, to within a half of it on either side."""
        return bool(self.low > 0 and self.high - self.low <= abs(self.value))


class Fit(NamedTuple):
    """A fitted device. Estimates are in the units of the sheet, those of levels by level."""

    sheet: Sheet
    estimates: dict[str, Estimate]  # by name, such as "noise of level 2"
    untold: list[str]  # what the measurements cannot tell: a sentence each
    residuals: list[np.ndarray]  # of programming, by level, in deviations: standard normal where the device fits
    curves: list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # by level: times, mean conductance measured, and fitted


class Cells(NamedTuple):
    """Each cell's own fit."""

    start: np.ndarray  # conductance at t0, uS
    nu: np.ndarray
    start_error: np.ndarray  # variance of each, per variance of a read
    nu_error: np.ndarray
    square: np.ndarray  # sum of squared residuals
    freedom: np.ndarray  # their degrees of freedom
    can_drift: np.ndarray  # which have reads at two times at least


def fit_device(measurements: Path | str | Reads, name: str = "measured", source: str = "own measurements") -> Fit:
    """A device from a CSV file (see `measured.read_csv`), or from reads that are at hand.

    The sheet holds at sigma 1 and for the times that were measured. Effects that the measurements do not tell from zero
    are left out of it, and said in `untold`. ValueError for measurements that cannot be.
    """
    reads = checked(measurements) if isinstance(measurements, Reads) else read_csv(measurements)
    began = max(1.0, float(reads.seconds.min()))
    cells, read_std = _per_cell(reads, began)
    stuck = _stuck(cells.start, reads.level_of)
    sound = stuck == 0
    levels = int(reads.level_of.max()) + 1
    count = 4 * levels + 4  # of the intervals
    error = (1 - TOGETHER) / count
    has_spread = reads.array_of is not None and len(np.unique(reads.array_of)) > 1
    rho = _correlation(cells.start, reads, sound, error) if has_spread else None
    found = _levels(cells, reads, sound, read_std, error, rho)
    found |= _stuck_shares(stuck, reads.level_of, levels, error)
    if read_std is not None:
        freedom = cells.freedom.sum()
        found["read noise"] = _deviation(read_std**2, freedom, 0.0, error)
    if rho is not None:
        found["correlation"] = rho
    scaled = _in_range(found, levels)
    sheet = _sheet(name, source, scaled, reads, began, levels)
    untold = _untold(scaled, reads, levels, read_std)
    return Fit(
        sheet, scaled, untold, _residuals(cells, reads, sound, levels), _curves(reads, sheet, sound, began, levels)
    )


def _per_cell(reads: Reads, began: float) -> tuple[Cells, float | None]:
    """Least squares for each cell, from its log-log line on by two Gauss-Newton steps; and the deviation of a read."""
    count, at, g = len(reads.level_of), reads.cell, reads.conductance
    x = np.log(np.maximum(reads.seconds / began, 1.0))
    total = lambda values: np.bincount(at, values, count)  # noqa: E731
    n = total(np.ones_like(g))
    sxx = total(x**2) - total(x) ** 2 / n
    can_drift = sxx > 1e-9
    logs = np.log(np.maximum(g, 1e-3 * g.mean()))
    safe = np.where(can_drift, sxx, 1.0)
    nu = np.where(can_drift, -(total(x * logs) - total(x) * total(logs) / n) / safe, 0.0)
    nu = np.clip(nu, -0.5, 1.0)
    start = total(g) / np.maximum(total(np.exp(-nu[at] * x)), 1e-12)
    aa, bb, det, is_firm = np.ones(n.shape), np.ones(n.shape), np.ones(n.shape), can_drift
    for _ in range(3):
        decay = np.exp(-nu[at] * x)
        left = g - start[at] * decay
        slope = -start[at] * x * decay
        aa, ab, bb = total(decay**2), total(decay * slope), total(slope**2)
        det = np.where(can_drift, aa * bb - ab**2, 1.0)
        is_firm = can_drift & (det > 1e-12 * aa**2)
        det = np.where(is_firm, det, 1.0)
        ra, rb = total(decay * left), total(slope * left)
        start = start + np.where(is_firm, (bb * ra - ab * rb) / det, ra / aa)
        nu = np.clip(nu + np.where(is_firm, (aa * rb - ab * ra) / det, 0.0), -0.5, 1.0)
    left = g - start[at] * np.exp(-nu[at] * x)
    freedom = np.maximum(n - 1 - is_firm, 0)
    square = total(left**2)
    read_std = float(np.sqrt(square.sum() / freedom.sum())) if freedom.sum() >= 10 else None
    start_error = np.where(is_firm, bb / det, 1 / aa)
    nu_error = np.where(is_firm, aa / det, np.inf)
    return Cells(start, nu, start_error, nu_error, square, freedom, is_firm), read_std


def _stuck(start: np.ndarray, level_of: np.ndarray) -> np.ndarray:
    """-1 for cells that lie at the lowest level instead of their own, 1 for those at the highest, else 0."""
    levels = np.arange(level_of.max() + 1)
    middle = np.array([np.median(start[level_of == level]) for level in levels])
    spread = np.array([np.median(np.abs(start[level_of == level] - middle[level])) for level in levels]) * 1.4826
    spread = np.maximum(spread, 1e-9 * middle[-1])
    is_far = np.abs(start - middle[level_of]) > OUTLIER * spread[level_of]
    step = (middle[-1] - middle[0]) / (2 * levels[-1])  # half of an even step between levels
    off = is_far & (level_of > 0) & (start < middle[0] + min(step, OUTLIER * spread[0]))
    on = is_far & (level_of < levels[-1]) & (start > middle[-1] - min(step, OUTLIER * spread[-1]))
    return np.where(off, -1, np.where(on, 1, 0))


def _stuck_shares(stuck: np.ndarray, level_of: np.ndarray, levels: int, error: float) -> dict[str, Estimate]:
    """Shares among the cells in which it shows: those that were to hold another level."""
    found = {}
    for name, value, own in (("stuck off", -1, 0), ("stuck on", 1, levels - 1)):
        seen = level_of != own
        hits, cells = int((stuck[seen] == value).sum()), int(seen.sum())
        low = stats.beta.ppf(error / 2, hits, cells - hits + 1) if hits else 0.0
        high = stats.beta.ppf(1 - error / 2, hits + 1, cells - hits) if hits < cells else 1.0
        found[name] = Estimate(hits / cells, float(low), float(high))
    return found


def _levels(
    cells: Cells, reads: Reads, sound: np.ndarray, read_std: float | None, error: float, rho: Estimate | None
) -> dict[str, Estimate]:
    """Mean and deviation of programming in uS, mean and deviation of the exponent, of every level."""
    found: dict[str, Estimate] = {}
    noise = 0.0 if read_std is None else read_std**2
    shared, likely = (0.0, 0.0) if rho is None else (rho.high, rho.value)
    for level in range(int(reads.level_of.max()) + 1):
        own = sound & (reads.level_of == level)
        start, count = cells.start[own], int(own.sum())
        variance = start.var(ddof=1)
        sizes = np.ones(count) if reads.array_of is None else np.bincount(reads.array_of[own])
        alike = float((sizes**2).sum()) / count**2  # one over the number of arrays, where they are of one size
        variance = variance / (1 - likely * (count * alike - 1) / (count - 1))  # the mean took some
        half = stats.t.ppf(1 - error / 2, count - 1) * np.sqrt(variance * ((1 - shared) / count + shared * alike))
        found[f"mean of level {level}"] = Estimate(start.mean(), start.mean() - half, start.mean() + half)
        freedom = 1 / ((1 - shared**2) / (count - 1) + shared**2 * alike)
        found[f"noise of level {level}"] = _deviation(variance, freedom, noise * cells.start_error[own].mean(), error)
        drifting = own & cells.can_drift
        is_clear = start.mean() > SURE * np.sqrt(noise)
        if drifting.sum() >= 8 and is_clear:
            nu, count = cells.nu[drifting], int(drifting.sum())
            half = stats.t.ppf(1 - error / 2, count - 1) * nu.std(ddof=1) / np.sqrt(count)
            found[f"exponent of level {level}"] = Estimate(nu.mean(), nu.mean() - half, nu.mean() + half)
            own_error = noise * cells.nu_error[drifting].mean()
            found[f"spread of exponents of level {level}"] = _deviation(nu.var(ddof=1), count - 1.0, own_error, error)
    return found


def _deviation(variance: float, freedom: float, taken_off: float, error: float) -> Estimate:
    """A deviation from a variance, of which the part that fits of single cells err by is taken off."""
    low, high = (freedom * variance / stats.chi2.ppf(1 - tail, freedom) for tail in (error / 2, 1 - error / 2))
    value, low, high = (float(np.sqrt(max(each - taken_off, 0.0))) for each in (variance, low, high))
    return Estimate(value, low, high)


def _correlation(start: np.ndarray, reads: Reads, sound: np.ndarray, error: float) -> Estimate:
    """Share of the variance between arrays (one-way random effects), with the interval of its F statistic."""
    unit = np.zeros(len(start))
    for level in range(int(reads.level_of.max()) + 1):
        own = sound & (reads.level_of == level)
        unit[own] = (start[own] - start[own].mean()) / start[own].std(ddof=1)
    unit, array = unit[sound], np.unique(np.asarray(reads.array_of)[sound], return_inverse=True)[1]
    sizes = np.bincount(array)
    groups, count = len(sizes), len(unit)
    means = np.bincount(array, unit) / sizes
    between = float((sizes * (means - unit.mean()) ** 2).sum()) / (groups - 1)
    within = float(((unit - means[array]) ** 2).sum()) / (count - groups)
    each = (count - (sizes**2).sum() / count) / (groups - 1)

    def share(ratio):
        return float(np.clip((ratio - 1) / (ratio - 1 + each), 0.0, 1.0))

    ratio = between / within
    ends = [ratio / stats.f.ppf(1 - tail, groups - 1, count - groups) for tail in (error / 2, 1 - error / 2)]
    return Estimate(share(ratio), share(ends[0]), share(ends[1]))


def _in_range(found: dict[str, Estimate], levels: int) -> dict[str, Estimate]:
    """Estimates in the sheet's units: deviations as shares of the range; means of levels stay in uS."""
    span = found[f"mean of level {levels - 1}"].value - found["mean of level 0"].value
    scaled = {}
    for name, each in found.items():
        is_share = name.startswith("noise of") or name == "read noise"
        scaled[name] = Estimate(*(value / span for value in each)) if is_share else each
    return scaled


def _sheet(name: str, source: str, found: dict[str, Estimate], reads: Reads, began: float, levels: int) -> Sheet:
    """The record. What is not told from zero is left out."""
    mean = [float(found[f"mean of level {level}"].value) for level in range(levels)]
    shares = [(each - mean[0]) / (mean[-1] - mean[0]) for each in mean]
    even = np.arange(levels) / (levels - 1)
    wide = [found[f"mean of level {level}"] for level in range(levels)]
    is_even = all(
        each.low <= mean[0] + share * (mean[-1] - mean[0]) <= each.high for each, share in zip(wide, even, strict=True)
    )
    of_levels = lambda what: tuple(_told(found.get(f"{what} of level {level}")) for level in range(levels))  # noqa: E731
    return Sheet(
        name=name, source=source, levels=levels, sigma_range=(1.0, 1.0),
        noise=tuple(float(found[f"noise of level {level}"].value) for level in range(levels)),
        seconds_range=(began, max(began, float(reads.seconds.max()))), off_us=max(mean[0], 0.0), on_us=mean[-1],
        means=None if is_even else tuple(map(float, shares)), correlation=_told(found.get("correlation")),
        read_noise=_told(found.get("read noise")), drift_exponent=_one_if_alike(of_levels("exponent")),
        drift_std=_one_if_alike(of_levels("spread of exponents")), drift_from_s=began,
        stuck_off=_told(found["stuck off"]), stuck_on=_told(found["stuck on"]),
    )  # fmt: skip


def _told(each: Estimate | None) -> float:
    """The value, zero where the interval does not tell it from that or it cannot be estimated."""
    return float(each.value) if each is not None and each.low > 0 else 0.0


def _one_if_alike(values: tuple[float, ...]) -> float | tuple[float, ...]:
    return values[0] if len(set(values)) == 1 else values


def _untold(found: dict[str, Estimate], reads: Reads, levels: int, read_std: float | None) -> list[str]:
    """What the measurements cannot tell: a sentence each."""
    said = []
    times = len(np.unique(reads.seconds))
    if times == 1:
        said.append("All reads are of one time: nothing on drift, nor on the noise of a read.")
    elif read_std is None:
        said.append("Cells were read at two times: the noise of a read and the spread of exponents look alike.")
    elif not any(name.startswith("exponent") for name in found):
        said.append("No level conducts enough over the noise of a read to tell an exponent.")
    if reads.array_of is None:
        said.append("No column names the array of a cell: nothing on what cells of an array have in common.")
    elif len(np.unique(reads.array_of)) == 1:
        said.append("All cells are of one array: nothing on what cells of an array have in common.")
    for name, each in found.items():
        if each.is_told or name.startswith("mean of"):
            continue
        about = f"{each.low:.2g} to {each.high:.2g}"
        left_out = "" if each.low > 0 or name.startswith("noise of") else " (left out of the sheet)"
        said.append(f"{name.capitalize()}: no more than that it lies in {about}{left_out}.")
    last = float(reads.seconds.max())
    said.append(f"Nothing beyond {last:g} s, and nothing on 1/f noise, on wear, nor on other devices of the kind.")
    return said


def _residuals(cells: Cells, reads: Reads, sound: np.ndarray, levels: int) -> list[np.ndarray]:
    found = []
    for level in range(levels):
        start = cells.start[sound & (reads.level_of == level)]
        found.append(np.sort((start - start.mean()) / start.std(ddof=1)))
    return found


def _curves(reads: Reads, sheet: Sheet, sound: np.ndarray, began: float, levels: int):
    """Mean conductance by level and time, measured and as the sheet has it."""
    mean = np.linspace(0, 1, levels) if sheet.means is None else np.array(sheet.means)
    assert sheet.off_us is not None and sheet.on_us is not None  # it was fitted to conductances
    start = sheet.off_us + mean * (sheet.on_us - sheet.off_us)
    nu, spread = (np.broadcast_to(each, levels) for each in (sheet.drift_exponent, sheet.drift_std))
    found = []
    for level in range(levels):
        own = sound[reads.cell] & (reads.level_of[reads.cell] == level)
        times, at = np.unique(reads.seconds[own], return_inverse=True)
        log = np.log(np.maximum(times / began, 1))
        fitted = start[level] * np.exp(-nu[level] * log + (spread[level] * log) ** 2 / 2)
        found.append((times, np.bincount(at, reads.conductance[own]) / np.bincount(at), fitted))
    return found

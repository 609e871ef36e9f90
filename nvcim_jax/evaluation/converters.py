"""Retrieval through real converters: what bits, cells and rows that fire together cost, in answers and in energy.

`retrieval` reads what is stored; here queries are multiplied in the arrays (`memory.array_search`), as `hardware.cost`
counts it. Every bank is programmed, and all converters read the same sums.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nvcim_jax.core.quantise import Layout
from nvcim_jax.core.similarity import aligned, aligned_mean, pairwise_mean
from nvcim_jax.evaluation import figures
from nvcim_jax.evaluation.points import Row
from nvcim_jax.evaluation.retrieval import Case
from nvcim_jax.evaluation.statistics import interval
from nvcim_jax.hardware import circuit, cost
from nvcim_jax.hardware.adc import Traced
from nvcim_jax.hardware.crossbar import Tile
from nvcim_jax.hardware.devices import with_levels
from nvcim_jax.memory import monte_carlo
from nvcim_jax.memory.array_search import find_with_each
from nvcim_jax.pipeline.presets import Settings

CODE_BITS = 16
PARTS = ("found", "saturating", "rounding")  # a converter, and each of its two errors alone


class Grid(NamedTuple):
    """What is varied: converter bits, bits of a cell, and the most rows that fire together."""

    adc: tuple[int, ...]
    cell_bits: tuple[int, ...] = (2,)
    rows_at_once: tuple[int, ...] = (48,)
    share: float = 1.0  # of the highest sum of a pass, up to which a converter's range goes
    query_bits: int = 8


class Point(NamedTuple):
    """One way to read a bank: shares of questions that find a right OVT, by draw and user, and the energy of one."""

    device: str
    sigma: float
    cell_bits: int
    rows_at_once: int
    adc: int | None  # bits; None without conversion
    found: Float[np.ndarray, "draws users"]
    saturating: Float[np.ndarray, "draws users"]  # with a converter that saturates, but does not round
    rounding: Float[np.ndarray, "draws users"]  # or rounds, but does not saturate
    energy_pj: float | None  # of one query in the arrays and their periphery; None where a device gives too little

    def as_json(self) -> dict[str, Any]:
        """The point with intervals over users."""
        told = {**self._asdict(), "draws": len(self.found)}
        return told | {part: interval(getattr(self, part).mean(0))._asdict() for part in PARTS}


def check(grid: Grid, of: Case) -> None:
    """ValueError for what no array can do with these banks."""
    dim = of.keys.shape[3]
    for name, values, high in (
        ("converter bits", grid.adc, 12), ("cell bits", grid.cell_bits, 4), ("rows at once", grid.rows_at_once, dim),
    ):  # fmt: skip
        for value in values:
            if not 1 <= value <= high:
                raise ValueError(f"{value} {name}: 1 to {high} are possible")
    if not 0 < grid.share <= 1:
        raise ValueError(f"a converter range of {grid.share:g} of the highest sum: above 0, up to 1 is possible")


def product_of(settings: Settings) -> cost.Product:
    """The products of the arrays that give the score of `settings`. ValueError for a score that is no product."""
    known = ((pairwise_mean, cost.mean), (aligned_mean, cost.aligned), (aligned, cost.aligned))
    reduce = getattr(settings.score, "keywords", {}).get("reduce")
    for one, form in known:
        if reduce is one:
            return form
    raise ValueError("this preset's search is no plain product in arrays: choose recommended or paper")


def points(
    key: jax.Array,
    of: Case,
    rows: Sequence[Row],
    grid: Grid,
    *,
    settings: Settings,
    draws: int,
    report: Callable[[int], None] = lambda trials: None,
) -> list[Point]:
    """Every point of the grid on every device at every sigma, each in `draws` programmings that all of them share.

    One program for each device, cell and number of rows; converters and sigmas are its arguments. `report` is told how
    many programmings are done, of `len(programs(rows, grid)) * draws`. ValueError as `check` and `product_of` say.
    """
    check(grid, of)
    form, bits = product_of(settings), tuple(sorted(set(grid.adc)))
    converters, found = _converters(bits, grid.share), []
    for row, cell_bits, at_once in programs(rows, grid):
        layout = Layout(CODE_BITS, cell_bits, sign="offset")
        trial = _trial(form, grid.query_bits, layout, Tile(rows=at_once * len(layout.places)))
        device = with_levels(row.sheet.device, 2**cell_bits)
        sigmas = jnp.asarray(row.sigmas, jnp.float32)
        parts = []
        for chunk in monte_carlo.monte_carlo(
            key, trial, (of, device, sigmas, converters), draws=draws, chunk=min(draws, 10)
        ):
            parts.append(chunk)
            report(len(chunk))
        shares = np.concatenate(parts)  # [draws, sigmas, converters, users]
        for s, sigma in enumerate(row.sigmas):
            at = {"device": row.name, "sigma": sigma, "cell_bits": cell_bits, "rows_at_once": at_once}
            ideal = shares[:, s, 0]
            found.append(Point(**at, adc=None, found=ideal, saturating=ideal, rounding=ideal, energy_pj=None))
            for b, adc in enumerate(bits):
                whole, saturating, rounding = (shares[:, s, 1 + len(PARTS) * b + p] for p in range(len(PARTS)))
                energy = energy_of(row, of, grid, form, cell_bits=cell_bits, at_once=at_once, adc=adc)
                found.append(Point(**at, adc=adc, found=whole, saturating=saturating, rounding=rounding,
                                   energy_pj=energy))  # fmt: skip
    return found


def programs(rows: Sequence[Row], grid: Grid) -> list[tuple[Row, int, int]]:
    """Device, cell bits and rows at once of every program of `points`."""
    return list(product(rows, sorted(set(grid.cell_bits)), sorted(set(grid.rows_at_once))))


def sums(of: Case, rows: Sequence[Row], grid: Grid) -> float:
    """Sums of one column that all converters of the grid read in one draw."""
    users, ovts, tokens, dim = of.keys.shape
    bits = sum(-(-CODE_BITS // cell) * -(-dim // at) for _, cell, at in programs(rows, grid)) / max(len(rows), 1)
    each = users * of.queries.shape[1] * ovts * tokens * 1.75 * grid.query_bits * bits
    return each * sum(len(row.sigmas) for row in rows) * (1 + len(PARTS) * len(set(grid.adc)))


def energy_of(
    row: Row, of: Case, grid: Grid, form: cost.Product, *, cell_bits: int, at_once: int, adc: int
) -> float | None:
    """Picojoules of one search through a full bank, array scope; None for a device whose sheet lacks what it takes."""
    try:
        cell = circuit.cell_of(row.sheet)._replace(levels=2**cell_bits)
    except ValueError:
        return None
    ovts = int(np.asarray(of.valid).sum(axis=1).max())
    workload = cost.Workload(
        ovts, of.keys.shape[2], of.keys.shape[3], code_bits=CODE_BITS, query_bits=grid.query_bits, product=form
    )
    reading = circuit.Reading(circuit.Array(rows_at_once=at_once), bits=adc)
    return circuit.total(cost.search_array(workload, cell, reading)).energy_pj


def front(of: Sequence[Point]) -> list[Point]:
    """The Pareto front: points that no other one beats in both answers and energy, the cheapest first."""
    priced = sorted(
        (each for each in of if each.energy_pj is not None), key=lambda each: (each.energy_pj, -_mean(each))
    )
    best, kept = -1.0, []
    for each in priced:
        if _mean(each) > best:
            best = _mean(each)
            kept.append(each)
    return kept


def fronts(of: Sequence[Point]) -> dict[tuple[str, float], list[Point]]:
    """The front of each device at each sigma."""
    named = dict.fromkeys((each.device, each.sigma) for each in of)
    return {name: front([each for each in of if (each.device, each.sigma) == name]) for name in named}


def panels(of: Sequence[Point]) -> list[figures.Panel]:
    """Of each device at each sigma a picture of answers against energy: a line for each array, and the front."""
    return [_panel(name, of, best) for name, best in fronts(of).items() if best]


def _panel(name: tuple[str, float], of: Sequence[Point], best: Sequence[Point]) -> figures.Panel:
    lines = {}
    for cell_bits, at_once in dict.fromkeys((each.cell_bits, each.rows_at_once) for each in of):
        own = [each for each in of if (each.device, each.sigma, each.cell_bits, each.rows_at_once, each.adc is None)
               == (*name, cell_bits, at_once, False)]  # fmt: skip
        lines[f"{cell_bits} bits a cell, {at_once} rows"] = _line(own, "o-")
    lines["Pareto front"] = _line(best, "--")._replace(colour="black", ranges=())
    return figures.Panel(
        f"{name[0]}, sigma {name[1]:g}", "pJ for one query, arrays and periphery", "share of questions", lines, "log x"
    )


def _line(of: Sequence[Point], style: str) -> figures.Line:
    shares = [interval(each.found.mean(0)) for each in of]
    energy = [each.energy_pj or 0.0 for each in of]
    return figures.Line(
        energy, [each.mean for each in shares], style, width=1, ranges=[(each.low, each.high) for each in shares]
    )


def _mean(point: Point) -> float:
    return float(point.found.mean())


def _converters(bits: Sequence[int], share: float) -> Traced:
    """None at all, then of each number of bits the three of `PARTS`."""

    def rows() -> Iterator[tuple[float, float, bool, bool]]:
        yield 1.0, 1.0, False, False
        for each in bits:
            yield from ((2.0**each - 1, share, s, r) for s, r in ((True, True), (True, False), (False, True)))

    steps, shares, saturates, rounds = map(np.array, zip(*rows(), strict=True))
    return Traced(jnp.asarray(steps, jnp.float32), jnp.asarray(shares, jnp.float32), jnp.array(saturates),
                  jnp.array(rounds))  # fmt: skip


@cache  # the same function object, so that its compiled program is found again
def _trial(form: cost.Product, query_bits: int, layout: Layout, tile: Tile):
    look = partial(find_with_each, product=form, query_bits=query_bits, layout=layout, tile=tile)

    def trial(key, of: Case, device, sigmas, converters: Traced):
        def one(key, user, sigma):
            found = look(key, user.queries, user.keys, user.valid, device, sigma, converters)
            right = jnp.take_along_axis(user.right, found.T, axis=1) & user.asked[:, None]
            return jnp.sum(right, axis=0) / jnp.sum(user.asked)

        def at(sigma):
            keys = jax.random.split(key, of.keys.shape[0])
            return jax.lax.map(lambda own: one(own[0], own[1], sigma), (keys, of)).T

        return jax.lax.map(at, sigmas)

    return trial

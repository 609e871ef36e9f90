"""The pictures of a study: scores with their intervals, or the lines of the cost model."""

from pathlib import Path
from typing import NamedTuple

from nvcim_jax.evaluation import cost_studies, figures
from nvcim_jax.evaluation.designs import DESIGNS, PAPERS
from nvcim_jax.evaluation.figures import Bar, Line, Panel
from nvcim_jax.evaluation.study import Results
from nvcim_jax.evaluation.tables import Grid

KINDS = (".png", ".svg")
COLOURS = tuple(f"C{at}" for at in range(10))


class Picture(NamedTuple):
    """A picture that was written, without the ends of `KINDS`."""

    path: Path
    title: str


def write(folder: Path, results: Results, grids: list[Grid]) -> list[Picture]:
    """Draw what there is so far in `folder`, each picture as PNG and SVG; nothing of a study that has just begun."""
    name = results.about["study"]
    drawn = _costs(folder / name, results) if name in cost_studies.TITLES else _answers(folder / name, results, grids)
    return [drawn] if drawn else []


def _costs(path: Path, results: Results) -> Picture | None:
    panels, title = cost_studies.panels(results), cost_studies.TITLES[results.about["study"]]
    if not panels:
        return None
    for kind in KINDS:
        notes = results.about["settings"]["assumptions"]
        figures.curves(path.with_suffix(kind), panels, title=title, notes=notes)
    return Picture(path, title)


def _answers(path: Path, results: Results, grids: list[Grid]) -> Picture | None:
    design, settings, grid = DESIGNS[results.about["study"]], results.about["settings"], grids[0]
    if not any(figure for group in grid.groups for row in group.rows for figure in row.figures):
        return None
    title = f"{design.title}\nmodel {settings['model']['name']}, {settings['users']} users of each task"
    for kind in KINDS:
        if design.row == "method":
            figures.bars(path.with_suffix(kind), _bars(grid), title=title)
        else:
            figures.curves(path.with_suffix(kind), _curves(grid, settings[design.row], design.row), title=title)
    return Picture(path, design.title)


def _bars(grid: Grid) -> dict[str, list[Bar]]:
    """A bar for each line, by column; those of one group in one colour."""
    return {
        column: [
            Bar(group.name, row.name, figure.found)
            for group in grid.groups
            for row in group.rows
            if (figure := row.figures[at]) and figure.found
        ]
        for at, column in enumerate(grid.columns)
    }


def _curves(grid: Grid, values: list[float], axis: str) -> list[Panel]:
    """A panel for each group, a curve for each column over the lines, with an interval at each point."""
    panels = []
    for group in grid.groups:
        lines = {}
        for at, column in enumerate(grid.columns):
            points = [(x, row.figures[at]) for x, row in zip(values, group.rows, strict=True)]
            beside = (at - len(grid.columns) / 2) * 0.004 * (max(values) - min(values))  # so that intervals stand apart
            known = [(x + beside, figure.found) for x, figure in points if figure and figure.found]
            xs, ys = [x for x, _ in known], [found.mean for _, found in known]
            style = ".-" if column in (*PAPERS, *PAPERS.values()) else ".--"
            ranges = [(found.low, found.high) for _, found in known]
            lines[column] = Line(xs, ys, style, COLOURS[at % len(COLOURS)], 1.5, ranges)
        panels.append(Panel(group.name, axis, "mean over users, 95 % interval", lines))
    return panels

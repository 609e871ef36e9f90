"""The tables of a study of answers, laid out as the paper's, with intervals, paired differences and counts."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from nvcim_jax.evaluation import statistics
from nvcim_jax.evaluation.designs import AXES, DESIGNS, PAPERS, Design, llm_of, published
from nvcim_jax.evaluation.statistics import FEW, Interval
from nvcim_jax.evaluation.study import Json, Results

NOTHING_STORED = "nothing stored"
ON_DEVICE = ("device", "sigma")
At = dict[str, Any]  # where a score stands: a value for each of `AXES`
Scores = dict[str, float]  # by user
Scored = dict[tuple, Scores]  # by the values of `AXES`


class Figure(NamedTuple):
    """A number as text, with notes such as its interval, and as an interval where a picture can show it."""

    value: str
    notes: tuple[str, ...] = ()
    found: Interval | None = None


class Row(NamedTuple):
    """One line of a table; a figure that is not known yet is None."""

    name: str
    figures: list[Figure | None]


class Group(NamedTuple):
    """Lines that belong together, such as those of one device."""

    name: str
    rows: list[Row]


class Grid(NamedTuple):
    """A table."""

    title: str
    caption: str
    corner: str
    columns: list[str]
    groups: list[Group]


class Frame(NamedTuple):
    """Where the lines of a table stand: groups by name, each with the places that its lines share and their rungs."""

    name: str
    at: At
    is_stored: bool | None  # only such rungs; None: all


def grids(results: Results) -> list[Grid]:
    """The table of scores, that of paired differences, and where something is varied that of what it changes."""
    design, settings, found = DESIGNS[results.about["study"]], results.about["settings"], scored(results)
    counts = _counts(results)
    out = [_scores(design, settings, found, counts, _metrics(results)), _pairs(design, settings, found, counts)]
    axis = _varied(design)
    if design.followed and len(settings[axis]) > 1:
        out.append(_along(design, settings, found, counts, axis))
    return out


def scored(results: Results) -> Scored:
    """Scores by the values of `AXES` and user, of the cells that are done; device and sigma None where none counts."""
    found: Scored = {}
    for cell in results.cells.values():
        at = cell["at"]
        found.setdefault(tuple(at.get(axis) for axis in AXES), {}).update(cell["result"]["scores"])
    return found


def shown(axis: str, value: Any) -> str:
    """A value of an axis in words; a rung with its name in the paper where it has one."""
    if axis == "method":
        name = PAPERS.get(value)
        return f"{value} (the paper's {name})" if name and name not in value else str(value)
    return {"sigma": f"sigma {value}", "buffer": f"{value} samples"}.get(axis, str(value))


def _scores(design: Design, settings: Json, found: Scored, counts: str, metrics: dict[str, str]) -> Grid:
    rows = lambda frame: _values(settings, design.row, frame)  # noqa: E731
    groups = [
        Group(
            frame.name,
            [
                Row(
                    shown(design.row, row),
                    [
                        _score(settings, found, {**frame.at, design.row: row, design.column: column})
                        for column in settings[design.column]
                    ],
                )
                for row in rows(frame)
            ],
        )
        for frame in _frames(design, settings, design.row)
    ]
    metric = ", ".join(f"{task}: {name}" for task, name in metrics.items())
    caption = (
        f"Mean over users with its 95 % interval by the bootstrap (BCa), under {FEW} users Student's (t) beside it"
        f"{f' ({metric})' if metric else ''}; {counts}.{_of_paper(settings, groups)}"
    )
    columns = [str(PAPERS.get(each, each)) for each in settings[design.column]]
    return Grid(design.title, caption, design.row, columns, groups)


def _pairs(design: Design, settings: Json, found: Scored, counts: str) -> Grid:
    """Rung less rung, in the places of the table."""
    axis = _varied(design)
    stored = _stored(settings)
    pairs = [pair for pair in design.pairs if {*pair} <= settings["method"].keys()]
    placed = []
    for frame in _frames(design, settings, "method"):
        own = [pair for pair in pairs if frame.is_stored is None or bool(stored & {*pair}) == frame.is_stored]
        for a, b in own:
            ends = [
                ({**frame.at, axis: value, "method": a}, {**frame.at, axis: value, "method": b})
                for value in settings[axis]
            ]
            placed.append((frame.name, f"{shown('method', a)} − {shown('method', b)}", ends))
    columns = [str(value) for value in settings[axis]]
    return _differences("Paired differences", "difference", columns, placed, settings, found, counts)


def _along(design: Design, settings: Json, found: Scored, counts: str, axis: str) -> Grid:
    """What the followed rungs score at each value of what is varied, less their score at the first."""
    first, *others = settings[axis]
    placed = [
        (frame.name, shown("method", label),
         [({**frame.at, axis: value, "method": label}, {**frame.at, axis: first, "method": label}) for value in others])
        for frame in _frames(design, settings, "method")
        for label in design.followed
        if label in settings["method"] and frame.is_stored is not False
    ]  # fmt: skip
    columns = [str(value) for value in others]
    return _differences(f"Less than at {shown(axis, first)}", axis, columns, placed, settings, found, counts)


def _differences(
    title: str, corner: str, columns: list[str], placed: list, settings: Json, found: Scored, counts: str
) -> Grid:
    """A table of paired differences, starred where they are told from none among all of the table."""
    pairs = {}
    for group, name, ends in placed:
        for column, (a, b) in enumerate(ends):
            one, other = _at(settings, found, a), _at(settings, found, b)
            if both := [user for user in one if user in other]:
                pairs[group, name, column] = ([one[user] for user in both], [other[user] for user in both])
    stars = dict(zip(pairs, statistics.clear(list(pairs.values())), strict=True))

    def figure(group: str, name: str, column: int, ends: tuple[At, At]) -> Figure | None:
        if (group, name, column) not in pairs:
            return None
        own = pairs[group, name, column]
        one, other = (published(settings["model"]["name"], at) for at in ends)
        paper = None if one is None or other is None else one - other
        t = statistics.difference(*own)
        return _figure(statistics.bootstrap_difference(*own), t, paper, "+.3f", " *" * stars[group, name, column])

    groups: dict[str, list[Row]] = {}
    for group, name, ends in placed:
        figures = [figure(group, name, column, each) for column, each in enumerate(ends)]
        groups.setdefault(group, []).append(Row(name, figures))
    power = ""
    if seen := [statistics.smallest_seen(*pair) for pair in pairs.values()]:
        size = f"{np.median(seen):.3f} (median; {min(seen):.3f} to {max(seen):.3f})"
        power = f" A difference of {size} would have been seen with a chance of 80 %."
    caption = (
        "The same users, questions and draws; * told from none at a false discovery rate of 5 % over this table "
        f"(paired t-tests, Benjamini and Hochberg); {counts}.{power}"
    )
    return Grid(title, caption, corner, columns, [Group(name, rows) for name, rows in groups.items()])


def _score(settings: Json, found: Scored, at: At) -> Figure | None:
    scores = list(_at(settings, found, at).values())
    if not scores:
        return None
    paper = published(settings["model"]["name"], at)
    return _figure(statistics.bootstrap(scores), statistics.student(scores), paper, ".3f")


def _figure(found: Interval, t: Interval, paper: float | None, style: str, star: str = "") -> Figure:
    notes = [f"[{found.low:{style}}, {found.high:{style}}]"]
    if found.users < FEW:
        notes.append(f"t [{t.low:{style}}, {t.high:{style}}]")
    if paper is not None:
        notes.append(f"paper {paper:{style}}")
    return Figure(f"{found.mean:{style}}{star}", tuple(notes), found)


def _at(settings: Json, found: Scored, at: At) -> Scores:
    """The scores at a place; a rung that stores nothing has the same on every device at every sigma."""
    bare = at["method"] not in _stored(settings)
    return found.get(tuple(None if bare and axis in ON_DEVICE else at[axis] for axis in AXES), {})


def _stored(settings: Json) -> set[str]:
    return {label for label, told in settings["method"].items() if told["is_stored"]}


def _varied(design: Design) -> str:
    """The axis that goes across, or if that is the rungs the one that goes down."""
    return design.row if design.column == "method" else design.column


def _frames(design: Design, settings: Json, row: str) -> Iterator[Frame]:
    """The groups of a table whose rows are `row`; what stores nothing stands in groups of its own, without a device."""
    others = [axis for axis in AXES[:-1] if axis not in (_varied(design), "method")]
    axes = sorted(others, key=lambda axis: (axis not in design.groups, len(settings[axis]) == 1))
    named = [axis for axis in axes if axis in design.groups or len(settings[axis]) > 1]
    is_split = row == "method" and any(axis in ON_DEVICE for axis in named)
    if is_split:
        bare = {axis: settings[axis] if axis not in ON_DEVICE else settings[axis][:1] for axis in axes}
        for values in product(*(bare[axis] for axis in axes)):
            at = dict(zip(axes, values, strict=True))
            more = [shown(axis, at[axis]) for axis in named if axis not in ON_DEVICE]
            yield Frame(", ".join([NOTHING_STORED, *more]), at, False)
    for values in product(*(settings[axis] for axis in axes)):
        at = dict(zip(axes, values, strict=True))
        yield Frame(", ".join(shown(axis, at[axis]) for axis in named), at, True if is_split else None)


def _values(settings: Json, axis: str, frame: Frame) -> Sequence[Any]:
    """The values of an axis that stand in a group."""
    if axis != "method" or frame.is_stored is None:
        return list(settings[axis])
    stored = _stored(settings)
    return [label for label in settings[axis] if (label in stored) == frame.is_stored]


def _of_paper(settings: Json, groups: list[Group]) -> str:
    """What its figures in a table are of."""
    figures = [figure for group in groups for row in group.rows for figure in row.figures if figure]
    if not any(note.startswith("paper") for figure in figures for note in figure.notes):
        return ""
    llm, name = llm_of(settings["model"]["name"]), settings["model"]["name"].lower()
    is_same = "data" in settings and llm.lower().split("-")[0] in name
    return f" Paper: what it prints for {llm} on LaMP" + (
        "." if is_same else "; model and data here are others, so compare orders, not sizes."
    )


def _metrics(results: Results) -> dict[str, str]:
    of = {cell["at"]["task"]: cell["result"]["metric"] for cell in results.cells.values()}
    return {task: of[task] for task in results.about["settings"]["task"] if task in of}


def _counts(results: Results) -> str:
    """How many users, questions and draws stand behind each figure."""
    users, asked, settings = {}, {}, results.about["settings"]
    for cell in results.cells.values():
        name = tuple(cell["at"].get(axis) for axis in AXES)
        users[name] = users.get(name, 0) + len(cell["result"]["scores"])
        asked[name] = asked.get(name, 0) + cell["result"]["questions"]
    trained = settings["trained_for"]
    more = [f"trained once, for {trained[0]} at sigma {trained[1]:g}"] if trained else []
    more += [shown(axis, settings[axis][0]) for axis in AXES[1:4] if len(settings[axis]) == 1]
    counted = f"{_range(users.values())} of {settings['users']} users and {_range(asked.values())} questions a figure"
    return ", ".join([counted, f"{settings['draws']} draws of each device", *more])


def _range(counts: Iterable[int]) -> str:
    low, high = min(counts, default=0), max(counts, default=0)
    return str(low) if low == high else f"{low} to {high}"

"""What a study came to, for people: `table.md`, and `report.html`, which needs nothing beside itself.

Both can be made at any time, of a study that has just begun, too.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, NamedTuple

from nvcim_jax import files
from nvcim_jax.evaluation import methods, studies, study
from nvcim_jax.evaluation.statistics import Interval, clear, difference, interval
from nvcim_jax.evaluation.study import Json, Results

TABLE, REPORT = "table.md", "report.html"
NO_DEVICE = "nothing stored"
EXAMPLES = 5
Scores = dict[str, float]  # by user
Scored = dict[tuple[str | None, str, str], Scores]  # by device, method and task


class Figure(NamedTuple):
    """A mean and its 95 % interval, as text."""

    mean: str
    range: str


class Row(NamedTuple):
    """One line of a table; a figure that is not known yet is None."""

    name: str
    figures: list[Figure | None]


class Group(NamedTuple):
    """Lines of one device."""

    name: str
    rows: list[Row]


class Grid(NamedTuple):
    """A table by device."""

    title: str
    caption: str
    corner: str
    columns: list[str]
    groups: list[Group]


def write(folder: Path | str) -> list[Path]:
    """Write `table.md` and `report.html` of the study in `folder` there; their paths.

    ValueError as `study.read`, and for a study of one's own, whose table nobody knows.
    """
    folder = Path(folder)
    results = study.read(folder)
    if not has_table(results):
        raise ValueError(
            f"{folder} holds the study {results.about['study']!r}, which has no table here: read it yourself"
        )
    made = {TABLE: markdown(results), REPORT: html(results, examples(study.questions(folder, results), results))}
    for name, text in made.items():
        files.write_text(folder / name, text, private=True)  # examples are people's texts
    return [folder / name for name in made]


def has_table(results: Results) -> bool:
    """Whether the study is one of this package."""
    return results.about["study"] == studies.NAME


def grids(results: Results) -> list[Grid]:
    """The table of scores and that of paired differences."""
    found, settings = scored(results), results.about["settings"]
    tasks, devices = settings["tasks"], settings["devices"]
    metric = ", ".join(f"{task}: {name}" for task, name in _metrics(results).items())
    counts = f"{_counts(found, results)}, {settings['draws']} draws of each device, sigma {settings['sigma']:g}"
    rows = lambda device, names: [  # noqa: E731
        Row(shown(name), [_figure(found.get((device, name, task))) for task in tasks]) for name in names
    ]
    stored = [name for name in settings["methods"] if name not in (methods.BASE, methods.KNOWN)]
    bare = [name for name in settings["methods"] if name not in stored]
    said = f"Mean over users with its 95 % interval{f' ({metric})' if metric else ''}; {counts}."
    groups = [Group(NO_DEVICE, rows(None, bare)), *(Group(name, rows(name, stored)) for name in devices)]
    scores = Grid("Scores", said, "method", tasks, groups)
    return [scores, _differences(found, tasks, devices, counts)]


def _differences(found: Scored, tasks: Sequence[str], devices: Sequence[str], counts: str) -> Grid:
    """Paired differences, starred where they are told from none among all of the table."""

    def pair(device: str | None, a: str, b: str, task: str) -> tuple[list[float], list[float]] | None:
        one, other = (found.get((device, name, task)) or found.get((None, name, task)) or {} for name in (a, b))
        both = [user for user in one if user in other]
        return ([one[user] for user in both], [other[user] for user in both]) if both else None

    bare = {methods.BASE, methods.KNOWN}
    wanted = {NO_DEVICE: [each for each in studies.PAIRS if bare.issuperset(each)]}
    wanted |= {name: [each for each in studies.PAIRS if not bare.issuperset(each)] for name in devices}
    pairs: dict[tuple[str, str, str, str], tuple[list[float], list[float]]] = {}
    for device, own in wanted.items():
        for a, b in own:
            for task in tasks:
                if both := pair(device, a, b, task):
                    pairs[device, a, b, task] = both
    stars = dict(zip(pairs, clear(list(pairs.values())), strict=True))

    def figure(device: str, a: str, b: str, task: str) -> Figure | None:
        name = (device, a, b, task)
        return _as_figure(difference(*pairs[name]), "+.2f", " *" * stars[name]) if name in pairs else None

    groups = [
        Group(device, [Row(f"{shown(a)} − {shown(b)}", [figure(device, a, b, task) for task in tasks]) for a, b in own])
        for device, own in wanted.items()
    ]
    caption = (
        f"The same users, questions and draws; * clear at a false discovery rate of 5 % over this table; {counts}."
    )
    return Grid("Paired differences", caption, "difference", list(tasks), groups)


def scored(results: Results) -> Scored:
    """Scores by device (None where nothing is stored), method, task and user, of the cells that are done."""
    found: Scored = {}
    for cell in results.cells.values():
        at = cell["at"]
        found.setdefault((at.get("device"), at["method"], at["task"]), {}).update(cell["result"]["scores"])
    return found


def shown(method: str) -> str:
    """A row's label, with its name in the paper's Table I where it stands there."""
    name = studies.PAPERS.get(method, method)
    return method if name in method else f"{method} (the paper's {name})"


def _metrics(results: Results) -> dict[str, str]:
    of = {cell["at"]["task"]: cell["result"]["metric"] for cell in results.cells.values()}
    return {task: of[task] for task in results.about["settings"]["tasks"] if task in of}


def _counts(found: Scored, results: Results) -> str:
    """How many users and questions stand behind each figure."""
    users = [len(scores) for scores in found.values()] or [0]
    asked: dict[tuple[Any, ...], int] = {}
    for cell in results.cells.values():
        name = (cell["at"].get("device"), cell["at"]["method"], cell["at"]["task"])
        asked[name] = asked.get(name, 0) + cell["result"]["questions"]
    questions = list(asked.values()) or [0]
    return f"{_range(users)} of {results.about['settings']['users']} users and {_range(questions)} questions a figure"


def _range(counts: Iterable[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _figure(scores: Scores | None) -> Figure | None:
    return _as_figure(interval(list(scores.values())), ".2f") if scores else None


def _as_figure(value: Interval, style: str, star: str = "") -> Figure:
    return Figure(f"{value.mean:{style}}{star}", f"[{value.low:{style}}, {value.high:{style}}]")


def examples(rows: Iterable[Json], results: Results) -> list[Json]:
    """A few questions of different tasks with the answers of `recommended` and without it, if possible two answers."""
    base, best = methods.BASE, methods.whole("recommended")
    kept: dict[str, dict[tuple[str, ...], Json]] = {base: {}, best: {}}
    for row in rows:
        at = results.cells[row["cell"]]["at"]
        if at["method"] in kept and row["draw"] == 0:
            kept[at["method"]].setdefault((at["task"], row["user"], row["question"]), row | {"task": at["task"]})
    both = [{**own, "without": kept[base][name]["answer"]} for name, own in kept[best].items() if name in kept[base]]
    telling = sorted(both, key=lambda each: each["answer"] == each["without"])
    return list(_in_turn(telling))[:EXAMPLES]


def _in_turn(each: Sequence[Json]) -> Iterator[Json]:
    """One of each task after the other."""
    left = list(each)
    while left:
        firsts = {one["task"]: at for at, one in reversed(list(enumerate(left)))}
        yield from (left[at] for at in sorted(firsts.values()))
        left = [one for at, one in enumerate(left) if at not in firsts.values()]


def markdown(results: Results) -> str:
    """The tables for a page."""
    lines = [f"{len(results.cells)} of {results.about['cells']} cells are done."]
    for grid in grids(results):
        lines += ["", f"## {grid.title}", "", grid.caption, "", _line([grid.corner, *grid.columns])]
        lines.append("|---" * (len(grid.columns) + 1) + "|")
        for group in grid.groups:
            lines.append(_line([f"**{group.name}**", *("" for _ in grid.columns)]))
            lines += [
                _line([row.name, *(" ".join(each) if each else "–" for each in row.figures)]) for row in group.rows
            ]
    return "\n".join([*lines, ""])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def html(results: Results, examples: Sequence[Json]) -> str:
    """The report as one page without script, that nothing is loaded for."""
    from jinja2 import Environment

    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        resources("nvcim_jax").joinpath("evaluation/report.html").read_text(encoding="utf-8")
    )
    about, writers = results.about, results.writers.values()
    environments = {files.as_json(each["provenance"]): each["provenance"] for each in writers}
    return page.render(
        title=f"Study {about['study']}", done=len(results.cells), total=about["cells"], dropped=results.dropped,
        grids=grids(results), examples=examples, runs=len(writers), took=duration(results),
        settings=[(name, _words(value)) for name, value in about["settings"].items() if name != "methods"],
        methods=[(shown(name), _words(value)) for name, value in about["settings"]["methods"].items()],
        environments=[[(name, _words(value)) for name, value in each.items()] for each in environments.values()],
    )  # fmt: skip


def duration(results: Results) -> str:
    """How long all cells took, one after the other."""
    minutes, seconds = divmod(round(sum(cell["seconds"] for cell in results.cells.values())), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _words(value: Any) -> str:
    """A JSON value as plain words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return "none" if value is None else str(value)

"""What a study came to, for people and for programs: tables, pictures, one page that needs nothing beside itself.

All can be made at any time, of a study that has just begun, too.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files as resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nvcim_jax import files
from nvcim_jax.evaluation import cost_studies, methods, pictures, rungs, study, tables
from nvcim_jax.evaluation.designs import AXES, DESIGNS
from nvcim_jax.evaluation.pictures import Picture
from nvcim_jax.evaluation.study import Json, Results
from nvcim_jax.evaluation.tables import Figure, Grid, shown

TABLE, LATEX, PARQUET, REPORT = "table.md", "table.tex", "results.parquet", "report.html"
EXAMPLES = 5
LATEX_WORDS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "–": "--", "'": "'",
}  # fmt: skip


def write(folder: Path | str) -> list[Path]:
    """Write table.md, table.tex, pictures and report.html of the study in `folder` there, and with pyarrow
    results.parquet; their paths.

    ValueError as `study.read`, and for a study of one's own, whose table nobody knows.
    """
    folder = Path(folder)
    results = study.read(folder)
    if not has_table(results):
        name = results.about["study"]
        raise ValueError(f"{folder} holds the study {name!r}, which has no table here: read it yourself")
    known, rows = grids(results), list(study.questions(folder, results))
    drawn = pictures.write(folder, results, known)
    page = html(results, known, examples(rows, results), drawn)
    made = {TABLE: markdown(results, known), LATEX: latex(known), REPORT: page}
    for name, text in made.items():
        files.write_text(folder / name, text, private=True)  # examples are people's texts
    out = [folder / name for name in made]
    out += [each.path.with_suffix(kind) for each in drawn for kind in pictures.KINDS]
    if find_spec("pyarrow"):
        _write_parquet(folder / PARQUET, results, rows)
        out.append(folder / PARQUET)
    return out


def has_table(results: Results) -> bool:
    """Whether the study is one of this package."""
    return results.about["study"] in (*DESIGNS, *cost_studies.TITLES)


def grids(results: Results) -> list[Grid]:
    """The tables of a study of this package."""
    return cost_studies.grids(results) if results.about["study"] in cost_studies.TITLES else tables.grids(results)


def examples(rows: Iterable[Json], results: Results) -> list[Json]:
    """A few questions of different tasks with the answers of the best rung and of the model alone, if they differ."""
    base, best = methods.BASE, _best(results)
    kept: dict[str, dict[tuple[str, ...], Json]] = {base: {}, best: {}}
    for row in rows:
        at = results.cells[row["cell"]]["at"]
        if at["method"] in kept and row["draw"] == 0:
            kept[at["method"]].setdefault((at["task"], row["user"], row["question"]), row | {"task": at["task"]})
    both = [{**own, "without": kept[base][name]["answer"]} for name, own in kept[best].items() if name in kept[base]]
    telling = sorted(both, key=lambda each: each["answer"] == each["without"])
    return list(_in_turn(telling))[:EXAMPLES]


def _best(results: Results) -> str:
    """The rung whose answers are shown: `recommended`, or the first that is claimed to be better than another."""
    if rungs.BEST in results.about["settings"].get("method", ()) or results.about["study"] not in DESIGNS:
        return rungs.BEST
    return next(a for a, _ in DESIGNS[results.about["study"]].pairs)


def _in_turn(each: Sequence[Json]) -> Iterator[Json]:
    """One of each task after the other."""
    left = list(each)
    while left:
        firsts = {one["task"]: at for at, one in reversed(list(enumerate(left)))}
        yield from (left[at] for at in sorted(firsts.values()))
        left = [one for at, one in enumerate(left) if at not in firsts.values()]


def markdown(results: Results, known: Sequence[Grid]) -> str:
    """The tables for a page."""
    lines = [f"{len(results.cells)} of {results.about['cells']} cells are done."]
    for grid in known:
        lines += ["", f"## {grid.title}", "", grid.caption, "", _line([grid.corner, *grid.columns])]
        lines.append("|---" * (len(grid.columns) + 1) + "|")
        for group in grid.groups:
            if group.name:
                lines.append(_line([f"**{group.name}**", *("" for _ in grid.columns)]))
            lines += [_line([row.name, *map(in_line, row.figures)]) for row in group.rows]
    return "\n".join([*lines, ""])


def in_line(figure: Figure | None) -> str:
    """A figure with its notes; a dash for one that is not known yet."""
    return "; ".join([" ".join([figure.value, *figure.notes[:1]]), *figure.notes[1:]]) if figure else "–"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def latex(known: Sequence[Grid]) -> str:
    """The tables as LaTeX's `table` with `booktabs`, a line of small notes under each figure."""
    lines = [r"% needs \usepackage{booktabs}"]
    for grid in known:
        heads = " & ".join(map(_tex, [grid.corner, *grid.columns]))
        lines += ["", r"\begin{table*}", rf"\caption{{{_tex(grid.title)}. {_tex(grid.caption)}}}", r"\centering"]
        lines += [rf"\begin{{tabular}}{{l{'r' * len(grid.columns)}}}", r"\toprule", rf"{heads} \\"]
        for group in grid.groups:
            lines.append(r"\midrule")
            if group.name:
                lines.append(rf"\multicolumn{{{len(grid.columns) + 1}}}{{l}}{{\textbf{{{_tex(group.name)}}}}} \\")
            lines += [" & ".join([_tex(row.name), *map(_stacked, row.figures)]) + r" \\" for row in group.rows]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table*}"]
    return "\n".join([*lines, ""])


def _stacked(figure: Figure | None) -> str:
    if figure is None:
        return "--"
    small = [rf"{{\scriptsize {_tex(note)}}}" for note in figure.notes]
    lines = r" \\ ".join([_tex(figure.value), *small])
    return rf"\shortstack{{{lines}}}" if small else lines


def _tex(text: str) -> str:
    return "".join(LATEX_WORDS.get(letter, letter) for letter in text)


def html(results: Results, known: Sequence[Grid], shown_answers: Sequence[Json], drawn: Sequence[Picture] = ()) -> str:
    """The report as one page without script, that nothing is loaded for."""
    from jinja2 import Environment

    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        resources("nvcim_jax").joinpath("evaluation/report.html").read_text(encoding="utf-8")
    )
    about, writers = results.about, results.writers.values()
    settings = about["settings"]
    environments = {files.as_json(each["provenance"]): each["provenance"] for each in writers}
    peak = max((cell.get("peak_bytes", 0) for cell in results.cells.values()), default=0)
    return page.render(
        title=f"Study {about['study']}", done=len(results.cells), total=about["cells"], dropped=results.dropped,
        grids=known, examples=shown_answers, has_answers="method" in settings, runs=len(writers),
        took=duration(results),
        pictures=[(each.title, _inline(each, at)) for at, each in enumerate(drawn)], peak=f"{peak / 1e9:.2f} GB",
        settings=[(name, _words(value)) for name, value in settings.items() if name not in ("method", "assumptions")],
        methods=[
            (shown("method", name), _words(told["settings"])) for name, told in settings.get("method", {}).items()
        ],
        notes=settings.get("assumptions", ()),
        environments=[[(name, _words(value)) for name, value in each.items()] for each in environments.values()],
    )  # fmt: skip


def _inline(picture: Picture, number: int) -> Any:
    """A picture's SVG as part of a page: without its prologue, its names apart from those of other pictures."""
    from markupsafe import Markup

    text = files.read_bytes(picture.path.with_suffix(".svg")).decode("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    own = f"picture-{number}-"
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{own}", text)
    return Markup(re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2))  # as matplotlib made it: texts are escaped


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


def _write_parquet(path: Path, results: Results, rows: Sequence[Json]) -> None:
    """A row for each question and draw of each cell, or for each point of each line; opens in pandas, polars and R."""
    import pyarrow
    from pyarrow import parquet

    if results.about["study"] in cost_studies.TITLES:
        flat = cost_studies.rows(results)
    else:
        flat = [_flat(row, results.cells[row["cell"]]["at"]) for row in rows]
    names = dict.fromkeys(name for row in flat for name in row)
    with files.replacing(path, private=True) as partial:
        parquet.write_table(pyarrow.table({name: [row.get(name) for row in flat] for name in names}), partial)


def _flat(row: Json, at: Json) -> Json:
    """A question's row with the place of its cell, its one score a column."""
    ((metric, score),) = row["scores"].items()
    place = {name: at.get(name) for name in ("model", "data", *AXES, "draws", "seed")}
    return {
        **place,
        **{name: value for name, value in row.items() if name != "scores"},
        "metric": metric,
        "score": score,
    }

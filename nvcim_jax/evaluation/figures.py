"""Pictures of results."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nvcim_jax.evaluation.statistics import Interval
from nvcim_jax.files import replacing


class Bar(NamedTuple):
    """What a method reached; its group gives the colour."""

    group: str
    name: str
    found: Interval


def bars(path: Path, tables: Mapping[str, Sequence[Bar]], *, title: str) -> None:
    """One panel per task, one bar per method with its 95 % interval, written as the end of `path` says: PNG or SVG."""
    plt = _pyplot()
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    methods = list(dict.fromkeys((bar.group, bar.name) for table in tables.values() for bar in table))
    groups = list(dict.fromkeys(group for group, _ in methods))
    methods.sort(key=lambda method: groups.index(method[0]))
    rows = {method: at + 0.6 * groups.index(method[0]) for at, method in enumerate(methods)}
    lowest = rows[methods[-1]]
    height = 1.7 + 0.28 * (lowest + 1)
    figure, panels = plt.subplots(
        1, len(tables), figsize=(3.4 + 2.1 * len(tables), height), sharey=True, squeeze=False, layout="constrained"
    )
    for panel, (task, table) in zip(panels[0], tables.items(), strict=True):
        for group, name, found in table:
            row = rows[group, name]
            panel.barh(row, found.mean, color=f"C{groups.index(group)}", height=0.7)
            panel.plot([found.low, found.high], [row, row], color="black", linewidth=1)
        panel.set_title(task, fontsize=10)
        panel.set_xlim(0, 1)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", alpha=0.3)
    panels[0][0].set_yticks(list(rows.values()), [name for _, name in rows], fontsize=8)
    panels[0][0].set_ylim(lowest + 0.8, -0.8)  # the first on top
    squares = [Rectangle((0, 0), 1, 1, color=f"C{at}") for at in range(len(groups))]
    handles = [*squares, Line2D([], [], color="black", linewidth=1)]
    labels = [*(group or "for comparison" for group in groups), "95 % interval"]
    measure = "accuracy (LaMP-1, 2, 3) or ROUGE-1 (LaMP-4 to 7), mean over users"
    figure.suptitle(f"{title}\n{measure}", fontsize=10)
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 2 + len(tables)), fontsize=8)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=130)
    plt.close(figure)


def _pyplot():
    """pyplot without a screen, which takes a "$" in the name of a device or model as it is, not as mathematics."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "nvcim"}
    from matplotlib import pyplot

    return pyplot


def _label(name: str) -> str:
    """A name for a legend, from which matplotlib leaves out those that begin with a line."""
    return f" {name}" if name.startswith("_") else name


class Line(NamedTuple):
    """One curve, with an interval at each point where `ranges` gives them."""

    x: Sequence[float]
    y: Sequence[float]
    style: str = ".-"
    colour: str | None = None
    width: float = 1.5
    ranges: Sequence[tuple[float, float]] = ()


class Panel(NamedTuple):
    """One set of axes."""

    title: str
    xlabel: str
    ylabel: str
    lines: Mapping[str, Line]
    scale: str = "linear"  # of both axes, or "log"; "log x" of one
    marks: Sequence[float] = ()  # heights to compare with
    ticks: Sequence[tuple[float, str]] = ()  # of x, with what is written there
    is_share: bool = False  # whether y goes from 0 to 1


def curves(path: Path, panels: Sequence[Panel], *, title: str, notes: Sequence[str] = ()) -> None:
    """Panels, four in a row, with `notes`, such as assumptions, printed under them, as PNG or SVG as `path` ends.

    Panels whose lines have the first one's names share its legend.
    """
    plt = _pyplot()
    shared = len(panels) > 1 and all(set(panel.lines) <= set(panels[0].lines) for panel in panels)
    across = min(len(panels), 4)
    down = -(-len(panels) // across)
    crowded = [len(panel.lines) > 6 and not shared for panel in panels]  # their legends stand beside them
    width = max(6.8, sum(4.4 if shared else 7.2 if each else 5.2 for each in crowded[:across]))
    notes = [part for note in notes for part in textwrap.wrap(note, int(17 * width))]
    below, height = 0.17 * len(notes), 4.2 * down
    figure, axes = plt.subplots(down, across, figsize=(width, height + below), squeeze=False)
    for axis, panel, beside in zip(axes.flat, panels, crowded, strict=False):
        _draw(axis, panel)
        if not shared:
            axis.legend(fontsize=7, **({"loc": "upper left", "bbox_to_anchor": (1.01, 1)} if beside else {}))
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    whole, above = height + below, 0.35
    figure.suptitle(title, fontsize=11, y=1 - 0.15 / whole, va="top")
    if shared:
        handles, names = axes.flat[0].get_legend_handles_labels()
        entry = 0.6 + 0.08 * max(map(len, names))  # inches, about
        ncols = min(len(names), max(1, int(width / entry)))
        figure.legend(
            handles, names, loc="upper center", bbox_to_anchor=(0.5, 1 - 0.4 / whole), ncols=ncols, fontsize=8
        )
        above += 0.25 + 0.17 * -(-len(names) // ncols)
    figure.text(0.01, 0.01, "\n".join(notes), fontsize=7, va="bottom")
    figure.tight_layout(rect=(0, below / whole + 0.01, 1, 1 - above / whole))
    with replacing(path) as partial:
        figure.savefig(partial, dpi=130)
    plt.close(figure)


def _draw(axis, panel: Panel) -> None:
    for name, line in panel.lines.items():
        looks = {"color": line.colour, "label": _label(name), "markersize": 4, "linewidth": line.width}
        (drawn,) = axis.plot(line.x, line.y, line.style, **looks)
        if line.ranges:
            axis.vlines(line.x, *zip(*line.ranges, strict=True), color=drawn.get_color(), linewidth=1, alpha=0.6)
    for height in panel.marks:
        axis.axhline(height, color="black", linewidth=0.8, linestyle=":")
    axis.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    scaled = {"linear": "", "log x": "x", "log": "xy"}[panel.scale]
    for name in scaled:
        axis.set(**{f"{name}scale": "log"})
        each = {"x": axis.xaxis, "y": axis.yaxis}[name]
        each.set_major_formatter("{x:g}")  # matplotlib would write powers as mathematics
        each.set_minor_formatter("")
    if panel.ticks:
        axis.set_xticks(*zip(*panel.ticks, strict=True))
        axis.minorticks_off()
    if panel.is_share:
        axis.set_ylim(0, 1.02)
    axis.title.set_fontsize(10)
    axis.grid(alpha=0.3)


class Dot(NamedTuple):
    """One value, with a bar down to `low`."""

    value: float
    low: float


def dots(
    path: Path,
    groups: Sequence[str],
    series: Mapping[str, Mapping[str, Dot]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    notes: Sequence[str] = (),
) -> None:
    """Shares from 0 to 1: for each series a dot in those `groups` that it has, written as PNG.

    Within a group the series stand side by side, so that equal values do not hide each other. Names are plain text.
    """
    plt = _pyplot()
    step = min(0.12, 0.8 / len(series))
    notes = [part for note in notes for part in textwrap.wrap(note, 115)]
    size = (max(6.8, 1.1 * len(groups) + 3), 4.4 + 0.17 * len(notes))
    figure, axis = plt.subplots(figsize=size, layout="constrained")
    for at, (name, found) in enumerate(series.items()):
        x = [groups.index(group) + step * (at - (len(series) - 1) / 2) for group in found]
        y, low = ([getattr(dot, part) for dot in found.values()] for part in ("value", "low"))
        marker, colour = "osD^vPX*"[at % 8], f"C{at % 10}"
        axis.vlines(x, low, y, color=colour, linewidth=2.5, alpha=0.35)
        axis.plot(x, y, marker, color=colour, markersize=5, label=_label(name))
    axis.set(title=title, xlabel=xlabel, ylabel=ylabel, ylim=(0, 1.02), xlim=(-0.6, len(groups) - 0.4))
    axis.title.set_fontsize(11)
    axis.set_xticks(range(len(groups)), groups)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.text(0.01, 0.005, "\n".join(notes), fontsize=7, va="bottom")
    below = 0.17 * len(notes) / size[1]
    figure.set_layout_engine("constrained", rect=(0, below, 1, 1 - below))
    with replacing(path) as partial:
        figure.savefig(partial, dpi=130)
    plt.close(figure)

"""Pictures: what they show is looked for in what is drawn."""

import pytest

from nvcim_jax.evaluation import figures
from nvcim_jax.evaluation.figures import Bar
from nvcim_jax.evaluation.statistics import Interval

BASE, KNOWN = Bar("", "base", Interval(0.5, 0.4, 0.6, 9)), Bar("", "known", Interval(0.7, 0.6, 0.8, 9))
PAPER, BEST = Bar("paper", "a", Interval(0.3, 0.2, 0.4, 9)), Bar("rec", "a", Interval(0.9, 0.8, 1, 9))
ONE, TWO = [BASE, PAPER, BEST], [BASE, KNOWN, PAPER, BEST]


@pytest.fixture
def drawn(monkeypatch):
    """The figures, kept instead of closed."""
    from matplotlib import pyplot

    kept = []
    monkeypatch.setattr(pyplot, "close", kept.append)
    yield kept
    monkeypatch.undo()
    pyplot.close("all")


def test_bars_have_the_colour_that_the_legend_gives_their_group(drawn, tmp_path):
    figures.bars(tmp_path / "x.png", {"LaMP-1": ONE, "LaMP-2": TWO}, title="costs $5 and 100_%")
    (figure,) = drawn
    (legend,) = figure.legends
    named = {text.get_text(): handle for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True)}
    assert list(named) == ["for comparison", "paper", "rec", "95 % interval"]
    first, second = figure.axes
    labels = [label.get_text() for label in first.get_yticklabels()]
    assert labels == ["base", "known", "a", "a"]  # the first panel has no "known", and keeps its place free
    places = list(first.get_yticks())
    assert places == sorted(places)
    groups = ["for comparison", "for comparison", "paper", "rec"]
    for panel, widths in ((first, [0.5, 0.3, 0.9]), (second, [0.5, 0.7, 0.3, 0.9])):
        assert [bar.get_width() for bar in panel.patches] == widths
        for bar in panel.patches:
            row = next(at for at, y in enumerate(places) if abs(bar.get_y() + bar.get_height() / 2 - y) < 1e-6)
            assert bar.get_facecolor() == named[groups[row]].get_facecolor()
        assert tuple(panel.lines[0].get_xdata()) == (0.4, 0.6)
    assert figure.get_suptitle().startswith("costs $5 and 100_%")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_names_are_no_mathematics(tmp_path):
    figures.bars(tmp_path / "x.png", {"$\\frac{$": [Bar("$a_$", "$", BASE.found)]}, title="$\\x$")
    assert (tmp_path / "x.png").exists()


def test_dots_of_equal_values_stand_side_by_side_on_a_whole_axis(drawn, tmp_path):
    alike = {"0.1": figures.Dot(0.95, 0.9), "1": figures.Dot(0.9, 0.8)}
    series = {"a": alike, "b": alike, "_c": {"1": figures.Dot(0.9, 0.8)}}
    figures.dots(tmp_path / "x.png", ["0.1", "1"], series, title="t", xlabel="sigma", ylabel="share", notes=["n"])
    (figure,) = drawn
    (axis,) = figure.axes
    assert axis.get_ylim() == (0, 1.02) and [label.get_text() for label in axis.get_xticklabels()] == ["0.1", "1"]
    places = [(round(x, 3), y) for line in axis.lines for x, y in zip(*line.get_data(), strict=True)]
    assert len(set(places)) == 5 and {y for _, y in places} == {0.95, 0.9}
    assert max(x for x, y in places if y == 0.95) < 0.5 < min(x for x, y in places if y == 0.9)  # each in its group
    assert [text.get_text().strip() for text in axis.get_legend().get_texts()] == ["a", "b", "_c"]
    bars = [tuple(part[:, 1]) for drawing in axis.collections for part in drawing.get_segments()]
    assert sorted(bars) == [(0.8, 0.9)] * 3 + [(0.9, 0.95)] * 2


def curves(drawn, tmp_path, *names):
    line = figures.Line([1, 1e5], [0.01, 4], width=3.0)
    panels = [figures.Panel(f"p{at}", "x", "y", dict.fromkeys(own, line), "log", [5.0]) for at, own in enumerate(names)]
    figures.curves(tmp_path / "x.png", panels, title="t", notes=["n"])
    return drawn[-1]


def test_panels_with_the_same_lines_share_one_legend(drawn, tmp_path):
    figure = curves(drawn, tmp_path, ["a", "_b"], ["a"], ["_b"], ["a"], ["a"])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", " _b"]
    assert len(figure.axes) == 5 and all(axis.get_legend() is None for axis in figure.axes)
    places = [axis.get_position() for axis in figure.axes]
    assert places[4].y1 < places[0].y0 and places[4].x0 == places[0].x0  # the fifth begins a second row
    for ticks in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        labels = [label.get_text() for label in ticks.get_ticklabels(which="both") if label.get_text()]
        assert {"1", "0.1" if ticks.axis_name == "y" else "10"} <= set(labels) and not any(
            "$" in each for each in labels
        )
    first = figure.axes[0].lines[0]
    assert first.get_linewidth() == 3.0 and list(figure.axes[0].lines[-1].get_ydata()) == [5.0, 5.0]


def test_panels_of_other_lines_have_legends_of_their_own(drawn, tmp_path):
    figure = curves(drawn, tmp_path, ["a"], ["b"])
    assert not figure.legends and [axis.get_legend().get_texts()[0].get_text() for axis in figure.axes] == ["a", "b"]

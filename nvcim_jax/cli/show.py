"""Results on the terminal."""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from rich.table import Table

from nvcim_jax.cli.terminal import Terminal, plain
from nvcim_jax.evaluation import main_job, methods
from nvcim_jax.evaluation.ladder import Example
from nvcim_jax.evaluation.main_job import TaskResult
from nvcim_jax.evaluation.methods import Method
from nvcim_jax.evaluation.statistics import Interval, clear, difference, interval
from nvcim_jax.evaluation.worth import Worth


def results(console: Terminal, results: Sequence[TaskResult], rows: Sequence[Method], settings: dict[str, Any]) -> None:
    """Methods (`rows`) by task, LaMP's own metrics, paired differences, the share of the gain kept, three examples."""
    names = [result.task.name for result in results]
    users = len(results[0].users)
    counts = f"{users} user{'s' if users > 1 else ''} per task, {settings['draws']} draws"
    title = f"{settings['device']}, sigma {settings['sigma']}; {counts}; mean ± half of the 95 % interval"
    table = Table("method", *names, title=title)
    for group, own in groupby(main_job.scored(rows, results[0]), key=attrgetter("group")):
        if group:
            table.add_section()
            table.add_row(plain(group, "bold"))
        for method in own:
            cells = [_cell(interval(result.scores[method.label]), "{:.2f}") for result in results]
            table.add_row(f"  {method.name}" if group else method.name, *cells)
    console.print(table)
    _official(console, results)
    _differences(console, results)
    _share_kept(console, results)
    for result, example in _telling(results, 3):
        console.rule(result.task.name, align="left")
        for label, words in (
            ("question", example.sample.content),
            ("gold", example.sample.answer),
            ("without OVT", example.without),
            ("with OVT", example.answer),
            ("OVT from", f"{example.found.content}  ->  {example.found.answer}"),
        ):
            console.print(f"{label:12s} {words or '(nothing)'}")


def worth(console: Terminal, scores: dict[str, Worth]) -> None:
    """What learning was worth to one person, by metric, and whether so few samples can tell."""
    items = max(each.alone.size for each in scores.values())
    by_sample = {name: each for name, each in scores.items() if each.alone.ndim}
    table = Table("", "base model", "with the OVTs", "difference", title=f"the latest {items} samples, held out")
    for name, each in by_sample.items():
        gain = _range(difference(each.learned, each.alone), "+.2f")
        table.add_row(name, _range(interval(each.alone), ".2f"), _range(interval(each.learned), ".2f"), gain)
    for name, each in scores.items():
        if name not in by_sample:
            table.add_row(name, *(f"{value:.2f}" for value in each), f"{each.learned - each.alone:+.2f}")
    console.print(table)
    console.print("Means over these samples; in brackets their 95 % intervals.")
    unclear = [name for name, each in by_sample.items() if difference(each.learned, each.alone).holds_zero]
    if unclear:
        console.print(f"{', '.join(unclear)}: {items} samples cannot tell this difference from none.")


def _range(value: Interval, style: str) -> str:
    return f"{value.mean:{style}} [{value.low:{style}}, {value.high:{style}}]"


def _official(console: Terminal, results: Sequence[TaskResult]) -> None:
    """What LaMP's evaluation reports, of the base model, of one prompt for all and of every whole preset."""
    chosen = {methods.BASE: methods.BASE, methods.ONE: "one for all"}
    chosen |= {methods.whole(group): group.replace("-", " ") for group in methods.SEARCHES}
    shown = {label: name for label, name in chosen.items() if label in results[0].answers}
    if not shown:
        return
    title = "as LaMP scores, all questions together; of MAE and RMSE less is better"
    table = Table("task", "metric", title=title)
    for name in shown.values():
        table.add_column(name, no_wrap=" " not in name)
    for result in results:
        columns = [main_job.official(result, label) for label in shown]
        for at, metric in enumerate(columns[0]):
            cells = (f"{column[metric]:.3f}" for column in columns)
            table.add_row("" if at else result.task.name, metric, *cells)
    console.print(table)


def _differences(console: Terminal, results: Sequence[TaskResult]) -> None:
    """Paired differences by task; a star where they are told from none among all of the table."""
    columns = [main_job.comparisons(result) for result in results]
    stars = iter(clear([pair for column in columns for pair in column.values()]))
    cells = [[_cell(difference(*pair), "{:+.2f}") + (" *" if next(stars) else "") for pair in column.values()]
             for column in columns]  # fmt: skip
    title = "the same users, questions and draws; * clear at a false discovery rate of 5 % over this table"
    table = Table("paired difference", *(result.task.name for result in results), title=title)
    for method, *row in zip(columns[0], *cells, strict=True):
        table.add_row(method, *row)
    console.print(table)


def _share_kept(console: Terminal, results: Sequence[TaskResult]) -> None:
    kept = {result.task.name: main_job.gain_kept(result) for result in results if methods.KNOWN in result.scores}
    told = [f"{name} {share.mean:.0%} ({share.low:.0%} to {share.high:.0%})" for name, share in kept.items() if share]
    if told:
        console.print(f"Of the gain of the OVT with known domain, recommended keeps {', '.join(told)}.")
    silent = [name for name, share in kept.items() if share is None]
    if silent:
        console.print(f"No share for {', '.join(silent)}: so few users cannot tell that gain from none.")


def _cell(value: Interval, style: str) -> str:
    return f"{style.format(value.mean)}±{value.half:.2f}"


def _telling(results: Sequence[TaskResult], count: int) -> list[tuple[TaskResult, Example]]:
    """Examples from different tasks, where possible such as the OVT changed, for better or for worse."""
    pairs = [(result, example) for result in results for example in result.examples]
    changed = [pair for pair in pairs if pair[1].answer != pair[1].without] or pairs
    return changed[:: max(1, len(changed) // count)][:count]

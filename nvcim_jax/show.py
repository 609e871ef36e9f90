"""Results on the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from nvcim_jax import job, study
from nvcim_jax.job import TaskResult
from nvcim_jax.metrics import Interval, interval
from nvcim_jax.terminal import Terminal, plain


def results(console: Terminal, results: Sequence[TaskResult], settings: dict[str, Any]) -> None:
    """Methods by task, the paired differences, the share of the gain that the memory keeps, three examples."""
    names = [result.task.name for result in results]
    counts = f"{len(results[0].users)} users per task, {settings['draws']} draws"
    title = f"{settings['device']}, sigma {settings['sigma']}; {counts}; mean ± half of the 95 % interval"
    table = Table("method", *names, title=title)
    group = None
    for method in results[0].scores:
        preset, _, short = method.rpartition(": ")
        if preset != group and preset:
            table.add_section()
            table.add_row(plain(preset, "bold"))
        group = preset
        cells = [_cell(interval(result.scores[method]), "{:.2f}") for result in results]
        table.add_row(f"  {short}" if preset else short, *cells)
    console.print(table)
    paired = Table("paired difference", *names, title="the same users, questions and draws")
    columns = [job.comparisons(result) for result in results]
    for method in columns[0]:
        paired.add_row(method, *(_cell(column[method], "{:+.2f}") for column in columns))
    console.print(paired)
    kept = {result.task.name: job.gain_kept(result) for result in results}
    known = [f"{name} {share:.0%}" for name, share in kept.items() if share is not None]
    if known:
        console.print(f"Of the gain of the OVT with known domain, recommended NVCiM-PT keeps {', '.join(known)}.")
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


def _cell(value: Interval, style: str) -> str:
    return f"{style.format(value.mean)}±{(value.high - value.low) / 2:.2f}"


def _telling(results: Sequence[TaskResult], count: int) -> list[tuple[TaskResult, study.Example]]:
    """Examples from different tasks, where possible such as the OVT changed, for better or for worse."""
    pairs = [(result, example) for result in results for example in result.examples]
    changed = [pair for pair in pairs if pair[1].answer != pair[1].without] or pairs
    return changed[:: max(1, len(changed) // count)][:count]

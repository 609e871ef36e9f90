"""`nvcim lamp`: LaMP's own files."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from nvcim_jax.cli.shared import Json, console, path, plain_errors, prepare, print_json, progress_bar

app = typer.Typer(help="The files of the LaMP benchmark: fetch.", no_args_is_help=True)


@app.command(
    epilog="Examples:\n\n  nvcim lamp fetch LaMP-5 --out lamp/LaMP_5\n\n  nvcim lamp fetch LaMP-3 --time-based --split "
    "train --out lamp/time/LaMP_3\n\n  nvcim run --task LaMP-5 --data lamp/LaMP_5 --model ~/models/llama"
)
def fetch(
    task: Annotated[str, typer.Argument(metavar="TASK", help="LaMP-1 to 5 or 7.", show_default=False)],
    out: Annotated[Path, typer.Option(parser=path, metavar="FOLDER", help="For the questions and their gold answers.")],
    split: Annotated[str, typer.Option(help="dev or train.")] = "dev",
    time_based: Annotated[
        bool,
        typer.Option(
            "--time-based", help="The split by time, with several questions of a user, instead of that by users."
        ),
    ] = False,
    address: Annotated[
        str | None,
        typer.Option("--from", metavar="ADDRESS", help="A copy of the official folder.", show_default="LaMP's own"),
    ] = None,
    json: Json = False,
) -> None:
    """Download questions and gold answers of a task; a download that was cut goes on with the same command."""
    with plain_errors():
        from nvcim_jax import interrupts
        from nvcim_jax.data import fetch as lamp_files
        from nvcim_jax.data import lamp
        from nvcim_jax.data.download import GO_ON

        wanted, base = lamp.task(task), address or lamp_files.OFFICIAL
        lamp_files.require(wanted, split)
        prepare(out, *(f"{split}_{kind}.json" for kind in lamp_files.KINDS))
        kept = lambda: GO_ON if list(out.glob(f"{split}_*.part")) else None  # noqa: E731
        with interrupts.caught(kept), progress_bar() as bar:
            report = _reporting(bar)
            count = lamp_files.fetch(wanted, out, split=split, time_based=time_based, base=base, report=report)
        command = shlex.join(["nvcim", "run", "--task", wanted.name, "--data", str(out)])
        console.print(f"{count} questions of {wanted.name} and their gold answers are in {out}", soft_wrap=True)
        console.print(f"run them: {command}", soft_wrap=True)
        if json:
            print_json({"task": wanted.name, "split": split, "questions": count, "folder": str(out), "run": command})


def _reporting(bar):
    """What `fetch` reports to: a line of the bar for each file."""
    lines: dict[str, tuple] = {}

    def report(name: str, here: int, whole: int | None) -> None:
        if name not in lines:  # what is here already took no work now
            lines[name] = (bar.add_task(name, total=whole), here)
            bar.skip(lines[name][0], here)
        work, before = lines[name]
        (bar.advance if here > before else bar.skip)(work, here - before)
        size = "" if whole is None else f" of {whole / 1e6:,.1f}"
        bar.update(work, total=whole, description=f"{name}, {here / 1e6:,.1f}{size} MB")
        lines[name] = (work, here)

    return report

"""`nvcim study`: tables of the paper that can be stopped, gone on with and shared out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nvcim_jax.cli.shared import Seed, Sigma, console, number, path, plain_errors, prepare, progress_bar

if TYPE_CHECKING:  # JAX takes its time
    from nvcim_jax.evaluation.study import Results, Study

app = typer.Typer(
    no_args_is_help=True, help="Tables of the paper, kept cell by cell: stop them, go on, share them out."
)
STUDIES = {"table1": "methods by devices and tasks, as the paper's Table I; an estimated 20 minutes on two cores"}
Folder = Annotated[
    Path, typer.Argument(parser=path, metavar="FOLDER", help="A folder given to --out.", show_default=False)
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", parser=path, metavar="FOLDER",
        help="Results, table.md and report.html; the same command goes on from what is there.", show_default=False,
    ),
]  # fmt: skip
Shard = Annotated[
    str,
    typer.Option(metavar="I/N", help="The I-th of N runs that share the work, on any machines that see the folder."),
]


@app.command(name="list")
def list_studies() -> None:
    """The studies there are."""
    table = Table("study", "what")
    for name, what in STUDIES.items():
        table.add_row(name, what)
    console.print(table)


@app.command(
    epilog="Examples:\n\n  nvcim study table1 --out out/table1\n\n  nvcim study table1 --out out/quick --users 2 "
    "--task LaMP-2 --device NVM-3\n\n  nvcim study table1 --out out/table1 --shard 2/4"
)
def table1(
    out: Out,
    users: Annotated[
        int, typer.Option(parser=number(int, 1, 10**6), metavar="INTEGER", help="Held-out toy users per task.")
    ] = 16,
    draws: Annotated[
        int, typer.Option(parser=number(int, 1, 10**6), metavar="INTEGER", help="Times that each bank is programmed.")
    ] = 3,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="May be repeated.", show_default="the toy world's five")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="May be repeated.", show_default="NVM-1 to NVM-5")
    ] = None,
    sigma: Sigma = 0.1,
    seed: Seed = 0,
    shard: Shard = "1/1",
) -> None:
    """Methods by devices and tasks, as the paper's Table I, on the toy model and held-out toy users.

    An estimated 20 minutes on two cores, in proportion to users and tasks. Expect wide intervals under 20
    users, the base model far below, the devices alike at sigma 0.1.
    """
    with plain_errors():
        from nvcim_jax.evaluation import studies

        chosen = {"tasks": task and [*dict.fromkeys(task)], "devices": device and [*dict.fromkeys(device)]}
        given = {name: value for name, value in chosen.items() if value}
        _run(studies.table1(users=users, draws=draws, sigma=sigma, seed=seed, **given), out, shard)


@app.command()
def status(folder: Folder) -> None:
    """How far a study is."""
    with plain_errors():
        from nvcim_jax.evaluation import study

        _show(study.read(folder))


@app.command()
def report(folder: Folder) -> None:
    """Write table.md and report.html of what is done so far."""
    with plain_errors():
        from nvcim_jax.evaluation import report, study

        report.write(folder)
        _show(study.read(folder))
        console.print(f"{report.TABLE} and {report.REPORT} are in {folder}", soft_wrap=True)


def _run(plan: "Study", out: Path, shard: str) -> None:
    """Run a study with a progress bar, and write its report, however the run ends."""
    from nvcim_jax import interrupts
    from nvcim_jax.cli.cache import keep_programs
    from nvcim_jax.evaluation import report, study

    cells = sum(map(len, study.units(plan, shard)))
    prepare(out)
    keep_programs()
    note = f"finished cells are in {out}: the same command goes on from them"
    try:
        with interrupts.caught(lambda: note), progress_bar() as bar:
            work = bar.add_task(plan.name, total=cells)
            told = lambda count, kept: (bar.skip if kept else bar.advance)(work, count)  # noqa: E731
            study.run(plan, out, shard=shard, report=told)
    except KeyboardInterrupt:
        if (out / study.ABOUT).exists():
            report.write(out)
        raise
    report.write(out)
    _show(study.read(out))
    console.print(f"{report.TABLE} and {report.REPORT} are in {out}", soft_wrap=True)


def _show(results: "Results") -> None:
    from nvcim_jax.evaluation import report

    about = results.about
    done = f"{len(results.cells)} of {about['cells']} cells are done, in {report.duration(results)} of work"
    console.print(f"{about['study']}: {done} by {len(results.writers)} runs")
    if results.dropped:
        console.print(f"{results.dropped} lines were half written and do not count", style="yellow")
    for grid in report.grids(results) if report.has_table(results) else ():
        table = Table(grid.corner, *grid.columns, title=grid.title)
        for group in grid.groups:
            table.add_section()
            table.add_row(group.name, style="bold")
            for row in group.rows:
                table.add_row(f"  {row.name}", *(" ".join(each) if each else "–" for each in row.figures))
        console.print(table)
        console.print(grid.caption, soft_wrap=True)

"""`nvcim study`: tables and figures of the paper that can be stopped, gone on with and shared out."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.table import Table

from nvcim_jax.cli.progress import run_with_bar
from nvcim_jax.cli.shared import (
    EMBEDDED,
    Data,
    MemorySize,
    Model,
    Seed,
    Weights,
    console,
    number,
    path,
    plain_errors,
    prepare,
)

if TYPE_CHECKING:  # JAX takes its time
    from nvcim_jax.evaluation.study import Results, Study

app = typer.Typer(
    no_args_is_help=True, help="Tables and figures of the paper, cell by cell: stop them, go on, share them out."
)


class Told(NamedTuple):
    """What the help of a study says."""

    what: str
    minutes: str
    expect: str


STUDIES = {
    "table1": Told(
        "Methods by devices and tasks, as the paper's Table I", "8",
        "Expect wide intervals under 20 users, the base model far below, the devices alike at sigma 0.1.",
    ),
    "table3": Told(
        "Methods by the size of the buffer, 10 to 60 samples, as the paper's Table III", "4",
        "Expect more from larger buffers: they hold more of what is asked about.",
    ),
    "table4": Told(
        "Methods by device variation, sigma 0.025 to 0.15, as the paper's Table IV; OVTs are trained once", "1",
        "Expect no fall that could be seen.",
    ),
    "fig1": Told(
        "One adapter for everything (prompt tuning, DEPT, prefix tuning, LoRA, ...) against one OVT for each sample, "
        "as the paper's Fig. 1", "3",
        "Expect OVTs of the right domain above every adapter for everything.",
    ),
    "fig2": Told(
        "Memory that OVTs take, and moving them, as the paper's Fig. 2", "1", "It follows from the cost model.",
    ),
    "fig5": Told(
        "Latency and energy of the search in arrays and on a CPU, as the paper's Fig. 5", "1",
        "It follows from the cost model; the paper's ratios are reached against its own way to search on a CPU.",
    ),
    "ablation": Told(
        "What each part is worth: selection, training noise, search, codec, start, key, clipping, space of tuning, "
        "presets, mitigation at equal write cost", "7", "Expect selection and key to matter most, the codec hardly.",
    ),
    "variation": Told(
        "OVTs trained once, for NVM-3 at sigma 0.1, on other devices and at other sigmas", "1",
        "Expect training noise to pay from sigma 0.2 on, and devices to lie close together.",
    ),
}  # fmt: skip
FIGURES = ("fig2", "fig5")  # of the cost model


def _count(option: str, told: str, most: int = 10**6) -> object:
    return typer.Option(option, parser=number(int, 1, most), metavar="INTEGER", help=told)


def _many(option: str, told: str, metavar: str, shown: str = "the study's", parser: Callable = str) -> object:
    return typer.Option(option, parser=parser, metavar=metavar, help=f"{told} May be repeated.", show_default=shown)


Folder = Annotated[
    Path, typer.Argument(parser=path, metavar="FOLDER", help="A folder given to --out.", show_default=False)
]
Out = Annotated[
    Path,
    typer.Option(
        "--out", parser=path, metavar="FOLDER",
        help="Results, tables, pictures and report.html; the same command goes on from what is there.",
        show_default=False,
    ),
]  # fmt: skip
Shard = Annotated[
    str,
    typer.Option(metavar="I/N", help="The I-th of N runs that share the work, on any machines that see the folder."),
]
Slurm = Annotated[
    int | None,
    typer.Option(
        "--slurm", parser=number(int, 1, 10**4), metavar="JOBS", show_default="none",
        help="Submit as many Slurm jobs that share the work, and leave; needs submitit.",
    ),
]  # fmt: skip
Devices = Annotated[list[str] | None, _many("--device", "NVM-1 to NVM-5.", "NAME")]


@app.command(name="list")
def list_studies() -> None:
    """The studies there are."""
    table = Table("study", "what", "minutes on two cores")
    for name, told in STUDIES.items():
        table.add_row(name, told.what, told.minutes)
    console.print(table)


def _answers(name: str) -> None:
    """Add the command of a study of answers."""

    def command(
        out: Out,
        users: Annotated[int, _count("--users", "Users of each task, held out of all choices.")] = 16,
        draws: Annotated[int, _count("--draws", "Times that each bank is programmed.")] = 3,
        task: Annotated[list[str] | None, _many("--task", "LaMP-1, 2, 3, 5, 7; with --data its one.", "NAME")] = None,
        device: Devices = None,
        sigma: Annotated[
            list[float] | None, _many("--sigma", "Device variation.", "0..10", parser=number(float, 0, 10))
        ] = None,
        buffer: Annotated[
            list[int] | None, _many("--buffer", "Samples of a buffer.", "INTEGER", parser=number(int, 1, 1000))
        ] = None,
        questions: Annotated[int | None, _count("--questions", "Of each user, at most.")] = None,
        seed: Seed = 0,
        model: Model = EMBEDDED,
        weights: Weights = None,
        memory_size: MemorySize = None,
        data: Data = None,
        chosen_on: Annotated[
            int,
            typer.Option(
                parser=number(int, 0, 10**9), metavar="INTEGER",
                help="The first people of --data on whom settings were chosen: they are not reported.",
            ),
        ] = 0,
        skip_bad: Annotated[
            bool, typer.Option("--skip-bad", help="Leave out, and count, questions without a gold answer of their own.")
        ] = False,
        shard: Shard = "1/1",
        slurm: Slurm = None,
    ) -> None:  # fmt: skip
        with plain_errors():
            from nvcim_jax.evaluation import studies

            several = {"tasks": task, "devices": device, "sigmas": sigma, "buffers": buffer}
            given = {name: tuple(values) for name, values in several.items() if values}
            choice = studies.Choice(
                users=users, draws=draws, questions=questions, chosen_on=chosen_on, seed=seed, **given
            )
            where = studies.TOY if model == EMBEDDED else model
            source = studies.Source(where, data, weights, memory_size, skip_bad, out / "shared")
            _run(lambda: studies.plan(name, choice, source), out, shard, slurm)

    _add(name, command, f"nvcim study {name} --out out/quick --users 2 --task LaMP-2")


def _costs(name: str) -> None:
    """Add the command of a figure of the cost model."""

    def fig2(out: Out, shard: Shard = "1/1", slurm: Slurm = None) -> None:
        with plain_errors():
            from nvcim_jax.evaluation import cost_studies

            _run(lambda: cost_studies.plan(name), out, shard, slurm)

    def fig5(out: Out, device: Devices = None, shard: Shard = "1/1", slurm: Slurm = None) -> None:
        with plain_errors():
            from nvcim_jax.evaluation import cost_studies

            _run(lambda: cost_studies.plan(name, device or cost_studies.DEVICES), out, shard, slurm)

    _add(name, {"fig2": fig2, "fig5": fig5}[name], f"nvcim study {name} --out out/{name}-again")


def _add(name: str, command: Callable, example: str) -> None:
    told = STUDIES[name]
    cost = "About a minute" if name in FIGURES else f"About {told.minutes} minutes"
    more = "" if name in FIGURES else " with the toy model and 16 users, in proportion to users and tasks"
    lines = (f"nvcim study {name} --out out/{name}", example, f"nvcim study {name} --out out/{name} --shard 2/4")
    say = f"{told.what}.\n\n{cost} on two cores{more}. {told.expect}"
    app.command(name=name, help=say, epilog="Examples:\n\n  " + "\n\n  ".join(lines))(command)


for each in STUDIES:
    (_costs if each in FIGURES else _answers)(each)


@app.command()
def status(folder: Folder) -> None:
    """How far a study is."""
    with plain_errors():
        from nvcim_jax.evaluation import study

        _show(study.read(folder))


@app.command()
def report(folder: Folder) -> None:
    """Write the tables, pictures and report.html of what is done so far."""
    with plain_errors():
        from nvcim_jax.evaluation import report, study

        written = report.write(folder)
        _show(study.read(folder))
        _tell(written, folder)


def _run(make: Callable[[], "Study"], out: Path, shard: str, slurm: int | None) -> None:
    """Run a study with a progress bar, and write its report, however the run ends; or submit it."""
    from nvcim_jax.cli.cache import keep_programs
    from nvcim_jax.evaluation import report, study

    keep_programs()
    with console.status("loading the model and the users"):
        plan = make()
    study.units(plan, shard)  # what it refuses is told before anything is written
    prepare(out)
    if slurm is not None:
        return _submit(plan, out, slurm)
    try:
        run_with_bar(plan, out, shard)
    except KeyboardInterrupt:
        if (out / study.ABOUT).exists():
            report.write(out)
        raise
    written = report.write(out)
    _show(study.read(out))
    _tell(written, out)


def _submit(plan: "Study", out: Path, jobs: int) -> None:
    from nvcim_jax.evaluation import slurm

    names = [job.job_id for job in slurm.submit(plan, out, jobs)]
    console.print(f"submitted {len(names)} jobs: {', '.join(names)}", soft_wrap=True)
    console.print(
        f"`nvcim study status {out}` says how far they are, `nvcim study report {out}` shows it", soft_wrap=True
    )


def _tell(written: list[Path], folder: Path) -> None:
    names = [path.name for path in written]
    console.print(f"{', '.join(names[:-1])} and {names[-1]} are in {folder}", soft_wrap=True)
    if "results.parquet" not in names:
        console.print("results.parquet needs pyarrow: pip install 'nvcim_jax[parquet]'", soft_wrap=True)


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
            if group.name:
                table.add_row(group.name, style="bold")
            for row in group.rows:
                table.add_row(f"  {row.name}", *map(report.in_line, row.figures))
        console.print(table)
        console.print(grid.caption, soft_wrap=True)

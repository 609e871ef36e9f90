"""`nvcim vary --adc`: retrieval through converters, accuracy beside energy."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from nvcim_jax.cli import banks
from nvcim_jax.cli.shared import announce, console, load, number, numbers, prepare, print_json, progress_bar

if TYPE_CHECKING:  # JAX takes its time
    from nvcim_jax.evaluation.converters import Grid, Point

DRAWS = 10
RESULTS = ("vary.json", "vary.png")
RATE = 3e8  # sums of one column that two cores make in a second


def grid(adc: str, share: float, cell_bits: str, rows_at_once: str) -> "Grid":
    """The grid that the options name. ValueError for anything but whole numbers with commas between them."""
    from nvcim_jax.evaluation.converters import Grid

    needed = "whole numbers with commas between them, such as 3,4,6"
    whole = lambda option, text: numbers(option, text, number(int, 1, 10**6), needed)  # noqa: E731
    return Grid(whole("--adc", adc), whole("--cell-bits", cell_bits), whole("--rows-at-once", rows_at_once), share)


def vary(
    source: tuple,
    asked: tuple[Sequence[str], Sequence[float], bool],
    grid: "Grid",
    *,
    draws: int,
    seed: int,
    model: tuple,
    hours: float,
    out: Path | None,
    json: bool,
) -> None:
    """Show what every point of the grid finds and takes, and which of them no other one beats."""
    import jax

    from nvcim_jax import files
    from nvcim_jax.evaluation import converters, figures, points
    from nvcim_jax.provenance import provenance

    bank, preset, task, data, users = source
    read = banks.saved(bank, preset, task, data) if bank else banks.learned(preset, task, users, data, seed, hours)
    names, sigmas, extrapolate = asked
    rows = points.rows(names, sigmas, extrapolate=extrapolate)
    prepare(out, *RESULTS)
    provenance()  # of now, not of the end
    loaded = load(*model)
    with console.status("reading the bank" if bank else "learning the banks"):
        people, case, meaning, settings = read(loaded)
    converters.check(grid, case)
    work = converters.sums(case, rows, grid) * draws
    announce(work / RATE, hours, f"{draws} draws of {len(converters.programs(rows, grid))} arrays")
    with progress_bar() as bar:
        total = draws * len(converters.programs(rows, grid))
        task_id = bar.add_task("searching the arrays", total=total)
        told = lambda trials: bar.advance(task_id, trials)  # noqa: E731
        found = converters.points(jax.random.key(seed), case, rows, grid, settings=settings, draws=draws, report=told)
    best = converters.fronts(found)
    notes = [
        "Lost: against ideal converters, by saturating alone and by rounding alone.",
        "* on the Pareto front of its device and sigma: nothing finds more for less energy.",
        "Energy of one query in arrays and periphery, sar converters; cells of other bits than the device has use its "
        "range at as many levels, their deviations read off between its own.",
        *points.notes(rows, "cell"),
    ]
    asked_of = f"{len(people)} users, {int(case.asked.sum())} questions, {draws} draws"
    title = f"share of questions where {meaning}: {asked_of}"
    console.print(_table(title, found, [each for own in best.values() for each in own]))
    for note in notes:
        console.print(note)
    about = {
        "bank": str(bank) if bank else "embedded users", "right": meaning, "seed": seed, "draws": draws,
        "preset": settings.described(), "grid": grid._asdict(), "users": [user.id for user in people], "notes": notes,
    }  # fmt: skip
    fronts = [{"device": device, "sigma": sigma, "adc": each.adc, "cell_bits": each.cell_bits,
               "rows_at_once": each.rows_at_once} for (device, sigma), own in best.items() for each in own]  # fmt: skip
    report = {
        "settings": about, "provenance": provenance(), "points": [each.as_json() for each in found], "front": fronts,
    }  # fmt: skip
    if json:
        print_json(report)
    if out:
        files.write_json(out / "vary.json", report)
        drawn = converters.panels(found)
        if drawn:
            said = [f"{asked_of}.", *notes[2:]]  # the first two are about the table
            figures.curves(out / "vary.png", drawn, title=f"Questions where {meaning}", notes=said)
        console.print(f"vary.json{' and vary.png are' if drawn else ' is'} in {out}", soft_wrap=True)


def _table(title: str, found: Sequence["Point"], best: Sequence["Point"]) -> Table:
    """A row for each point, those of one array in a section."""
    from nvcim_jax.evaluation.statistics import interval

    table = Table("device, sigma", "cell", "rows", "ADC", "found", "lost: saturating", "rounding", "pJ", title=title)
    ideal = 0.0
    for each in found:
        of = (f"{each.device}, {each.sigma:g}", f"{each.cell_bits} bits", str(each.rows_at_once))
        share = interval(each.found.mean(0))
        told = f"{share.mean:.3f} ± {share.half:.3f}"
        if each.adc is None:
            table.add_section()
            ideal = each.found.mean()
            table.add_row(*of, "ideal", told, "", "", "")
            continue
        lost = [f"{ideal - part.mean():.3f}" for part in (each.saturating, each.rounding)]
        star = " *" if any(each is one for one in best) else ""
        energy = "" if each.energy_pj is None else f"{each.energy_pj:,.0f}"
        table.add_row(*of, f"{each.adc} bits", told + star, *lost, energy)
    return table

"""`nvcim devices`: Table II, published devices, a device of one's own, and one from measurements."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nvcim_jax.cli.shared import (
    Extrapolate,
    Json,
    console,
    device_name,
    number,
    path,
    plain_errors,
    prepare,
    print_json,
)

app = typer.Typer()
COLUMNS = 8  # levels side by side; of more, a line of text tells
VALUES = (0.1, 0.3, 0.6, 0.9)  # one for each of f4 to f1


@app.callback(
    invoke_without_command=True,
    epilog="Examples:\n\n  nvcim devices --sigma 0.2\n\n  nvcim devices --device NVM-3 --device mine.toml\n\n"
    "  nvcim devices fit cells.csv --out out/mine",
)
def devices(
    context: typer.Context,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device", parser=device_name, metavar="NAME", show_default="all",
            help="NVM-1 to NVM-5 (Table II), a published one, or the .toml file of your own; may be repeated.",
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            "--sigma", parser=number(float, 0, 10), metavar="0..10", help="Device variation.",
            show_default="0.1; others than Table II's at their own",
        ),
    ] = None,
    extrapolate: Extrapolate = False,
) -> None:  # fmt: skip
    """Table II, published devices or your own: what each would do to a stored value, and what time does to it."""
    if context.invoked_subcommand is not None:
        return
    with plain_errors():
        from nvcim_jax.hardware import catalogue as known

        asked = []
        for name in dict.fromkeys(device or (*known.RATIOS, *known.published())):
            sheet = known.sheet(name)
            at = sigma if sigma is not None else 0.1 if name in known.RATIOS else sheet.own_sigma
            if name not in known.RATIOS and not device:
                at = sheet.own_sigma
            if name not in known.RATIOS and not extrapolate:
                sheet.check(sigma=at)
            asked.append((sheet, at, known.TECHNOLOGIES.get(name, "its own")))
        most = min(COLUMNS, max(sheet.levels for sheet, *_ in asked))
        heads = [f"L{level}" for level in range(most)]
        table = Table("device", "technology", "sigma", *heads, title="standard deviation by level, lowest first")
        effect = Table("device", *map(str, VALUES), title="a value, as a share of the largest, and its deviation")
        longer = []
        for sheet, at, technology in asked:
            levels = [f"{at * noise:.4f}" for noise in sheet.noise]
            shown = levels if len(levels) <= COLUMNS else [f"{len(levels)} levels: see below"]
            table.add_row(sheet.name, technology, f"{at:g}", *shown)
            if len(levels) > COLUMNS:
                longer.append(f"{sheet.name}: {' '.join(levels)}")
            pairs = zip(VALUES, sheet.device.factors[::-1], strict=True)
            effect.add_row(sheet.name, *(f"{value} ± {at * float(factor):.3f}" for value, factor in pairs))
        console.print(table, effect, _abilities([sheet for sheet, *_ in asked]))
        for line in (*longer, *known.remarks([(sheet, [at]) for sheet, at, _ in asked])):
            console.print(line)


def _abilities(sheets) -> Table:
    """What each device knows of time, of reads and of costs, and where its numbers come from."""
    table = Table("device", "known for", "does", "source", title="what each can do, and where its numbers come from")
    words = {
        "drift_exponent": "drifts", "drift_std": "each cell its own way", "retention": "loses its levels",
        "wander": "wanders", "flicker": "1/f noise", "read_noise": "read noise", "stuck_off": "stuck cells",
        "correlation": "deviates together",
    }  # fmt: skip
    for sheet in sheets:
        low, high = sheet.seconds_range
        known = f"sigma {sheet.sigma_range[0]:g} to {sheet.sigma_range[1]:g}"
        known += "" if high == low else f", {low:g} to {high:g} s"
        does = [word for name, word in words.items() if any(_as_tuple(getattr(sheet, name)))]
        does += ["costs"] if sheet.write_pj is not None and sheet.on_us is not None else []
        licence = f"; {sheet.licence}" if sheet.licence else ""
        table.add_row(sheet.name, known, ", ".join(does) or "programming alone", f"{sheet.source}{licence}")
    return table


def _as_tuple(value) -> tuple:
    return value if isinstance(value, tuple) else (value,)


@app.command(epilog="Example:\n\n  nvcim devices fit cells.csv --name PCM-4 --out out/pcm")
def fit(
    file: Annotated[
        Path,
        typer.Argument(
            parser=path, metavar="FILE", show_default=False,
            help="CSV with the columns level, cell, seconds, conductance (uS), and if you have them target and array.",
        ),
    ],
    name: Annotated[str, typer.Option(help="What the device is called.")] = "measured",
    source: Annotated[str, typer.Option(help="Where the measurements come from.")] = "own measurements",
    out: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="FOLDER", help="For device.toml, fit.json, fit.png.", show_default="none"),
    ] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """A device from measurements: its record, how well it fits, and what the data cannot tell."""
    with plain_errors():
        from nvcim_jax import files
        from nvcim_jax.evaluation import fitted
        from nvcim_jax.hardware import catalogue
        from nvcim_jax.hardware.fitting import fit_device

        prepare(out, "device.toml", "fit.json", "fit.png")
        with console.status(f"fitting {file}"):
            found = fit_device(file, name, source)
            told = fitted.as_json(found)
        table = Table("", "estimate", "interval", title=f"{found.sheet.name}: intervals hold all together with 95 %")
        for label, each in found.estimates.items():
            unit = " uS" if label.startswith("mean") else ""
            table.add_row(label, f"{each.value:.4g}{unit}", f"{each.low:.4g} to {each.high:.4g}")
        console.print(table)
        for level, p in enumerate(told["gaussian_p"]):
            if p < 0.01:
                console.print(f"level {level} does not look Gaussian (p = {p:.2g}): see fit.png of --out")
        for line in found.untold:
            console.print(line, soft_wrap=True)
        if out:
            with files.replacing(out / "device.toml") as partial:
                partial.write_text(catalogue.to_toml(found.sheet), encoding="utf-8")
            files.write_json(out / "fit.json", told)
            fitted.picture(out / "fit.png", found)
            console.print(
                f"device.toml, fit.json and fit.png are in {out}: --device {out / 'device.toml'}", soft_wrap=True
            )
        else:
            console.print(catalogue.to_toml(found.sheet), soft_wrap=True)
        if json:
            print_json(told)

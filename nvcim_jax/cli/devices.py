"""`nvcim devices`: Table II, or a device of one's own."""

from typing import Annotated

import typer
from rich.table import Table

from nvcim_jax.cli.shared import console, device_name, number, plain_errors

app = typer.Typer()
COLUMNS = 8  # levels side by side; of more, a line of text tells
VALUES = (0.1, 0.3, 0.6, 0.9)  # one for each of f4 to f1


@app.command(epilog="Examples:\n\n  nvcim devices --sigma 0.2\n\n  nvcim devices --device NVM-3 --device mine.toml")
def devices(
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device", parser=device_name, metavar="NAME",
            help="NVM-1 to NVM-5 (Table II), or the .toml file of your own; may be repeated.", show_default="all five",
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(
            "--sigma", parser=number(float, 0, 10), metavar="0..10", help="Device variation.",
            show_default="0.1; a device of your own at its own",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Table II, or a device of your own, and what each device would do to a stored value."""
    with plain_errors():
        from nvcim_jax.hardware import catalogue as known

        asked = []
        for name in dict.fromkeys(device or known.RATIOS):
            sheet = known.sheet(name)
            at = sigma if sigma is not None else 0.1 if name in known.RATIOS else sheet.own_sigma
            if name not in known.RATIOS:
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
        console.print(table, effect)
        for line in (*longer, *known.remarks([(sheet, [at]) for sheet, at, _ in asked])):
            console.print(line)

"""`nvcim devices`: Table II."""

import typer
from rich.table import Table

from nvcim_jax.cli.shared import Sigma, checked_sigma, console, plain_errors

app = typer.Typer()


@app.command(epilog="Example:\n\n  nvcim devices --sigma 0.2")
def devices(sigma: Sigma = 0.1) -> None:
    """Table II, and what each device would do to a stored value."""
    with plain_errors():
        from nvcim_jax import devices as known

        sigma = checked_sigma(sigma)
        table = Table(
            "device", "technology", "L0", "L1", "L2", "L3", title=f"standard deviation by level, sigma {sigma}"
        )
        effect = Table(
            "device", "0.1", "0.3", "0.6", "0.9", title="a value, as a share of the largest, and its deviation"
        )
        for name, technology in known.TECHNOLOGIES.items():
            levels = sigma * known.device(name).levels
            table.add_row(name, technology, *(f"{float(level):.4f}" for level in levels))
            values = (0.9, 0.6, 0.3, 0.1)  # one for each of f1 to f4
            pairs = zip(values, known.device(name).factors, strict=True)
            effect.add_row(name, *(f"{value} ± {sigma * float(factor):.3f}" for value, factor in pairs))
        console.print(table, effect)

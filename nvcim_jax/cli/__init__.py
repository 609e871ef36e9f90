"""The commands: parse, call, show. One file per job, assembled here."""

import logging
import os

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would advise every user to install PyTorch
for noisy in ("absl", "asyncio"):  # Orbax logs through them what we say in one sentence
    logging.getLogger(noisy).setLevel(logging.CRITICAL)

import typer  # noqa: E402

from nvcim_jax.cli import bank, cost, devices, learn, run, vary  # noqa: E402
from nvcim_jax.cli.shared import EMBEDDED as EMBEDDED  # noqa: E402

app = typer.Typer(
    help="NVCiM-PT: prompt tuning whose virtual tokens live in noisy non-volatile compute-in-memory.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)
for job in (run, learn, devices, vary, cost):
    app.add_typer(job.app)
app.add_typer(bank.app, name="bank")


def main() -> None:
    """Entry point of `nvcim`."""
    app()

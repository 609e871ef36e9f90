"""The commands: parse, call, show. One file per job, assembled here."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it would advise every user to install PyTorch
for noisy in ("absl", "asyncio", "matplotlib"):  # Orbax logs through the first two what we say in one sentence
    logging.getLogger(noisy).setLevel(logging.CRITICAL)

import typer  # noqa: E402
from typer.core import TyperGroup  # noqa: E402

from nvcim_jax.cli import (  # noqa: E402
    ask,
    bank,
    chat,
    common,
    cost,
    devices,
    grow,
    lamp,
    learn,
    live,
    rag_vary,
    run,
    stream,
    study,
    vary,
)
from nvcim_jax.cli.shared import EMBEDDED as EMBEDDED  # noqa: E402
from nvcim_jax.cli.shared import console  # noqa: E402
from nvcim_jax.cli.terminal import visible  # noqa: E402


@contextmanager
def _visible_complaints() -> Iterator[None]:
    """What typer complains about quotes the command line."""
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own, whose class has no public name
            error.message = visible(error.message)  # pyright: ignore[reportAttributeAccessIssue]
        raise


class Commands(TyperGroup):
    """The commands; arguments that are quoted back cannot command the terminal."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        with _visible_complaints():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:
        with _visible_complaints():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Commands,
    help="NVCiM-PT: prompt tuning whose virtual tokens live in noisy non-volatile compute-in-memory.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for job in (run, stream, live, learn, grow, common, ask, chat, vary, cost):
    app.add_typer(job.app)
app.add_typer(devices.app, name="devices")
app.add_typer(bank.app, name="bank")
app.add_typer(lamp.app, name="lamp")
app.add_typer(study.app, name="study")
app.add_typer(rag_vary.app, name="rag")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            told = version("nvcim_jax")
        except PackageNotFoundError:
            told = "of a checkout that is not installed"
        console.print(f"nvcim_jax {told}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command that the command line asks for."""
    for each in (sys.stdout, sys.stderr):
        if isinstance(each, io.TextIOWrapper):
            each.reconfigure(errors="backslashreplace")  # a terminal without ± is no reason to fail after the work
    app()

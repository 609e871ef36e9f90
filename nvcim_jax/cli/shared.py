"""What the commands share: options, refusals in one sentence, a progress bar with the time left."""

import os
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

from nvcim_jax.terminal import Terminal, Words, plain

console = Terminal()
LONGEST = 2000  # characters of an error that are shown
EMBEDDED = str(Path(__file__).parents[1] / "embedded" / "model")

Model = Annotated[
    str, typer.Option("--model", help="Folder or hub name of a Hugging Face checkpoint.", show_default="embedded")
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="How weights are held: float32, bfloat16 (as most checkpoints are: half the memory, answers alike) or "
        "packed (GPTQ words as they are).",
        show_default="float32 on a CPU, else bfloat16",
    ),
]
Data = Annotated[
    Path | None, typer.Option("--data", help="Folder with LaMP's *_questions.json.", show_default="embedded world")
]
DeviceName = Annotated[str, typer.Option("--device", help="NVM-1 to NVM-5 (Table II), or the .toml file of your own.")]
Sigma = Annotated[float, typer.Option("--sigma", help="Device variation; the paper's default is 0.1.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same result.")]
Preset = Annotated[str, typer.Option("--preset", help="paper-literal, paper or recommended.")]


@contextmanager
def plain_errors():
    """One sentence and exit code 2 for what the user can mend; 130 for Ctrl-C. A bug keeps its traceback.

    Warnings are one sentence, too.
    """
    stderr = Terminal(stderr=True)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: stderr.print(
            plain("warning:", "yellow"), _sentence(message), soft_wrap=True
        )
        try:
            yield
        except (ValueError, OSError) as error:
            stderr.print(plain("error:", "red"), _sentence(error), soft_wrap=True)
            sys.exit(2)
        except KeyboardInterrupt:
            stderr.print("interrupted", style="yellow")
            sys.stdout.flush()
            os._exit(130)  # a program that is still being compiled crashes an orderly end


def _sentence(message: Warning | Exception | str) -> str:
    """What a message says; the middle of a very long one, such as one that quotes its input, is left out."""
    said = str(message) or type(message).__name__
    return said if len(said) <= LONGEST else f"{said[: LONGEST // 2]} ... {said[-LONGEST // 2 :]}"


def load(model: str, weights: str | None):
    """The model called `model`, its weights held as --weights says."""
    from nvcim_jax import llm

    if weights not in (None, "float32", "bfloat16", "packed"):
        raise ValueError(f"--weights {weights}: choose float32, bfloat16 or packed")
    with console.status(f"loading {model}"):
        return llm.load(model, dequantise="lazy") if weights == "packed" else llm.load(model, dtype=weights)


def checked_sigma(sigma: float) -> float:
    if not 0 <= sigma < 10:
        raise ValueError(f"--sigma {sigma}: a standard deviation from 0 up to 10 is needed; the paper's default is 0.1")
    return sigma


def checked_device(name: str, sigma: float):
    """The device called `name`; a user's own is refused outside the range that its file gives."""
    from nvcim_jax import devices

    sheet = devices.sheet(name)
    if name.endswith(".toml"):
        sheet.check(sigma=sigma)
    return sheet.device


def prepare(folder: Path | None) -> None:
    """Find out now, not after the work, whether `folder` can be written."""
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".nvcim-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be written ({error.strerror}): choose another folder") from error


def progress_bar() -> Progress:
    columns = (Words("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


@contextmanager
def tuning_bar(row_steps: int, kept: Path):
    """A progress bar with loss, tokens per second and time left; gives what `pipeline.learn` reports to.

    Ctrl-C says where the finished part is kept.
    """
    told = Words("loss {task.fields[loss]:.3f}, {task.fields[rate]:,.0f} tokens/s")
    started, tokens = time.monotonic(), 0
    with Progress(*progress_bar().columns, told, console=console) as progress:
        bar = progress.add_task("tuning", total=row_steps, loss=float("nan"), rate=0.0)

        def report(done) -> None:
            nonlocal tokens
            tokens += done.tokens
            progress.update(bar, advance=done.row_steps, loss=done.loss, rate=tokens / (time.monotonic() - started))

        try:
            yield report
        except KeyboardInterrupt:
            progress.stop()
            console.print(f"stopped; {kept} keeps what is done: run the same command again to go on", soft_wrap=True)
            raise

"""What the commands share: options that are checked where they are declared, folders, refusals in one sentence."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nvcim_jax import interrupts
from nvcim_jax.cli.progress import progress_bar as progress_bar
from nvcim_jax.cli.progress import tuning_bar as tuning_bar
from nvcim_jax.cli.terminal import Terminal, plain
from nvcim_jax.files import as_json

if TYPE_CHECKING:  # JAX takes its time: commands import it where they need it
    from nvcim_jax.hardware.devices import Device
    from nvcim_jax.llm.weights import Model as LoadedModel
    from nvcim_jax.pipeline.presets import Settings

console = Terminal()  # of tables and texts; with --json it writes to stderr
_new: list[Path] = []  # folders that `prepare` made; those that are still empty at the end are removed
LONGEST = 2000  # characters of an error that are shown
EMBEDDED = str(Path(__file__).parents[1] / "data" / "toy" / "model")


def number(kind: type, low: float, high: float) -> Callable[[Any], Any]:
    """A parser of options that are a `kind` (int or float) from `low` to `high`, so finite."""

    def parse(given: Any) -> Any:
        try:
            value = kind(given)
        except (ValueError, OverflowError):
            value = float("nan")
        if not low <= value <= high:
            word = "whole number" if kind is int else "number"
            raise typer.BadParameter(f"{str(given)[:60]!r}: a {word} from {low} to {high} is needed")
        return value

    return parse


def numbers(option: str, text: str, parse: Callable[[Any], Any], needed: str) -> tuple[Any, ...]:
    """The numbers with commas between them in the `text` of an option. ValueError says what is `needed` instead."""
    try:
        return tuple(map(parse, text.split(",")))
    except typer.BadParameter as error:
        raise ValueError(f"{option} {text[:60]!r}: {needed}") from error


def path(given: Any) -> Path:
    """A parser of options that are a path: `~` is the home folder, and an empty one is refused."""
    if not str(given).strip():
        raise typer.BadParameter("the path is empty: give the name of a file or folder")
    if "\0" in str(given):
        raise typer.BadParameter(f"{str(given)[:60]!r}: a path holds no null character")
    try:
        return Path(given).expanduser()
    except RuntimeError as error:
        raise typer.BadParameter(f"{given}: there is no such user, so no home folder: write the path out") from error


def model_name(given: Any) -> str:
    """A parser of --model: a hub name stays as it is."""
    return str(path(given)) if not str(given).strip() or str(given).startswith("~") else str(given)


def device_name(given: Any) -> str:
    """A parser of --device: the name of a known device, or like `path` the .toml file of one's own."""
    return str(path(given)) if str(given).endswith(".toml") else str(given)


Model = Annotated[
    str,
    typer.Option(
        "--model", parser=model_name, metavar="FOLDER",
        help="Folder or hub name of a Hugging Face checkpoint, or a .gguf file.", show_default="embedded",
    ),
]  # fmt: skip
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="How weights are held: float32, bfloat16 (as most checkpoints are: half the memory, answers alike) or "
        "packed (GPTQ words and GGUF's blocks of 4 bits as they are: least memory, slower).",
        show_default="float32 on a CPU, else bfloat16",
    ),
]
MemorySize = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="What the program may take, such as 6GB. With little, tuning computes activations again: slower, the same "
        "bits.",
        show_default="half of what is free",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data", parser=path, metavar="FOLDER",
        help="Folder with LaMP's *_questions.json.", show_default="embedded world",
    ),
]  # fmt: skip
BankFolder = Annotated[
    Path, typer.Argument(parser=path, metavar="BANK", help="A folder written by learn or run.", show_default=False)
]
DeviceName = Annotated[
    str,
    typer.Option(
        "--device", parser=device_name, metavar="NAME",
        help="NVM-1 to NVM-5 (Table II), or the .toml file of your own.",
    ),
]  # fmt: skip
DeviceNames = Annotated[
    list[str] | None,
    typer.Option(
        "--device", parser=device_name, metavar="NAME", show_default="all five",
        help="NVM-1 to NVM-5 (Table II), or the .toml file of your own; may be repeated.",
    ),
]  # fmt: skip
Sigma = Annotated[
    float,
    typer.Option(
        "--sigma", parser=number(float, 0, 10), metavar="0..10", help="Device variation; the paper's default is 0.1."
    ),
]
# 32 bits: of a longer seed JAX would take the lower half, and two seeds would give one result.
Seed = Annotated[
    int,
    typer.Option(
        "--seed", parser=number(int, 0, 2**32 - 1), metavar="INTEGER", help="The same seed gives the same result."
    ),
]
Preset = Annotated[str, typer.Option("--preset", help="paper-literal, paper, or recommended, for the model at hand.")]
Mitigation = Annotated[
    str | None,
    typer.Option(
        "--mitigation",
        help="Write OVTs cell by cell, with none, swv, cxdnn or correctnet.",
        show_default="one Gaussian a value",
    ),
]
Budget = Annotated[
    float,
    typer.Option(
        "--budget",
        parser=number(float, 1, 1000),
        metavar="1..1000",
        help="Pulses per cell that --mitigation swv may spend.",
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option(
        "--seconds", parser=number(float, 1, 1e12), metavar="1..1e12",
        help="Read the arrays this long after they were programmed; OVTs then lie in cells.",
        show_default="at once, as if time did nothing",
    ),
]  # fmt: skip
Compensation = Annotated[
    str,
    typer.Option(
        "--compensation",
        help="Of drift, with --seconds: none, global (one gain for an array), reference (from a column of known cells) "
        "or column (one gain for each).",
    ),
]
Refresh = Annotated[
    float | None,
    typer.Option(
        "--refresh", parser=number(float, 1, 1e12), metavar="SECONDS", help="Write the cells anew this often.",
        show_default="never",
    ),
]  # fmt: skip
Extrapolate = Annotated[
    bool,
    typer.Option(
        "--extrapolate", help="Ask devices beyond the sigma and the seconds for which they are known; outputs say so."
    ),
]
Hours = Annotated[
    float,
    typer.Option(
        "--hours", parser=number(float, 0, 1e6), metavar="HOURS",
        help="Refuse work that is estimated to take longer.",
    ),
]  # fmt: skip
MOST_HOURS = 48.0


def _json_wanted(wanted: bool) -> bool:
    console.stderr = wanted
    return wanted


Json = Annotated[
    bool,
    typer.Option(
        "--json", is_eager=True, callback=_json_wanted,
        help="Print the result as one JSON value; tables and remarks go to stderr.",
    ),
]  # fmt: skip


def print_json(value: Any) -> None:
    """Print one JSON value in one line."""
    Terminal().print(as_json(value), soft_wrap=True)


@contextmanager
def plain_errors() -> Iterator[None]:
    """One sentence and exit code 2 for what the user can mend; 130 for Ctrl-C. A bug keeps its traceback.

    A command that keeps something when it is interrupted adds a note to the KeyboardInterrupt. Warnings are one
    sentence, too.
    """
    stderr = Terminal(stderr=True)

    def say(label: str, colour: str, message: object) -> None:
        stderr.print(plain(label, colour), _sentence(message), soft_wrap=True)

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: say("warning:", "yellow", message)
        try:
            yield
        except KeyboardInterrupt as stop:
            say("interrupted:", "yellow", "; ".join(getattr(stop, "__notes__", ["nothing was saved"])))
            raise SystemExit(130) from None
        except Exception as error:
            if interrupts.asked():  # and a library made it an error of its own
                say("interrupted:", "yellow", "nothing more was saved")
                raise SystemExit(130) from None
            if isinstance(error, BrokenPipeError) or not isinstance(error, ValueError | OSError):
                raise  # typer ends quietly where nobody reads on, as after `| head`
            say("error:", "red", error)
            raise SystemExit(2) from None
        finally:
            _remove_empty()


def _remove_empty() -> None:
    while _new:
        with suppress(OSError):  # it holds something by now
            _new.pop().rmdir()


interrupts.before_the_end(_remove_empty)


def _sentence(message: object) -> str:
    """What a message says; the middle of a very long one, such as one that quotes its input, is left out."""
    said = str(message) or type(message).__name__
    return said if len(said) <= LONGEST else f"{said[: LONGEST // 2]} ... {said[-LONGEST // 2 :]}"


def load(model: str, weights: str | None, memory_size: str | None) -> "LoadedModel":
    """The model called `model`, its weights held as --weights says, in a process that may take --memory."""
    from nvcim_jax.cli.cache import keep_programs
    from nvcim_jax.pipeline.model import load_model

    if weights not in (None, "float32", "bfloat16", "packed"):
        raise ValueError(f"--weights {weights}: choose float32, bfloat16 or packed")
    keep_programs()
    is_packed = weights == "packed"
    with console.status(f"loading {model}"):
        return load_model(
            model, dtype=None if is_packed else weights, dequantise="lazy" if is_packed else "load", memory=memory_size
        )


def mitigating(
    settings: "Settings",
    mitigation: str | None,
    budget: float,
    *,
    seconds: object = None,
    compensation: str = "none",
    refresh: float | None = None,
) -> "Settings":
    """`settings` whose OVTs are written with a mitigation, where one is asked for, and kept against time.

    With `seconds` they lie in cells, whatever the mitigation. ValueError for an unknown name, and for a compensation or
    a refresh without `seconds`.
    """
    from nvcim_jax.pipeline.presets import mitigated

    if seconds is None and (compensation != "none" or refresh is not None):
        raise ValueError("--compensation and --refresh do something about time: give --seconds, too")
    if mitigation is None and seconds is None:
        return settings
    how = {"budget": budget, "compensation": compensation, "refresh": refresh}
    return mitigated(settings, "none" if mitigation is None else mitigation, **how)


def checked_device(name: str, sigma: float, seconds: float | None = None, *, extrapolate: bool = False) -> "Device":
    """The device called `name`; one that is not of Table II is refused at a sigma that its source does not cover, and
    every one at such `seconds`, unless figures may be extrapolated. What is said of them all the same is printed.
    """
    from nvcim_jax.hardware import catalogue

    sheet, times = catalogue.sheet(name), () if seconds is None else (seconds,)
    if not extrapolate:
        inside = sheet.own_sigma if name in catalogue.RATIOS else sigma
        sheet.check(sigma=inside, seconds=seconds)
    for remark in catalogue.remarks([(sheet, [sigma])], times):
        console.print(remark, soft_wrap=True)
    return sheet.device


def prepare(out: Path | None, *results: str) -> None:
    """Make the folder `out`, and find out now, not after the work, whether it can be written.

    `results` are the names or patterns of what the command will write there; "*" is for a folder that is the result
    itself. ValueError if one is there already: no command overwrites anything. A folder in which nothing is written
    after all is removed again.
    """
    if out is None:
        return
    try:
        missing = [folder for folder in (out, *out.parents) if not folder.exists()]
        out.mkdir(parents=True, exist_ok=True)
        _new.extend(reversed(missing))
        with tempfile.TemporaryFile(dir=out):
            pass
        there = sorted({found.name for pattern in results for found in out.glob(pattern)})
    except OSError as error:
        raise ValueError(f"--out {out} cannot be written ({error.strerror}): choose another folder") from error
    if there:
        more = f" and {len(there) - 1} more" if there[1:] else ""
        raise ValueError(
            f"--out {out} exists already and holds {there[0]}{more}: choose another folder, or remove it first"
        )


def announce(seconds: float, hours: float, what: str) -> None:
    """Say beforehand how long the work is estimated to take. ValueError if that is more than `hours`."""
    if seconds > 3600 * hours:
        raise ValueError(
            f"{what} would take {duration(seconds)} on this machine: ask for less, or allow more than {hours:g} hours "
            "with --hours"
        )
    if seconds > 60:
        Terminal(stderr=True).print(f"{what}: {duration(seconds)} of work", soft_wrap=True)


def duration(seconds: float) -> str:
    """An estimate in words, such as "about 3 hours"."""
    units = (("years", 365 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60))
    name, size = next(((name, size) for name, size in units if seconds >= 2 * size), ("seconds", 1))
    return f"about {seconds / size:,.0f} {name}"

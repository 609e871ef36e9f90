"""What commands on a saved bank share: opening it, the terms under which it is asked, what is printed of it."""

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.table import Table

from nvcim_jax.cli.shared import checked_device, console, device_name, load, number
from nvcim_jax.cli.terminal import plain
from nvcim_jax.people import Sample

if TYPE_CHECKING:
    from nvcim_jax.memory.storage.about import About

OF_BANK = "the bank's"

UserNumber = Annotated[
    int,
    typer.Option("--user", parser=number(int, 0, 10**9), metavar="INTEGER", help="Which user of the bank, from 0 on."),
]
BanksDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        parser=device_name,
        metavar="NAME",
        show_default=OF_BANK,
        help="NVM-1 to NVM-5 (Table II), or the .toml file of your own.",
    ),
]
BanksSigma = Annotated[
    float | None,
    typer.Option(
        "--sigma", parser=number(float, 0, 10), metavar="0..10", show_default=OF_BANK, help="Device variation."
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        "--temperature", parser=number(float, 0, 100), metavar="0..100",
        help="0 takes the likeliest token; the paper draws at 0.1.",
    ),
]  # fmt: skip


class Terms(NamedTuple):
    """What a bank is asked under: what it was learned for, unless told otherwise."""

    device: str
    sigma: float
    preset: str
    condition: Any  # devices.Condition
    seconds: float | None = None


class Opened(NamedTuple):
    """A model, the memory in a bank, the user who is asked, and the terms."""

    model: Any  # llm.Model
    memory: Any  # pipeline.memory.Memory
    user: str
    terms: Terms


def open_bank(
    bank: Path,
    user: int,
    device: str | None,
    sigma: float | None,
    preset: str | None,
    model: str,
    weights: str | None,
    memory_size: str | None,
    *,
    seconds: float | None = None,
    extrapolate: bool = False,
) -> Opened:
    """Read a bank and its model. ValueError, as early as it can be known, for what cannot be asked."""
    from nvcim_jax.hardware import catalogue
    from nvcim_jax.pipeline import memory, presets

    chosen = None if preset is None else presets.preset(preset)  # a wrong name is told before a model is read
    if device is not None:
        catalogue.sheet(device)
    loaded = load(model, weights, memory_size)
    with console.status("reading the bank"):
        saved = memory.load(bank, loaded, settings=chosen)
    if user >= len(saved.users):
        raise ValueError(f"the bank holds users 0 to {len(saved.users) - 1}, not {user}")
    own = terms(saved.about, device, sigma, preset, seconds=seconds, extrapolate=extrapolate)
    return Opened(loaded, saved, saved.users[user].id, own)


def terms(
    about: "About",
    device: str | None,
    sigma: float | None,
    preset: str | None,
    *,
    seconds: float | None = None,
    extrapolate: bool = False,
) -> Terms:
    """ValueError for what neither the bank nor the options say, or say wrongly."""
    from nvcim_jax.hardware.devices import Condition

    if device is None and (about.device or "").endswith(".toml"):
        raise ValueError(f"the bank was learned for the device file {about.device}: give it with --device")
    device, sigma = about.device if device is None else device, about.sigma if sigma is None else sigma
    if device is None or sigma is None:
        raise ValueError("the bank does not say what device and sigma it was learned for: give --device and --sigma")
    if not 0 <= sigma <= 10:
        raise ValueError(f"the bank says that it was learned for sigma {sigma}: give --sigma, from 0 to 10")
    condition = Condition(checked_device(device, sigma, seconds, extrapolate=extrapolate), sigma, seconds)
    return Terms(device, sigma, preset or about.preset or "its settings", condition, seconds)


def show_ranking(ranking: Sequence[tuple[int, float]], samples: Sequence[Sample | None], terms: Terms) -> None:
    """What a search found, the best first: slots with their scores, and the samples that they were learned from."""
    later = "" if terms.seconds is None else f", {terms.seconds:g} s after programming"
    title = f"search on {terms.device}, sigma {terms.sigma}{later}, as {terms.preset} does"
    table = Table("", "score", "OVT learned from", "its answer", title=title)
    for at, (slot, score) in enumerate(ranking):
        sample = samples[slot]
        told = (sample.content, sample.answer) if sample else (f"slot {slot}", "")
        table.add_row("" if at else "->", f"{score:.3f}", *told)
    console.print(table)


def show_ovts(user: str, samples: Sequence[Sample | None]) -> None:
    """The samples that a user's OVTs were learned from, by slot."""
    table = Table("slot", "sample", "answer", title=f"the OVTs of user {user}")
    for slot, sample in enumerate(samples):
        if sample:
            table.add_row(str(slot), sample.content, sample.answer)
    console.print(table)


def show_stream(pieces: Iterable[str], style: str = "") -> str:
    """An answer, printed as its pieces come, its line breaks kept."""
    told = []
    for piece in pieces:
        console.print(plain(piece, style, keep="\n"), end="", soft_wrap=True)
        told.append(piece)
    console.print()
    return "".join(told)


def count_use(bank: Path, opened: Opened, slot: int) -> None:
    """Count that an OVT answered; where that cannot be, say why."""
    from nvcim_jax.memory.storage import store

    uncounted = store.count_uses(bank, opened.memory.version, opened.memory.at(opened.user), [slot])
    if uncounted:
        console.print(f"this use of the OVT is not counted: {uncounted}", style="yellow", soft_wrap=True)


def typed_lines() -> Iterator[str]:
    """Lines of standard input that say something, up to its end; shown, where no terminal shows them."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # bytes that are no text are refused line by line
    while sys.stdin is not None:
        is_seen = sys.stdin.isatty()
        try:
            line = input("> " if is_seen else "").strip()
        except EOFError:
            return
        if line and not is_seen:
            console.print(f"> {line}", soft_wrap=True)
        if line:
            yield line

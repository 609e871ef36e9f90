"""`nvcim chat`: one question after the other to a bank, what each answer came from, and corrections that are kept."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import typer

from nvcim_jax.cli.asking import (
    BanksDevice,
    BanksSigma,
    Opened,
    Temperature,
    UserNumber,
    count_use,
    open_bank,
    show_ranking,
    show_stream,
    typed_lines,
)
from nvcim_jax.cli.shared import EMBEDDED, BankFolder, MemorySize, Model, Seed, Weights, console, plain_errors

app = typer.Typer()
COMMANDS = "/why shows what was found, /fix TEXT keeps a better answer, /quit leaves"


class Moment(NamedTuple):
    """A question and what was found for it."""

    question: str
    found: Any  # pipeline.answer.Found
    samples: list  # of the slots


@app.command(epilog="Example:\n\n  nvcim chat out/bank")
def chat(
    bank: BankFolder,
    user: UserNumber = 0,
    device: BanksDevice = None,
    sigma: BanksSigma = None,
    temperature: Temperature = 0,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    weights: Weights = None,
    memory_size: MemorySize = None,
) -> None:
    """Talk to a saved bank. /why shows what was found, /fix TEXT keeps a better answer, /quit leaves.

    Ctrl-C stops an answer. Corrections go to BANK.corrections.jsonl, which `nvcim grow --history` puts into the bank.
    """
    with plain_errors():
        import jax

        opened = open_bank(bank, user, device, sigma, None, model, weights, memory_size)
        console.print(f"the bank of {opened.user}: {COMMANDS}", style="dim", soft_wrap=True)
        search_key, key = jax.random.split(jax.random.key(seed))  # the device is one and the same for all questions
        moment = None
        for line in typed_lines():
            word, _, rest = line.partition(" ")
            if word == "/quit":
                break
            if word == "/why":
                _why(moment, opened)
            elif word == "/fix":
                _fix(moment, rest.strip(), bank, opened)
            elif word.startswith("/"):
                console.print(f"{word} is no command: {COMMANDS}", style="yellow", soft_wrap=True)
            else:
                key, draw_key = jax.random.split(key)
                moment = _answer((search_key, draw_key), line, bank, opened, temperature)


def _answer(keys, question: str, bank: Path, opened: Opened, temperature: float) -> Moment | None:
    """Answer a question as its tokens come; None where it cannot be asked, or was stopped before anything was found."""
    from nvcim_jax import interrupts, llm, tuning
    from nvcim_jax.data import fields
    from nvcim_jax.pipeline import answer

    moment, is_whole = None, False
    try:
        asked = answer.asking(opened.memory, [fields.whole(question)], opened.user)
    except ValueError as error:
        console.print(str(error), style="red", soft_wrap=True)
        return None
    with interrupts.stopping():
        with console.status("searching"):
            (found,) = answer.find(keys[0], opened.model, asked, opened.terms.condition)
        moment = Moment(question, found, asked.block.selected.samples[0])
        front, room = tuning.Adapted(front=found.prompt[None]), answer.answer_room(opened.model, asked.users)
        pieces = answer.stream(
            keys[1], opened.model, asked.users[0].queries[0], front, new_tokens=room, wording=asked.settings.wording,
            sampling=llm.Sampling(temperature),
        )  # fmt: skip
        show_stream(pieces, "bold green")
        is_whole = True
    if not is_whole:
        console.print()
        console.print("stopped", style="yellow")
    if moment:
        _show_source(found)
        count_use(bank, opened, found.slot)
    return moment


def _show_source(found) -> None:
    named = f"slot {found.slot}" if found.sample is None else found.sample.content
    lead = f", leads by {found.margin:.3f}" if found.ranking[1:] else ""
    console.print(f"  from: {named} (score {found.score:.3f}{lead})", style="dim", soft_wrap=True)


def _why(moment: Moment | None, opened: Opened) -> None:
    if moment is None:
        console.print("nothing was asked yet: ask first", style="yellow")
        return
    show_ranking(moment.found.ranking, moment.samples, opened.terms)
    sample = moment.found.sample
    if sample:
        console.print(f"question: {sample.question}", soft_wrap=True)
        console.print(f"answer:   {sample.answer}", soft_wrap=True)


def _fix(moment: Moment | None, text: str, bank: Path, opened: Opened) -> None:
    """Keep the person's own answer to the last question, in the form that `read_history` reads."""
    from nvcim_jax import files
    from nvcim_jax.data import fields

    if moment is None or not text:
        console.print("nothing is kept: ask first, then /fix with the answer you want", style="yellow")
        return
    kept = _corrections(bank)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        said = {"user": opened.user, "time": now, "question": moment.question, "answer": fields.whole(text)}
        files.append_line(kept, files.as_json(said))
    except (ValueError, OSError) as error:
        console.print(f"nothing is kept: {error}", style="red", soft_wrap=True)
        return
    console.print(
        f"kept in {kept}: nvcim grow puts it into the bank, with --history {kept}", style="dim", soft_wrap=True
    )


def _corrections(bank: Path) -> Path:
    """Beside the bank, as the bank's path was given: absolute or not."""
    beside = f"{bank.resolve()}.corrections.jsonl"
    return Path(beside if bank.is_absolute() else os.path.relpath(beside))

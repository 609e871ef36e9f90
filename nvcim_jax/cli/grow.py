"""`nvcim grow`: new samples of a person, or the corrections of a chat, into a bank that is there."""

from pathlib import Path
from typing import Annotated

import typer

from nvcim_jax.cli.asking import BanksDevice, BanksSigma, UserNumber, open_bank, show_ovts
from nvcim_jax.cli.shared import (
    EMBEDDED,
    BankFolder,
    Json,
    MemorySize,
    Model,
    Seed,
    Weights,
    console,
    path,
    plain_errors,
    print_json,
    tuning_bar,
)
from nvcim_jax.cli.sources import Column, source, user_in

app = typer.Typer()


@app.command(epilog="Example:\n\n  nvcim grow out/bank --history out/bank.corrections.jsonl")
def grow(
    bank: BankFolder,
    history: Annotated[
        list[Path],
        typer.Option(
            parser=path,
            metavar="PATH",
            help="New questions with their answers, as --history of learn reads them; may be repeated.",
        ),
    ],
    column: Column = None,
    user: UserNumber = 0,
    evict: Annotated[
        str,
        typer.Option(
            help="What makes room in a full bank: the oldest OVT, the least-used, the oldest of the fullest-domain, "
            "the older of the two most alike (redundant), or none: the bank then gets more slots."
        ),
    ] = "oldest",
    device: BanksDevice = None,
    sigma: BanksSigma = None,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    weights: Weights = None,
    memory_size: MemorySize = None,
    json: Json = False,
) -> None:
    """Tune an OVT for every new sample of one user and put it into the user's bank.

    An OVT of the same question is replaced; the others stay as they are.
    """
    with plain_errors():
        import jax

        from nvcim_jax import interrupts
        from nvcim_jax.memory import bank as banks
        from nvcim_jax.pipeline import answer, memory
        from nvcim_jax.pipeline.grow import fill, make_room

        rules = {**banks.VICTIMS, "none": None}
        if evict not in rules:
            raise ValueError(f"--evict {evict}: choose one of {', '.join(rules)}")
        where = source(None, None, history, column)
        opened = open_bank(bank, user, device, sigma, None, model, weights, memory_size)
        with console.status("reading the samples"):
            told = user_in(where, opened.user).history
        samples = [
            answer.question(opened.memory.task, each.question)._replace(answer=each.answer, domain=each.domain)
            for each in told
        ]
        growing = make_room(opened.memory, samples, opened.user, victim=rules[evict])
        key = jax.random.fold_in(jax.random.key(seed), opened.memory.version)  # the next time another
        steps = opened.memory.settings.steps(len(growing.samples))
        with interrupts.caught(), tuning_bar(steps) as report:
            grown = fill(key, opened.model, growing, opened.terms.device, sigma=opened.terms.sigma, report=report)
            saved = memory.save(bank, grown)
        held = saved.block.selected.samples[growing.at]
        show_ovts(opened.user, held)
        replaced = int(opened.memory.bank.count[growing.at]) - int(growing.memory.bank.count[growing.at])
        console.print(f"{len(samples)} new, {replaced} made room: version {saved.version} of {bank}", soft_wrap=True)
        if json:
            ovts = [{"content": sample.content, "answer": sample.answer} for sample in held if sample]
            print_json({
                "bank": str(bank), "version": saved.version, "user": opened.user, "ovts": ovts, "made_room": replaced,
            })  # fmt: skip

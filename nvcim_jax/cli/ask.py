"""`nvcim ask`: a saved bank and a question."""

from typing import Annotated, Any, NamedTuple

import typer
from rich.table import Table

from nvcim_jax.cli.shared import (
    EMBEDDED,
    BankFolder,
    Budget,
    Json,
    Mitigation,
    Model,
    Seed,
    Weights,
    checked_device,
    console,
    device_name,
    load,
    mitigating,
    number,
    plain_errors,
    print_json,
)
from nvcim_jax.cli.terminal import plain

app = typer.Typer()
OF_BANK = "the bank's"


class Terms(NamedTuple):
    """What a bank is asked under: what it was learned for, unless told otherwise."""

    device: str
    sigma: float
    preset: str
    condition: Any  # devices.Condition


@app.command(
    epilog='Examples:\n\n  nvcim ask out/bank "She kneaded the crusty dough and the sweet loaf"\n\n'
    '  nvcim ask out/bank "She kneaded the crusty dough" --device NVM-5 --sigma 0.3 --json'
)
def ask(
    bank: BankFolder,
    question: Annotated[str, typer.Argument(help="A whole LaMP question, or only its content.", show_default=False)],
    user: Annotated[
        int,
        typer.Option(parser=number(int, 0, 10**9), metavar="INTEGER", help="Which user of the bank, counted from 0."),
    ] = 0,
    device: Annotated[
        str | None,
        typer.Option(
            parser=device_name,
            metavar="NAME",
            show_default=OF_BANK,
            help="NVM-1 to NVM-5 (Table II), or the .toml file of your own.",
        ),
    ] = None,
    sigma: Annotated[
        float | None,
        typer.Option(parser=number(float, 0, 10), metavar="0..10", show_default=OF_BANK, help="Device variation."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(show_default=OF_BANK, help="Search as paper-literal, paper or recommended does.")
    ] = None,
    mitigation: Mitigation = None,
    budget: Budget = 1.2,
    temperature: Annotated[
        float,
        typer.Option(
            parser=number(float, 0, 100), metavar="0..100", help="0 takes the likeliest token; the paper draws at 0.1."
        ),
    ] = 0,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    weights: Weights = None,
    json: Json = False,
) -> None:
    """Search a saved bank for a question and answer it with the OVT found, and without."""
    with plain_errors():
        import jax

        from nvcim_jax.hardware import catalogue
        from nvcim_jax.memory.storage import store
        from nvcim_jax.pipeline import answer, memory, presets

        if not question.strip():
            raise ValueError("the question is empty: ask something")
        chosen = None if preset is None else presets.preset(preset)  # a wrong name is told before a model is read
        mitigating(presets.RECOMMENDED, mitigation, budget)
        if device is not None:
            catalogue.sheet(device)
        loaded = load(model, weights)
        with console.status("reading the bank"):
            saved = memory.load(bank, loaded, settings=chosen)
        if user >= len(saved.users):
            raise ValueError(f"the bank holds users 0 to {len(saved.users) - 1}, not {user}")
        terms = _terms(saved.about, device, sigma, preset)
        saved = saved._replace(settings=mitigating(saved.settings, mitigation, budget))
        search_key, *answer_keys = jax.random.split(jax.random.key(seed), 3)
        with console.status("searching"):
            asked = answer.asking(saved, [question], saved.users[user].id)
            (found,) = answer.find(search_key, loaded, asked, terms.condition)
        samples = asked.block.selected.samples[0]
        _show(found, samples, terms)
        answers = _answer(answer_keys, loaded, asked, found.prompt, temperature)
        uncounted = store.count_uses(bank, saved.version, user, [found.slot])
        if uncounted:
            console.print(f"this use of the OVT is not counted: {uncounted}", style="yellow", soft_wrap=True)
        if json:
            print_json({
                "question": asked.users[0].queries[0].content, "user": asked.users[0].id, "device": terms.device,
                "sigma": terms.sigma, "preset": terms.preset, "mitigation": mitigation, "margin": found.margin,
                "with_ovt": answers[0], "without": answers[1],
                "found": [_described(samples[at], at, score) for at, score in found.ranking],
            })  # fmt: skip


def _terms(about, device: str | None, sigma: float | None, preset: str | None) -> Terms:
    """ValueError for what neither the bank nor the options say, or say wrongly."""
    from nvcim_jax.hardware.devices import Condition

    if device is None and (about.device or "").endswith(".toml"):
        raise ValueError(f"the bank was learned for the device file {about.device}: give it with --device")
    device, sigma = about.device if device is None else device, about.sigma if sigma is None else sigma
    if device is None or sigma is None:
        raise ValueError("the bank does not say what device and sigma it was learned for: give --device and --sigma")
    if not 0 <= sigma <= 10:
        raise ValueError(f"the bank says that it was learned for sigma {sigma}: give --sigma, from 0 to 10")
    condition = Condition(checked_device(device, sigma), sigma)
    return Terms(device, sigma, preset or about.preset, condition)


def _described(sample, slot: int, score: float) -> dict:
    return {"slot": slot, "score": score, "content": sample and sample.content, "answer": sample and sample.answer}


def _show(found, samples, terms: Terms) -> None:
    title = f"search on {terms.device}, sigma {terms.sigma}, as {terms.preset} does"
    table = Table("", "score", "OVT learned from", "its answer", title=title)
    for at, (slot, score) in enumerate(found.ranking):
        sample = samples[slot]
        told = (sample.content, sample.answer) if sample else (f"slot {slot}", "")
        table.add_row("" if at else "->", f"{score:.3f}", *told)
    console.print(table)


def _answer(keys, model, asked, prompt, temperature: float) -> list[str]:
    """Both answers, printed as their tokens come: behind the virtual tokens, and without them."""
    from nvcim_jax import llm, tuning
    from nvcim_jax.pipeline.answer import answer_room, stream

    (person,), front = asked.users, tuning.Adapted(front=prompt[None])
    how = {"new_tokens": answer_room(model, [person]), "wording": asked.settings.wording}
    how |= {"sampling": llm.Sampling(temperature)}
    answers = []
    for key, alone in zip(keys, (False, True), strict=True):
        console.print("without:       " if alone else "with the OVT:  ", end="")
        told = []
        for piece in stream(key, model, person.queries[0], front, alone=alone, **how):
            console.print(plain(piece, "" if alone else "bold green", keep="\n"), end="", soft_wrap=True)
            told.append(piece)
        console.print()
        answers.append("".join(told))
    return answers

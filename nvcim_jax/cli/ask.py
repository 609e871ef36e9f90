"""`nvcim ask`: a saved bank and a question."""

from typing import Annotated, Any, NamedTuple

import typer
from rich.table import Table

from nvcim_jax.cli.shared import (
    EMBEDDED,
    BankFolder,
    Json,
    Model,
    Seed,
    Weights,
    checked_device,
    console,
    device_name,
    load,
    number,
    plain_errors,
    print_json,
)
from nvcim_jax.terminal import plain

app = typer.Typer()
OF_BANK = "the bank's"


class Terms(NamedTuple):
    """What a bank is asked under: what it was learned for, unless told otherwise."""

    device: str
    sigma: float
    preset: str
    physics: Any  # devices.Device


class Found(NamedTuple):
    """The OVTs of a user by score, the best first, and what reading the best one back gave."""

    slots: list[int]
    scores: list[float]
    prompt: Any  # [1, tokens, dim]


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

        from nvcim_jax import devices, store

        if not question.strip():
            raise ValueError("the question is empty: ask something")
        if device is not None:
            devices.sheet(device)  # a wrong name is told before a model is read
        loaded = load(model, weights)
        with console.status("reading the bank"):
            saved = store.load(bank, model=loaded).for_questions(preset)
        terms = _terms(saved.about, device, sigma, preset)
        person, samples = _person(saved, user, question)
        search_key, *answer_keys = jax.random.split(jax.random.key(seed), 3)
        with console.status("searching"):
            found = _search(search_key, loaded, saved, user, person, terms)
        _show(found, samples, terms)
        answers = _answer(answer_keys, loaded, person, found.prompt, temperature)
        uncounted = store.count_uses(bank, saved.version, user, found.slots[:1])
        if uncounted:
            console.print(f"this use of the OVT is not counted: {uncounted}", style="yellow", soft_wrap=True)
        if json:
            print_json({
                "question": person.queries[0].content, "user": person.id, "device": terms.device, "sigma": terms.sigma,
                "preset": terms.preset, "with_ovt": answers[0], "without": answers[1],
                "found": [_described(samples[at], at, score) for at, score in zip(*found[:2], strict=True)],
            })  # fmt: skip


def _terms(about, device: str | None, sigma: float | None, preset: str | None) -> Terms:
    """ValueError for what neither the bank nor the options say, or say wrongly."""
    from nvcim_jax.presets import PRESETS

    if device is None and (about.device or "").endswith(".toml"):
        raise ValueError(f"the bank was learned for the device file {about.device}: give it with --device")
    device, preset = about.device if device is None else device, about.preset if preset is None else preset
    sigma = about.sigma if sigma is None else sigma
    if device is None or sigma is None:
        raise ValueError("the bank does not say what device and sigma it was learned for: give --device and --sigma")
    if not 0 <= sigma <= 10:
        raise ValueError(f"the bank says that it was learned for sigma {sigma}: give --sigma, from 0 to 10")
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    return Terms(device, sigma, preset, checked_device(device, sigma))


def _person(saved, user: int, question: str):
    """The user with the question as a query, and the sample of every slot, None where it is unknown."""
    from nvcim_jax import lamp

    about = saved.about
    if user >= len(about.users):
        raise ValueError(f"the bank holds users 0 to {len(about.users) - 1}, not {user}")
    if not int(saved.bank.count[user]):
        raise ValueError(f"the bank of user {user} is empty: learn its OVTs again with `nvcim learn`")
    task = lamp.task(about.task)
    whole = question if question.startswith(task.pieces[0]) else lamp.ask(task, question)
    samples = about.of_slots(saved.bank)[user]
    query = lamp.Sample(whole, "", lamp.content(task, whole))
    if not query.content.strip():
        raise ValueError(f"the question holds the words of {task.name} and nothing more: ask something")
    return lamp.User(about.users[user], tuple(filter(None, samples)), (query,)), samples


def _search(key, model, saved, user: int, person, terms: Terms) -> Found:
    import jax
    import numpy as np

    from nvcim_jax import pipeline, programs
    from nvcim_jax.presets import PRESETS

    settings = PRESETS[terms.preset]
    # Cut by NumPy: JAX would compile a program for every shape.
    own = jax.tree.map(lambda leaf: np.asarray(leaf)[user : user + 1], pipeline.Learned(saved.codec, saved.bank))
    banks = pipeline.program(key, [person], own, terms.physics, sigma=terms.sigma, settings=settings, draws=1)
    match = jax.tree.map(np.asarray, pipeline.search(model, [person], own, banks, settings=settings))
    prompt = np.asarray(programs.prompts_of(own.codec, match.prompt[:, 0]))[0]
    scores = match.scores[0, 0, 0]
    slots = [int(slot) for slot in np.argsort(-scores, kind="stable") if np.isfinite(scores[slot])]
    best = int(match.index[0, 0, 0])
    slots = [best, *(slot for slot in slots if slot != best)]
    return Found(slots, [float(scores[slot]) for slot in slots], prompt)


def _described(sample, slot: int, score: float) -> dict:
    return {"slot": slot, "score": score, "content": sample and sample.content, "answer": sample and sample.answer}


def _show(found: Found, samples, terms: Terms) -> None:
    title = f"search on {terms.device}, sigma {terms.sigma}, as {terms.preset} does"
    table = Table("", "score", "OVT learned from", "its answer", title=title)
    for at, (slot, score) in enumerate(zip(found.slots, found.scores, strict=True)):
        sample = samples[slot]
        told = (sample.content, sample.answer) if sample else (f"slot {slot}", "")
        table.add_row("" if at else "->", f"{score:.3f}", *told)
    console.print(table)


def _answer(keys, model, person, prompt, temperature: float) -> list[str]:
    """Both answers, printed as their tokens come: behind the virtual tokens, and without them."""
    from nvcim_jax import llm, reply, study, tuning

    room = study.answer_room(model, [person]) if person.history else study.MOST_NEW_TOKENS
    answers = []
    for key, alone in zip(keys, (False, True), strict=True):
        console.print("without:       " if alone else "with the OVT:  ", end="")
        told = []
        for piece in reply.tell(
            model, person.queries[0], tuning.Adapted(front=prompt), new_tokens=room,
            sampling=llm.Sampling(temperature), key=key, alone=alone,
        ):  # fmt: skip
            console.print(plain(piece, "" if alone else "bold green", keep="\n"), end="", soft_wrap=True)
            told.append(piece)
        console.print()
        answers.append("".join(told))
    return answers

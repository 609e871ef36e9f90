"""`nvcim ask`: a saved bank and a question."""

from typing import Annotated

import typer

from nvcim_jax.cli.asking import (
    OF_BANK,
    BanksDevice,
    BanksSigma,
    Temperature,
    UserNumber,
    count_use,
    open_bank,
    show_ranking,
    show_stream,
)
from nvcim_jax.cli.shared import (
    EMBEDDED,
    BankFolder,
    Budget,
    Compensation,
    Extrapolate,
    Json,
    MemorySize,
    Mitigation,
    Model,
    Refresh,
    Seconds,
    Seed,
    Weights,
    console,
    mitigating,
    plain_errors,
    print_json,
)

app = typer.Typer()


@app.command(
    epilog='Examples:\n\n  nvcim ask out/bank "She kneaded the crusty dough and the sweet loaf"\n\n'
    '  nvcim ask out/bank "She kneaded the crusty dough" --device NVM-5 --sigma 0.3 --json\n\n'
    '  nvcim ask out/bank "She kneaded the crusty dough" --device PCM-Joshi --sigma 1 --seconds 86400'
)
def ask(
    bank: BankFolder,
    question: Annotated[str, typer.Argument(help="A whole LaMP question, or only its content.", show_default=False)],
    user: UserNumber = 0,
    device: BanksDevice = None,
    sigma: BanksSigma = None,
    preset: Annotated[
        str | None, typer.Option(show_default=OF_BANK, help="Search as paper-literal, paper or recommended does.")
    ] = None,
    mitigation: Mitigation = None,
    budget: Budget = 1.2,
    seconds: Seconds = None,
    compensation: Compensation = "none",
    refresh: Refresh = None,
    extrapolate: Extrapolate = False,
    temperature: Temperature = 0,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    weights: Weights = None,
    memory_size: MemorySize = None,
    json: Json = False,
) -> None:
    """Search a saved bank for a question and answer it with the OVT found, and without."""
    with plain_errors():
        import jax

        from nvcim_jax.pipeline import answer, presets

        if not question.strip():
            raise ValueError("the question is empty: ask something")
        upkeep = {"seconds": seconds, "compensation": compensation, "refresh": refresh}
        mitigating(presets.RECOMMENDED, mitigation, budget, **upkeep)  # a wrong name is told before a model is read
        opened = open_bank(
            bank, user, device, sigma, preset, model, weights, memory_size, seconds=seconds, extrapolate=extrapolate
        )
        terms, saved = opened.terms, opened.memory
        saved = saved._replace(settings=mitigating(saved.settings, mitigation, budget, **upkeep))
        search_key, *answer_keys = jax.random.split(jax.random.key(seed), 3)
        with console.status("searching"):
            asked = answer.asking(saved, [question], opened.user)
            (found,) = answer.find(search_key, opened.model, asked, terms.condition)
        samples = asked.block.selected.samples[0]
        show_ranking(found.ranking, samples, terms)
        answers = _answer(answer_keys, opened.model, asked, found.prompt, temperature)
        count_use(bank, opened, found.slot)
        if json:
            print_json({
                "question": asked.users[0].queries[0].content, "user": asked.users[0].id, "device": terms.device,
                "sigma": terms.sigma, "preset": terms.preset, "mitigation": mitigation, **upkeep,
                "margin": found.margin, "with_ovt": answers[0], "without": answers[1],
                "found": [_described(samples[at], at, score) for at, score in found.ranking],
            })  # fmt: skip


def _described(sample, slot: int, score: float) -> dict:
    return {"slot": slot, "score": score, "content": sample and sample.content, "answer": sample and sample.answer}


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
        pieces = stream(key, model, person.queries[0], front, alone=alone, **how)
        answers.append(show_stream(pieces, "" if alone else "bold green"))
    return answers

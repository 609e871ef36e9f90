"""`nvcim rag`: a person's documents in noisy arrays, found for a question and put before it."""

from collections.abc import Callable
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.table import Table

from nvcim_jax.cli.asking import BanksDevice, BanksSigma, Temperature, UserNumber, show_stream
from nvcim_jax.cli.learn import resumable
from nvcim_jax.cli.progress import Bar
from nvcim_jax.cli.shared import (
    EMBEDDED,
    BankFolder,
    Budget,
    Data,
    DeviceName,
    Json,
    MemorySize,
    Mitigation,
    Model,
    Seed,
    Sigma,
    Weights,
    checked_device,
    console,
    load,
    mitigating,
    model_name,
    number,
    path,
    plain_errors,
    prepare,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from nvcim_jax.documents.encoder import Encoder as TextEncoder
    from nvcim_jax.documents.learn import Settings

app = typer.Typer(no_args_is_help=True, help="Documents in noisy arrays: learn them, ask them, vary the device.")
Encoder = Annotated[
    str | None,
    typer.Option(
        "--encoder", parser=model_name, metavar="FOLDER", show_default="mean token embeddings of the embedded model",
        help="Folder of a sentence encoder (MiniLM, bge-small, e5-small).",
    ),
]  # fmt: skip
Texts = Annotated[
    Path | None,
    typer.Option(
        "--texts", parser=path, metavar="PATH", show_default="none",
        help="Your own documents: a folder of .txt and .md files, or lines of JSON with `text`.",
    ),
]  # fmt: skip
Count = Annotated[
    int, typer.Option("--k", parser=number(int, 1, 1000), metavar="INTEGER", help="Documents per question.")
]
SHOWN = 160  # characters of a document in a table


class Opened(NamedTuple):
    """An encoder, the memory of documents, the user who is asked, and under what condition."""

    encoder: Any  # documents.encoder.Encoder
    memory: Any  # documents.memory.Documents
    user: str
    condition: Any  # devices.Condition
    device: str
    sigma: float


@app.command(
    epilog="Examples:\n\n  nvcim rag learn --texts notes --out out/notes\n\n  nvcim rag learn --task LaMP-5 --data "
    "LaMP_5_acl --encoder all-MiniLM-L6-v2 --out out/papers"
)
def learn(
    out: Annotated[
        Path, typer.Option(parser=path, metavar="FOLDER", help="Where to keep the memory; nothing may be there.")
    ],
    task: Annotated[
        str | None, typer.Option("--task", help="Of LaMP's files or the embedded world.", show_default="LaMP-2")
    ] = None,
    users: Annotated[
        int, typer.Option(parser=number(int, 1, 10**6), metavar="INTEGER", help="Of how many people, at most.")
    ] = 1,
    encoder: Encoder = None,
    codec: Annotated[
        str | None,
        typer.Option(
            help="whole, first, random, pca, autoencoder or mlp.", show_default="whole with --encoder, else pca"
        ),
    ] = None,
    dim: Annotated[
        int | None,
        typer.Option(
            parser=number(int, 1, 4096),
            metavar="INTEGER",
            help="Dimensions that are stored.",
            show_default="all with --encoder, else 64",
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            parser=number(int, 1, 16),
            metavar="1..16",
            help="Of each stored value.",
            show_default="2 with --encoder, else 8",
        ),
    ] = None,
    peak: Annotated[
        str, typer.Option(help="What shares one largest value: each vector, or all that lies in an array.")
    ] = "vector",
    training: Annotated[
        str | None,
        typer.Option(help="none, cde, cdi, infonce or hinge.", show_default="none with --encoder, else hinge"),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(parser=number(int, 1, 10**6), metavar="INTEGER", show_default="300; 625 for cde and cdi"),
    ] = None,
    device: DeviceName = "NVM-3",
    sigma: Sigma = 0.1,
    seed: Seed = 0,
    data: Data = None,
    given: Texts = None,
    json: Json = False,
) -> None:
    """Learn to find people's documents again, in arrays of a noisy device, and save them."""
    with plain_errors():
        import jax

        from nvcim_jax.documents import codecs, memory, stored
        from nvcim_jax.documents import learn as learning
        from nvcim_jax.documents import training as trainings
        from nvcim_jax.provenance import provenance

        trainings.recipe(training or "none")  # wrong names are told before anything is read
        codecs.fit(codec or "pca", dim or 64)
        stored.Format(peak=peak)
        checked_device(device, sigma)
        prepare(out, "*")
        provenance()  # of now, not of the end
        with console.status("reading the documents"):
            people = _people(task, data, given, users)
        made = made_encoder(encoder)
        settings = _settings(learning.recommended(made), codec, dim, bits, peak, training, steps)
        recipe = settings.recipe
        with resumable(out) as unfinished, progress_bar() as bar:
            told = encoding(bar)
            how = {"sigma": sigma, "settings": settings, "folder": unfinished, "report_texts": told}
            if recipe:
                work = bar.add_task("training the projection", total=recipe.steps)
                how["report"] = partial(bar.advance, work)
            learned = learning.learn_documents(jax.random.key(seed), made, people, device, **how)
            memory.save_documents(out, learned.noted(seed=seed, encoder=encoder or "embedded"))
        _tell(out, learned, made, json)


def _settings(base: "Settings", codec, dim, bits, peak, training, steps) -> "Settings":
    """Those recommended for the encoder, but for what the options say. Fewer dimensions than all are those of PCA."""
    from dataclasses import replace

    from nvcim_jax.documents import training as trainings

    if codec is None and dim not in (None, base.dim):
        codec = "pca"
    recipe = base.recipe if training is None else trainings.recipe(training)
    if recipe and steps:
        recipe = replace(recipe, steps=steps)
    format = replace(base.format, bits=bits or base.format.bits, peak=peak)
    return replace(base, codec=codec or base.codec, dim=dim or base.dim, recipe=recipe, format=format)


def encoding(bar: Bar) -> Callable[[int, int], None]:
    """What tells a bar how many texts are encoded, and how many more came up."""
    work, total = bar.add_task("encoding", total=0), 0

    def report(done: int, more: int) -> None:
        nonlocal total
        total += more
        bar.update(work, total=total)
        bar.advance(work, done)

    return report


def _tell(out: Path, learned, encoder, json: bool) -> None:
    counts = [len(user.history) for user in learned.users]
    dim = learned.codes.shape[-1]
    arrays = sum(learned.format.arrays(count, dim) for count in counts)
    console.print(
        f"documents: {sum(counts)}, owners: {len(counts)}, arrays of 384 x 128 cells: {arrays}; kept in {out}",
        soft_wrap=True,
    )
    tell_cut(learned.cut, encoder)
    if json:
        print_json({
            "memory": str(out), "documents": sum(counts), "people": len(counts), "arrays": arrays, "cut": learned.cut,
            "dim": dim, "bits": learned.format.bits,
        })  # fmt: skip


def tell_cut(cut: int, encoder: "TextEncoder") -> None:
    """Say how many documents were longer than the encoder reads, if any were."""
    if cut:
        console.print(f"{cut} documents are longer than the {encoder.window} tokens that the encoder reads: cut there")


@app.command(
    epilog='Examples:\n\n  nvcim rag ask out/notes "When is the library open?"\n\n'
    '  nvcim rag ask out/papers "A parser for ..." --k 8 --sigma 0.3 --encoder all-MiniLM-L6-v2 --json'
)
def ask(
    bank: BankFolder,
    question: Annotated[str, typer.Argument(help="A whole LaMP question, or only its content.", show_default=False)],
    user: UserNumber = 0,
    k: Count = 4,
    device: BanksDevice = None,
    sigma: BanksSigma = None,
    by: Annotated[
        str, typer.Option(help="arrays: as programmed. bm25: by words. recent: the latest. Without noise: --sigma 0.")
    ] = "arrays",
    mitigation: Mitigation = None,
    budget: Budget = 1.2,
    temperature: Temperature = 0,
    seed: Seed = 0,
    encoder: Encoder = None,
    model: Model = EMBEDDED,
    weights: Weights = None,
    memory_size: MemorySize = None,
    json: Json = False,
) -> None:
    """Search a memory of documents for a question and answer it behind the documents found."""
    with plain_errors():
        import jax

        from nvcim_jax import llm
        from nvcim_jax.documents import ask as asking
        from nvcim_jax.documents import stored
        from nvcim_jax.pipeline import presets

        if not question.strip():
            raise ValueError("the question is empty: ask something")
        words = _by_words(by)
        mitigating(presets.RECOMMENDED, mitigation, budget)  # a wrong name is told before anything is read
        opened = _open(bank, user, device, sigma, encoder)
        search_key, answer_key = jax.random.split(jax.random.key(seed))
        query = asking.question(opened.memory.task, question)
        loaded = load(model, weights, memory_size)
        with console.status("searching"):
            if words is not None:
                (found,) = asking.find_by(words, opened.memory, [query], k=k, user=opened.user)
            else:
                (found,) = asking.find_documents(
                    search_key, opened.encoder, opened.memory, [query], opened.condition, k=k, user=opened.user,
                    write=stored.writing(mitigation, opened.memory.format, budget=budget),
                )  # fmt: skip
        _show(found, opened)
        console.print("answer:  ", end="")
        pieces = asking.stream_with_documents(
            answer_key, loaded, opened.memory, query, [each.sample for each in found],
            sampling=llm.Sampling(temperature),
        )  # fmt: skip
        told = show_stream(pieces, "bold green")
        if json:
            print_json({
                "question": query.content, "user": opened.user, "device": opened.device, "sigma": opened.sigma,
                "mitigation": mitigation, "by": by, "answer": told, "found": [_described(each) for each in found],
            })  # fmt: skip


def _by_words(by: str):
    """What finds documents without arrays; None for the arrays. ValueError for another word."""
    from nvcim_jax.documents import lexical

    ways = {"arrays": None, "bm25": lexical.bm25, "recent": lexical.recent}
    if by not in ways:
        raise ValueError(f"--by {by}: choose one of {', '.join(ways)}")
    return ways[by]


def _show(found, opened: Opened) -> None:
    table = Table("", "score", "lead", "chance", "document", title=f"found on {opened.device}, sigma {opened.sigma}")
    for at, each in enumerate(found):
        chance = "" if each.chance is None else f"{each.chance:.2f}"
        text = each.sample.content if len(each.sample.content) <= SHOWN else each.sample.content[:SHOWN] + " ..."
        name = f"{each.sample.id}: {text}" if each.sample.id else text
        lead = f"{each.margin:.3f}" if isfinite(each.margin) else ""
        table.add_row("" if at else "->", f"{each.score:.3f}", lead, chance, name)
    console.print(table)
    if found[0].chance is not None:
        console.print(f"chance: of being among the first {len(found)}, over all programmings of the device")


def _described(each) -> dict:
    return {
        "slot": each.slot, "id": each.sample.id, "score": each.score, "lead": each.margin, "chance": each.chance,
        "text": each.sample.content, "label": each.sample.answer,
    }  # fmt: skip


def _people(task: str | None, data: Path | None, given: Path | None, count: int):
    """Whose documents are meant. ValueError for options that do not go together."""
    from nvcim_jax.cli.sources import find_users, source
    from nvcim_jax.documents import texts

    if given is not None:
        if data is not None or task is not None:
            raise ValueError("--texts are your own, --data and --task are LaMP's: give one of them")
        return texts.read_documents(given)[:count]
    return find_users(source(task, data, None, None), count)


def made_encoder(name: str | None) -> "TextEncoder":
    """The encoder in a folder, by default the embedded model's token embeddings."""
    from nvcim_jax.cli.cache import keep_programs
    from nvcim_jax.documents import encoder

    if name is None:
        return encoder.encoder_of_model(load(EMBEDDED, None, None))
    keep_programs()
    with console.status(f"loading {name}"):
        return encoder.load_encoder(name)


def _open(bank: Path, user: int, device: str | None, sigma: float | None, encoder: str | None) -> Opened:
    """Read a memory and its encoder. ValueError, as early as it can be known, for what cannot be asked."""
    from nvcim_jax.cli.asking import terms
    from nvcim_jax.documents import memory

    with console.status("reading the memory"):
        saved = memory.load_documents(bank)
    if user >= len(saved.users):
        raise ValueError(f"the memory holds users 0 to {len(saved.users) - 1}, not {user}")
    asked = terms(saved.about, device, sigma, None)
    made = made_encoder(encoder)
    saved.require(made)
    return Opened(made, saved, saved.users[user].id, asked.condition, asked.device, asked.sigma)

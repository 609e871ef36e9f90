"""RoCR's table, and where bits and dimensions run out: docs/results/rocr.md.

    python experiments/rocr.py --out out/rocr                                       # toy world, token embeddings
    python experiments/rocr.py --task LaMP-5 --data LaMP_5_acl --encoder all-MiniLM-L6-v2 --out out/rocr-real
    python experiments/rocr.py --task LaMP-5 --data LaMP_5 --shelf 15 --encoder all-MiniLM-L6-v2 --out out/rocr-shelves

Projections are trained on the documents of some users, pooled, and judged on those of others, whom no choice has seen.
MIPS accuracy has two readings, both given: the first document is that of a float32 store without noise, and it is right
(of the question's topic; where topics are unknown, among the first k of that store). With `--shelf`, for people with
one document each, so many people share a store, and a document is right if its own author asks. Rows that write by
value are in closed form; those that write by cell are programmed. Intervals are over users, or shelves. Writes table.md
and results.json, and goes on from the latter when it is called again.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from nvcim_jax import files, llm
from nvcim_jax.cli import EMBEDDED
from nvcim_jax.core.codec import Codec
from nvcim_jax.data.users import Users, read_lamp, toy_users
from nvcim_jax.documents import encoder as encoders
from nvcim_jax.documents import learn, stored, training
from nvcim_jax.documents.learn import Settings
from nvcim_jax.documents.stored import Format
from nvcim_jax.evaluation import documents
from nvcim_jax.evaluation.statistics import interval
from nvcim_jax.hardware.catalogue import condition
from nvcim_jax.people import User
from nvcim_jax.provenance import provenance

TRAIN, HELD_OUT = 2_000_000, 3_000_000  # first users of the toy world
DEVICES = tuple(f"NVM-{number}" for number in range(1, 6))
KEY = jax.random.key(0)


class Row(NamedTuple):
    """A method: how documents become codes, and how these are written (None: one Gaussian a value)."""

    settings: Settings
    write: str | None = None


class World(NamedTuple):
    """The case of the users to judge, and what is trained for them on others: texts are encoded once."""

    case: documents.Case
    meaning: str
    start: Callable[[Settings], Codec]
    job: Callable[[training.Recipe], training.Job]


def rows(dim: int, whole: int, steps: int | None) -> dict[str, Row]:
    """RoCR's rows by name: `dim` dimensions of int8, and as an honest rival all of them."""
    trained = {name: training.recipe(name, steps=steps) for name in training.RECIPES}
    plain = Settings("pca", dim)
    made = {
        f"vanilla: the first {dim}": Row(Settings("first", dim)),
        f"vanilla: random projection to {dim}": Row(Settings("random", dim)),
        f"PCA to {dim}": Row(plain),
        "CDE": Row(replace(plain, codec="mlp", recipe=trained["cde"])),
        "CDI": Row(replace(plain, codec="mlp", recipe=trained["cdi"])),
        "InfoNCE": Row(replace(plain, recipe=trained["infonce"])),
        "ours, linear": Row(replace(plain, recipe=trained["hinge"])),
        "ours, MLP": Row(replace(plain, codec="mlp", recipe=trained["hinge"])),
        f"all {whole} dimensions": Row(Settings("whole", whole)),
        "by cell: PCA": Row(plain, "none"),
        "by cell: SWV": Row(plain, "swv"),
        "by cell: CxDNN": Row(plain, "cxdnn"),
        "by cell: CorrectNet": Row(plain, "correctnet"),
        "by cell: ours, linear": Row(replace(plain, recipe=trained["hinge"]), "none"),
    }
    return made


def world(args) -> World:
    """Whom to train on and whom to judge; of LaMP's users the first half and the second."""
    encoder = encoders.load_encoder(args.encoder) if args.encoder else encoders.encoder_of_model(llm.load(EMBEDDED))
    if args.data:
        people = read_lamp(args.data, args.task)
        people = shared(people, args.shelf) if args.shelf else people
        known = [at for at, user in enumerate(people) if len(user.history) > args.k and user.queries]
        half = len(known) // 2
        chosen = known[: min(args.train, half)], known[half : half + args.users]
        train, judged = (replace(people, people=tuple(people[at] for at in part)) for part in chosen)
    else:
        train = toy_users(args.task, args.train, first=TRAIN)
        judged = toy_users(args.task, args.users, first=HELD_OUT)
    case, meaning = documents.case(encoder, judged, judged.task, k=args.k)
    meaning = "a document of the question's author is found" if args.shelf else meaning
    together = learn.pooled(train)
    encoded = learn.encode_all(encoder, train.task, list(together))

    @cache
    def start(settings: Settings) -> Codec:
        return learn.fitted(KEY, together, encoded, settings.fit)

    @cache
    def job(make) -> training.Job:
        recipe = training.Recipe(make=make)
        return learn.job(KEY, partial(learn.embed, encoder), together, start(Settings("whole", encoder.dim)), recipe)

    return World(case, meaning, start, lambda recipe: job(recipe.make))


def shared(people: Users, size: int) -> Users:
    """Shelves that `size` people share, as users: the owner of a sample is its topic. Who is left over is left out."""
    shelves = []
    for first in range(0, len(people) - size + 1, size):
        group = people.people[first : first + size]
        history = tuple(sample._replace(domain=user.id) for user in group for sample in user.history)
        queries = tuple(sample._replace(domain=user.id) for user in group for sample in user.queries)
        shelves.append(User(f"shelf {len(shelves)}", history, queries))
    return replace(people, people=tuple(shelves))


def scores(given: World, row: Row, device: str, sigma: float, args) -> dict[str, list[float]]:
    """Every user's mean agreement and share of right documents."""
    settings, users = row.settings, given.case.documents.shape[0]
    codec = given.start(replace(settings, recipe=None, format=Format()))
    if settings.recipe is not None:
        job = given.job(settings.recipe)._replace(start=codec)
        codec, _ = training.train(job, condition(device, sigma), recipe=settings.recipe, format=settings.format)
    codec = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[0], (users, *leaf.shape[1:])), codec)
    how = {"k": args.k, "format": row.settings.format}
    if row.write is None:
        found = documents.expected(codec, given.case, condition(device, jnp.float32(sigma)), **how)
    else:
        write = stored.writing(row.write, row.settings.format)
        found = documents.programmed(
            KEY, codec, given.case, condition(device, jnp.float32(sigma)), draws=args.draws, write=write, **how
        )
        found = jax.tree.map(lambda leaf: leaf.mean(axis=0), found)
    shares = {name: np.asarray(getattr(found, name)) for name in ("agreement", "first", "ndcg")}
    return {name: np.clip(each, 0, 1).tolist() for name, each in shares.items()}  # a quadrature ends at 1 + 1e-7


def cells(args, whole: int) -> Iterator[tuple[str, Row, str, float]]:
    """What is measured: the table at one sigma on five devices, then codecs by bits, dimensions and sigma on one."""
    for name, row in rows(min(args.dim, whole), whole, args.steps).items():
        yield from ((f"table/{name}", row, device, args.sigma) for device in args.devices)
    dims = sorted({min(each, whole) for each in args.dims})
    cut = [(codec, dim) for codec in ("first", "random", "pca", "autoencoder", "linear", "mlp") for dim in dims]
    cut = [("whole", whole), *((codec, dim) for codec, dim in cut if (codec, dim) != ("first", whole))]
    for codec, dim in cut:
        recipe = training.recipe("hinge", steps=args.steps) if codec in ("linear", "mlp") else None
        for bits in args.bits:
            own = Settings("pca" if codec == "linear" else codec, dim, recipe, Format(bits))
            for sigma in args.sigmas:
                yield f"sweep/{codec}/{dim}/{bits}", Row(own), "NVM-3", sigma


def markdown(results: dict[str, dict], args, given: World) -> str:
    """Methods by device, both readings; then agreement of codecs by dimensions, bits and sigma, per array spent."""
    users, slots, whole = given.case.documents.shape
    lines = [
        f"{users} users, {int(given.case.asked.sum())} questions, up to {slots} documents each; right: "
        f"{given.meaning}. Sigma {args.sigma:g}, eight bits, {min(args.dim, whole)} dimensions. Agreement / right, "
        "± half of the 95 % interval.",
        "",
        f"| method | {' | '.join(args.devices)} |",
        "|---" * (len(args.devices) + 1) + "|",
    ]
    for name in rows(min(args.dim, whole), whole, args.steps):
        shown = []
        for device in args.devices:
            found = results[_name(f"table/{name}", device, args.sigma)]
            agreement, first = interval(found["agreement"]), interval(found["first"])
            shown.append(f"{agreement.mean:.3f} ± {agreement.half:.3f} / {first.mean:.3f} ± {first.half:.3f}")
        lines.append(f"| {name} | {' | '.join(shown)} |")
    heads = [f"sigma {sigma:g}" for sigma in args.sigmas]
    lines += [
        "",
        f"| codec | dimensions | bits | arrays of 384 x 128 | {' | '.join(heads)} |",
        "|---" * (len(heads) + 4) + "|",
    ]
    count = int(given.case.valid.sum(axis=1).max())
    for name in dict.fromkeys(label for label, *_ in cells(args, whole) if label.startswith("sweep/")):
        _, codec, dim, bits = name.split("/")
        found = [np.mean(results[_name(name, "NVM-3", sigma)]["agreement"]) for sigma in args.sigmas]
        arrays = Format(int(bits)).arrays(count, int(dim))
        lines.append(f"| {codec} | {dim} | {bits} | {arrays} | {' | '.join(f'{each:.3f}' for each in found)} |")
    return "\n".join(lines)


def _name(label: str, device: str, sigma: float) -> str:
    return f"{label}@{device}@{sigma:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", default="LaMP-2")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--shelf", type=int, default=0, help="people who share a store; by default each has their own")
    parser.add_argument("--users", type=int, default=24, help="to judge")
    parser.add_argument("--train", type=int, default=24, help="users to train on")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--sigma", type=float, default=0.1)
    parser.add_argument("--draws", type=int, default=100, help="programmings of rows that write by cell")
    parser.add_argument("--steps", type=int, help="of every training; by default the recipe's")
    parser.add_argument("--devices", nargs="+", default=list(DEVICES))
    parser.add_argument("--dims", type=int, nargs="+", default=[32, 64, 128, 384])
    parser.add_argument("--bits", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.05, 0.1, 0.2, 0.4])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    made, kept = provenance(), args.out / "results.json"
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    results: dict[str, Any] = {}
    if kept.exists():
        told = json.loads(kept.read_text(encoding="utf-8"))
        if told["settings"] != settings:
            raise SystemExit(f"error: {kept} holds results of other settings: give another --out")
        results = told["results"]
    given = world(args)
    whole = given.case.documents.shape[-1]
    for label, row, device, sigma in track(list(cells(args, whole)), description="measuring"):
        name = _name(label, device, sigma)
        if name not in results:
            results[name] = scores(given, row, device, sigma, args)
            files.write_json(kept, {"settings": settings, "provenance": made, "results": results})
    table = markdown(results, args, given)
    files.write_text(args.out / "table.md", table + "\n")
    print(table)


if __name__ == "__main__":
    main()

"""What becomes of OVTs when a person's words drift away from their codec: four ways to store what is learned later.

What came out stands in docs/decisions/pipeline.md.

    python experiments/codec_drift.py --out out/drift

Users of the toy world, on whom no result is reported, move through domains that come back. After every 25 moments OVTs
are tuned for the last 25, and at the end all domains are asked for, on NVM-3 at sigma 0.1.

    first           every OVT is coded with the codec of the first 25 moments
    vocabulary      every OVT is coded with one codec, fitted to all words of the model
    re-encoded      a codec is fitted to the samples of all OVTs and to the new ones; older OVTs are coded anew
    kept            every OVT keeps the codec of its own 25 moments; a question is coded with each, the best counts
    kept, one key   the same, but search keys are coded anew with one codec for all, as in "re-encoded"
"""

import argparse
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from nvcim_jax import files, llm, tuning
from nvcim_jax.cli import EMBEDDED
from nvcim_jax.core import codec as codecs
from nvcim_jax.data import lamp
from nvcim_jax.data.toy_stream import Stream, stream
from nvcim_jax.evaluation.ladder import metric_of
from nvcim_jax.evaluation.statistics import difference, interval
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.memory import bank
from nvcim_jax.people import User
from nvcim_jax.pipeline import compiled, retrieve
from nvcim_jax.pipeline.answer import answer_room, generate
from nvcim_jax.pipeline.block import Block, gather
from nvcim_jax.pipeline.encode import fit_codecs
from nvcim_jax.pipeline.learn import rekeyed, tune_bank
from nvcim_jax.pipeline.presets import RECOMMENDED
from nvcim_jax.provenance import provenance

CHOOSING = 2_000_000
EVERY = 25
WAYS = ("first", "vocabulary", "re-encoded", "kept", "kept, one key")
CONDITION = Condition(device("NVM-3"), 0.1)


class Epoch(NamedTuple):
    """What was learned of 25 moments: users, samples and the codec, and the OVTs."""

    block: Block
    bank: bank.Bank
    asked: codecs.Codec  # of search keys and questions


def epochs(key: jax.Array, model: llm.Model, task: lamp.Task, streams: list[Stream], way: str) -> list[Epoch]:
    """OVTs of every 25 moments, one set after the other, each with the codec that is theirs at the end."""
    found: list[Epoch] = []
    count = len(streams[0].moments) // EVERY
    vocabulary = model.params["embedding"]["embedding"].astype(jnp.float32)
    for at, own in enumerate(jax.random.split(key, count)):
        part = slice(at * EVERY, (at + 1) * EVERY)
        people = [User(each.user, each.moments[part], ()) for each in streams]
        gather_key, codec_key, tune_key = jax.random.split(own, 3)
        block = gather(gather_key, model, task, people, settings=RECOMMENDED)
        if way == "first" and found:
            block = block._replace(codec=found[0].block.codec)
        if way == "vocabulary":
            one = codecs.fit_pca(jax.random.key(0), vocabulary, jnp.ones(len(vocabulary)))
            block = block._replace(codec=jax.tree.map(lambda leaf: jnp.stack([leaf] * len(streams)), one))
        if way == "re-encoded":
            known = [
                user._replace(history=user.history + tuple(s for e in found for s in e.block.selected.samples[u] if s))
                for u, user in enumerate(people)
            ]
            block = block._replace(codec=fit_codecs(codec_key, model, task, known))
            found = [again(model, each, block.codec) for each in found]
        learned = tune_bank(tune_key, model, block, CONDITION, settings=RECOMMENDED)
        found.append(Epoch(block, learned, block.codec))
    return (
        [found_by(model, each, codec_of_all(key, model, task, found)) for each in found] if "one key" in way else found
    )


def codec_of_all(key: jax.Array, model: llm.Model, task: lamp.Task, found: list[Epoch]) -> codecs.Codec:
    """The codec of all samples that have an OVT."""
    held = [
        [s for each in found for s in each.block.selected.samples[u] if s] for u in range(len(found[0].block.users))
    ]
    people = [user._replace(history=tuple(own)) for user, own in zip(found[0].block.users, held, strict=True)]
    return fit_codecs(key, model, task, people)


def found_by(model: llm.Model, epoch: Epoch, codec: codecs.Codec) -> Epoch:
    """OVTs as they are, with search keys in another codec."""
    keys = rekeyed(model, epoch.block._replace(codec=codec), epoch.bank, settings=RECOMMENDED).keys
    return epoch._replace(bank=epoch.bank._replace(keys=keys), asked=codec)


def again(model: llm.Model, epoch: Epoch, codec: codecs.Codec) -> Epoch:
    """OVTs decoded with their codec and coded with another one; search keys are those of their samples."""
    prompts = compiled.prompts_of(epoch.block.codec, epoch.bank.prompts)
    codes = jax.vmap(lambda own, rows: jax.vmap(partial(codecs.encode, own))(rows))(codec, prompts)
    block = epoch.block._replace(codec=codec)
    coded = rekeyed(model, block, epoch.bank._replace(prompts=codes), settings=RECOMMENDED)
    return Epoch(block, coded, codec)


def scores(key: jax.Array, model: llm.Model, task: lamp.Task, streams: list[Stream], found: list[Epoch]) -> dict:
    """Of each user the mean score, and the share of questions answered with an OVT of their domain."""
    best = None
    for at, (own, epoch) in enumerate(zip(jax.random.split(key, len(found)), found, strict=True)):
        people = [user._replace(queries=each.asked[-1]) for user, each in zip(epoch.block.users, streams, strict=True)]
        block = epoch.block._replace(users=people)
        banks = retrieve.program(own, block, epoch.bank, CONDITION, settings=RECOMMENDED)
        match = retrieve.search(model, block._replace(codec=epoch.asked), banks, settings=RECOMMENDED)
        top = np.asarray(match.scores[:, 0].max(-1))  # [users, queries]
        prompts = np.asarray(compiled.prompts_of(block.codec, match.prompt[:, 0]))
        picked = [[block.selected.samples[u][s] for s in row] for u, row in enumerate(np.asarray(match.index[:, 0]))]
        if best is None:
            best = [top, prompts, picked, np.zeros_like(top, int)]
            continue
        wins = top > best[0]
        best = [
            np.where(wins, top, best[0]), np.where(wins[..., None, None], prompts, best[1]),
            [[b if w else a for a, b, w in zip(*row, strict=True)] for row in zip(best[2], picked, wins, strict=True)],
            np.where(wins, at, best[3]),
        ]  # fmt: skip
    queries = [query for each in streams for query in each.asked[-1]]
    front = tuning.Adapted(front=jnp.asarray(best[1].reshape(-1, *best[1].shape[2:])))
    room = answer_room(model, [user for each in found for user in each.block.users])
    answers = generate(model, queries, front, new_tokens=room, wording=RECOMMENDED.wording)
    metric = metric_of(task)
    each = np.array([metric(a, q.answer) for a, q in zip(answers, queries, strict=True)]).reshape(len(streams), -1)
    right = [
        [q.domain == s.domain for q, s in zip(own.asked[-1], row, strict=True)]
        for own, row in zip(streams, best[2], strict=True)
    ]
    return {"score": each.mean(1), "right domain": np.array(right, float).mean(1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--moments", type=int, default=200)
    parser.add_argument("--task", default="LaMP-2")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model, task = llm.load(EMBEDDED), lamp.task(args.task)
    streams = [stream(task, CHOOSING + at, moments=args.moments, questions=16) for at in range(args.users)]
    learn_key, ask_key = jax.random.split(jax.random.key(args.seed))
    found = {}
    for way in track(args.ways, description=task.name):
        found[way] = scores(ask_key, model, task, streams, epochs(learn_key, model, task, streams, way))
        for name, own in found[way].items():
            known = interval(own)
            gap = difference(own, found[args.ways[0]][name])
            print(
                f"{way:12s} {name:14s} {known.mean:.3f} [{known.low:.3f}, {known.high:.3f}]  "
                f"{gap.mean:+.3f} ± {gap.half:.3f}",
                flush=True,
            )
    settings = {"users": args.users, "moments": args.moments, "task": args.task, "seed": args.seed}
    args.out.mkdir(parents=True, exist_ok=True)
    told = {way: {name: own.tolist() for name, own in each.items()} for way, each in found.items()}
    files.write_json(args.out / "results.json", {"settings": settings, "provenance": provenance(), "ways": told})


if __name__ == "__main__":
    main()

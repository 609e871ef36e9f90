"""What write-verify is worth at a real budget of pulses, against noise-aware training: docs/decisions.md.

    python experiments/write_verify.py --out out/write_verify --users 12

OVTs of the embedded bank in 2-bit cells (`cell` fidelity) of NVM-3, read back with the right domain known, so that
storage alone is judged. Users are those that no result is reported on. Every method meets the same OVTs and
questions; its keys are the same for every sigma. Prints a Markdown table and writes results.json.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from nvcim_jax import files, job, lamp, llm, pipeline, programs, reply, study, synthetic, text, tuning
from nvcim_jax.cli import EMBEDDED
from nvcim_jax.codec import decode
from nvcim_jax.devices import device
from nvcim_jax.llm import decoder
from nvcim_jax.mitigation import by_cell, correctnet, curvature, cxdnn, fit_compensator, plain, read
from nvcim_jax.mitigation import selective_write_verify as swv
from nvcim_jax.presets import RECOMMENDED
from nvcim_jax.quantise import to_codes
from nvcim_jax.statistics import difference, interval

NVM3 = device("NVM-3")
BARE, TRAINED, CLIPPED = "no training noise", "training noise", "training noise, clip"


def ideal_tenth(key, integers, device, *, sigma, sensitivity):
    """The most sensitive tenth of the values without any error, whatever that takes."""
    stored = plain(key, integers, device, sigma=sigma)
    exact = plain(key, integers, device, sigma=0.0)
    chosen = sensitivity >= jnp.quantile(sensitivity, 0.9)
    return stored._replace(held=jnp.where(chosen[..., None], exact.held, stored.held))


METHODS = {  # name -> (how the OVTs were trained, write)
    "none": (BARE, plain),
    "noise-aware training (2x)": (TRAINED, plain),
    "noise-aware training (2x), clip 0.9 (recommended)": (CLIPPED, plain),
    "SWV by value, idealised top 10 %": (BARE, ideal_tenth),
    **{f"SWV by value, {b} pulses": (BARE, partial(swv, budget=b)) for b in (1.1, 1.5, 2.0, 4.0)},
    **{f"SWV by cell, {b} pulses": (BARE, partial(swv, budget=b, rank=by_cell)) for b in (1.1, 1.5, 2.0)},
    "CxDNN": (BARE, cxdnn),
    "CorrectNet, no compensator": (BARE, correctnet),
    "CorrectNet": (BARE, "compensator"),
    "noise-aware training (2x) + SWV by cell, 1.1 pulses": (TRAINED, partial(swv, budget=1.1, rank=by_cell)),
}


def sensitivities(model, selected, learned, place) -> jax.Array:
    """Curvature of each OVT's label loss on its own sample, in code space: [ovts, tokens, code]."""
    pools = [[pipeline.pair(model, selected.samples[u][s], RECOMMENDED)[:2]] for u, s in zip(*place, strict=True)]
    batch = jax.tree.map(lambda leaf: leaf[:, 0], text.batch(pools))

    @jax.jit
    def run(params, codecs, codes, batch):
        asked = decoder.embed(params, model.config, batch.ids)

        def one(code, codec, asked, *rest):
            def loss(code):
                row = (leaf[None] for leaf in (asked, *rest))
                return tuning.label_loss(params, model.config, tuning.Adapted(decode(codec, code)[None]), *row)[0]

            return curvature(jax.random.key(0), loss, code)

        return jax.vmap(one)(codes, codecs, asked, *batch[1:])

    codecs = jax.tree.map(lambda leaf: leaf[place[0]], learned.codec)
    return run(model.params, codecs, learned.bank.prompts[place], batch)


@partial(jax.jit, static_argnames=("write", "draws", "fit"))
def stored_and_read(key, codes, sensitivity, sigma, *, write, draws, fit=False):
    """Every OVT written and read `draws` times: values [draws, ovts, ...], pulses per cell, relative error."""
    integers, step = jax.vmap(to_codes)(codes)
    if fit:
        write = partial(
            correctnet, compensator=fit_compensator(jax.random.key(9), integers, NVM3, sigma=sigma, draws=2)
        )

    def one(key, integers, sensitivity):
        write_key, read_key = jax.random.split(key)
        ranked = {"sensitivity": sensitivity} if getattr(write, "func", write) in (swv, ideal_tenth) else {}
        stored = write(write_key, integers, NVM3, sigma=sigma, **ranked)
        return read(read_key, stored, NVM3), stored.cost.pulses / stored.held.size

    def draw(key):
        return jax.vmap(one)(jax.random.split(key, codes.shape[0]), integers, sensitivity)

    values, pulses = jax.lax.map(draw, jax.random.split(key, draws))
    values = values * step[None, :, None, None]
    error = jnp.sqrt(jnp.mean((values - codes[None]) ** 2) / jnp.mean(codes**2))
    return values, jnp.mean(pulses), error


def scores(model, task, users, known, codec, values) -> np.ndarray:
    """Mean score of each user over its questions and the draws; `values` are [draws, users, slots, tokens, code]."""
    queries = [query for user in users for query in user.queries]
    owners = np.array([at for at, user in enumerate(users) for _ in user.queries])
    metric, room = study.metric_of(task), study.answer_room(model, users)
    each = []
    for drawn in values:
        prompts = programs.prompts_of(codec, drawn)[owners, known]
        answers = reply.answer(model, queries, tuning.Adapted(front=prompts), new_tokens=room)
        each.append([metric(answer, query.answer) for answer, query in zip(answers, queries, strict=True)])
    per_question = np.mean(each, axis=0)
    return np.array([per_question[owners == at].mean() for at in range(len(users))])


def run_task(model, task, args) -> list[dict]:
    """One row per method and sigma."""
    users = pipeline.buffered(synthetic.users(task, args.users, first=2_000_000), RECOMMENDED.buffer)
    key = jax.random.key(args.seed)
    selected = pipeline.select(key, model, users, extra_domains=True)
    codec = pipeline.fit_codecs(key, model, task, users)
    known, rows = study.slots_of_known_domain(users, selected), []
    held = [(u, s) for u, row in enumerate(selected.samples) for s, sample in enumerate(row) if sample is not None]
    place = tuple(np.array(held).T)
    for sigma in track(args.sigma, description=task.name):
        learned = {}
        for name, noise, clip in ((BARE, 0.0, 1.0), (TRAINED, 2.0, 1.0), (CLIPPED, 2.0, 0.9)):
            settings = replace(RECOMMENDED, clip=clip)
            learned[name] = pipeline.learn(
                key, model, task, users, selected, codec, NVM3, sigma=sigma * noise / 2, settings=settings
            )
        sensitive = {name: sensitivities(model, selected, each, place) for name, each in learned.items()}
        for method, (training, write) in METHODS.items():
            codes = learned[training].bank.prompts
            values, pulses, error = stored_and_read(
                key,
                codes[place],
                sensitive[training],
                jnp.float32(sigma),
                write=plain if write == "compensator" else write,
                draws=args.draws,
                fit=write == "compensator",
            )
            slots = jnp.zeros((args.draws, *codes.shape)).at[:, *place].set(values)
            per_user = scores(model, task, users, known, codec, slots)
            rows.append(
                {"task": task.name, "sigma": sigma, "method": method, "pulses": float(pulses), "error": float(error),
                 "scores": per_user.tolist()}
            )  # fmt: skip
    return rows


def markdown(rows: list[dict], sigmas: list[float]) -> str:
    """Methods down; error of the first task at each sigma; per task and sigma the score, the paired gain over none and
    half of its 95 % interval."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    find = {(row["task"], row["sigma"], row["method"]): row for row in rows}
    heads = [f"{task} at {sigma}" for task in tasks for sigma in sigmas]
    lines = [f"| method | pulses per cell | error | {' | '.join(heads)} |", "|---" * (len(heads) + 3) + "|"]
    for method in METHODS:
        cells, pulses, errors = [], [], []
        for task in tasks:
            for sigma in sigmas:
                mine, none = find[task, sigma, method], find[task, sigma, "none"]["scores"]
                score, gain = interval(mine["scores"]), difference(mine["scores"], none)
                cells.append(f"{score.mean:.3f} ({gain.mean:+.3f} ± {gain.half:.3f})")
                pulses.append(mine["pulses"])
                errors.append(mine["error"])
        error = " ".join(f"{each:.2f}" for each in errors[: len(sigmas)])
        lines.append(f"| {method} | {max(pulses):.2f} | {error} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--sigma", type=float, nargs="*", default=[0.1, 0.2, 0.3])
    parser.add_argument("--task", nargs="*", default=["LaMP-2", "LaMP-5"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model, rows = llm.load(EMBEDDED), []
    for name in args.task:
        rows += run_task(model, lamp.task(name), args)
        settings = {name: str(value) if name == "out" else value for name, value in vars(args).items()}
        whole = {"settings": settings, "provenance": job.provenance(), "rows": rows}
        files.write_json(args.out / "results.json", whole)
    print(markdown(rows, args.sigma))


if __name__ == "__main__":
    main()

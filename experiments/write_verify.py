"""What write-verify is worth at a real budget of pulses, against noise-aware training: docs/results/write-verify.md.

    python experiments/write_verify.py --out out/write_verify

OVTs of the embedded bank in 2-bit cells (`cell` fidelity, sign kept digitally) of NVM-3, read back with the right
domain known, so that storage alone is judged. Sigma is a share of a cell's range: three times as much in the level
steps that SWIM counts, whose own setting is 0.3 steps before verification. Users (from 3,000,000 on) are those on which
no setting was chosen. Every method meets the same OVTs and questions; its keys are the same for every sigma. Prints a
Markdown table, written as table.md beside results.json.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from nvcim_jax import files, llm, tuning
from nvcim_jax.cli import EMBEDDED
from nvcim_jax.core.quantise import to_codes
from nvcim_jax.data import lamp, synthetic
from nvcim_jax.evaluation.crowd import slots_of_known_domain
from nvcim_jax.evaluation.ladder import metric_of
from nvcim_jax.evaluation.statistics import clear, difference, interval
from nvcim_jax.hardware import cells
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.hardware.mitigation import Verify, by_cell, correctnet, cxdnn, fit_compensator, plain, read
from nvcim_jax.hardware.mitigation import selective_write_verify as swv
from nvcim_jax.pipeline import compiled, retrieve
from nvcim_jax.pipeline.answer import answer_room, generate
from nvcim_jax.pipeline.block import gather
from nvcim_jax.pipeline.learn import tune_bank
from nvcim_jax.pipeline.presets import RECOMMENDED
from nvcim_jax.provenance import provenance

NVM3 = device("NVM-3")
FIRST = 3_000_000  # user
TRAINED_AT = cells.aggregate()  # noise on whole values of so many sigmas is as large as that of their cells
BARE, TRAINED, CLIPPED = "no training noise", "training noise", "training noise, clip"


def ideal_tenth(key, integers, device, *, sigma, sensitivity):
    """The most sensitive tenth of the values without any error, whatever that takes."""
    stored = plain(key, integers, device, sigma=sigma)
    exact = plain(key, integers, device, sigma=0.0)
    chosen = sensitivity >= jnp.quantile(sensitivity, 0.9)
    levels = jnp.where(chosen[..., None], exact.matrix.levels, stored.matrix.levels)
    return stored._replace(matrix=stored.matrix._replace(levels=levels))


def compensated(key, integers, device, *, sigma, compensator):
    """CorrectNet with a compensator that was fitted to the OVTs' codes before."""
    return correctnet(key, integers, device, sigma=sigma, compensator=compensator)


STEPS, BY_CELL = Verify(pulse=cells.step), Verify(rank=by_cell)
METHODS = {  # name -> (how the OVTs were trained, write)
    "none": (BARE, plain),
    "noise-aware training (2x)": (TRAINED, plain),
    "noise-aware training (2x), clip 0.9 (recommended)": (CLIPPED, plain),
    "SWV by value, idealised top 10 %": (BARE, ideal_tenth),
    **{f"SWV by value, {b} pulses": (BARE, partial(swv, budget=b)) for b in (1.1, 1.5, 2.0, 4.0)},
    **{
        f"SWV by value in steps, {b} pulses": (BARE, partial(swv, budget=b, verify=STEPS)) for b in (1.1, 1.5, 2.0, 4.0)
    },
    **{f"SWV by cell, {b} pulses": (BARE, partial(swv, budget=b, verify=BY_CELL)) for b in (1.1, 1.5, 2.0)},
    **{
        f"SWV by cell in steps, {b} pulses": (BARE, partial(swv, budget=b, verify=STEPS._replace(rank=by_cell)))
        for b in (1.1, 1.5)
    },
    "CxDNN": (BARE, cxdnn),
    "CorrectNet, no compensator": (BARE, correctnet),
    "CorrectNet": (BARE, compensated),
    "noise-aware training (2x) + SWV by cell, 1.1 pulses": (TRAINED, partial(swv, budget=1.1, verify=BY_CELL)),
}


@partial(jax.jit, static_argnames=("write", "draws"))
def stored_and_read(key, codes, sensitivity, sigma, *, write, draws):
    """Every OVT written and read `draws` times: values [draws, ovts, ...], pulses per cell, relative error."""
    integers, step = jax.vmap(to_codes)(codes)
    of = getattr(write, "func", write)
    if of is compensated:
        fitted = fit_compensator(jax.random.key(9), integers, NVM3, sigma=sigma, draws=2)
        write = partial(compensated, compensator=fitted)

    def one(key, integers, sensitivity):
        write_key, read_key = jax.random.split(key)
        ranked = {"sensitivity": sensitivity} if of in (swv, ideal_tenth) else {}
        stored = write(write_key, integers, NVM3, sigma=sigma, **ranked)
        return read(read_key, stored, NVM3), stored.cost.pulses / stored.matrix.levels.size

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
    metric, room = metric_of(task), answer_room(model, users)
    each = []
    for drawn in values:
        prompts = compiled.prompts_of(codec, drawn)[owners, known]
        answers = generate(model, queries, tuning.Adapted(front=prompts), new_tokens=room)
        each.append([metric(answer, query.answer) for answer, query in zip(answers, queries, strict=True)])
    per_question = np.mean(each, axis=0)
    return np.array([per_question[owners == at].mean() for at in range(len(users))])


def run_task(model, task, args) -> list[dict]:
    """One row per method and sigma."""
    recommended = replace(RECOMMENDED, tokens=args.tokens, probes=16)
    gather_key, learn_key, curve_key, write_key = jax.random.split(jax.random.key(args.seed), 4)
    users = synthetic.users(task, args.users, first=FIRST)
    block = gather(gather_key, model, task, users, settings=recommended, extra_domains=True)
    known, rows = slots_of_known_domain(block.users, block.selected), []
    place = tuple(np.array(block.selected.slots).T)
    for sigma in track(args.sigma, description=task.name):
        learned, sensitive = {}, {}
        for name, noise, clip in ((BARE, 0.0, 1.0), (TRAINED, 2.0, 1.0), (CLIPPED, 2.0, 0.9)):
            settings = replace(recommended, clip=clip, train_sigma=noise)
            condition = Condition(NVM3, sigma * TRAINED_AT)
            learned[name] = tune_bank(learn_key, model, block, condition, settings=settings)
            curve = retrieve.sensitivities(curve_key, model, block, learned[name], settings=settings)
            sensitive[name] = curve[place]
        for method, (training, write) in METHODS.items():
            codes = learned[training].prompts
            values, pulses, error = stored_and_read(
                write_key, codes[place], sensitive[training], jnp.float32(sigma), write=write, draws=args.draws
            )
            slots = jnp.zeros((args.draws, *codes.shape)).at[:, *place].set(values)
            per_user = scores(model, task, block.users, known, block.codec, slots)
            rows.append(
                {"task": task.name, "sigma": sigma, "method": method, "pulses": float(pulses), "error": float(error),
                 "scores": per_user.tolist()}
            )  # fmt: skip
    return rows


def markdown(rows: list[dict], sigmas: list[float]) -> str:
    """Methods down; error of the first task at each sigma; per task and sigma the score, the paired gain over none and
    half of its 95 % interval, bold where it is clear among all of them."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    find = {(row["task"], row["sigma"], row["method"]): row for row in rows}
    asked = [(task, sigma, method) for method in METHODS for task in tasks for sigma in sigmas]
    pairs = [(find[each]["scores"], find[*each[:2], "none"]["scores"]) for each in asked]
    is_clear = dict(zip(asked, clear(pairs), strict=True))
    heads = [f"{task} at {sigma:g} ({3 * sigma:g} steps)" for task in tasks for sigma in sigmas]
    lines = [f"| method | pulses per cell | error | {' | '.join(heads)} |", "|---" * (len(heads) + 3) + "|"]
    for method in METHODS:
        shown, mine = [], [find[task, sigma, method] for task in tasks for sigma in sigmas]
        for row in mine:
            none = find[row["task"], row["sigma"], "none"]["scores"]
            score, gain = interval(row["scores"]), difference(row["scores"], none)
            told = f"{gain.mean:+.3f} ± {gain.half:.3f}"
            told = f"**{told}**" if is_clear[row["task"], row["sigma"], method] else told
            shown.append(f"{score.mean:.3f} ({told})")
        error = " ".join(f"{row['error']:.2f}" for row in mine[: len(sigmas)])
        pulses = " ".join(f"{row['pulses']:.2f}" for row in mine[: len(sigmas)])
        lines.append(f"| {method} | {pulses} | {error} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--sigma", type=float, nargs="*", default=[0.1, 0.3, 0.5])
    parser.add_argument("--tokens", type=int, default=RECOMMENDED.tokens, help="virtual tokens of an OVT")
    parser.add_argument("--task", nargs="*", default=["LaMP-2", "LaMP-5"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model, rows = llm.load(EMBEDDED), []
    for name in args.task:
        rows += run_task(model, lamp.task(name), args)
        settings = {name: str(value) if name == "out" else value for name, value in vars(args).items()}
        whole = {"settings": settings, "provenance": provenance(), "rows": rows}
        files.write_json(args.out / "results.json", whole)
    table = markdown(rows, args.sigma)
    files.write_text(args.out / "table.md", table)
    print(table)


if __name__ == "__main__":
    main()

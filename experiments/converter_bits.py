"""What converters of few bits and queries of few bits do to a search: the accuracy beside what `nvcim cost` counts.

    python experiments/converter_bits.py --out out/converter_bits

Banks learned from held-out embedded users (numbers from 3,000,000 on), five tasks, keys in 2-bit cells without
variation (`--sigma` for NVM-3 with it), read through `crossbar.multiply`: 16 virtual tokens, three scales. A search by
the mean query row or by all pairs of rows ranks by `recommended`'s score on its keys, one by aligned rows by `paper`'s.
Prints a table and writes results.json; `--keep` puts it where `nvcim cost` reads it. A question counts as answered if
the OVT that is found is of its domain.
"""

import argparse
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import track

from nvcim_jax import files, llm
from nvcim_jax.cli import EMBEDDED
from nvcim_jax.core.similarity import SCALES, WEIGHTS, fold
from nvcim_jax.data import synthetic
from nvcim_jax.data.users import toy_users
from nvcim_jax.evaluation import cases, cost_comparison, retrieval
from nvcim_jax.evaluation.statistics import difference, interval
from nvcim_jax.hardware import cost
from nvcim_jax.hardware.adc import Adc, ideal
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.memory import search
from nvcim_jax.memory.array_search import find, program
from nvcim_jax.pipeline.presets import PRESETS
from nvcim_jax.provenance import provenance

FIRST = 3_000_000  # number of the first user
SEARCHES = {"mean": "recommended", "aligned": "paper", "pairs": "recommended"}
ADC_BITS, QUERY_BITS = (4, 5, 6, 7, 8, 10), (4, 8, 16)
NVM3 = device("NVM-3")


def of_tasks(model, preset: str, args) -> list[retrieval.Case]:
    """One case of each task."""
    found = []
    for name in args.task:
        settings = PRESETS[preset]
        users = toy_users(name, args.users, first=FIRST)
        key = jax.random.fold_in(jax.random.key(args.seed), int(name[-1]))
        block, bank = cases.embedded(key, model, users, settings=settings)
        found.append(cases.case(model, block, bank, settings=settings)[0])
    return found


def in_arrays(of: list[retrieval.Case], args, **how) -> list[np.ndarray]:
    """Slots that are found: [users, questions] of each task. Banks are programmed alike whatever `how`."""
    slots = []
    for at, case in enumerate(of):
        users = jax.random.split(jax.random.fold_in(jax.random.key(args.seed + 1), at), case.keys.shape[0])
        each = []
        for user, keys, queries, valid in zip(users, case.keys, case.queries, case.valid, strict=True):
            write, read = jax.random.split(user)
            copies = program(write, keys, NVM3, sigma=jnp.float32(args.sigma))
            each.append(np.asarray(find(read, queries, copies, valid, NVM3, **how)))
        slots.append(np.array(each))
    return slots


def on_a_cpu(of: list[retrieval.Case], how: str, format: str) -> list[np.ndarray]:
    """As `in_arrays`, by the CPU's best equivalent product with codes of `format`."""
    rows = of[0].keys.shape[2]
    by_mean = tuple(weight / -(-rows // scale) for weight, scale in zip(WEIGHTS, SCALES, strict=True))
    to_index = partial(fold, weights=by_mean) if how == "aligned" else search.pairwise
    slots = []
    for case in of:
        each = []
        for keys, count, queries in zip(case.keys, np.asarray(case.valid.sum(axis=1)), case.queries, strict=True):
            index = search.build(keys, int(count), fold=to_index, format=format)
            each.append(np.asarray(search.top_k(index, queries).slots[:, 0]))
        slots.append(np.array(each))
    return slots


def answered(of: list[retrieval.Case], slots: list[np.ndarray]) -> list[float]:
    """Of each user the share of questions that are answered."""
    shares = []
    for case, mine in zip(of, slots, strict=True):
        asked = np.asarray(case.asked)
        hits = np.take_along_axis(np.asarray(case.right), mine[..., None], axis=2)[..., 0]
        shares += list((hits & asked).sum(axis=1) / asked.sum(axis=1))
    return shares


def same(of: list[retrieval.Case], slots: list[np.ndarray], best: list[np.ndarray]) -> list[float]:
    """Of each user the share of questions that find what the ideal search finds."""
    asked = [np.asarray(case.asked) for case in of]
    parts = [((mine == ideals) & own).sum(axis=1) for mine, ideals, own in zip(slots, best, asked, strict=True)]
    return list(np.concatenate(parts) / np.concatenate([own.sum(axis=1) for own in asked]))


def rows_of(model, product: str, args) -> list[dict]:
    """One row for each converter and query, and for each form of the CPU's index."""
    of = of_tasks(model, SEARCHES[product], args)
    form = getattr(cost, product)
    best = in_arrays(of, args, product=form, query_bits=16, convert=ideal)
    base = {"product": product, "preset": SEARCHES[product], "questions": int(sum(case.asked.sum() for case in of))}

    def row(slots: list[np.ndarray], **about) -> dict:
        found = answered(of, slots)
        shares = {"found": interval(found), "lost": difference(answered(of, best), found)}
        shares["same_as_ideal"] = interval(same(of, slots, best))
        return base | about | {name: each._asdict() for name, each in shares.items()}

    grid = [(a, q) for a in (*ADC_BITS, None) for q in QUERY_BITS]
    rows = []
    for adc, bits in track(grid, description=product):
        convert = ideal if adc is None else Adc(adc)
        slots = in_arrays(of, args, product=form, query_bits=bits, convert=convert)
        rows.append(row(slots, adc_bits=adc, query_bits=bits))
    return rows + [row(on_a_cpu(of, product, format), cpu=format) for format in ("float32", "int16", "int8")]


def markdown(rows: list[dict]) -> str:
    """Share of questions that are answered, lost against the ideal search (half of the paired 95 % interval), and in
    brackets the share that find another OVT than it."""
    heads = [f"{bits}-bit queries" for bits in QUERY_BITS]
    lines = [f"| products (preset) | converter | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]

    def shown(row: dict) -> str:
        half = (row["lost"]["high"] - row["lost"]["low"]) / 2
        another = 1 - row["same_as_ideal"]["mean"]
        return f"{row['found']['mean']:.3f}, lost {row['lost']['mean']:.3f} ± {half:.3f} ({another:.3f})"

    for product, preset in SEARCHES.items():
        own = [row for row in rows if row["product"] == product]
        for adc in (*ADC_BITS, None):
            cells = [shown(row) for row in own if "cpu" not in row and row["adc_bits"] == adc]
            lines.append(f"| {product} ({preset}) | {f'{adc} bits' if adc else 'ideal'} | {' | '.join(cells)} |")
        cells = [f"{row['cpu']}: {shown(row)}" for row in own if "cpu" in row]
        lines.append(f"| {product} ({preset}) | CPU, {'; '.join(cells)} |" + " |" * len(heads))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--users", type=int, default=10, help="of each task")
    parser.add_argument("--task", nargs="*", default=list(synthetic.TASKS))
    parser.add_argument("--sigma", type=float, default=0.0, help="of NVM-3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="replace the figures that `nvcim cost` prints")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = llm.load(EMBEDDED)
    rows = [row for product in SEARCHES for row in rows_of(model, product, args)]
    settings = {name: str(value) if name == "out" else value for name, value in vars(args).items() if name != "keep"}
    whole = {"settings": settings | {"first": FIRST}, "provenance": provenance(), "rows": rows}
    files.write_json(args.out / "results.json", whole)
    if args.keep:
        files.write_json(cost_comparison.MEASURED, whole)
    print(markdown(rows))


if __name__ == "__main__":
    main()

"""Seconds and peak memory of saving and loading a large bank, and of one append as it grows.

    python -m bench.store [--ovts 1000000] [--folder out/bench-bank]

What is loaded is compared with what was saved. A million OVTs of 16 x 48 with their keys are 6.1 GB: free 15 GB.
"""

import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from bench import harness
from nvcim_jax.memory import bank, growth
from nvcim_jax.memory.storage import store


def append_s(capacity: int, count: int = 32) -> float:
    """Seconds of one append to a bank of this capacity, the best of `count`."""
    grown = bank.empty(capacity, 16, 48)
    ovt = bank.Ovt(jnp.ones((16, 48)), jnp.ones((16, 48)), bank.unknown())
    taken = []
    for _ in range(count):
        grown, seconds = harness.timed(partial(growth.append, grown, ovt))
        taken.append(seconds)
    assert int(grown.count) == count
    return min(taken)


def sums(filled: bank.Bank) -> list[float]:
    return [float(jnp.sum(leaf, dtype=jnp.float32)) for leaf in (filled.prompts, filled.keys)]


def measure(args):
    if args.folder.exists():
        raise FileExistsError(f"{args.folder} exists, and would be removed: give a new --folder")
    for capacity in sorted({1_000, 20_000, max(1, args.ovts // 4)}):
        yield {"slots": capacity, "append_us": 1e6 * append_s(capacity)}
    keys = jax.random.split(jax.random.key(harness.SEED))
    values = (jax.random.normal(key, (args.ovts, 16, 48)) for key in keys)
    filled = bank.Bank(*values, bank.unknown((args.ovts,)), jnp.int32(args.ovts))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(filled)) / 1e9
    told, last = sums(filled), np.asarray(filled.prompts[-1])

    def row(work: str, seconds: float, **more) -> harness.Row:
        rates = {"gb": size, "seconds": seconds, "gb_per_s": size / seconds, "peak_gb": harness.peak_gb()}
        return {"work": work, **rates, **more}

    _, seconds = harness.timed(partial(store.save, args.folder, filled))
    yield row("save", seconds)
    del filled
    loaded, seconds = harness.timed(lambda: store.load(args.folder).bank)
    yield row("load", seconds, the_same=sums(loaded) == told and bool((loaded.prompts[-1] == last).all()))
    shutil.rmtree(args.folder)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--ovts", type=harness.whole, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("out/bench-bank"), help="a new one, removed afterwards")
    harness.run(parser, measure, quick={"ovts": 1_000})


if __name__ == "__main__":
    main()

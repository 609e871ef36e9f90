"""Seconds and peak memory of saving and loading a large bank, and of one append as it grows.

    python bench/store.py [--ovts 1000000] [--folder out/bench-bank]

What is loaded is compared with what was saved. A million OVTs of 16 x 48 with their keys are 6.1 GB: free 15 GB.
"""

import argparse
import json
import os
import resource
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nvcim_jax.memory import bank, growth
from nvcim_jax.memory.storage import store
from nvcim_jax.provenance import provenance


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def appends(capacity: int) -> float:
    """Microseconds of one append to a bank of this capacity, the best of thirty."""
    grown = bank.empty(capacity, 16, 48)
    ovt = bank.Ovt(jnp.ones((16, 48)), jnp.ones((16, 48)), bank.unknown())
    times = []
    for _ in range(32):
        start = time.perf_counter()
        grown = jax.block_until_ready(growth.append(grown, ovt))
        times.append(time.perf_counter() - start)
    assert int(grown.count) == 32
    return 1e6 * min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ovts", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path("out/bench-bank"))
    args = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores (a busy machine gives slow figures)")
    grows = {capacity: appends(capacity) for capacity in (1_000, 20_000, args.ovts // 4)}
    for capacity, micro in grows.items():
        print(f"append to a bank of {capacity:>9,} slots {micro:8.0f} us")
    shape = (args.ovts, 16, 48)
    prompts, keys = (jax.random.normal(jax.random.key(at), shape) for at in range(2))
    held = bank.Bank(prompts, keys, bank.unknown((args.ovts,)), jnp.int32(args.ovts))
    gigabytes = sum(leaf.nbytes for leaf in jax.tree.leaves(held)) / 1e9
    marks = {"before": peak()}
    start = time.perf_counter()
    store.save(args.folder, held)
    seconds = {"save": time.perf_counter() - start}
    marks["save"] = peak()
    sums = [np.asarray(jnp.sum(leaf, dtype=jnp.float32)) for leaf in (prompts, keys)]
    ends = np.asarray(prompts[-1])
    del held, prompts, keys
    start = time.perf_counter()
    loaded = store.load(args.folder).bank
    seconds["load"] = time.perf_counter() - start
    marks["load"] = peak()
    same = [np.asarray(jnp.sum(leaf, dtype=jnp.float32)) for leaf in loaded[:2]] == sums
    print(
        f"{args.ovts:,} OVTs, {gigabytes:.2f} GB; the same after loading: {same and (loaded.prompts[-1] == ends).all()}"
    )
    for name in ("save", "load"):
        print(
            f"{name} {seconds[name]:7.1f} s, {gigabytes / seconds[name]:5.2f} GB/s, peak memory {marks[name]:5.2f} GiB"
        )
    shutil.rmtree(args.folder)
    print(json.dumps({"append_us": grows, "seconds": seconds, "peak_GiB": marks, **provenance()}))


if __name__ == "__main__":
    main()

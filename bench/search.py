"""Three-scale WMSDP over a bank against FAISS doing single-scale MIPS on vectors of the same length, in one run.

    pip install faiss-cpu && python bench/search.py [--sizes 1000 20000 1000000] [--queries 1 16 256]

Times are the best of interleaved rounds after a warm-up, the median beside them; every query is a noisy copy of one
stored key, and the share found stands beside the time. The read bandwidth is that of summing a large array.
"""

import argparse
import json
import os
import time
from functools import partial

os.environ.setdefault("JAX_CPU_ENABLE_ASYNC_DISPATCH", "0")  # a query is waited for: do not hand it to another thread

import jax
import jax.numpy as jnp
import numpy as np
from machine import read_rate  # beside this file

from nvcim_jax.memory import search
from nvcim_jax.provenance import provenance

ROWS, DIM, K = 16, 48, 10
CHUNK = 64 * search.BLOCK
WANTED = {1: 0.6, 16: 0.6, 256: 0.75}


def keys_of(chunk: int, size: int):
    return jax.random.normal(jax.random.fold_in(jax.random.key(0), chunk), (size, ROWS, DIM))


def chunks(size: int):
    for at, start in enumerate(range(0, size, CHUNK)):
        yield start, np.asarray(keys_of(at, min(CHUNK, size - start)))


def questions(size: int, count: int):
    """Noisy copies of keys spread over the first chunk, and where those lie."""
    first = keys_of(0, min(CHUNK, size))
    slots = np.linspace(0, len(first) - 1, count, dtype=int)
    return first[slots] + 2.0 * jax.random.normal(jax.random.key(1), (count, ROWS, DIM)), slots


def index_of(size: int, format: str) -> search.Index:
    """As `search.build` of all keys at once, in chunks, so that only the index itself is large."""
    parts = [search.build(keys, len(keys), format=format) for _, keys in chunks(size)]
    values, steps = (np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "steps"))
    return jax.tree.map(jnp.asarray, search.Index(values, steps, jnp.int32(size)))


def timed(calls: dict, seconds: float) -> dict[str, list[float]]:
    """Seconds of each call, in turn, for about `seconds` in all and at least five rounds."""
    for call in calls.values():
        call(), call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def measure(size: int, counts: list[int], formats: list[str], seconds: float) -> list[dict]:
    """One row for every number of queries and format."""
    import faiss

    peer = faiss.IndexFlatIP(ROWS * DIM)
    for _, keys in chunks(size):
        peer.add(keys.reshape(len(keys), -1))
    rows, exact = [], {}
    for format in formats:
        index = index_of(size, format)
        for count in counts:
            queries, slots = questions(size, count)
            flat = np.asarray(queries).reshape(count, -1)
            ours = partial(search.top_k, index, queries, k=K)
            times = timed(
                {
                    "ours": lambda ours=ours: jax.block_until_ready(ours()),
                    "faiss": lambda flat=flat: peer.search(flat, K),
                },
                seconds,
            )
            found = np.asarray(ours().slots)
            same_best, same_k = search.agreement(exact.setdefault(count, found), found)
            best = {name: min(each) for name, each in times.items()}
            middle = {name: float(np.median(each)) for name, each in times.items()}
            rows.append(
                {
                    "ovts": size, "queries": count, "format": format,
                    "ms": 1e3 * best["ours"], "median_ms": 1e3 * middle["ours"],
                    "faiss_ms": 1e3 * best["faiss"], "faiss_median_ms": 1e3 * middle["faiss"],
                    "ratio": best["ours"] / best["faiss"], "median_ratio": middle["ours"] / middle["faiss"],
                    "bytes_per_s": (index.values.nbytes + index.steps.nbytes) / best["ours"],
                    "found": float(np.mean(found[:, 0] == slots)),
                    "faiss_found": float(np.mean(peer.search(flat, 1)[1][:, 0] == slots)),
                    "same_best": same_best, "same_10": same_k,
                }
            )  # fmt: skip
        del index
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 20_000, 1_000_000])
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--formats", nargs="+", choices=search.FORMATS, default=list(search.FORMATS))
    parser.add_argument("--seconds", type=float, default=4.0, help="per cell")
    args = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores (a busy machine gives slow figures)")
    reads = read_rate()
    print(f"read bandwidth {reads / 1e9:.1f} GB/s")
    print(f"{'OVTs':>9} {'queries':>7} {'format':9} {'ms':>9} {'FAISS ms':>9} {'ratio':>6} {'median':>6} {'read':>7} "
          f"{'found':>6} {'FAISS':>6} {'same best':>9} {'same 10':>8}")  # fmt: skip
    rows = []
    for size in args.sizes:
        for row in sorted(
            measure(size, args.queries, args.formats, args.seconds), key=lambda row: (row["queries"], row["ms"])
        ):
            rows.append(row)
            wanted = WANTED.get(row["queries"], 1.0)
            print(f"{size:>9,} {row['queries']:>7} {row['format']:9} {row['ms']:>9.3f} {row['faiss_ms']:>9.3f} "
                  f"{row['ratio']:>6.2f} {row['median_ratio']:>6.2f} {row['bytes_per_s'] / reads:>7.0%} "
                  f"{row['found']:>6.2f} {row['faiss_found']:>6.2f} {row['same_best']:>9.3f} {row['same_10']:>8.3f}"
                  f"{'  <= ' if row['ratio'] <= wanted else '  >  '}{wanted}", flush=True)  # fmt: skip
    for count in args.queries:
        best = {size: min(r["ms"] for r in rows if r["ovts"] == size and r["queries"] == count) for size in args.sizes}
        small, large = min(best), max(best)
        growth = best[large] / best[small]
        print(f"{count} queries: {large / small:,.0f} times the OVTs cost {growth:,.0f} times the time")
    print(json.dumps({"bytes_per_s": reads, "load": os.getloadavg()[0], "rows": rows, **provenance()}))


if __name__ == "__main__":
    main()

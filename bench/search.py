"""Three-scale WMSDP over a bank against FAISS doing single-scale MIPS on vectors of the same length, in one run.

    python -m bench.search [--sizes 1000 20000 1000000] [--queries 1 16 256]

Times are the best of interleaved rounds after a warm-up, the ratio of medians beside that of the best, below 1 where
ours is faster. Every query is a noisy copy of one stored key, and the share found stands beside the time. The read rate
is that of summing a large array. The last rows say what a thousand times the OVTs cost. Needs the extra `bench`.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bench import harness
from nvcim_jax.memory import search

(faiss,) = harness.peers("faiss")
jax.config.update("jax_cpu_enable_async_dispatch", False)  # a query is waited for: do not hand it to another thread

ROWS, DIM, K = 16, 48, 10
CHUNK = 64 * search.BLOCK
AIMS = {1: 0.6, 16: 0.6, 256: 0.75}
KEY, NOISE = jax.random.split(jax.random.key(harness.SEED))


def keys_of(chunk: int, size: int):
    return jax.random.normal(jax.random.fold_in(KEY, chunk), (size, ROWS, DIM))


def chunks(size: int):
    for at, start in enumerate(range(0, size, CHUNK)):
        yield np.asarray(keys_of(at, min(CHUNK, size - start)))


def questions(size: int, count: int):
    """Noisy copies of keys spread over the first chunk, and where those lie."""
    first = keys_of(0, min(CHUNK, size))
    slots = np.linspace(0, len(first) - 1, count, dtype=int)
    return first[slots] + 2.0 * jax.random.normal(NOISE, (count, ROWS, DIM)), slots


def index_of(size: int, format: str) -> search.Index:
    """As `search.build` of all keys at once, in chunks, so that only the index itself is large."""
    parts = [search.build(keys, len(keys), format=format) for keys in chunks(size)]
    values, steps = (np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "steps"))
    return jax.tree.map(jnp.asarray, search.Index(values, steps, jnp.int32(size)))


def of_size(size: int, args, read_rate: float):
    """One row for every format and number of queries."""
    peer, exact = faiss.IndexFlatIP(ROWS * DIM), {}
    for keys in chunks(size):
        peer.add(keys.reshape(len(keys), -1))
    for format in args.formats:
        index = index_of(size, format)
        for count in args.queries:
            queries, slots = questions(size, count)
            flat = np.asarray(queries).reshape(count, -1)
            ours = partial(search.top_k, index, queries, k=K)
            taken = harness.turns({"ours": ours, "faiss": partial(peer.search, flat, K)}, seconds=args.seconds)
            best, middle = ({side: float(of(each)) for side, each in taken.items()} for of in (np.min, np.median))
            found = np.asarray(ours().slots)
            same_best, same_10 = search.agreement(exact.setdefault(count, found), found)
            yield {
                "ovts": size, "queries": count, "format": format, "ms": 1e3 * best["ours"],
                "faiss_ms": 1e3 * best["faiss"], "ratio": best["ours"] / best["faiss"],
                "of_medians": middle["ours"] / middle["faiss"], "aim": AIMS.get(count, 1.0),
                "of_read_rate": (index.values.nbytes + index.steps.nbytes) / best["ours"] / read_rate,
                "found": float(np.mean(found[:, 0] == slots)),
                "faiss_found": float(np.mean(peer.search(flat, 1)[1][:, 0] == slots)),
                "same_best": same_best, "same_10": same_10,
            }  # fmt: skip


def measure(args):
    rate = harness.read_rate()
    yield {"read_rate": rate}
    best: dict[tuple[int, int], float] = {}
    for size in args.sizes:
        for row in of_size(size, args, rate):
            at = row["queries"], size
            best[at] = min(best.get(at, np.inf), row["ms"])
            yield row
    small, large = min(args.sizes), max(args.sizes)
    for count in args.queries:
        yield {
            "queries": count,
            "times_the_ovts": large / small,
            "times_the_time": best[count, large] / best[count, small],
        }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--sizes", type=harness.whole, nargs="+", default=[1_000, 20_000, 1_000_000])
    parser.add_argument("--queries", type=harness.whole, nargs="+", default=[1, 16, 256])
    parser.add_argument("--formats", nargs="+", choices=search.FORMATS, default=list(search.FORMATS))
    parser.add_argument("--seconds", type=float, default=4.0, help="of each row")
    quick = {"sizes": [100, 1_000], "queries": [1, 16], "seconds": 0.1}
    harness.run(parser, measure, quick=quick, peers=(faiss,))


if __name__ == "__main__":
    main()

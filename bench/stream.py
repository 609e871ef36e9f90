"""Moments a second through the buffers of many people at once, by policy.

    python -m bench.stream [--users 10000] [--slots 16] [--dim 64] [--moments 32]

Every user has a buffer, and all are pushed to in one program. Buffers are full when the clock starts. `later` is the
time of as many moments again, after those of the first: a push takes constant time. The last column is the same rule
for one user in numpy, moment by moment, as a script would do it.
"""

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bench import harness
from nvcim_jax.pipeline import compiled
from nvcim_jax.stream import buffer, policies
from nvcim_jax.stream.buffer import Buffer, Item

SHOWN = ("all-three", "eoe", "fifo", "reservoir", "k-center")


def moments(key, users: int, count: int, dim: int, domains: int = 8) -> Item:
    """Random moments of many users."""
    embedding_key, score_key, domain_key = jax.random.split(key, 3)
    shape = (users, count)
    eoe, dss = jax.random.uniform(score_key, (2, *shape))
    domain = jax.random.randint(domain_key, shape, 0, domains)
    embedding = jax.random.normal(embedding_key, (*shape, dim))
    return Item(embedding, eoe, dss, domain, jnp.ones(shape, jnp.int32), jnp.ones(shape, bool))


def by_script(items: Item, slots: int) -> float:
    """Seconds that numpy takes for each moment of one user under the printed policy."""
    embedding, eoe, dss, domain = (np.asarray(leaf) for leaf in items[:4])
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    stored = list(range(slots))

    def idd(number: int) -> float:
        others = [each for each in stored if each != number and domain[each] == domain[number]]
        return float(np.mean(1 - unit[others] @ unit[number])) if others else 1.0

    began = time.perf_counter()
    for number in range(slots, len(eoe)):
        if eoe[number] <= min(eoe[each] for each in stored):
            continue
        own = idd(number)
        for slot, each in enumerate(stored):
            if eoe[each] < eoe[number] and dss[each] < dss[number] and idd(each) < own:
                stored[slot] = number
                break
    return (time.perf_counter() - began) / (len(eoe) - slots)


def measure(args):
    keys = harness.SEED + np.arange(args.users)
    users = jax.vmap(jax.random.key)(keys)
    first_key, *stream_keys = jax.random.split(jax.random.key(harness.SEED), 3)
    first, now, later = (moments(key, args.users, args.moments, args.dim) for key in (first_key, *stream_keys))
    one = moments(first_key, 1, max(300, 2 * args.slots), args.dim)
    script = by_script(jax.tree.map(lambda leaf: leaf[0], one), args.slots)
    for name in SHOWN:
        push = partial(compiled.push_all, policy=policies.POLICIES[name])
        full: Buffer = jax.vmap(partial(buffer.empty, slots=args.slots, dim=args.dim))(users)
        for _ in range(-(-args.slots // args.moments)):
            full = push(full, first)[0]
        after = push(full, now)[0]
        sides = {"now": partial(push, full, now), "later": partial(push, after, later)}
        seconds, again = (float(min(taken)) for taken in harness.turns(sides, rounds=args.rounds).values())
        items = args.users * args.moments
        yield {
            "policy": name, "users": args.users, "slots": args.slots, "dim": args.dim,
            "items_per_s": items / seconds, "later_per_s": items / again, "us_per_item": 1e6 * seconds / items,
            "script_per_s": 1 / script if name == "all-three" else None,
        }  # fmt: skip


def main() -> None:
    parser = harness.parser(__doc__)
    for name, default in (("users", 10_000), ("slots", 16), ("dim", 64), ("moments", 32), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=harness.whole, default=default)
    harness.run(parser, measure, quick={"users": 50, "moments": 8, "slots": 4, "dim": 8, "rounds": 1})


if __name__ == "__main__":
    main()

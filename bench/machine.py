"""What this machine can do at most: the rates that benchmarks hold their figures against."""

import time

import jax
import jax.numpy as jnp


def matmul_rate(size: int = 2048) -> float:
    """Measured float32 operations per second of one large product."""
    a = jax.random.normal(jax.random.key(0), (size, size))
    multiply = jax.jit(jnp.matmul)
    return 2 * size**3 / min(seconds(lambda: multiply(a, a).block_until_ready()) for _ in range(9))


def read_rate(gigabytes: float = 1.0) -> float:
    """Measured bytes read per second while summing an array much larger than the caches."""
    large, total = jnp.ones(int(gigabytes * 2**28), jnp.float32), jax.jit(jnp.sum)
    return large.nbytes / min(seconds(lambda: total(large).block_until_ready()) for _ in range(9))


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def steady(work, at_least: float = 0.3) -> float:
    """Seconds of one of many runs in a row: the first after a pause or another's turn finds caches and threads cold."""
    work()
    runs, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < at_least:
        work()
        runs += 1
    return taken / runs

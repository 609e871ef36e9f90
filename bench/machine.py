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

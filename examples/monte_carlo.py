"""A study of one's own, from pure functions: 1,000 noisy devices, each programmed with a bank and searched.

Run `python examples/monte_carlo.py`: ten seconds. Every function works on one example, and the axes are the caller's.
Beside the share that the draws find stands the same in closed form.
"""

import jax
import jax.numpy as jnp

import nvcim_jax as nv
from nvcim_jax.memory import programming, variation

OVTS, DRAWS = 8, 1000
own_key, shared_key, query_key, draw_key = jax.random.split(jax.random.key(0), 4)
codes = jax.random.normal(own_key, (OVTS, 16, 48)) + 4 * jax.random.normal(shared_key, (1, 16, 48))  # much alike
queries = codes + jax.random.normal(query_key, codes.shape)
score = lambda query, copies: nv.mips(query, copies[0])  # noqa: E731 - a single copy of every key, by MIPS
valid, right, device = jnp.ones(OVTS, bool), jnp.eye(OVTS, dtype=bool), nv.device("NVM-3")


def trial(key, sigma):
    """The share of the queries that find their OVT on one device."""
    bank = programming.program(key, codes, codes, valid, device, sigma=sigma, scales=(1,))
    found = jax.vmap(lambda query: programming.retrieve(bank, query, score=score).index)(queries)
    return jnp.mean(found == jnp.arange(OVTS))


@jax.jit
def study(keys, sigma):
    """The share on every device, and what it is over all devices there could be."""
    wins = variation.win_table(queries, codes, valid, device, sigma=sigma, score=score, scales=(1,))
    return jax.vmap(trial, in_axes=(0, None))(keys, sigma), jnp.mean(variation.expected_accuracy(wins, right))


for sigma in (0.0, 0.05, 0.1, 0.15):
    shares, exact = study(jax.random.split(draw_key, DRAWS), sigma)
    error = shares.std() / DRAWS**0.5
    print(f"sigma {sigma:4.2f}: found {shares.mean():.3f} ± {error:.3f} in {DRAWS} draws, {exact:.3f} in closed form")

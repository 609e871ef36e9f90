"""A device of one's own, as a TOML file, beside NVM-3: how its levels deviate, and how often a search still succeeds.

Run `python examples/own_device.py`: ten seconds.
"""

import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp

import nvcim_jax as nv
from nvcim_jax.memory.monte_carlo import retrieve_once

PCM = """
name = "PCM-4"
source = "numbers made up for this example"
levels = 4
noise = [0.02, 0.09, 0.07, 0.03]  # deviation of each level, lowest first, as a share of the cell's range
sigma_range = [1, 1]              # they hold as they are written, so at sigma 1
"""

file = Path(tempfile.mkdtemp()) / "pcm-4.toml"
file.write_text(PCM)
own_key, shared_key, query_key, draw_key = jax.random.split(jax.random.key(0), 4)
codes = jax.random.normal(own_key, (20, 16, 48)) + 4 * jax.random.normal(shared_key, (1, 16, 48))  # much alike
queries = codes + jax.random.normal(query_key, codes.shape)
trial = partial(retrieve_once, score=nv.stored_wmsdp)  # program a bank once, search it for every query

for name, sigma in ((str(file), 1.0), ("NVM-3", 0.1), ("NVM-3", 0.15)):
    sheet = nv.sheet(name)
    sheet.check(sigma=sigma)  # ValueError where the source does not say what the device does
    given = (queries, codes, jnp.ones(20, bool), sheet.device, jnp.float32(sigma))
    slots = jnp.concatenate(list(nv.monte_carlo(draw_key, trial, given, draws=100)))  # [draws, queries]
    levels, found = ", ".join(f"{sigma * each:.3f}" for each in sheet.noise), jnp.mean(slots == jnp.arange(20)[None])
    print(f"{sheet.name} at sigma {sigma:g}: levels deviate by {levels}; right OVT found {found:.1%} ({sheet.source})")

"""One of several processes that search one bank and draw one Monte Carlo together; its answers go to a file.

python spread_worker.py OUT BANK DEVICES PROCESSES PROCESS PORT
"""

import os
import sys
from functools import partial

OUT, BANK, DEVICES, PROCESSES, PROCESS, PORT = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES}"

import jax  # noqa: E402

if PROCESSES > 1:
    jax.distributed.initialize(f"127.0.0.1:{PORT}", num_processes=PROCESSES, process_id=PROCESS)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from nvcim_jax.core import similarity  # noqa: E402
from nvcim_jax.hardware import catalogue  # noqa: E402
from nvcim_jax.memory import programming, search, sharding  # noqa: E402
from nvcim_jax.memory.storage import store  # noqa: E402

NVM3 = catalogue.device("NVM-3")


def trial(key, prompts, query):
    """One draw of a device: which OVT it finds, the scores, what it reads back."""
    valid = jnp.ones(prompts.shape[0], bool)
    programmed = programming.program(key, prompts, prompts, valid, NVM3, sigma=0.1)
    return programming.retrieve(programmed, query, score=similarity.stored_wmsdp)


def main() -> None:
    together = DEVICES * PROCESSES > 1
    mesh = sharding.line() if together else None
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((5, 4, 8), dtype=np.float32)
    saved = store.load(BANK, mesh=mesh)
    answers = {}
    for format, asked in (
        ("float32", queries),
        ("float32", queries[:1]),
        ("bfloat16", queries),
        ("bfloat16", queries[:1]),
        ("int8", queries),
    ):
        index = search.build(saved.bank.keys, saved.bank.count, format=format)
        found = search.top_k(sharding.over(mesh, index) if together else index, asked, k=7, mesh=mesh)
        answers |= {f"{format} {len(asked)} {name}": leaf for name, leaf in found._asdict().items()}
    prompts = rng.standard_normal((6, 4, 8), dtype=np.float32)
    drawn = sharding.draws(trial, jax.random.key(3), 9, prompts, queries[0], mesh=mesh)
    answers |= {f"draw {name}": leaf for name, leaf in drawn._asdict().items()}
    if together:  # a bank made on every host is cut over the mesh, too, though it does not fill it
        small = sharding.over(mesh, search.build(prompts, 6))
        answers["small"] = partial(search.top_k, small, k=3)(queries, mesh=mesh).slots
    else:
        answers["small"] = search.top_k(search.build(prompts, 6), queries, k=3).slots
    assert together == (len(saved.bank.keys.sharding.device_set) > 1)
    if PROCESSES == 1 and together:
        store.save(BANK + "-again", saved.bank, saved.codec, saved.about)
    if PROCESSES > 1:
        try:
            store.save(OUT + "-bank", saved.bank)
        except store.StoreError as error:
            assert "spread over several processes" in str(error)
        else:
            raise AssertionError("a part of a bank was saved as the whole")
    np.savez(OUT, **{name: np.asarray(leaf) for name, leaf in answers.items()})


main()

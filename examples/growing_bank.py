"""A bank that grows OVT by OVT in its own memory, is saved version over version, and is searched.

Run `python examples/growing_bank.py`: five seconds.
"""

import tempfile

import jax
import jax.numpy as jnp

from nvcim_jax.memory import bank, growth, search
from nvcim_jax.memory.storage import store

folder = f"{tempfile.mkdtemp()}/bank"
codes = jax.random.normal(jax.random.key(0), (6, 16, 48))  # of six OVTs, each its own search key here


def ovt(number):
    """An OVT that says when it was learned; in a pipeline the codes come from tuning."""
    return bank.Ovt(codes[number], codes[number], bank.unknown()._replace(time=jnp.uint32(number + 1)))


grown = bank.empty(capacity=4, rows=16, dim=48)
for number in range(4):
    grown = growth.append(grown, ovt(number))  # the bank that is given is used up
version = store.save(folder, grown)
print(f"version {version}: {grown.count} OVTs in {grown.capacity} slots, {bank.arrays(4, 16)} crossbar arrays")

grown = growth.add(grown, ovt(4), victim=bank.oldest)  # a full bank: the oldest OVT makes room
version = store.save(folder, bank.append(bank.grown(grown, 8), ovt(5)), over=version)
saved = store.load(folder)  # every digest checked
print(f"version {saved.version}: {saved.bank.count} OVTs in {saved.bank.capacity} slots")

found = search.top_k(search.build(saved.bank.keys, saved.bank.count), codes, k=1)
print(f"slots found for codes 0 to 5: {found.slots[:, 0]}; those of time {saved.bank.origin.time[found.slots[:, 0]]}")
try:
    store.save(folder, grown, over=1)
except store.StoreError as error:
    print(f"refused: {str(error).removeprefix(folder)}")

"""A memory that grows by what its person does next: new OVTs beside the old ones, room made for them, kept on disk.

Run `python examples/growing_bank.py`: half a minute.
"""

import tempfile

import jax

import nvcim_jax as nv
from nvcim_jax.memory import bank

folder = f"{tempfile.mkdtemp()}/memory"
model, users = nv.load_model("toy"), nv.toy_users("LaMP-2")
new = users[0].queries  # the person's next questions, with the answers that they liked
learn_key, answer_key, *grow_keys = jax.random.split(jax.random.key(0), 5)


def kept(memory):
    """Save over the version before, and say what there is."""
    memory = nv.save(folder, memory)
    print(f"version {memory.version}: {memory.bank.count[0]} OVTs in {memory.bank.capacity} slots")
    return memory


memory = kept(nv.learn(learn_key, model, users, "NVM-3", sigma=0.1))
memory = nv.load(folder, model)  # another day
memory = kept(nv.grow(grow_keys[0], model, memory, new[:2]))  # two free slots; what was learned keeps its bits
answers = nv.answer(answer_key, model, memory, new[:2])
print(f"found what is new: {[told.found == sample for told, sample in zip(answers, new[:2], strict=True)]}")

memory, before = nv.counted(memory, answers), memory.block.selected.samples[0]
memory = kept(nv.grow(grow_keys[1], model, memory, new[2:4], victim=bank.least_used))  # a full bank: two make room
after = memory.block.selected.samples[0]
print(f"made room: slots {[slot for slot, sample in enumerate(before) if sample not in after]}")
memory = kept(nv.grow(grow_keys[2], model, memory, new[4:5], victim=None))  # or the bank gets more slots

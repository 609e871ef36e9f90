"""A history learned as virtual tokens in noisy arrays, saved, loaded and asked: the four verbs.

Run `python examples/quickstart.py`: half a minute, most of it to compile. It writes the folder `memory`; a second run
needs that folder gone, for nothing is overwritten.
"""

import jax

import nvcim_jax as nv

model = nv.load_model("toy")
users = nv.toy_users("LaMP-2")
memory = nv.learn(jax.random.key(0), model, users, "NVM-3", sigma=0.1)
nv.save("memory", memory)
memory = nv.load("memory", model)
for told in nv.answer(jax.random.key(1), model, memory, users[0].queries):
    print(f"{told.text}, as in: {told.found.content} (leads by {told.margin:.3f})")

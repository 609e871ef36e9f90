"""A history of one's own: records of questions and answers become `nv.Users`, are learned, and answer new questions.

Run `python examples/own_history.py`: half a minute, most of it to compile. The toy model knows the words of its small
world only; with a checkpoint (`nv.load_model(folder)`) any text will do.
"""

from dataclasses import replace

import jax

import nvcim_jax as nv
from nvcim_jax import tuning
from nvcim_jax.data import lamp

TASK = lamp.task("LaMP-2")  # which tag does a description get?
SAID = {
    "comedy": ("She kneaded the crusty dough and the loaf, then iced the cake", "He baked the golden tart and the rye"),
    "dystopia": ("She looped the digital sampler and the vocoder", "He remixed the distorted techno and the trance"),
    "romance": ("She hoisted the windy sail and the rigging", "He moored the salty anchor, then sailed the harbour"),
}


def sample(content: str, tag: str) -> nv.Sample:
    """A question in the wording of the task, its answer, and its content alone."""
    return nv.Sample(lamp.ask(TASK, content), tag, content)


history = tuple(sample(content, tag) for tag, contents in SAID.items() for content in contents)
users = nv.Users(TASK, (nv.User("Ann", history, ()),), source="notes on paper")
quick = replace(nv.RECOMMENDED, training=tuning.Training(steps=5))
model = nv.load_model("toy")
memory = nv.learn(jax.random.key(0), model, users, "NVM-3", sigma=0.1, settings=quick)
asked = ["They glazed the sweet pastry and the dough", "They mixed the glitchy oscillator", "They steered the mast"]
for question, told in zip(asked, nv.answer(jax.random.key(1), model, memory, asked), strict=True):
    print(f"{question}: {told.text} (as in {told.found.content!r})")

"""A history of one's own: a file of questions and answers is learned, and questions that it does not hold are answered.

Run `python examples/own_history.py`: half a minute, most of it to compile. The toy model knows the words of its small
world only; with a checkpoint (`nv.load_model(folder)`) any text will do. What lies elsewhere becomes users, too:
`nv.Users(tasks.FREE, (nv.User("Ann", samples, ()),), "notes on paper")`, of `nv.Sample(question, answer, question)`.
"""

from dataclasses import replace
from pathlib import Path

import jax

import nvcim_jax as nv
from nvcim_jax import tuning

users = nv.hold_out(nv.read_history(Path(__file__).with_name("ann.jsonl")), 3)
quick = replace(nv.RECOMMENDED, training=tuning.Training(steps=5))
model = nv.load_model("toy")
memory = nv.learn(jax.random.key(0), model, users, "NVM-3", sigma=0.1, settings=quick)
asked = users[0].queries
for query, told in zip(asked, nv.answer(jax.random.key(1), model, memory, asked), strict=True):
    print(f"{query.question}\n  answered: {told.text}\n  wanted:   {query.answer}")

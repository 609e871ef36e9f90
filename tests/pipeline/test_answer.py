"""Answers behind virtual tokens, and the same without them."""

import jax
import jax.numpy as jnp
import numpy as np

from nvcim_jax import llm, tuning
from nvcim_jax.data import synthetic, text
from nvcim_jax.data.lamp import task
from nvcim_jax.llm import generation
from nvcim_jax.pipeline import answer


def test_an_answer_alone_is_the_bare_answer_from_the_same_program(model):
    query = synthetic.users(task("LaMP-2"), 1)[0].queries[0]
    words = text.encode(model.tokenizer, "fantasy dragons fantasy elves")[:4]
    front = llm.embed(model.params, model.config, jnp.array([words]))
    keys = jax.random.split(jax.random.key(0))
    bound = {"new_tokens": 8, "sampling": llm.Sampling()}
    (bare,) = answer.generate(model, [query], new_tokens=8)
    behind = "".join(answer.stream(keys[0], model, query, tuning.Adapted(front=front), **bound))
    programs = [stage._cache_size() for stage in (generation._start, generation._advance)]
    alone = "".join(answer.stream(keys[1], model, query, tuning.Adapted(front=front), **bound, alone=True))
    assert alone == bare != behind
    assert [stage._cache_size() for stage in (generation._start, generation._advance)] == programs


def test_positions_without_a_front_by_hand():
    nowhere = answer.NOWHERE
    found = answer._without_front(np.array([[0, 1, 2, 3, 4, nowhere]]), 2)
    assert found.tolist() == [[nowhere, nowhere, 0, 1, 2, nowhere]]
    behind = answer._without_front(np.array([[0, 1, 2, 3, 4, nowhere]]), 2, 1)
    assert behind.tolist() == [[0, nowhere, nowhere, 1, 2, nowhere]]

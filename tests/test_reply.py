"""Answers behind virtual tokens, and the same without them."""

import jax
import jax.numpy as jnp

from nvcim_jax import llm, reply, synthetic, text, tuning
from nvcim_jax.lamp import task
from nvcim_jax.llm import generation


def test_an_answer_alone_is_the_bare_answer_from_the_same_program(model):
    query = synthetic.users(task("LaMP-2"), 1)[0].queries[0]
    words = text.encode(model.tokenizer, "fantasy dragons fantasy elves")[:4]
    front = llm.embed(model.params, model.config, jnp.array([words]))
    keys = jax.random.split(jax.random.key(0))
    bound = {"new_tokens": 8, "sampling": llm.Sampling()}
    (bare,) = reply.answer(model, [query], new_tokens=8)
    behind = "".join(reply.tell(model, query, tuning.Adapted(front=front), **bound, key=keys[0]))
    programs = [stage._cache_size() for stage in (generation._start, generation._advance)]
    alone = "".join(reply.tell(model, query, tuning.Adapted(front=front), **bound, key=keys[1], alone=True))
    assert alone == bare != behind
    assert [stage._cache_size() for stage in (generation._start, generation._advance)] == programs


def test_positions_without_a_front_by_hand():
    nowhere = reply.NOWHERE
    found = reply._without_front(jnp.array([[0, 1, 2, 3, 4, nowhere]]), 2)
    assert found.tolist() == [[nowhere, nowhere, 0, 1, 2, nowhere]]

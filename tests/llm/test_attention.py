"""Attention that computes its weights again, against the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.llm.attention import attend

ROWS, KEY_HEADS, SHARED, TOKENS, DIM = 2, 2, 3, 7, 4


def drawn(tokens=TOKENS):
    keys = jax.random.split(jax.random.key(0), 4)
    heads = ROWS * KEY_HEADS
    query = jax.random.normal(keys[0], (heads, SHARED * tokens, DIM))
    key, value = (jax.random.normal(each, (heads, tokens, DIM)) for each in keys[1:3])
    own = jnp.eye(tokens, dtype=bool)[None]  # every token sees itself, and others as it falls out
    return query, key, value, own | jax.random.bernoulli(keys[3], 0.5, (ROWS, tokens, tokens))


def plain(query, key, value, allowed, cap):
    """One head and query after the other, over the tokens that it may see alone."""
    mixed = []
    for n in range(query.shape[0]):
        for at in range(query.shape[1]):
            seen = np.flatnonzero(allowed[n // KEY_HEADS, at % allowed.shape[1]])
            scores = key[n, seen] @ query[n, at]
            scores = scores if cap is None else cap * jnp.tanh(scores / cap)
            weights = jnp.exp(scores) / jnp.sum(jnp.exp(scores))
            mixed.append(weights @ value[n, seen])
    return jnp.stack(mixed).reshape(query.shape)


@pytest.mark.parametrize("cap", [None, 1.5])
def test_attention_and_its_gradient_are_the_formula_s(cap):
    query, key, value, allowed = drawn()
    slope = jax.random.normal(jax.random.key(1), query.shape)
    ours, back = jax.vjp(lambda *to: attend(*to, allowed, cap), query, key, value)
    other, back_other = jax.vjp(lambda *to: plain(*to, np.asarray(allowed), cap), query, key, value)
    np.testing.assert_allclose(ours, other, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), back(slope), back_other(slope))


def test_nothing_is_learned_from_what_is_not_seen():
    query, key, value, _ = drawn()
    causal = jnp.broadcast_to(jnp.tril(jnp.ones((TOKENS, TOKENS), bool)), (ROWS, TOKENS, TOKENS))
    first = jnp.zeros(query.shape).at[:, ::TOKENS].set(1.0)  # only what the first token of each head mixes counts
    of_key, of_value = jax.grad(lambda key, value: jnp.sum(first * attend(query, key, value, causal)), (0, 1))(
        key, value
    )
    assert not np.asarray(of_value[:, 1:]).any() and not np.asarray(of_key[:, 1:]).any()
    np.testing.assert_allclose(of_key[:, 0], 0, atol=1e-6)  # where one token is seen there is nothing to choose
    np.testing.assert_allclose(of_value[:, 0], SHARED)


def test_scores_of_any_size_mix_to_numbers():
    query, key, value, allowed = drawn()
    mixed, back = jax.vjp(lambda query: attend(query, key, value, allowed), 1e4 * query)
    assert np.isfinite(mixed).all() and np.isfinite(back(jnp.ones_like(mixed))[0]).all()


def test_weights_are_not_kept_for_the_way_back():
    """Of six layers of attention over 64 tokens, backward has queries, keys and values, and the weights of one."""

    def deep(query, key, value, allowed):
        for _ in range(6):
            query = attend(query, key, value, allowed)
        return jnp.sum(query)

    given = drawn(tokens=64)
    taken = jax.jit(jax.grad(deep)).lower(*given).compile().memory_analysis().temp_size_in_bytes
    weights = 4 * ROWS * KEY_HEADS * SHARED * 64 * 64
    assert taken < 4 * weights  # scores, weights and their change in one layer; six were kept otherwise

"""Drawing tokens, streaming them, and prompts that do not fit."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from nvcim_jax import llm
from nvcim_jax.llm import decoder
from nvcim_jax.llm.generation import choose
from tests.helpers.make_golden import GOLDEN

SCORES = jnp.log(jnp.array([0.02, 0.4, 0.08, 0.3, 0.2]))


@pytest.fixture(scope="module")
def tiny():
    return llm.load(GOLDEN / "llama")


def drawn(sampling, count=4000):
    keys = jax.random.split(jax.random.key(3), count)
    return np.bincount(jax.vmap(lambda key: choose(key, SCORES, sampling))(keys), minlength=5)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (llm.Sampling(1.0), [0.02, 0.4, 0.08, 0.3, 0.2]),
        (llm.Sampling(0.5), np.array([0.02, 0.4, 0.08, 0.3, 0.2]) ** 2 / 0.2968),
        (llm.Sampling(1.0, top_k=2), [0, 4 / 7, 0, 3 / 7, 0]),
        (llm.Sampling(1.0, top_p=0.71), [0, 4 / 9, 0, 3 / 9, 2 / 9]),  # two tokens hold .7, so the third is needed
        (llm.Sampling(1.0, top_p=0.69), [0, 4 / 7, 0, 3 / 7, 0]),
        (llm.Sampling(1.0, top_k=3, top_p=0.5), [0, 4 / 7, 0, 3 / 7, 0]),
    ],
)
def test_tokens_are_drawn_from_what_the_rules_leave(sampling, expected):
    counts, expected = drawn(sampling), np.asarray(expected)
    assert np.all(counts[expected == 0] == 0)
    kept = expected > 0
    assert stats.chisquare(counts[kept], expected[kept] / expected[kept].sum() * counts.sum()).pvalue > 1e-3


def test_the_papers_temperature_rarely_leaves_the_likeliest():
    assert drawn(llm.Sampling(0.1))[1] > 0.9 * 4000
    assert set(np.flatnonzero(drawn(llm.Sampling()))) == {1}


def prompts(model, lengths):
    rng = np.random.default_rng(5)
    ids = rng.integers(3, 61, (len(lengths), max(lengths)))
    place = np.arange(max(lengths))[None]
    positions = np.where(place < np.array(lengths)[:, None], place, decoder.NOWHERE).astype(np.int32)
    return llm.Inputs(llm.embed(model.params, model.config, jnp.asarray(ids)), positions)


def test_a_drawn_answer_is_the_rows_own_whoever_its_neighbours(tiny):
    asked = prompts(tiny, [4, 9, 6])
    keys, hot = jax.random.split(jax.random.key(1), 3), llm.Sampling(1.5)
    together = llm.generate(tiny.params, tiny.config, asked, new_tokens=20, sampling=hot, keys=keys)
    others = llm.generate(
        tiny.params,
        tiny.config,
        llm.Inputs(asked.embeddings[::-1], asked.positions[::-1]),
        new_tokens=20,
        sampling=hot,
        keys=keys[::-1],
    )
    np.testing.assert_array_equal(together, others[::-1])
    alone = llm.generate(
        tiny.params, tiny.config, llm.Inputs(asked.embeddings[:1, :4]), new_tokens=20, sampling=hot, keys=keys[:1]
    )
    np.testing.assert_array_equal(alone[0], together[0])
    again = llm.generate(tiny.params, tiny.config, asked, new_tokens=20, sampling=hot, keys=keys[::-1])
    assert not np.array_equal(again[0], together[0])


@pytest.mark.parametrize("sampling", [llm.Sampling(), llm.Sampling(1.5)])
def test_streamed_tokens_are_the_generated_ones(tiny, sampling):
    asked = prompts(tiny, [4, 9])
    keys = jax.random.split(jax.random.key(1), 2)
    told = {"new_tokens": 12, "sampling": sampling, "keys": keys}
    whole = np.asarray(llm.generate(tiny.params, tiny.config, asked, **told))
    end = int(whole[0, 4])
    whole = llm.generate(tiny.params, tiny.config, asked, end=(end,), pad=60, **told)
    streamed = np.stack(list(llm.stream(tiny.params, tiny.config, asked, end=(end,), pad=60, **told)), axis=1)
    np.testing.assert_array_equal(streamed, whole[:, : streamed.shape[1]])
    assert np.all(np.asarray(whole)[:, streamed.shape[1] :] == 60)


def test_any_of_several_ends_ends_a_row(tiny):
    asked = prompts(tiny, [4])
    free = np.asarray(llm.generate(tiny.params, tiny.config, asked, new_tokens=12))[0]
    ends = (int(free[7]), int(free[3]))
    first = min(list(free).index(end) for end in ends)
    out = llm.generate(tiny.params, tiny.config, asked, new_tokens=12, end=ends, pad=60)[0]
    np.testing.assert_array_equal(out, [*free[: first + 1], *[60] * (11 - first)])


def test_answers_behind_a_prefix_are_those_of_logits_behind_it(tiny):
    c = tiny.config
    keys, values = jax.random.normal(jax.random.key(2), (2, 1, c.layers, 4, c.kv_heads, c.head_dim))
    prefix, ids = llm.Prefix(keys, values), jnp.array([[9, 8, 7]])
    out = llm.generate(tiny.params, c, llm.Inputs(llm.embed(tiny.params, c, ids), prefix=prefix), new_tokens=6)
    said = llm.logits(tiny.params, c, jnp.concatenate([ids, out], axis=1), prefix=prefix)
    np.testing.assert_array_equal(out[0], jnp.argmax(said[0, 2:-1], axis=-1))


def test_one_prompt_under_many_draws_is_one_batch(tiny):
    """Soft prompts are rows: a batch of them is the loop over them, with one copy of the weights."""
    c, soft = tiny.config, jax.random.normal(jax.random.key(2), (5, 3, 32))
    asked = jnp.broadcast_to(llm.embed(tiny.params, c, jnp.array([[9, 8, 7]])), (5, 3, 32))
    together = llm.logits(tiny.params, c, embeddings=jnp.concatenate([soft, asked], axis=1))
    for row in range(5):
        alone = llm.logits(tiny.params, c, embeddings=jnp.concatenate([soft[row : row + 1], asked[:1]], axis=1))
        np.testing.assert_allclose(together[row], alone[0], atol=1e-5)


def test_a_prompt_beyond_the_context_is_refused_in_words(tiny):
    with pytest.raises(ValueError, match="65 tokens are more than the model's context of 64"):
        llm.logits(tiny.params, tiny.config, jnp.ones((1, 65), jnp.int32))
    with pytest.raises(ValueError, match="a prompt of 9 tokens and 56 new ones"):
        llm.generate(tiny.params, tiny.config, prompts(tiny, [4, 9]), new_tokens=56)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"new_tokens": 0}, "0 new tokens: ask for at least one"),
        ({"sampling": llm.Sampling(-1.0)}, "temperature from 0 on"),
        ({"sampling": llm.Sampling(1.0, top_p=1.5)}, "top_p above 0 and up to 1"),
        ({"sampling": llm.Sampling(1.0, top_p=0.0)}, "top_p above 0 and up to 1"),
        ({"sampling": llm.Sampling(1.0, top_k=0)}, "top_k from 1 on"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tiny, told, words):
    with pytest.raises(ValueError, match=words):
        llm.generate(tiny.params, tiny.config, prompts(tiny, [4]), **told)


def test_drawing_needs_keys(tiny):
    with pytest.raises(ValueError, match="one typed key per row"):
        llm.generate(tiny.params, tiny.config, prompts(tiny, [4]), new_tokens=2, sampling=llm.Sampling(0.1))


def test_longrope_asks_every_row_for_its_own_length():
    model = llm.load(GOLDEN / "phi3_long")
    asked = prompts(model, [5, 11])  # the original context is 8
    both = llm.logits(model.params, model.config, embeddings=asked.embeddings, positions=jnp.asarray(asked.positions))
    short = llm.logits(model.params, model.config, embeddings=asked.embeddings[:1, :5])
    np.testing.assert_allclose(both[0, :5], short[0], atol=1e-5)
    with pytest.raises(ValueError, match="could cross token 8, where longrope turns all keys anew"):
        llm.generate(model.params, model.config, asked, new_tokens=4)


def test_a_step_does_not_copy_the_cache(tiny):
    """One row is where the compiler is tempted most: it wrote every layer's keys and values twice, from copies."""
    config = tiny.config
    write = jax.jit(lambda params, x: llm.generate(params, config, llm.Inputs(x), new_tokens=9))
    program = write.lower(tiny.params, jnp.ones((1, 5, config.dim))).compile().as_text()
    cache = rf"= f32\[[\d,]*{5 + 9 - 1},{config.head_dim}\]\S* "
    assert re.search(cache + "fusion", program)  # there it is written
    assert not re.findall(cache + "copy", program)

"""Search over a bank: three forms held together, top-k, formats, growth, refusals."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core import similarity
from nvcim_jax.core.pooling import pyramid
from nvcim_jax.core.similarity import aligned_mean, fold, fold_copies, maxsim, mips, pairwise_mean, stored_wmsdp, wmsdp
from nvcim_jax.memory import search

KEYS = jax.random.normal(jax.random.key(0), (150, 16, 6))
QUERIES = jax.random.normal(jax.random.key(1), (5, 16, 6))


def by_definition(score=wmsdp, keys=KEYS, queries=QUERIES):
    pairs = jax.vmap(jax.vmap(score, in_axes=(None, 0)), in_axes=(0, None))
    return np.asarray(jax.jit(pairs)(queries, keys))


def noisy_copies(tokens=16, slots=150):
    keys = jax.random.normal(jax.random.key(2), (slots, tokens, 6))
    copies = jax.vmap(pyramid)(keys)
    return tuple(c + 0.3 * jax.random.normal(jax.random.key(at), c.shape) for at, c in enumerate(copies))


def test_the_folded_search_is_the_definition():
    expected = by_definition()
    index = search.build(KEYS, 150, format="float32")
    np.testing.assert_allclose(search.scores(index, QUERIES)[:, :150], expected, atol=1e-4)
    found = search.top_k(index, QUERIES, k=4)
    ranked = np.argsort(-expected, axis=1)
    np.testing.assert_array_equal(found.slots, ranked[:, :4])
    np.testing.assert_allclose(found.scores, np.take_along_axis(expected, ranked[:, :4], 1), atol=1e-4)
    np.testing.assert_allclose(found.margins, found.scores[:, 0] - found.scores[:, 1], atol=1e-5)
    plain = search.top_k_by(wmsdp, KEYS, 150, QUERIES, k=4)
    np.testing.assert_array_equal(plain.slots, found.slots)
    np.testing.assert_allclose(plain.margins, found.margins, atol=1e-4)


@pytest.mark.parametrize("tokens", [16, 7, 18])
def test_noisy_copies_fold_into_the_physical_form(tokens):
    copies, query = noisy_copies(tokens, 9), jax.random.normal(jax.random.key(3), (1, tokens, 6))
    physical = jax.jit(jax.vmap(stored_wmsdp, in_axes=(None, 0)))(query[0], copies)
    index = search.build(copies, 9, fold=fold_copies, format="float32")
    np.testing.assert_allclose(search.scores(index, query)[0, :9], physical, atol=1e-4)
    assert np.abs(physical - by_definition(wmsdp, copies[0], query)[0]).max() > 0.01  # the noises differ
    found = search.top_k_by(stored_wmsdp, copies, 9, query)
    assert int(found.slots[0, 0]) == int(np.argmax(physical))


@pytest.mark.parametrize(
    ("folded", "score"),
    [
        (search.flat, mips),
        (search.pairwise, partial(mips, reduce=pairwise_mean)),
        (search.pairwise, partial(wmsdp, reduce=pairwise_mean)),
        (partial(fold, weights=(1 / 16, 0.8 / 8, 0.6 / 4)), partial(wmsdp, reduce=aligned_mean)),
    ],
)
def test_each_linear_reading_has_a_folded_form(folded, score):
    index = search.build(KEYS, 150, fold=folded, format="float32")
    found, expected = np.asarray(search.scores(index, QUERIES)[:, :150]), by_definition(score)
    scale = (expected * found).sum() / (found**2).sum()  # weights that do not sum to 2.4 only scale the scores
    np.testing.assert_allclose(scale * found, expected, atol=1e-4)


def test_maxsim_is_not_linear_and_is_searched_by_definition():
    found = search.top_k_by(maxsim, KEYS, 150, QUERIES, k=3)
    np.testing.assert_array_equal(found.slots, np.argsort(-by_definition(maxsim), axis=1)[:, :3])


@pytest.mark.parametrize(("format", "error"), [("float32", 1e-6), ("bfloat16", 4e-3), ("int16", 2e-5), ("int8", 4e-3)])
@pytest.mark.parametrize("queries", [1, 5])
def test_formats_stay_within_their_rounding(format, error, queries):
    index = search.build(KEYS, 150, format=format)
    found = np.asarray(search.scores(index, QUERIES[:queries])[:, :150])
    folded = np.asarray(jax.vmap(fold)(KEYS))
    bound = np.einsum("qrd,krd->qk", np.abs(QUERIES[:queries]), np.abs(folded).max((1, 2), keepdims=True) + 0 * folded)
    assert search.format_of(index) == format
    assert np.abs(found - by_definition()[:queries]).max() > 0 or format == "float32"
    assert (np.abs(found - by_definition()[:queries]) <= 2 * error * bound).all()


@pytest.mark.parametrize("slots", [1, 3, 64, 1024, 1025, 3000])
@pytest.mark.parametrize("k", [1, 2, 70])
def test_top_k_is_a_stable_sort_whatever_the_size(slots, k):
    if k > slots:
        return
    rng = np.random.default_rng(slots)
    keys = rng.integers(-1, 2, (slots, 1, 4)).astype(np.float32)  # many equal scores
    queries = rng.integers(-2, 3, (3, 1, 4)).astype(np.float32)
    index = search.build(keys, slots, fold=search.flat, format="int8")
    exact = np.einsum("qrd,krd->qk", queries, keys)
    ranked = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    found = search.top_k(index, jnp.asarray(queries), k=k)
    np.testing.assert_array_equal(found.slots, ranked)
    np.testing.assert_allclose(found.scores, np.take_along_axis(exact, ranked, 1), atol=1e-5)


def test_free_slots_never_win_and_the_only_ovt_leads_by_infinity():
    index = search.build(100 * jnp.ones_like(KEYS), 1)
    found = search.top_k(index, jnp.ones_like(QUERIES), k=1)
    assert (np.asarray(found.slots) == 0).all() and np.isposinf(found.margins).all()


def test_an_index_grows_in_place_without_recompiling():
    whole = search.build(KEYS, 150)
    grown = search.build(jnp.zeros_like(KEYS), 0)
    before = search._put._cache_size(), search._top_k._cache_size()
    for slot in range(150):
        grown = search.put(grown, slot, KEYS[slot], slot + 1)
        if slot in (9, 99):
            search.top_k(grown, QUERIES, k=2)
    assert (search._put._cache_size(), search._top_k._cache_size()) <= (before[0] + 1, before[1] + 1)
    jax.tree.map(np.testing.assert_array_equal, grown, whole)


def test_a_put_moves_an_ovt_out_of_sight_of_its_old_key():
    index = search.put(search.build(KEYS, 150, format="int16"), 7, 50 * KEYS[3], 150)
    assert int(search.top_k(index, KEYS[3:4], k=1).slots[0, 0]) == 7


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda i: search.top_k(i, QUERIES, k=151), "holds 150 OVTs: ask for 1 to 150"),
        (lambda i: search.top_k(i, QUERIES, k=0), "k = 0"),
        (lambda i: search.top_k(i._replace(count=jnp.int32(0)), QUERIES), "the bank is empty"),
        (lambda i: search.top_k(i, QUERIES.at[0, 0, 0].set(jnp.nan)), "NaN or infinite"),
        (lambda i: search.top_k(i, QUERIES.at[0, 0, 0].set(jnp.inf)), "NaN or infinite"),
        (lambda i: search.top_k(i, QUERIES[:, :8]), "queries of 8 x 6 values, but the bank's keys have 96"),
        (lambda i: search.top_k(i, QUERIES[:0]), "at least one query"),
        (lambda i: search.build(KEYS, 150, format="float8"), "unknown format 'float8'"),
        (
            lambda i: search.build(KEYS, 150, fold=partial(fold, scales=(2, 4), weights=(1.0, 1.0))),
            "1 as the first scale",
        ),
        (lambda i: search.top_k_by(wmsdp, KEYS, 0, QUERIES), "the bank is empty"),
    ],
)
def test_bad_input_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call(search.build(KEYS, 150))


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf, -2e15])
def test_a_key_that_would_win_every_search_is_refused_where_it_is_taken(value):
    keys = KEYS.at[7, 3, 2].set(value)
    for count, format in ((150, "bfloat16"), (8, "int8")):
        with pytest.raises(ValueError, match="the key of slot 7 holds NaN, infinite or huge values"):
            search.build(keys, count, format=format)
    index = search.build(keys, 7)  # a free slot may hold anything
    assert np.isfinite(search.top_k(index, QUERIES, k=7).scores).all()
    with pytest.raises(ValueError, match="holds NaN, infinite or huge values"):
        search.put(index, 2, keys[7], 7)
    with pytest.raises(ValueError, match="the key of slot 4 holds"):
        search.build((noisy_copies()[0], noisy_copies()[1].at[4].set(value)), 150, fold=lambda copies: copies[0])


def test_the_definition_refuses_what_the_fold_refuses():
    with pytest.raises(ValueError, match="resample the query"):
        similarity.wmsdp(QUERIES[0, :8], KEYS[0])


def test_compare_measures_every_format_against_float32():
    measured = search.compare(KEYS, 150, QUERIES, k=5)
    assert {each.format for each in measured} == set(search.FORMATS)
    assert measured == sorted(measured, key=lambda each: each.seconds)
    by_name = {each.format: each for each in measured}
    assert by_name["float32"].same_k == by_name["int16"].same_best == 1
    assert by_name["float32"].bytes - by_name["int8"].bytes == 3 * 192 * 96  # 150 slots in blocks of 64
    assert 0.8 <= by_name["int8"].same_k <= 1


def test_agreement_by_hand():
    exact, other = np.array([[1, 2], [3, 4]]), np.array([[1, 4], [4, 3]])
    assert search.agreement(exact, other) == (0.5, 0.75)


@pytest.mark.parametrize("format", search.FORMATS)
@pytest.mark.parametrize("questions", [1, 16])
def test_a_search_takes_little_memory_beside_the_index(format, questions):
    """A packed index is decoded block by block, whatever the number of questions."""
    index = search.build(jnp.zeros((16 * search.BLOCK, 16, 48)), 16 * search.BLOCK, format=format)
    program = search._top_k.lower(index, jnp.zeros((questions, 16, 48)), k=10).compile()
    assert program.memory_analysis().temp_size_in_bytes < index.values.nbytes / 2


def test_many_questions_are_found_part_by_part():
    """Five hundred in two equal parts and 401 in two, the last filled up: the bits of each part alone."""
    index = search.build(KEYS, 150)
    asked = jax.random.normal(jax.random.key(4), (500, 16, 6))
    for count, size in ((500, 250), (401, 201)):
        found = search.top_k(index, asked[:count], k=3)
        parts = asked[:size], jnp.concatenate([asked[size:count], jnp.zeros((2 * size - count, 16, 6))])
        alone = [search.top_k(index, part, k=3) for part in parts]
        for name, leaf in found._asdict().items():
            whole = np.concatenate([getattr(part, name) for part in alone])
            np.testing.assert_array_equal(leaf, whole[:count], name)


def test_scores_of_many_questions_are_not_held_at_once():
    index = search.build(jnp.zeros((16 * search.BLOCK, 16, 6)), 16 * search.BLOCK)
    program = search._top_k.lower(index, jnp.zeros((10_000, 16, 6)), k=10).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * search.SCORES  # all of them would take 655 MB

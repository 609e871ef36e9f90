"""Eq. 5 and its readings."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.pooling import pyramid
from nvcim_jax.core.similarity import (
    aligned,
    aligned_mean,
    cosine_of_means,
    fold,
    maxsim,
    mips,
    pairwise_mean,
    stored_wmsdp,
    wmsdp,
)

UNIT = jnp.array([[1.0], [0.0], [0.0], [0.0]])


def pair(tokens=16, dim=6, seed=0):
    return jax.random.normal(jax.random.key(seed), (2, tokens, dim))


def test_the_hand_worked_values():
    assert float(wmsdp(UNIT, UNIT)) == pytest.approx((1 + 0.8 * 0.25 + 0.6 * 0.0625) / 2.4)
    assert float(wmsdp(UNIT, UNIT)) == pytest.approx(0.515625)
    by_rows = (1 / 4 + 0.8 * 0.25 / 2 + 0.6 * 0.0625) / 2.4
    assert float(wmsdp(UNIT, UNIT, reduce=aligned_mean)) == pytest.approx(by_rows)


def test_maxsim_by_hand():
    query, prompt = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([[3.0, 1.0], [0.5, 4.0], [0.0, 0.0]])
    assert float(maxsim(query, prompt)) == pytest.approx((3 + 8) / 2)


def test_mean_over_pairs_is_the_product_of_means_and_blind_to_scale():
    query, prompt = pair()
    pairs = float(jnp.mean(query @ prompt.T))
    assert float(mips(query, prompt, reduce=pairwise_mean)) == pytest.approx(pairs, abs=1e-6)
    assert float(wmsdp(query, prompt, reduce=pairwise_mean)) == pytest.approx(pairs, abs=1e-6)


def test_one_scale_of_weight_one_is_flat_mips():
    query, prompt = pair()
    assert float(wmsdp(query, prompt, scales=(1,), weights=(1.0,))) == pytest.approx(
        float(mips(query, prompt)), abs=1e-4
    )


def test_cosine_is_one_for_itself_and_zero_for_nothing():
    query, _ = pair()
    assert float(cosine_of_means(query, 3.0 * query)) == pytest.approx(1, abs=1e-6)
    assert float(cosine_of_means(query, jnp.zeros((4, 6)))) == 0


@pytest.mark.parametrize("tokens", [4, 7, 16, 18])
def test_the_folded_form_is_the_definition_on_ragged_tails_too(tokens):
    query, prompt = pair(tokens)
    assert float(aligned(query, fold(prompt))) == pytest.approx(float(wmsdp(query, prompt)), abs=1e-4)


def test_stored_copies_without_noise_are_the_definition():
    query, prompt = pair()
    for reduce in (aligned, aligned_mean, pairwise_mean, maxsim):
        stored = stored_wmsdp(query, pyramid(prompt), reduce=reduce)
        assert float(stored) == pytest.approx(float(wmsdp(query, prompt, reduce=reduce)), abs=1e-6)


def test_vmap_is_the_loop():
    prompts = jax.random.normal(jax.random.key(3), (5, 16, 6))
    query, _ = pair()
    score = partial(wmsdp, reduce=aligned_mean)
    batched = jax.vmap(score, in_axes=(None, 0))(query, prompts)
    np.testing.assert_allclose(batched, jnp.stack([score(query, p) for p in prompts]), rtol=1e-5)


def test_unequal_row_counts_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="resample the query"):
        aligned(jnp.ones((3, 2)), jnp.ones((4, 2)))


def test_scales_and_weights_must_match():
    with pytest.raises(ValueError, match="one of each per scale"):
        wmsdp(UNIT, UNIT, scales=(1, 2), weights=(1.0,))

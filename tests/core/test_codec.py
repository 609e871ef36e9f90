"""The prompt autoencoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.codec import decode, encode, fit_autoencoder, fit_pca, loss

WORDS = jax.random.normal(jax.random.key(0), (60, 10)) * jnp.linspace(1, 4, 10)[None]
ONES = jnp.ones(60)


def test_a_code_as_wide_as_the_model_loses_nothing():
    codec = fit_pca(jax.random.key(1), WORDS, ONES, dim=10)
    np.testing.assert_allclose(decode(codec, encode(codec, WORDS)), WORDS, atol=1e-4)


def test_a_model_narrower_than_the_code_leaves_room_unused():
    codec = fit_pca(jax.random.key(1), WORDS, ONES, dim=16)
    codes = encode(codec, WORDS)
    assert codes.shape == (60, 16)
    np.testing.assert_array_equal(codes[:, 10:], 0)
    np.testing.assert_allclose(decode(codec, codes), WORDS, atol=1e-4)


def test_the_error_is_the_variance_left_out():
    codec = fit_pca(jax.random.key(1), WORDS, ONES, dim=4)
    values = np.linalg.eigvalsh(np.cov(np.asarray(WORDS).T, bias=True))
    squared = float(((decode(codec, encode(codec, WORDS)) - WORDS) ** 2).sum(1).mean())
    assert squared == pytest.approx(values[:6].sum(), rel=1e-3)


def test_words_that_count_nothing_do_not_matter():
    counts = (jnp.arange(60) < 40).astype(jnp.float32)
    some, all_of_them = (
        fit_pca(jax.random.key(1), WORDS[:40], ONES[:40], dim=4),
        fit_pca(jax.random.key(1), WORDS, counts, dim=4),
    )
    np.testing.assert_allclose(
        decode(some, encode(some, WORDS)), decode(all_of_them, encode(all_of_them, WORDS)), atol=1e-3
    )


def test_the_rotation_spreads_the_variance():
    wide = WORDS.at[:, 0].multiply(20)
    codes = encode(fit_pca(jax.random.key(1), wide, ONES, dim=8), wide)
    spread = np.asarray(codes).std(0)
    assert spread.max() / spread.min() < 40 and np.sort(spread)[1] > 1  # unrotated: one dimension has it all


def test_training_the_autoencoder_lowers_its_loss():
    start = fit_autoencoder(jax.random.key(2), WORDS, ONES, dim=6, steps=1)
    trained = fit_autoencoder(jax.random.key(2), WORDS, ONES, dim=6, steps=300)
    assert float(loss(trained, WORDS, ONES)) < 0.5 * float(loss(start, WORDS, ONES))


def test_no_code_dimension_carries_most_of_the_variance():
    """Noise scales with the largest code, so a direction that towers over the others would drown them."""
    words = jax.random.normal(jax.random.key(5), (500, 24)) * jnp.logspace(0, -2, 24)[None]
    variances = np.var(encode(fit_pca(jax.random.key(1), words, jnp.ones(500), dim=24), words), axis=0)
    assert variances.max() < 0.2 * variances.sum()  # unrotated, the first direction alone has 0.34

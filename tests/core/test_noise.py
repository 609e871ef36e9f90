"""Eq. 4: bins, moments, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.noise import inject, noise_std

FACTORS = jnp.array([1.0, 2.0, 3.0, 4.0])  # asymmetric, so that a reversed order shows


@pytest.mark.parametrize(
    ("value", "factor"),
    [(0.0, 4), (0.2499, 4), (0.25, 3), (0.4999, 3), (0.5, 2), (0.75, 2), (0.7501, 1), (1.0, 1), (-0.25, 3), (-0.8, 1)],
)
def test_the_edges_of_the_bins(value, factor):
    prompt = jnp.array([[1.0, value]]) * 8.0
    assert float(noise_std(prompt, sigma=0.1, factors=FACTORS)[0, 1]) == pytest.approx(0.1 * 8.0 * factor)


def test_moments_agree_with_the_formula():
    prompt = jnp.array([[2.0, -1.2, 0.7, 0.1], [0.0, 0.5, -1.6, 1.0]])
    std = noise_std(prompt, sigma=0.1, factors=FACTORS)
    draws = jax.vmap(lambda k: inject(k, prompt, sigma=0.1, factors=FACTORS))(
        jax.random.split(jax.random.key(0), 20_000)
    )
    error = np.asarray(draws) - np.asarray(prompt)
    assert np.all(np.abs(error.mean(0)) < 4 * np.asarray(std) / 20_000**0.5)
    assert np.all(np.abs(error.std(0) / np.asarray(std) - 1) < 4 / (2 * 20_000) ** 0.5)


def test_the_noise_of_a_prompt_scales_with_its_largest_value():
    prompt = jnp.array([[1.0, 0.1], [-0.5, 0.3]])
    small, large = (noise_std(c * prompt, sigma=0.1, factors=FACTORS) for c in (1.0, 10.0))
    np.testing.assert_allclose(large, 10 * small, rtol=1e-6)


def test_a_zero_prompt_gets_no_noise_and_finite_gradients():
    zero = jnp.zeros((3, 2))
    value, gradient = jax.value_and_grad(lambda p: inject(jax.random.key(0), p, sigma=0.1, factors=FACTORS).sum())(zero)
    assert value == 0
    np.testing.assert_array_equal(gradient, 1.0)


def test_the_deviation_is_not_differentiated():
    prompt = jnp.array([[1.0, 0.4]])
    gradient = jax.grad(lambda p: inject(jax.random.key(0), p, sigma=0.5, factors=FACTORS).sum())(prompt)
    np.testing.assert_array_equal(gradient, 1.0)


def test_vmap_is_the_loop():
    keys = jax.random.split(jax.random.key(1), 4)
    prompts = jax.random.normal(jax.random.key(2), (4, 5, 3))
    one = lambda k, p: inject(k, p, sigma=0.1, factors=FACTORS)  # noqa: E731
    np.testing.assert_array_equal(jax.vmap(one)(keys, prompts), jnp.stack([one(k, p) for k, p in zip(keys, prompts)]))


def test_a_batch_is_refused_because_the_largest_value_is_per_prompt():
    with pytest.raises(Exception, match="prompt"):
        noise_std(jnp.ones((2, 3, 4)), sigma=0.1, factors=FACTORS)


def test_the_gradient_through_the_largest_value_is_that_of_finite_differences():
    prompt, key = jnp.array([[1.0, 0.4], [-0.3, 0.6]]), jax.random.key(0)
    total = lambda p: jnp.sum(inject(key, p, sigma=0.5, factors=FACTORS, through_peak=True) ** 2)  # noqa: E731
    gradient = jax.grad(total)(prompt)
    for at in ((0, 0), (1, 1)):  # the largest value, and another
        step = jnp.zeros_like(prompt).at[at].set(1e-3)
        slope = (total(prompt + step) - total(prompt - step)) / 2e-3
        assert float(gradient[at]) == pytest.approx(float(slope), rel=1e-2)
    held = jax.grad(lambda p: jnp.sum(inject(key, p, sigma=0.5, factors=FACTORS) ** 2))(prompt)
    assert abs(float(held[0, 0] - gradient[0, 0])) > 0.1 and float(held[1, 1]) == pytest.approx(float(gradient[1, 1]))

"""Losses of retrieval by hand, and the closed form against draws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.documents import losses
from nvcim_jax.memory.variation import Gaussian

KEY, ONE = jax.random.key(0), jnp.ones(1)


def certain(*rows):
    values = jnp.array(rows)
    return Gaussian(values, jnp.zeros(values.shape))


def triplet(right, wrong, **how):
    return float(
        losses.margin_triplet(
            KEY, jnp.zeros((len(right), 2)), certain(*right), certain(*wrong), jnp.ones(len(right)), **how
        )
    )


def test_a_triplet_by_hand():
    assert triplet([(0.3, 0.4)], [(0.6, 0.8)]) == pytest.approx(0.5, abs=1e-5)
    assert triplet([(0.3, 0.4), (0.12, 0.16)], [(0.6, 0.8), (0.36, 0.48)]) == pytest.approx((0.5 + 0.6) / 2, abs=1e-5)


def test_the_push_term_by_hand():
    assert triplet([(0.3, 0.4)], [(0.6, 0.8)], push=1.0) == pytest.approx(0.5, abs=1e-5)  # right at its edge
    both = triplet([(0.3, 0.4), (0.12, 0.16)], [(0.6, 0.8), (0.36, 0.48)], push=1.0)
    assert both == pytest.approx(0.7, abs=1e-5)
    notebook = triplet([(0.0, 0.0)], [(0.1295417695, 0.0)], push=1.0)
    assert notebook == pytest.approx(1.3704582305, abs=1e-5)


@pytest.mark.parametrize(
    ("margin", "mean", "variance", "wanted"), [(1, 0.5, 0.04, 0.500401), (0, 0.1, 0.0115, 0.010143)]
)
def test_the_expected_hinge_by_hand(margin, mean, variance, wanted):
    assert float(losses.hinge(jnp.float32(mean), jnp.float32(variance), margin)) == pytest.approx(wanted, abs=2e-6)


@pytest.fixture(scope="module")
def batch():
    keys = jax.random.split(jax.random.key(1), 5)
    law = lambda a, b: Gaussian(jax.random.normal(a, (4, 3)), jax.random.uniform(b, (4, 3), maxval=0.3))  # noqa: E731
    return jax.random.normal(keys[0], (4, 3)), law(keys[1], keys[2]), law(keys[3], keys[4])


def test_the_expected_hinge_is_the_mean_over_draws(batch):
    asked, right, wrong = batch
    weight = jnp.array([1.0, 1, 1, 0])

    @partial(jax.vmap)
    def once(key):
        one, two = (losses.drawn(k, law) for k, law in zip(jax.random.split(key), (right, wrong)))
        scores = asked @ jnp.concatenate([one, two]).T
        lead = jnp.diagonal(scores)[:, None] - scores
        others = (jnp.arange(8)[None] != jnp.arange(4)[:, None]) & (jnp.arange(8) % 4 < 3)[None]
        return jnp.sum(jnp.where(others, jax.nn.relu(0.2 - lead), 0)[:3]) / 3

    drawn = np.asarray(once(jax.random.split(jax.random.key(2), 20_000)))
    ours = float(losses.expected_hinge(KEY, asked, right, wrong, weight, margin=0.2))
    assert ours == pytest.approx(float(drawn.mean()), abs=float(4 * drawn.std() / 20_000**0.5))


def test_info_nce_is_the_cross_entropy_of_the_right_one(batch):
    asked, right, wrong = batch
    quiet = (Gaussian(law.mean, jnp.zeros((4, 3))) for law in (right, wrong))
    found = float(losses.info_nce(KEY, asked, *quiet, jnp.ones(4), scale=2.0))
    logits = 2 * np.asarray(asked) @ np.concatenate([right.mean, wrong.mean]).T
    wanted = -np.log(np.exp(logits)[range(4), range(4)] / np.exp(logits).sum(1)).mean()
    assert found == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("loss", [losses.margin_triplet, losses.info_nce, losses.expected_hinge])
def test_examples_of_no_weight_change_nothing(loss, batch):
    asked, right, wrong = batch
    weight = jnp.array([1.0, 1, 0, 0])
    other = lambda leaf: leaf.at[2:].set(5.0)  # noqa: E731
    changed = loss(KEY, other(asked), *(law._replace(mean=other(law.mean)) for law in (right, wrong)), weight)
    assert float(changed) == pytest.approx(float(loss(KEY, asked, right, wrong, weight)), rel=1e-5)


@pytest.mark.parametrize("loss", [losses.margin_triplet, losses.info_nce, losses.expected_hinge])
def test_gradients_are_finite_where_nothing_varies_and_all_is_one_point(loss):
    law = Gaussian(jnp.ones((2, 3)), jnp.zeros((2, 3)))
    slopes = jax.grad(lambda asked, law: loss(KEY, asked, law, law, jnp.ones(2)), argnums=(0, 1))(jnp.ones((2, 3)), law)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slopes))

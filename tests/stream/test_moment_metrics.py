"""EOE, DSS and IDD: values worked out by hand, padding, edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.stream import metrics

LN2, LN3 = np.log(2), np.log(3)


def rows(*norms):
    """Tokens of these norms, which stand at right angles."""
    return jnp.diag(jnp.array(norms))


def test_the_released_eoe_by_hand():
    quarter = jnp.array([[0.0, 0, 0, 1]])
    assert float(metrics.histogram_entropy(quarter[0])) == pytest.approx(0.811278, abs=1e-6)
    three = jnp.concatenate([jnp.ones((2, 4)), quarter])  # the last token alone counts
    assert float(metrics.eoe_released(three, 3)) == pytest.approx(0.405639, abs=1e-6)
    spread = jnp.tile(jnp.arange(10.0), (7, 1))
    assert float(metrics.eoe_released(spread, 7)) == pytest.approx(1.107309, abs=1e-6)


def test_the_histogram_is_numpys():
    for seed in range(5):
        vector = np.random.default_rng(seed).normal(size=300).astype(np.float32)
        share = np.histogram(vector, bins=100)[0] / 300
        share = share[share > 0]
        assert float(metrics.histogram_entropy(jnp.array(vector))) == pytest.approx(
            -(share * np.log2(share)).sum(), abs=0.02
        )
    assert float(metrics.histogram_entropy(jnp.ones(5))) == 0


def test_the_printed_eoe_by_hand():
    assert float(metrics.norm_entropy(rows(0.25, 0.25, 0.5), 3)) == pytest.approx(1.039721, abs=1e-6)
    assert float(metrics.eoe_paper(rows(0.25, 0.25, 0.5), 3)) == pytest.approx(0.946395, abs=1e-6)
    for count in (2, 3, 7):
        assert float(metrics.eoe_paper(jnp.ones((count, 4)), count)) == pytest.approx(1, abs=1e-6)


def test_the_recommended_eoe_by_hand():
    assert float(metrics.spectral_entropy(rows(1.0, 5.0), 2)) == pytest.approx(LN2, abs=1e-6)
    assert float(metrics.spectral_entropy(jnp.ones((2, 2)), 2)) == pytest.approx(0, abs=1e-5)
    assert float(metrics.spectral_entropy(jnp.repeat(rows(1.0, 1.0, 1.0), 4, 0), 12)) == pytest.approx(LN3, abs=1e-5)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_the_recommended_eoe_is_that_of_the_cosine_matrix(shape):
    vectors = np.random.default_rng(0).normal(size=shape)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    share = np.linalg.eigvalsh(unit @ unit.T / len(unit))
    share = share[share > 1e-12]
    found = metrics.spectral_entropy(jnp.array(vectors, jnp.float32), shape[0])
    assert float(found) == pytest.approx(-(share * np.log(share)).sum(), abs=1e-5)


@pytest.mark.parametrize("eoe", [metrics.spectral_entropy, metrics.eoe_paper, metrics.eoe_released])
def test_padding_says_nothing(eoe):
    vectors = jax.random.normal(jax.random.key(0), (6, 8))
    padded = jnp.concatenate([vectors, jnp.full((3, 8), 1e3)])
    assert float(eoe(padded, 6)) == pytest.approx(float(eoe(vectors, 6)), abs=1e-5)


@pytest.mark.parametrize("length", [0, 1])
def test_one_token_or_none_has_no_entropy_over_log_1(length):
    vectors = jax.random.normal(jax.random.key(0), (4, 8))
    assert float(metrics.eoe_paper(vectors, length)) == 0
    assert float(metrics.spectral_entropy(vectors, length)) == pytest.approx(0, abs=1e-5)
    assert np.isfinite(float(metrics.eoe_released(vectors, length)))
    if not length:
        assert float(metrics.eoe_released(vectors, length)) == 0
        assert not np.any(metrics.mean_vector(vectors, length))


def test_dss_by_hand():
    assert float(metrics.dss(jnp.array([1, 0, 0]), 7)) == pytest.approx(1 / 21, abs=1e-7)
    assert float(metrics.dss(jnp.array([1, 0, 0]), 0)) == pytest.approx(1 / 3)  # of a text without words none match
    assert float(metrics.dss(jnp.zeros(0, jnp.int32), 7)) == 0


def test_the_dominant_domain_and_none():
    assert int(metrics.dominant_domain(jnp.array([0, 2, 1]))) == 1
    assert int(metrics.dominant_domain(jnp.array([0, 2, 2]))) == 1
    assert int(metrics.dominant_domain(jnp.array([0, 0, 0]))) == metrics.NONE
    assert int(metrics.dominant_domain(jnp.zeros(0, jnp.int32))) == metrics.NONE


def test_idd_by_hand():
    new, stored = jnp.array([1.0, 0.0]), jnp.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    everyone = jnp.ones(3, bool)
    assert float(metrics.idd(new, stored, everyone)) == pytest.approx(0.466667, abs=1e-6)
    assert float(metrics.idd_released(new, stored, everyone)) == pytest.approx(0.533333, abs=1e-6)
    assert float(metrics.idd(3 * new, stored, jnp.array([True, False, False]))) == pytest.approx(0, abs=1e-6)
    assert float(metrics.idd(-new, stored, jnp.array([True, False, False]))) == pytest.approx(2)


def test_a_domain_with_nothing_stored_is_new():
    stored = jnp.array([[1.0, 0.0]])
    assert float(metrics.idd(stored[0], stored, jnp.zeros(1, bool))) == 1
    assert float(metrics.idd_released(stored[0], stored, jnp.zeros(1, bool))) == 0
    assert float(metrics.idd(jnp.zeros(2), stored, jnp.ones(1, bool))) == 1  # a zero vector is like nothing

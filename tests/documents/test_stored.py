"""Codes in arrays: laws against programmings, rankings, formats."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.documents import codecs, stored
from nvcim_jax.documents.stored import Format
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.memory.variation import Gaussian, cell_law

KEY = jax.random.key(0)
SLANTED = Condition(device("NVM-3")._replace(levels=jnp.array([0.4, 0.8, 1.2, 1.6])), 0.15)
CODES = codecs.codes(codecs.whole(KEY, jnp.ones((1, 12)), jnp.ones(1), dim=12), jax.random.normal(KEY, (9, 12)))
THERE = jnp.ones(9, bool)
ASKED = CODES[:4] + 0.3


def test_two_documents_by_hand():
    """Variances of unit vectors at sigma 0.1 with one largest value each: .0064 and .0051, so .824462 and .614859."""
    own = jnp.array([[0.8, 0.6], [0.7, 0.51**0.5]])
    flat = Condition(device("NVM-1"), 0.1)
    flat = flat._replace(device=flat.device._replace(levels=jnp.ones(4)))
    law = stored.law(own, flat, format=Format(16, "peak"))
    np.testing.assert_allclose(law.variance, [[0.0064] * 2, [0.0051] * 2], rtol=1e-5)
    both = jnp.ones(2, bool)
    first = stored.chances(jnp.array([[1.0, 0.0], [0.6, 0.8]]), law, both, k=1)
    assert float(first[0, 0]) == pytest.approx(0.824462, abs=1e-4)
    assert float(first[1, 1]) == pytest.approx(0.614859, abs=1e-4)


@pytest.mark.parametrize("format", [Format(), Format(4, "peak"), Format(2, peak="array"), Format(1)])
def test_the_law_is_that_of_programming(format):
    draws = jax.jit(jax.vmap(lambda key: stored.program(key, CODES, SLANTED, format=format)))(
        jax.random.split(KEY, 4000)
    )
    law = stored.law(CODES, SLANTED, format=format)
    deviation = np.sqrt(law.variance)
    np.testing.assert_allclose(draws.mean(0), law.mean, atol=5 * float(deviation.max()) / 4000**0.5)
    np.testing.assert_allclose(draws.std(0), deviation, rtol=0.08)


def test_the_law_of_cells_is_that_of_programming_cells():
    format = Format(4)
    write = stored.writing("none", format)
    run = lambda key: stored.program(key, CODES, SLANTED, format=format, write=write)  # noqa: E731
    draws = jax.jit(jax.vmap(run))(jax.random.split(KEY, 4000))
    law = stored.law(CODES, SLANTED, format=format, law=cell_law)
    np.testing.assert_allclose(draws.std(0), np.sqrt(law.variance), rtol=0.08)


def test_chances_against_programmings():
    format, k = Format(4), 3
    run = lambda key: stored.rank(ASKED, stored.program(key, CODES, SLANTED, format=format), THERE, k=k).slots  # noqa: E731
    slots = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(KEY, 4000)))
    share = (slots[..., None] == np.arange(9)).any(axis=2).mean(axis=0)
    ours = stored.chances(ASKED, stored.law(CODES, SLANTED, format=format), THERE, k=k)
    np.testing.assert_allclose(ours, share, atol=3 * 0.5 / 4000**0.5)


def test_without_noise_the_ranking_is_that_of_the_codes():
    quiet = SLANTED._replace(sigma=0.0)
    noisy = stored.program(KEY, CODES, quiet, format=Format(16, "peak"))
    found = stored.rank(CODES, noisy, THERE, k=2)
    np.testing.assert_array_equal(found.slots[:, 0], np.arange(9))
    np.testing.assert_allclose(found.margins[:, 0], found.scores[:, 0] - found.scores[:, 1], atol=1e-6)


def test_a_free_slot_is_never_found():
    there = THERE.at[2].set(False)
    found = stored.rank(CODES, CODES, there, k=8)
    assert 2 not in np.asarray(found.slots) and bool(jnp.isfinite(found.scores).all())
    assert not stored.chances(ASKED, stored.law(CODES, SLANTED, format=Format()), there, k=3)[:, 2].any()


def test_the_law_has_gradients_through_rounding_and_deviation():
    def total(codes):
        law = stored.law(codes, SLANTED, format=Format(2))
        return jnp.sum(law.mean * 2) + jnp.sum(law.variance)

    slope = jax.grad(total)(CODES)
    assert bool(jnp.isfinite(slope).all())
    np.testing.assert_allclose(
        jax.grad(lambda codes: jnp.sum(stored.law(codes, SLANTED, format=Format(2)).mean))(CODES), 1
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (partial(Format, 0), "codes of 0 bits: 1 to 16"),
        (partial(Format, 17), "1 to 16"),
        (partial(Format, step="x"), "unknown step 'x': choose one of peak, least error"),
        (partial(Format, peak="x"), "one largest value per 'x'"),
        (partial(stored.writing, "x", Format()), "unknown mitigation 'x'"),
    ],
)
def test_formats_that_there_are_not_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_arrays_of_a_store():
    assert Format(8).arrays(128, 96) == 2 and Format(8).arrays(128, 384) == 8 and Format(1).arrays(128, 384) == 2


@pytest.mark.parametrize("name", codecs.FITS)
def test_every_codec_keeps_unit_vectors_near_themselves(name):
    vectors = codecs.codes(codecs.whole(KEY, jnp.ones((1, 12)), jnp.ones(1), dim=12), jax.random.normal(KEY, (30, 12)))
    dim = 12 if name == "whole" else 6
    own = codecs.fit(name, dim)(KEY, vectors, jnp.ones(30))
    found = codecs.codes(own, vectors)
    assert found.shape == (30, dim)
    np.testing.assert_allclose(jnp.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_an_mlp_starts_as_the_pca_that_it_is_made_of():
    vectors = jax.random.normal(KEY, (30, 12))
    linear, deep = (codecs.fit(name, 5)(KEY, vectors, jnp.ones(30)) for name in ("pca", "mlp"))
    np.testing.assert_allclose(codecs.codes(deep, vectors), codecs.codes(linear, vectors), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "dim", "said"),
    [("x", 3, "unknown codec"), ("pca", 13, "ask for 1 to 12"), ("whole", 3, "the encoder makes 12")],
)
def test_codecs_that_cannot_be_are_named(name, dim, said):
    with pytest.raises(ValueError, match=said):
        codecs.fit(name, dim)(KEY, jnp.ones((4, 12)), jnp.ones(4))


def test_a_law_is_a_pair():
    assert isinstance(stored.law(CODES, SLANTED, format=Format()), Gaussian)

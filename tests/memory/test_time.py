"""Retrieval some time after programming: the closed form against programmed banks, with and without compensation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.similarity import pairwise_mean, stored_wmsdp
from nvcim_jax.hardware import catalogue, compensation, crossbar, mitigation
from nvcim_jax.hardware.devices import Device
from nvcim_jax.memory import programming, variation

SCORE = partial(stored_wmsdp, reduce=pairwise_mean)
PCM = catalogue.device("PCM-Joshi")
ROUGH = PCM._replace(levels=1.5 * PCM.levels)  # pulses err by less than half a level, but more than as published
SECONDS, DRAWS = 1e5, 600


@pytest.fixture(scope="module")
def bank():
    a, b = jax.random.split(jax.random.key(0))
    keys = jax.random.normal(a, (5, 4, 12)) * 0.6 + jax.random.normal(b, (1, 4, 12))
    queries = keys[:3] * 0.4 + jax.random.normal(b, (3, 4, 12)) * 0.6
    return queries, keys, jnp.ones(5, bool)


@partial(jax.jit, static_argnames=("write",))
def scores_of(keys, queries, bank_keys, valid, device, seconds, write):
    def one(key):
        stored = programming.program(key, bank_keys, bank_keys, valid, device, sigma=1.0, write=write, seconds=seconds)
        return jax.vmap(lambda query: programming.retrieve(stored, query, score=SCORE).scores)(queries)

    return jax.vmap(one)(keys)


@pytest.mark.parametrize("name", compensation.COMPENSATIONS)
def test_scores_have_the_mean_and_deviation_of_the_closed_form(bank, name):
    queries, keys, valid = bank
    compensate = compensation.named(name)
    law = partial(variation.cell_law, seconds=SECONDS, compensate=compensate)
    copies = variation.bank_law(keys, ROUGH, sigma=1.0, law=law)
    expected = jax.vmap(lambda query: variation.score_law(query, copies, valid, score=SCORE))(queries)
    write = partial(mitigation.kept, compensate=compensate)
    drawn = np.asarray(
        scores_of(jax.random.split(jax.random.key(1), DRAWS), queries, keys, valid, ROUGH, SECONDS, write)
    )
    std = np.sqrt(expected.variance)
    assert np.all(np.abs(drawn.mean(0) - expected.mean) < 4.5 * std / DRAWS**0.5 + 0.003 * np.abs(expected.mean))
    np.testing.assert_allclose(drawn.std(0), std, rtol=0.15)
    wins = jax.vmap(lambda one: variation.win_probabilities(*one))(expected)
    found = np.stack([(drawn.argmax(-1) == ovt).mean(0) for ovt in range(5)], -1)
    assert np.all(np.abs(found - wins) < 4.5 * np.sqrt(np.maximum(wins * (1 - wins), 0) / DRAWS) + 0.02)


def test_one_chip_growing_old_is_one_program(bank):
    _, keys, valid = bank
    old = jax.vmap(
        lambda t: (
            programming.program(
                jax.random.key(2), keys, keys, valid, PCM, sigma=1.0, write=crossbar.write_cells, seconds=t
            ).prompts
        )
    )(jnp.array([1.0, 1e3, 1e6]))
    size = np.abs(np.asarray(old)).mean((1, 2, 3))
    assert size[0] > size[1] > size[2] > 0.4 * size[0]
    alone = programming.program(
        jax.random.key(2), keys, keys, valid, PCM, sigma=1.0, write=crossbar.write_cells, seconds=1e3
    )
    np.testing.assert_allclose(old[1], alone.prompts, rtol=1e-4, atol=1e-4)


def test_a_device_without_time_is_as_if_nothing_were_asked(bank):
    _, keys, valid = bank
    plain = Device(PCM.levels)
    how = {"sigma": 1.0, "write": crossbar.write_cells}
    now = programming.program(jax.random.key(2), keys, keys, valid, plain, **how)
    later = programming.program(jax.random.key(2), keys, keys, valid, plain, **how, seconds=1e6)
    np.testing.assert_array_equal(now.prompts, later.prompts)


def test_what_is_not_gaussian_is_refused_by_name(bank):
    _, keys, _ = bank
    wide = PCM._replace(drift_std=jnp.float32(0.2))
    with pytest.raises(ValueError, match="exponents so different that after 100000 seconds"):
        variation.cell_law(keys[0], wide, sigma=1.0, seconds=SECONDS)
    with pytest.raises(ValueError, match="deviate together"):
        variation.cell_law(keys[0], PCM._replace(correlation=jnp.float32(0.1)), sigma=1.0)

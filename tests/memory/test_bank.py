"""Program, search, read back."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.similarity import aligned, aligned_mean, cosine_of_means, stored_wmsdp, wmsdp
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.crossbar import write_cells, write_values
from nvcim_jax.memory.programming import program, program_one, retrieve
from nvcim_jax.pipeline.presets import content_key, flat_mips, mean_mips

NVM3 = device("NVM-3")
PROMPTS = jax.random.normal(jax.random.key(0), (5, 16, 48))
VALID = jnp.ones(5, bool)


def programmed(sigma, key=1, prompts=PROMPTS, valid=VALID, write=write_values):
    return program(jax.random.key(key), prompts, prompts, valid, NVM3, sigma=sigma, write=write)


@pytest.mark.parametrize("write", [write_values, write_cells])
def test_without_noise_the_bank_returns_what_was_written_to_half_a_step(write):
    bank = programmed(0.0, write=write)
    steps = np.abs(PROMPTS).max((1, 2)) / 32767
    assert np.all(np.abs(bank.prompts - PROMPTS).max((1, 2)) <= 0.51 * steps)
    assert [copy.shape for copy in bank.keys] == [(5, 16, 48), (5, 8, 48), (5, 4, 48)]


@pytest.mark.parametrize("reduce", [aligned, aligned_mean])
def test_without_noise_the_search_is_eq_5(reduce):
    query = jax.random.normal(jax.random.key(9), (16, 48))
    match = retrieve(programmed(0.0), query, score=partial(stored_wmsdp, reduce=reduce))
    by_definition = jnp.stack([wmsdp(query, prompt, reduce=reduce) for prompt in PROMPTS])
    np.testing.assert_allclose(match.scores, by_definition, rtol=1e-3, atol=1e-3)
    assert int(match.index) == int(jnp.argmax(by_definition))
    np.testing.assert_array_equal(match.prompt, programmed(0.0).prompts[match.index])


def test_the_copies_of_a_key_have_noises_of_their_own():
    bank = programmed(0.1)
    coarse = bank.keys[0].reshape(5, 8, 2, 48).mean(2)
    assert np.abs(coarse - bank.keys[1]).max() > 0.01
    assert np.abs(bank.keys[0] - bank.prompts).max() > 0.01


def test_the_draw_of_an_ovt_does_not_depend_on_its_neighbours():
    few = program(jax.random.key(1), PROMPTS[:2], PROMPTS[:2], VALID[:2], NVM3, sigma=0.1)
    np.testing.assert_array_equal(few.prompts, programmed(0.1).prompts[:2])


def test_same_key_same_bits_other_key_other_bits():
    np.testing.assert_array_equal(programmed(0.1).prompts, programmed(0.1).prompts)
    assert np.abs(programmed(0.1, key=2).prompts - programmed(0.1).prompts).max() > 0.01


def test_empty_slots_never_win():
    loud = PROMPTS.at[3].multiply(100)
    valid = VALID.at[3].set(False)
    match = retrieve(programmed(0.0, prompts=loud, valid=valid), loud[3], score=flat_mips)
    assert int(match.index) != 3 and np.isneginf(match.scores[3])


def test_a_content_key_ranks_like_the_cosine_of_the_means():
    query = jax.random.normal(jax.random.key(9), (16, 48))
    keys = jax.vmap(content_key)(PROMPTS, PROMPTS)
    bank = program(jax.random.key(1), PROMPTS, keys, VALID, NVM3, sigma=0.0)
    scores = np.asarray(retrieve(bank, query, score=mean_mips).scores)
    cosines = np.asarray([cosine_of_means(query, prompt) for prompt in PROMPTS])
    np.testing.assert_allclose(scores / np.linalg.norm(query.mean(0)), cosines, atol=1e-4)


def test_more_virtual_tokens_than_columns_are_refused():
    with pytest.raises(ValueError, match="128 columns"):
        program_one(jax.random.key(0), jnp.ones((129, 48)), jnp.ones((129, 48)), NVM3, sigma=0.1)


def test_the_draw_of_an_ovt_does_not_depend_on_how_many_there_are():
    few = programmed(0.1, prompts=PROMPTS[:3], valid=VALID[:3])
    np.testing.assert_array_equal(few.prompts, programmed(0.1).prompts[:3])

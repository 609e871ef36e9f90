"""Trees through arrays: the chosen leaves, their draws, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.noise import noise_std
from nvcim_jax.hardware import catalogue
from nvcim_jax.hardware.crossbar import write_cells
from nvcim_jax.hardware.disturb import disturb

KEY = jax.random.key(0)
NVM3 = catalogue.device("NVM-3")
TREE = {
    "lora": {"a": jax.random.normal(KEY, (6, 8)), "b": jax.random.normal(KEY, (2, 3, 8)).astype(jnp.bfloat16)},
    "bias": jnp.arange(4.0),
    "steps": jnp.arange(3),
}


def test_chosen_leaves_change_and_others_are_the_same_objects():
    out = disturb(KEY, TREE, NVM3, sigma=0.1, where="lora/a")
    assert out["bias"] is TREE["bias"] and out["lora"]["b"] is TREE["lora"]["b"]
    assert out["lora"]["a"].shape == (6, 8) and np.abs(out["lora"]["a"] - TREE["lora"]["a"]).max() > 0
    both = disturb(KEY, TREE, NVM3, sigma=0.1, where=lambda path, leaf: path.startswith("lora"))
    assert both["lora"]["b"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(both["lora"]["a"], out["lora"]["a"])  # a leaf's draw is its own


def test_leaves_that_are_alike_do_not_draw_alike():
    twin = {"a": TREE["lora"]["a"], "b": TREE["lora"]["a"]}
    out = disturb(KEY, twin, NVM3, sigma=0.1)
    assert not np.array_equal(out["a"], out["b"])
    rows = disturb(KEY, {"w": jnp.ones((2, 8))}, NVM3, sigma=0.1)["w"]
    assert not np.array_equal(*rows)


def test_by_default_every_leaf_of_floats():
    out = disturb(KEY, TREE, NVM3, sigma=0.1)
    assert out["steps"] is TREE["steps"] and np.abs(out["bias"] - TREE["bias"]).max() > 0


@pytest.mark.parametrize("write", [None, write_cells])
def test_without_variation_all_comes_back(write):
    out = disturb(KEY, TREE, NVM3, sigma=0.0, where="lora/a", write=write)
    np.testing.assert_allclose(out["lora"]["a"], TREE["lora"]["a"], atol=1e-4)


def test_the_deviation_is_eq_4_of_each_row():
    row = jnp.broadcast_to(jnp.array([[1.0, 0.6, 0.3, 0.1]]), (4000, 4))
    out = disturb(KEY, {"w": row}, NVM3, sigma=0.1)["w"]
    expected = noise_std(row[:1], sigma=0.1, factors=NVM3.factors)[0]
    np.testing.assert_allclose(np.asarray(out - row).std(0), expected, rtol=0.06)


def test_time_goes_by_cells():
    pcm = catalogue.device("PCM-Joshi")
    old = disturb(KEY, TREE, pcm, sigma=1.0, seconds=1e5, where="lora/a")["lora"]["a"]
    assert 0.4 < float(jnp.linalg.norm(old) / jnp.linalg.norm(TREE["lora"]["a"])) < 0.95


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="where='nowhere' matches none of the 4 leaves: they are bias, lora/a"):
        disturb(KEY, TREE, NVM3, sigma=0.1, where="nowhere")
    with pytest.raises(ValueError, match="leaf steps holds int32, and arrays hold floats"):
        disturb(KEY, TREE, NVM3, sigma=0.1, where=lambda path, leaf: path == "steps")

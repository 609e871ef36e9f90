"""The decoder against transformers with PyTorch: logits, soft prompts, prefixes and greedy tokens of every family."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax import llm
from tests.helpers import make_golden
from tests.helpers.make_golden import CASES, GOLDEN, NEW


@partial(jax.jit, static_argnames="config")
def ours(params, given: make_golden.Inputs, *, config: llm.Config) -> dict[str, jax.Array]:
    embedded = llm.embed(params, config, given.ids)
    return {
        "ids": llm.logits(params, config, given.ids),
        "prompt": llm.logits(params, config, embeddings=jnp.concatenate([given.prompt, embedded], axis=1)),
        "prefix": llm.logits(params, config, given.ids, prefix=llm.Prefix(given.keys, given.values)),
        "greedy": llm.generate(params, config, llm.Inputs(embedded), new_tokens=NEW),
    }


def asked(model: llm.Model) -> make_golden.Inputs:
    c = model.config
    return make_golden.inputs(c.vocab_size, c.dim, c.layers, c.kv_heads, c.head_dim)


def compare(mine, theirs):
    for what in ("ids", "prompt", "prefix"):
        np.testing.assert_allclose(mine[what], theirs[what], atol=1e-4, rtol=0, err_msg=what)
    np.testing.assert_array_equal(mine["greedy"], theirs["greedy"])


@pytest.mark.parametrize("name", CASES)
def test_every_family_says_what_transformers_says(name):
    model = llm.load(GOLDEN / name)
    compare(ours(model.params, asked(model), config=model.config), np.load(GOLDEN / name / "expected.npz"))


@pytest.mark.parametrize("name", CASES)
def test_every_family_says_what_this_transformers_says_now(name):
    pytest.importorskip("torch", reason="the live comparison needs torch")
    model = llm.load(GOLDEN / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        theirs = make_golden.told_by_torch(GOLDEN / name, asked(model))
    compare(ours(model.params, asked(model), config=model.config), theirs)


def test_golden_files_are_small():
    assert {path.name for path in GOLDEN.iterdir()} == {*CASES, make_golden.ENCODER}
    assert max(path.stat().st_size for path in GOLDEN.rglob("*")) <= 300_000

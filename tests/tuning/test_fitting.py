"""Rows and samples at once by the sizes alone; what is kept by what a machine has."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax import tuning
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.llm import decoder, room
from tests.llm.test_decoder import TINY
from tests.tuning.test_train import job

HUGE = 1 << 50
SIZES = {"pool": 6, "tokens": 40, "labels": 4}


def fitted(training=tuning.Training(), memory=HUGE, config=TINY, **sizes):  # noqa: B008
    return tuning.fitted(training, config, **SIZES | sizes, memory=memory)


def test_small_models_train_as_they_are_told():
    assert fitted() == tuning.Training()


def test_rows_then_samples_give_way_to_what_goes_through_at_once(monkeypatch):
    each = room.gradient(TINY, 40, 4).kept
    for limit, rows, at_once in ((48 * 6, 48, None), (12, 2, None), (6, 1, None), (5, 1, 3), (3, 1, 3), (1, 1, 1)):
        monkeypatch.setattr(room, "AT_ONCE", limit * each)
        found = fitted()
        assert (found.rows, found.at_once) == (rows, at_once)
    monkeypatch.setattr(room, "AT_ONCE", 6 * each)
    assert fitted(tuning.Training(draws=3)).at_once == 2
    assert fitted(tuning.Training(per_step=2)).rows == 3


def test_memory_decides_what_is_kept_and_nothing_else(monkeypatch):
    wide = replace(TINY, layers=12)
    row = room.gradient(wide, 40, 4)
    monkeypatch.setattr(room, "of", lambda memory, config: memory)
    whole = 48 * 6 * row.kept
    assert fitted(config=wide, memory=whole) == tuning.Training()
    assert fitted(config=wide, memory=whole - 1) == tuning.Training(recompute=True)
    with pytest.raises(ValueError, match=r"tuning on samples of 40 tokens takes .* GB .* allow more"):
        fitted(config=wide, memory=48 * 6 * row.recomputed - 1)


@pytest.mark.parametrize("method", [tuning.CodePrompt(), tuning.Lora(rank=2)], ids=["prompt", "LoRA"])
def test_what_is_computed_again_has_the_same_bits(method):
    params = decoder.Decoder(TINY).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    work = job(params, pool=2)
    codec = jax.tree.map(lambda leaf: leaf[0], work.codec)
    if isinstance(method, tuning.Lora):
        start = jax.vmap(lambda key: method.init(key, jnp.zeros((4, TINY.dim)), codec, TINY))(work.keys)
        rates = jax.tree.map(lambda leaf: jnp.full(len(leaf), 0.01), start)
        work = work._replace(start=start, learning_rate=rates, limit=jax.tree.map(lambda leaf: leaf * jnp.inf, rates))

    def tuned(recompute):
        training = tuning.Training(steps=5, recompute=recompute)
        return tuning.tune(params, work, Condition(device("NVM-3"), 0.1), config=TINY, method=method, training=training)

    jax.tree.map(np.testing.assert_array_equal, tuned(False), tuned(True))

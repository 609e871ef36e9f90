"""No random key is used twice."""

from dataclasses import replace

import jax
import pytest

import nvcim_jax as nv
from nvcim_jax import tuning
from nvcim_jax.pipeline import compiled

SMALL = replace(nv.RECOMMENDED, training=tuning.Training(steps=1), tokens=4)


@pytest.fixture
def checked(monkeypatch):
    """Under JAX's own checker of keys, but for the clusters: it takes keys that vmap turns round for a scan for used."""
    representatives = compiled.representatives

    def unchecked(*args, **options):
        with jax.debug_key_reuse(False):
            return representatives(*args, **options)

    monkeypatch.setattr(compiled, "representatives", unchecked)
    with jax.debug_key_reuse(True):
        yield


def test_learning_growing_and_answering_use_no_key_twice(model, checked):
    users = nv.toy_users("LaMP-2", 1)
    short = replace(users, people=tuple(user._replace(history=user.history[:3]) for user in users))
    learn_key, grow_key, answer_key = jax.random.split(jax.random.key(0), 3)
    memory = nv.learn(learn_key, model, short, "NVM-3", sigma=0.1, settings=SMALL)
    memory = nv.grow(grow_key, model, memory, users[0].history[3:4])
    (answer,) = nv.answer(answer_key, model, memory, short[0].queries[:1])
    assert answer.text
    with pytest.raises(jax.errors.KeyReuseError):
        nv.answer(answer_key, model, memory, short[0].queries[:1])

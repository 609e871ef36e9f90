"""One prompt for all of a user's samples, from which the user's OVTs start: what real models are tuned by."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvcim_jax as nv
from nvcim_jax import tuning
from nvcim_jax.core.codec import decode, encode
from nvcim_jax.data import text
from nvcim_jax.data.users import Users
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.pipeline import learn, presets
from nvcim_jax.pipeline.block import gather
from nvcim_jax.pipeline.presets import PERSONAL

KEY = jax.random.key(4)
FEW = replace(PERSONAL.together, training=tuning.Training(steps=3, per_step=1), tokens=4)
STILL = replace(PERSONAL, training=tuning.Training(steps=0), together=FEW, tokens=4, clip=1.0)
QUIET = Condition(nv.device("NVM-1"), 0.0)


@pytest.fixture(scope="module")
def block(model):
    people = nv.toy_users("LaMP-2", 2)
    return gather(KEY, model, people.task, people, settings=STILL)


def taken(bank):
    return np.asarray(bank.prompts), np.asarray(bank.valid)


def test_without_steps_of_their_own_all_ovts_of_a_user_are_the_one_prompt(model, block):
    prompts, valid = taken(learn.tune_bank(KEY, model, block, QUIET, settings=STILL))
    for own, is_taken in zip(prompts, valid, strict=True):
        assert is_taken.sum() == 6 and np.allclose(own[is_taken], own[0], atol=1e-5)
    assert np.abs(prompts[0, 0] - prompts[1, 0]).max() > 1e-3  # of another person it is another


def test_it_starts_from_the_words_of_the_task_and_reads_every_sample_in_turn(model, block, monkeypatch):
    rows, tune = [], learn.tune
    monkeypatch.setattr(
        learn, "tune", lambda key, model, block, own, *rest, **how: rows.append((own, how)) or
        tune(key, model, block, own, *rest, **how)
    )  # fmt: skip
    started = learn.start_together(KEY, model, block, QUIET, settings=FEW)
    ((own, how),) = rows
    assert [sorted(map(repr, pool)) for pool in own.pools] == [sorted(map(repr, u.history)) for u in block.users]
    assert how["settings"].start_text.split()[0] == block.task.pieces[0].split()[0]
    ids = (text.encode(model.tokenizer, how["settings"].start_text) * 4)[:4]
    words = model.params["embedding"]["embedding"][jnp.array(ids)]
    untouched = learn.start_together(
        KEY, model, block, QUIET, settings=replace(FEW, training=tuning.Training(steps=0, per_step=1), clip=1.0)
    )
    read = jax.vmap(lambda codec: decode(codec, encode(codec, words)))(block.codec)
    np.testing.assert_allclose(untouched.start, read, atol=1e-5)
    assert np.abs(started.start - read).mean() > 0.1 * np.abs(read).mean()


def test_a_start_that_is_given_stands_in_its_place(model, block):
    given = block._replace(start=jnp.broadcast_to(jnp.linspace(-1, 1, model.config.dim), (2, 4, model.config.dim)))
    plain = replace(STILL, together=None)
    one, other = (learn.tune_bank(KEY, model, given, QUIET, settings=each) for each in (STILL, plain))
    np.testing.assert_array_equal(one.prompts, other.prompts)


def test_killed_between_the_two_it_goes_on_with_the_same_bits(model, block, tmp_path):
    settings = replace(STILL, training=tuning.Training(steps=2, per_step=1))
    whole = learn.tune_bank(KEY, model, block, QUIET, settings=settings)
    kept, told = tmp_path / "kept", []

    def stop(progress):
        told.append(progress.row_steps)
        if sum(told) >= 3 * 2:  # the one prompt of both users is done
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn.tune_bank(KEY, model, block, QUIET, settings=settings, folder=kept, report=stop)
    again = []
    resumed = learn.tune_bank(KEY, model, block, QUIET, settings=settings, folder=kept, report=again.append)
    np.testing.assert_array_equal(resumed.prompts, whole.prompts)
    # of the one prompt nothing is trained again: tokens are told of steps alone that were taken
    assert sum(each.row_steps for each in again if not each.tokens) >= 2
    tuning.discard(kept)
    assert not kept.exists()


def test_steps_are_counted_by_hand():
    assert PERSONAL.steps(5) == 160 + 5 * 6 and PERSONAL.steps(5, has_start=True) == 30
    assert nv.RECOMMENDED.steps(5) == 150


def test_what_is_recommended_goes_by_the_model(model, tmp_path):
    assert model.is_embedded and presets.recommended(model) is nv.RECOMMENDED
    own = model._replace(is_embedded=False)
    assert presets.recommended(own) is PERSONAL
    people = nv.toy_users("LaMP-2", 1)
    few = Users(people.task, (people[0]._replace(history=people[0].history[:3]),), people.source)
    learned = nv.learn(KEY, own, few, "NVM-3", sigma=0.1)
    assert learned.about.preset == "personal" and nv.learn(KEY, model, few, "NVM-3", sigma=0.1).about.preset == (
        "recommended"
    )
    nv.save(tmp_path / "bank", learned)
    (answer,) = nv.answer(KEY, own, nv.load(tmp_path / "bank", own), people[0].queries[:1])
    assert answer.found in few[0].history


def test_every_part_of_it_is_described():
    told = PERSONAL.described()
    assert told["together"]["training"] == {"kind": "training", "steps": 160, "warmup": 8, "per_step": 1}
    assert isinstance(PERSONAL.learning_rate, partial) and told["learning_rate"]["with"] == {"share": 0.05}


def test_a_sample_that_is_read_often_is_counted_once(model, block):
    short = replace(FEW, longest=20)
    with pytest.warns(UserWarning, match=r"of 50 samples are longer than 20 tokens"):
        learn.start_together(KEY, model, block, QUIET, settings=short)

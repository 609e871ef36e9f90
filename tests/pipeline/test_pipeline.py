"""The whole chain on the embedded model and world."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax import llm, tuning
from nvcim_jax.data import lamp, synthetic, text
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.memory import programming
from nvcim_jax.people import User
from nvcim_jax.pipeline import compiled, keys, retrieve
from nvcim_jax.pipeline.answer import generate
from nvcim_jax.pipeline.block import Block
from nvcim_jax.pipeline.encode import fit_codecs
from nvcim_jax.pipeline.learn import check_tokens, start_ids, tune_bank
from nvcim_jax.pipeline.presets import PRESETS, RECOMMENDED, fixed_rate
from nvcim_jax.pipeline.select import buffered, select

NVM3, KEY = Condition(device("NVM-3"), 0.1), jax.random.key(0)
TASK = lamp.task("LaMP-2")
QUICK = replace(RECOMMENDED, training=tuning.Training(steps=5))


@pytest.fixture(scope="module")
def users():
    return buffered(synthetic.users(TASK, 3, queries=4), 25)


def learn(model, users, settings=QUICK, selected=None):
    """A block of these users, and the bank that they learn."""
    selected = select(KEY, model, users) if selected is None else selected
    block = Block(TASK, users, selected, fit_codecs(KEY, model, TASK, users, fit=settings.fit_codec))
    return block, tune_bank(KEY, model, block, NVM3, settings=settings)


@pytest.fixture(scope="module")
def learned(model, users):
    return learn(model, users)


def test_representatives_are_distinct_samples_of_the_users_own(model, users):
    for user, row in zip(users, select(KEY, model, users).samples, strict=True):
        chosen = [sample for sample in row if sample]
        assert len(chosen) == len(set(chosen)) == 6 and set(chosen) <= set(user.history)


def test_extra_slots_cover_the_missing_domains_and_stay_out_of_the_bank(model):
    users = buffered(synthetic.users(TASK, 12), 25)
    selected = select(KEY, model, users, extra_domains=True)
    for user, row, valid in zip(users, selected.samples, np.asarray(selected.valid), strict=True):
        covered = {sample.domain for sample in row if sample}
        assert {query.domain for query in user.queries} <= covered
        assert valid.sum() == 6 and not valid[6:].any()


def test_a_user_learns_the_same_alone_and_in_company(model, users, learned):
    alone = learn(model, users[1:2])
    assert alone[0].selected.samples[0] == learned[0].selected.samples[1]
    np.testing.assert_allclose(alone[1].keys[0], learned[1].keys[1], atol=1e-4)
    prompts = [compiled.prompts_of(block.codec, bank.prompts)[at] for (block, bank), at in ((alone, 0), (learned, 1))]
    np.testing.assert_allclose(*prompts, atol=2e-3)


def found(model, learned, draws):
    block, bank = learned
    banks = retrieve.program(KEY, block, bank, NVM3, settings=QUICK, draws=draws)
    return retrieve.search(model, block, banks, settings=QUICK)


def test_retrieval_repeats_itself_and_more_draws_keep_the_first(model, learned):
    few, again, many = (found(model, learned, draws) for draws in (2, 2, 3))
    np.testing.assert_array_equal(few.prompt, again.prompt)
    np.testing.assert_array_equal(few.prompt, many.prompt[:, :2])
    assert np.abs(few.prompt[:, 0] - few.prompt[:, 1]).max() > 0


def test_a_block_is_programmed_as_its_banks_one_by_one(users, learned):
    whole = retrieve.program(KEY, *learned, NVM3, settings=QUICK, draws=2)
    own_key = jax.random.fold_in(keys.of_users(KEY, users, "program")[1], 1)
    own = jax.tree.map(lambda leaf: leaf[1], learned[1])
    one = programming.program(own_key, own.prompts, own.keys, own.valid, NVM3.device, sigma=0.1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1, 1], b, atol=1e-6), whole, one)


def test_answers_do_not_depend_on_the_batch(model, users):
    queries = [query for user in users for query in user.queries]
    together = generate(model, queries, new_tokens=8)
    assert together == [generate(model, [query], new_tokens=8)[0] for query in queries]


def test_zero_steps_store_the_samples_own_tokens_within_the_limits(model, users):
    free = replace(QUICK, training=tuning.Training(steps=0), clip=1.0)
    block, untuned = learn(model, users, free)
    own = text.start_ids(model.tokenizer, TASK, block.selected.samples[0][0], 16, history=users[0].history)
    embedded = llm.embed(model.params, model.config, jnp.array([own]))[0]
    prompt = compiled.prompts_of(block.codec, untuned.prompts)[0, 0]
    assert float(((prompt - embedded) ** 2).sum() / (embedded**2).sum()) < 0.15  # what 48 of 128 dimensions leave out
    code, clipped = untuned.prompts[0, 0], learn(model, users, replace(free, clip=0.9))[1].prompts[0, 0]
    limit = jnp.quantile(jnp.abs(code), 0.9)
    np.testing.assert_allclose(clipped, jnp.clip(code, -limit, limit), atol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_describe_themselves_as_json(name):
    import json

    described = json.loads(json.dumps(PRESETS[name].described()))
    assert described["train_sigma"] == PRESETS[name].train_sigma and described["fit_codec"] in ("pca", "autoencoder")
    assert replace(PRESETS[name], tokens=4).described() == described | {"tokens": 4}


def test_start_and_training_noise_are_drawn_apart(model, users, monkeypatch):
    """The Gaussian start of `paper-literal` was once the noise of its own training step 2."""
    seen = []
    monkeypatch.setattr(tuning, "run", lambda params, job, *rest, **options: seen.append(job) or 1 / 0)
    settings = replace(PRESETS["paper-literal"], training=tuning.Training(steps=5))
    with pytest.raises(ZeroDivisionError):
        learn(model, users, settings)
    (job,) = seen
    for step in range(5):
        noise = jax.random.normal(jax.random.fold_in(job.keys[0], step), job.start.shape[1:])
        assert abs(np.corrcoef(noise.reshape(-1), np.asarray(job.start[0]).reshape(-1))[0, 1]) < 0.1


def test_no_two_stages_and_no_two_users_draw_the_same_numbers(users):
    stages = ("select", "codec", "tune", "program", "order", "curvature")
    drawn = {stage: np.asarray(jax.random.key_data(keys.of_users(KEY, users, stage))) for stage in stages}
    assert len({bytes(row) for rows in drawn.values() for row in rows}) == len(stages) * len(users)
    alone = keys.of_users(KEY, users[1:2], "tune")
    np.testing.assert_array_equal(jax.random.key_data(alone)[0], drawn["tune"][1])


def test_an_empty_history_is_refused():
    with pytest.raises(ValueError, match="user 5 has an empty history"):
        buffered([User("5", (), ())], 25)


def test_a_single_sample_makes_a_bank_of_one(model, users):
    lonely = [users[0]._replace(history=users[0].history[:1])]
    block, bank_of_one = learn(model, lonely)
    assert [bool(sample) for sample in block.selected.samples[0]] == [True] + [False] * 7
    assert np.all(found(model, (block, bank_of_one), 1).index == 0) and np.isfinite(bank_of_one.prompts).all()


def test_what_cannot_be_tuned_is_refused_or_counted(model, users):
    with pytest.raises(ValueError, match="129 virtual tokens, but an array has 128 columns"):
        learn(model, users, replace(QUICK, tokens=129))
    with pytest.raises(ValueError, match="leave no room in the model's context"):
        small = model._replace(config=replace(model.config, context=100))
        check_tokens(small, replace(QUICK, tokens=51))
    silent = [user._replace(history=tuple(each._replace(answer=" ") for each in user.history)) for user in users]
    with pytest.raises(ValueError, match="has no answer: there is nothing to learn"):
        learn(model, silent, QUICK)
    short = replace(QUICK, longest=20)
    with pytest.warns(UserWarning, match=r"\d+ of 18 samples are longer than 20 tokens.*lost their middles"):
        learn(model, users, short)
    with pytest.raises(ValueError, match="of 18 samples are longer than 20 tokens"):
        learn(model, users, replace(short, cut=False))
    with pytest.raises(ValueError, match="has an empty history"):
        buffered([users[0]._replace(history=())], 25)


def test_virtual_tokens_may_start_from_a_given_text(model, users):
    sample, start = (
        users[0].history[0],
        lambda said: start_ids(model, TASK, sample, replace(QUICK, start_text=said, tokens=5)),
    )
    word = model.tokenizer(" comedy", add_special_tokens=False).input_ids
    assert start(" comedy") == (word * 5)[:5]
    assert start(None) != start(" comedy") and len(start(None)) == 5
    with pytest.raises(ValueError, match="the text to start from is empty"):
        start("")


def test_an_ovt_without_a_finite_loss_is_named(model, users):
    endless = replace(QUICK, clip=1.0, learning_rate=partial(fixed_rate, rate=float("inf")))
    with pytest.warns(UserWarning, match=rf"of \d+ OVTs was not finite.*: {users[0].id}, '.*A smaller"):
        learn(model, users[:1], endless)


def test_what_starts_at_zero_is_not_held_there_by_clipping(model, users):
    """LoRA's second factor starts at 0, and so does the quantile of its magnitudes."""
    keys_, ids = jax.random.split(KEY, 1), np.zeros((1, 4), np.int32)
    codec = jax.tree.map(lambda leaf: leaf[:1], fit_codecs(KEY, model, TASK, users))
    for method, clip in ((tuning.Lora(), 0.9), (tuning.Prompt(), 0.9), (tuning.Prompt(), 1.0)):
        settings = replace(QUICK, method=method, clip=clip)
        start, _, limits = compiled.start(
            model.params, keys_, keys_, ids, None, codec, config=model.config, settings=settings
        )
        for leaf, limit in zip(jax.tree.leaves(start), jax.tree.leaves(limits), strict=True):
            assert limit.item() > 0 and np.isinf(limit.item()) == (clip == 1 or not leaf.any())

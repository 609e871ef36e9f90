"""The whole chain on the embedded model and world."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax import bank, lamp, llm, pipeline, programs, reply, synthetic, text, tuning
from nvcim_jax.devices import device
from nvcim_jax.presets import PRESETS, RECOMMENDED

NVM3, KEY = device("NVM-3"), jax.random.key(0)
TASK = lamp.task("LaMP-2")
QUICK = replace(RECOMMENDED, training=tuning.Training(steps=5))


@pytest.fixture(scope="module")
def users():
    return pipeline.buffered(synthetic.users(TASK, 3, queries=4), 25)


def learn(model, users, selected, settings=QUICK):
    codec = pipeline.fit_codecs(KEY, model, TASK, users, fit=settings.fit_codec)
    return pipeline.learn(KEY, model, TASK, users, selected, codec, NVM3, sigma=0.1, settings=settings)


@pytest.fixture(scope="module")
def learned(model, users):
    selected = pipeline.select(KEY, model, users)
    return selected, learn(model, users, selected)


def test_representatives_are_distinct_samples_of_the_users_own(model, users):
    for user, row in zip(users, pipeline.select(KEY, model, users).samples, strict=True):
        chosen = [sample for sample in row if sample]
        assert len(chosen) == len(set(chosen)) == 6 and set(chosen) <= set(user.history)


def test_extra_slots_cover_the_missing_domains_and_stay_out_of_the_bank(model):
    users = pipeline.buffered(synthetic.users(TASK, 12), 25)
    selected = pipeline.select(KEY, model, users, extra_domains=True)
    for user, row, valid in zip(users, selected.samples, np.asarray(selected.valid), strict=True):
        covered = {sample.domain for sample in row if sample}
        assert {query.domain for query in user.queries} <= covered
        assert valid.sum() == 6 and not valid[6:].any()


def test_a_user_learns_the_same_alone_and_in_company(model, users, learned):
    selected, together = learned
    alone_selected = pipeline.select(KEY, model, users[1:2])
    assert alone_selected.samples[0] == selected.samples[1]
    alone = learn(model, users[1:2], alone_selected)
    np.testing.assert_allclose(alone.bank.keys[0], together.bank.keys[1], atol=1e-4)
    prompts = [programs.prompts_of(one.codec, one.bank.prompts)[at] for one, at in ((alone, 0), (together, 1))]
    np.testing.assert_allclose(*prompts, atol=2e-3)


def found(model, users, learned, draws):
    banks = pipeline.program(KEY, users, learned, NVM3, sigma=0.1, settings=QUICK, draws=draws)
    return pipeline.search(model, users, learned, banks, settings=QUICK)


def test_retrieval_repeats_itself_and_more_draws_keep_the_first(model, users, learned):
    few, again, many = (found(model, users, learned[1], draws) for draws in (2, 2, 3))
    np.testing.assert_array_equal(few.prompt, again.prompt)
    np.testing.assert_array_equal(few.prompt, many.prompt[:, :2])
    assert np.abs(few.prompt[:, 0] - few.prompt[:, 1]).max() > 0


def test_a_block_is_programmed_as_its_banks_one_by_one(users, learned):
    whole = pipeline.program(KEY, users, learned[1], NVM3, sigma=0.1, settings=QUICK, draws=2)
    own_key = jax.random.fold_in(pipeline.user_keys(KEY, users, "program")[1], 1)
    own = jax.tree.map(lambda leaf: leaf[1], learned[1].bank)
    one = bank.program(own_key, own.prompts, own.keys, own.valid, NVM3, sigma=0.1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1, 1], b, atol=1e-6), whole, one)


def test_answers_do_not_depend_on_the_batch(model, users):
    queries = [query for user in users for query in user.queries]
    together = reply.answer(model, queries, new_tokens=8)
    assert together == [reply.answer(model, [query], new_tokens=8)[0] for query in queries]


def test_zero_steps_store_the_samples_own_tokens_within_the_limits(model, users):
    selected, free = pipeline.select(KEY, model, users), replace(QUICK, training=tuning.Training(steps=0), clip=1.0)
    own = text.start_ids(model.tokenizer, TASK, selected.samples[0][0], 16, history=users[0].history)
    embedded = llm.embed(model.params, model.config, jnp.array([own]))[0]
    untuned = learn(model, users, selected, free)
    prompt = programs.prompts_of(untuned.codec, untuned.bank.prompts)[0, 0]
    assert float(((prompt - embedded) ** 2).sum() / (embedded**2).sum()) < 0.15  # what 48 of 128 dimensions leave out
    code, clipped = (
        untuned.bank.prompts[0, 0],
        learn(model, users, selected, replace(free, clip=0.9)).bank.prompts[0, 0],
    )
    limit = jnp.quantile(jnp.abs(code), 0.9)
    np.testing.assert_allclose(clipped, jnp.clip(code, -limit, limit), atol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_describe_themselves_as_json(name):
    import json

    described = json.loads(json.dumps(PRESETS[name].describe()))
    assert described["tokens"] == 16 and described["training"]["steps"] == PRESETS[name].training.steps


def test_start_and_training_noise_are_drawn_apart(model, users, monkeypatch):
    """The Gaussian start of `paper-literal` was once the noise of its own training step 2."""
    seen = []
    monkeypatch.setattr(tuning, "run", lambda params, job, *rest, **options: seen.append(job) or 1 / 0)
    settings = replace(PRESETS["paper-literal"], training=tuning.Training(steps=5))
    with pytest.raises(ZeroDivisionError):
        learn(model, users, pipeline.select(KEY, model, users), settings)
    (job,) = seen
    for step in range(5):
        noise = jax.random.normal(jax.random.fold_in(job.keys[0], step), job.start.shape[1:])
        assert abs(np.corrcoef(noise.reshape(-1), np.asarray(job.start[0]).reshape(-1))[0, 1]) < 0.1


def test_no_two_stages_and_no_two_users_draw_the_same_numbers(users):
    stages = ("select", "codec", "tune", "program", "order", "curvature")
    drawn = {stage: np.asarray(jax.random.key_data(pipeline.user_keys(KEY, users, stage))) for stage in stages}
    assert len({bytes(row) for rows in drawn.values() for row in rows}) == len(stages) * len(users)
    alone = pipeline.user_keys(KEY, users[1:2], "tune")
    np.testing.assert_array_equal(jax.random.key_data(alone)[0], drawn["tune"][1])


def test_an_empty_history_is_refused():
    with pytest.raises(ValueError, match="user 5 has an empty history"):
        pipeline.buffered([lamp.User("5", (), ())], 25)


def test_a_single_sample_makes_a_bank_of_one(model, users):
    lonely = [users[0]._replace(history=users[0].history[:1])]
    selected = pipeline.select(KEY, model, lonely)
    assert [bool(sample) for sample in selected.samples[0]] == [True] + [False] * 7
    bank_of_one = learn(model, lonely, selected)
    assert np.all(found(model, lonely, bank_of_one, 1).index == 0) and np.isfinite(bank_of_one.bank.prompts).all()


def test_what_cannot_be_tuned_is_refused_or_counted(model, users):
    with pytest.raises(ValueError, match="129 virtual tokens, but an array has 128 columns"):
        select_and_learn(model, users, replace(QUICK, tokens=129))
    with pytest.raises(ValueError, match="leave no room in the model's context"):
        small = model._replace(config=replace(model.config, context=100))
        pipeline.check_tokens(small, replace(QUICK, tokens=51))
    silent = [user._replace(history=tuple(each._replace(answer=" ") for each in user.history)) for user in users]
    with pytest.raises(ValueError, match="has no answer: there is nothing to learn"):
        select_and_learn(model, silent, QUICK)
    short = replace(QUICK, longest=20)
    with pytest.warns(UserWarning, match=r"\d+ of 18 samples are longer than 20 tokens.*lost their beginnings"):
        select_and_learn(model, users, short)
    with pytest.raises(ValueError, match="of 18 samples are longer than 20 tokens"):
        select_and_learn(model, users, replace(short, cut=False))
    with pytest.raises(ValueError, match="has an empty history"):
        pipeline.buffered([users[0]._replace(history=())], 25)


def select_and_learn(model, users, settings):
    return learn(model, users, pipeline.select(KEY, model, users), settings)


def test_virtual_tokens_may_start_from_a_given_text(model, users):
    sample, start = (
        users[0].history[0],
        lambda said: pipeline.start_ids(model, TASK, sample, replace(QUICK, start_text=said, tokens=5)),
    )
    word = model.tokenizer(" comedy", add_special_tokens=False).input_ids
    assert start(" comedy") == (word * 5)[:5]
    assert start(None) != start(" comedy") and len(start(None)) == 5
    with pytest.raises(ValueError, match="the text to start from is empty"):
        start("")

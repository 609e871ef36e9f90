"""Many prompts, one program: rows do not influence each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax import tuning
from nvcim_jax.core.codec import fit_pca
from nvcim_jax.data import text
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.llm import decoder
from nvcim_jax.tuning import train
from nvcim_jax.tuning.method import device_noise
from tests.llm.test_decoder import TINY

CODE = tuning.CodePrompt()
NVM3 = device("NVM-3")
AT = Condition(NVM3, 0.1)


@pytest.fixture(scope="module")
def params():
    return decoder.Decoder(TINY).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


def job(params, rows=3, pool=2, tokens=8):
    rng = np.random.default_rng(0)
    sentence = lambda size: list(map(int, rng.integers(1, 37, size)))  # noqa: E731
    pools = [[(sentence(5 + at), sentence(2)) for at in range(pool)] for _ in range(rows)]
    codec = fit_pca(jax.random.key(1), params["embedding"]["embedding"], jnp.ones(37), dim=16)
    start = 0.1 * jax.random.normal(jax.random.key(2), (rows, tokens, 16))
    return tuning.Job(
        jax.random.split(jax.random.key(3), rows), start,
        jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape)), codec),
        jnp.full(rows, 0.01), jnp.full(rows, jnp.inf), text.batch(pools),
    )  # fmt: skip


def tune(params, work, sigma=0.1, steps=20, method=CODE, **options):
    training = tuning.Training(**{"steps": steps, "per_step": 1} | options)
    return tuning.tune(params, work, Condition(NVM3, sigma), config=TINY, method=method, training=training)


def only(work, row):
    return jax.tree.map(lambda leaf: leaf[row : row + 1], work)


@pytest.mark.parametrize("method", [tuning.CodePrompt(), tuning.Prompt()])
def test_a_batch_is_its_rows_one_by_one(params, method):
    work = job(params)
    together = tune(params, work, method=method)
    alone = [tune(params, only(work, row), method=method) for row in range(3)]
    np.testing.assert_allclose(together.values, jnp.concatenate([one.values for one in alone]), atol=1e-5)


def test_the_loss_falls(params):
    losses = tune(params, job(params, pool=1), sigma=0.0, steps=60).losses
    assert np.all(losses[-1] < 0.8 * losses[0])


def test_zero_noise_is_clean_training_whatever_the_key(params):
    work = job(params)
    other = work._replace(keys=jax.random.split(jax.random.key(9), 3))
    np.testing.assert_array_equal(tune(params, work, 0.0).values, tune(params, other, 0.0).values)
    assert np.abs(tune(params, work).values - tune(params, other).values).max() > 1e-4


def test_same_seed_same_bits(params):
    np.testing.assert_array_equal(tune(params, job(params)).values, tune(params, job(params)).values)


def test_noise_is_fresh_at_every_step(params):
    work = job(params, pool=1)._replace(learning_rate=jnp.zeros(3))
    losses = np.asarray(tune(params, work).losses)
    assert np.all(np.std(losses, axis=0) > 0) and len(np.unique(losses[:, 0])) == 20


def test_values_stay_within_their_limit(params):
    limit = jnp.array([0.05, 0.1, jnp.inf])
    values = np.abs(tune(params, job(params)._replace(limit=limit)).values).max((1, 2))
    assert values[0] <= 0.05 and values[1] <= 0.1 and values[2] > 0.1


def test_the_pool_is_seen_in_turn(params):
    work = job(params, rows=1, pool=3)._replace(learning_rate=jnp.zeros(1))
    losses = np.asarray(tune(params, work, 0.0, steps=6).losses[:, 0])
    np.testing.assert_allclose(losses[:3], losses[3:], rtol=1e-6)
    assert len(set(np.round(losses[:3], 5))) == 3
    pairs = np.asarray(tune(params, work, 0.0, steps=3, per_step=2).losses[:, 0])
    np.testing.assert_allclose(pairs[0], losses[:2].mean(), rtol=1e-5)


def test_the_frozen_model_stays_frozen(params):
    before = jax.tree.map(np.array, params)
    tune(params, job(params))
    jax.tree.map(np.testing.assert_array_equal, params, before)


def test_one_trace_for_all_values_of_one_shape(params):
    tuning.tune.clear_cache()
    for seed, sigma in ((0, 0.1), (1, 0.2), (2, 0.0)):
        work = job(params)._replace(keys=jax.random.split(jax.random.key(seed), 3))
        tune(params, work, jnp.float32(sigma))
    assert tuning.tune._cache_size() == 1


def test_starts(params):
    ids, key = jnp.arange(1, 33, dtype=jnp.int32), jax.random.key(1)
    own = tuning.own_tokens(key, params, TINY, ids)
    np.testing.assert_array_equal(own, params["embedding"]["embedding"][1:33])
    random = tuning.random_tokens(key, params, TINY, ids)
    assert float(jnp.std(random)) == pytest.approx(float(jnp.sqrt(jnp.mean(own**2))), rel=0.15)
    words = np.asarray(tuning.vocabulary_tokens(key, params, TINY, ids))
    table = np.asarray(params["embedding"]["embedding"])
    assert all(any(np.array_equal(word, row) for row in table) for word in words)
    assert len(np.unique(words, axis=0)) > 10 and not np.array_equal(words, own)


def test_code_space_reads_what_the_memory_returns(params):
    from nvcim_jax.core.codec import decode

    work = only(job(params), 0)
    codec, code = jax.tree.map(lambda leaf: leaf[0], (work.codec, work.start))

    def read(sigma):
        return CODE.apply(code, codec, TINY, device_noise(jax.random.key(0), Condition(NVM3, sigma), False)).front

    np.testing.assert_allclose(read(0.0), decode(codec, code), atol=1e-6)
    assert np.abs(read(0.1) - read(0.0)).max() > 1e-3


def test_in_stretches_the_bits_are_those_of_one_call(params):
    work, training = job(params), tuning.Training(steps=9)
    fixed = {"config": TINY, "method": CODE, "training": training}
    state = train.begin(work, training=training)
    for until in (2, 3, 9):
        state = train.advance(params, work, AT, state, until, **fixed)
    whole = tuning.tune(params, work, AT, **fixed)
    jax.tree.map(np.testing.assert_array_equal, train.finish(state), whole)


def test_passes_of_few_samples_add_up_to_one_of_all(params):
    work = job(params, pool=4)
    whole = tune(params, work, per_step=4, steps=6)
    parts = tune(params, work, per_step=4, at_once=2, steps=6)
    np.testing.assert_allclose(parts.values, whole.values, atol=2e-5)
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-5)
    with pytest.raises(ValueError, match="4 samples a step, 3 at once"):
        tune(params, work, per_step=4, at_once=3)


def test_draws_average_the_noise(params):
    work = job(params, pool=1)._replace(learning_rate=jnp.zeros(3))
    one, many = (np.asarray(tune(params, work, 0.3, steps=30, draws=draws).losses) for draws in (1, 16))
    ratio = np.var(many, axis=0).mean() / np.var(one, axis=0).mean()
    assert 1 / 32 < ratio < 1 / 8
    np.testing.assert_allclose(many.mean(), one.mean(), rtol=0.1)


def test_the_learning_rate_rises_and_falls():
    rate = train._schedule(tuning.Training(steps=12, warmup=2))
    np.testing.assert_allclose([rate(at) for at in (0, 1, 2, 7, 12)], [1 / 3, 2 / 3, 1, 0.5, 0], atol=1e-6)
    flat = train._schedule(tuning.Training(steps=10))
    np.testing.assert_allclose([flat(at) for at in (0, 5, 10)], [1, 0.5, 0], atol=1e-6)


def test_a_row_that_no_longer_improves_stops_alone(params):
    work = job(params, pool=1)._replace(learning_rate=jnp.array([0.0, 0.01, 0.01]))
    tuned = tune(params, work, 0.0, steps=30, patience=4)
    taken = np.isfinite(tuned.losses).sum(axis=0)
    assert taken[0] == 5 and taken[1] > 10  # the first loss, and four without a smaller one
    np.testing.assert_array_equal(tuned.values[0], work.start[0])
    np.testing.assert_array_equal(tuned.values[1:], tune(params, work, 0.0, steps=30, patience=30).values[1:])


def test_when_all_rows_have_stopped_the_program_ends(params):
    work, training = job(params, pool=1), tuning.Training(steps=1000, patience=3)
    still = work._replace(learning_rate=jnp.zeros(3))
    state = train.begin(still, training=training)
    state = train.advance(params, still, Condition(NVM3, 0.0), state, 1000, config=TINY, method=CODE, training=training)
    assert int(state.step) == 4


def test_a_broken_row_keeps_its_last_finite_values_and_harms_nobody(params):
    work = job(params, pool=1)
    tuned = tune(params, work._replace(learning_rate=jnp.array([jnp.inf, 0.01, 0.01])), steps=6)
    assert list(tuned.broken) == [True, False, False] and np.isnan(tuned.losses[2:, 0]).all()
    np.testing.assert_array_equal(tuned.values[0], work.start[0])
    np.testing.assert_array_equal(tuned.values[1:], tune(params, work, steps=6).values[1:])


def test_the_pull_draws_the_mean_token_to_the_content(params):
    content = params["embedding"]["embedding"][jnp.array([3, 8, 20])]
    work = job(params, pool=1)._replace(content=content)
    gap = lambda tuned: np.linalg.norm(tuned.values.mean(1) - content, axis=1)  # noqa: E731
    method = tuning.Prompt()
    free, pulled = (tune(params, work, 0.0, 80, method, pull=pull) for pull in (0.0, 30.0))
    assert np.all(gap(pulled) < 0.3 * gap(free))
    first = tune(params, work._replace(start=jnp.zeros_like(work.start)), 0.0, 1, method, pull=2.0).losses[0]
    bare = tune(params, work._replace(start=jnp.zeros_like(work.start)), 0.0, 1, method).losses[0]
    np.testing.assert_allclose(first - bare, 2.0, rtol=1e-4)  # a mean of zero is one whole content away


def test_gradients_through_the_peak_are_an_option_of_training(params):
    work = job(params)
    plain, through = (tune(params, work, 0.2, through_peak=option).values for option in (False, True))
    assert np.abs(plain - through).max() > 1e-4
    zero = [tune(params, work, 0.0, through_peak=option).values for option in (False, True)]
    np.testing.assert_array_equal(*zero)


def test_bfloat16_weights_tune_like_float32_ones_of_the_same_values(params):
    """Roughly so as it comes, closely where float32 is asked for; Adam's paths part sooner or later."""
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    same = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    exact, near = (tune(each, job(params, pool=1), 0.0, steps=20) for each in (same, half))
    with jax.default_matmul_precision("float32"):
        nearer = tune(half, job(params, pool=1), 0.0, steps=20)
    assert near.values.dtype == jnp.float32
    np.testing.assert_allclose(near.losses, exact.losses, rtol=0.05)
    np.testing.assert_allclose(nearer.losses, exact.losses, rtol=1e-3)
    gaps = [np.abs(each.losses[0] - exact.losses[0]).max() for each in (near, nearer)]
    assert gaps[1] < 2e-5 < gaps[0], gaps
    wide, narrow = (tune(each, job(params, pool=1), 0.0, steps=60) for each in (params, half))
    np.testing.assert_allclose(narrow.losses[-1], wide.losses[-1], rtol=0.05)

"""Every method: what it does to the frozen model, against that model with the change made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax import llm, tuning
from nvcim_jax.core.codec import fit_pca
from nvcim_jax.data import text
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.llm import decoder
from nvcim_jax.tuning.dept import Trained
from tests.llm.test_decoder import TINY

METHODS = {
    "prompt": tuning.Prompt(), "code prompt": tuning.CodePrompt(), "prefix": tuning.Prefix(tokens=5, hidden=12),
    "P-tuning v2": tuning.Prefix(tokens=5), "DEPT": tuning.Dept(tokens=3, longest=6, rank=2),
    "LoRA": tuning.Lora(rank=2), "IA3": tuning.Ia3(),
}  # fmt: skip
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def params():
    return decoder.Decoder(TINY).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


@pytest.fixture(scope="module")
def codec(params):
    return fit_pca(jax.random.key(1), params["embedding"]["embedding"], jnp.ones(37), dim=16)


def batch(rows=2, pool=1, seed=0):
    rng = np.random.default_rng(seed)
    sentence = lambda size: list(map(int, rng.integers(1, 37, size)))  # noqa: E731
    return text.batch([[(sentence(5 + row), sentence(2)) for _ in range(pool)] for row in range(rows)])


def losses(params, adapted, rows):
    first = jax.tree.map(lambda leaf: jnp.asarray(leaf[:, 0]), rows)
    asked = decoder.embed(params, TINY, first.ids)
    return tuning.label_loss(params, TINY, adapted, tuning.Samples(asked, *first[1:]))


def in_rows(adapted, rows=2):
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape)), adapted)


def random_like(tree, scale=0.3):
    leaves, shape = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(8), len(leaves))
    return jax.tree.unflatten(
        shape, [leaf + scale * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    )


def tokens_of(params):
    return decoder.embed(params, TINY, jnp.arange(1, 5, dtype=jnp.int32)[None])[0]


@pytest.mark.parametrize("name", ["LoRA", "IA3"])
def test_a_fresh_adapter_changes_nothing(params, codec, name):
    method = METHODS[name]
    fresh = method.apply(method.init(KEY, tokens_of(params), codec, TINY), codec, TINY, tuning.quiet)
    np.testing.assert_allclose(losses(params, in_rows(fresh), batch()), losses(params, tuning.Adapted(), batch()), 1e-6)


def test_fresh_dept_is_its_prompt_alone(params, codec):
    fresh = METHODS["DEPT"].apply(METHODS["DEPT"].init(KEY, tokens_of(params), codec, TINY), codec, TINY, tuning.quiet)
    alone = tuning.Adapted(front=tokens_of(params)[:3])
    np.testing.assert_array_equal(losses(params, in_rows(fresh), batch()), losses(params, in_rows(alone), batch()))


def test_a_prompt_goes_in_front(params, codec):
    """Virtual tokens that are real tokens' embeddings mean those tokens."""
    rng = np.random.default_rng(1)
    question, answer = list(map(int, rng.integers(1, 37, 6))), [3, 4]
    front = tuning.Prompt().apply(tokens_of(params), codec, TINY, tuning.quiet)
    told = losses(params, in_rows(tuning.Adapted(), 1), text.batch([[([1, 2, 3, 4, *question], answer)]]))
    np.testing.assert_allclose(losses(params, in_rows(front, 1), text.batch([[(question, answer)]])), told, rtol=1e-5)


def test_a_prompt_stands_behind_the_tokens_that_its_place_counts(params, codec):
    """Each row has its own place; the answer follows as if the virtual tokens were words there."""
    question, answer = [5, 6, 7, 8], [3, 4]
    front = tuning.Prompt().apply(tokens_of(params), codec, TINY, tuning.quiet)
    told = text.batch([[([*question[:at], 1, 2, 3, 4, *question[at:]], answer)] for at in (0, 1, 3)])
    placed = text.batch([[(question, answer)]] * 3, [[0], [1], [3]])
    expected = losses(params, in_rows(tuning.Adapted(), 3), told)
    np.testing.assert_allclose(losses(params, in_rows(front, 3), placed), expected, rtol=1e-5)
    assert np.ptp(expected) > 1e-3
    assert text.batch([[(question, answer)]], [[0]]).place is None


def test_a_prefix_of_a_prompts_keys_and_values_is_that_prompt(params, codec):
    tokens = tokens_of(params)
    _, seen = decoder.hidden(params, TINY, tokens[None], decoder.causal_positions((1, 4)))
    keys, values = (jnp.stack(part).swapaxes(1, 2) for part in (seen.keys, seen.values))
    behind = tuning.Prefix(tokens=4).apply(llm.Prefix(keys, values), codec, TINY, tuning.quiet)
    expected = losses(params, in_rows(tuning.Adapted(front=tokens)), batch())
    np.testing.assert_allclose(losses(params, in_rows(behind), batch()), expected, rtol=1e-5)


def test_the_network_of_a_prefix_by_hand(params, codec):
    method = METHODS["prefix"]
    own = random_like(method.init(KEY, tokens_of(params), codec, TINY))
    keys, values = method.stored(own, codec, TINY)
    flat = np.tanh(own.tokens @ own.inward + own.inward_bias[None]) @ own.outward + own.outward_bias[None]
    place = (3, 1, 1, 0)  # token, layer, head, first value: behind 2 parts, layers, heads and their dimensions
    width = TINY.layers * TINY.kv_heads * TINY.head_dim
    at = (place[1] * TINY.kv_heads + place[2]) * TINY.head_dim
    assert keys.shape == (TINY.layers, 5, TINY.kv_heads, TINY.head_dim)
    assert float(keys[1, 3, 1, 0]) == pytest.approx(float(flat[3, at]), rel=1e-5)
    assert float(values[1, 3, 1, 0]) == pytest.approx(float(flat[3, width + at]), rel=1e-5)


def test_dept_moves_the_question_and_never_the_answer(params, codec):
    rows = text.batch([[([1, 2, 3], [4, 5, 6])]])
    own = Trained(tokens_of(params)[:3], jnp.eye(6, 2), jnp.ones((2, 16)))
    adapted = METHODS["DEPT"].apply(own, codec, TINY, tuning.quiet)
    np.testing.assert_allclose(adapted.shift, own.a @ own.b)
    past = tuning.Adapted(front=adapted.front, shift=adapted.shift.at[3:].set(9.0))  # beyond the three of the question
    near = tuning.Adapted(front=adapted.front, shift=adapted.shift.at[2:].set(9.0))
    plain, far, inside = (float(losses(params, in_rows(each, 1), rows)[0]) for each in (adapted, past, near))
    assert plain == far and abs(plain - inside) > 1e-4


def test_lora_is_a_changed_kernel(params, codec):
    method = tuning.Lora(rank=2, alpha=3.0, targets=("attention/q", "attention/o", "down"))
    own = random_like(method.init(KEY, tokens_of(params), codec, TINY))
    changed = jax.tree.map(lambda leaf: leaf, params)
    for layer in range(TINY.layers):
        block = changed[f"blocks_{layer}"]
        for place, target in ((block["attention"]["q"], "attention/q"), (block["attention"]["o"], "attention/o"),
                              (block["down"], "down")):  # fmt: skip
            place["weight"] = place["weight"] + 1.5 * (own[target].a[layer] @ own[target].b[layer]).T
    adapted = in_rows(method.apply(own, codec, TINY, tuning.quiet))
    bare = losses(params, tuning.Adapted(), batch())
    merged = losses(changed, tuning.Adapted(), batch())
    np.testing.assert_allclose(losses(params, adapted, batch()), merged, rtol=2e-5)
    assert np.abs(merged - bare).min() > 1e-3


def test_ia3_is_a_stretched_kernel(params, codec):
    own = random_like(tuning.Ia3().init(KEY, tokens_of(params), codec, TINY))
    changed = jax.tree.map(lambda leaf: leaf, params)
    for layer in range(TINY.layers):
        block = changed[f"blocks_{layer}"]
        for part in "kv":
            place = block["attention"][part]
            place["weight"] = place["weight"] * own[f"attention/{part}"][layer][:, None]
        block["down"]["weight"] = block["down"]["weight"] * own["down"][layer][None]
    adapted = in_rows(tuning.Ia3().apply(own, codec, TINY, tuning.quiet))
    merged = losses(changed, tuning.Adapted(), batch())
    np.testing.assert_allclose(losses(params, adapted, batch()), merged, rtol=2e-5)
    assert np.abs(merged - losses(params, tuning.Adapted(), batch())).min() > 1e-3


@pytest.mark.parametrize("method", [tuning.Lora(targets=("attention/x",)), tuning.Ia3(inputs=("gate_up",))])
def test_a_module_that_no_layer_has_is_named(params, codec, method):
    with pytest.raises(ValueError, match="choose among attention/q, attention/k"):
        method.init(KEY, tokens_of(params), codec, TINY)


def job(params, codec, method, rows=3, pool=2):
    own = jax.vmap(lambda key: method.init(key, tokens_of(params), codec, TINY))(jax.random.split(KEY, rows))
    numbers = lambda value: jax.tree.map(lambda _: jnp.full(rows, value), own)  # noqa: E731
    return tuning.Job(
        jax.random.split(jax.random.key(5), rows), own, in_rows(codec, rows), numbers(0.03), numbers(jnp.inf),
        batch(rows, pool),
    )  # fmt: skip


def tune(params, work, method, sigma=0.0, **options):
    training = tuning.Training(**{"steps": 25} | options)
    return tuning.tune(params, work, Condition(device("NVM-3"), sigma), config=TINY, method=method, training=training)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_and_leaves_the_model_alone(params, codec, name):
    before = jax.tree.map(np.array, params)
    work = job(params, codec, METHODS[name], pool=1)
    tuned = tune(params, work, METHODS[name], steps=40)
    assert np.all(tuned.losses[-1] < 0.9 * tuned.losses[0])
    jax.tree.map(np.testing.assert_array_equal, params, before)
    kept = METHODS[name].stored(jax.tree.map(lambda leaf: leaf[0], tuned.values), codec, TINY)
    assert all(np.isfinite(leaf).all() and leaf.size for leaf in jax.tree.leaves(kept))


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_is_its_rows_one_by_one_under_noise(params, codec, name):
    work = job(params, codec, METHODS[name])
    together = tune(params, work, METHODS[name], 0.1, steps=8)
    last = tune(params, jax.tree.map(lambda leaf: leaf[2:], work), METHODS[name], 0.1, steps=8)
    for whole, alone in zip(jax.tree.leaves(together.values), jax.tree.leaves(last.values), strict=True):
        np.testing.assert_allclose(whole[2:], alone, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_every_array_of_a_method_gets_noise_of_its_own(params, codec, name):
    method = METHODS[name]
    own = random_like(method.init(KEY, tokens_of(params), codec, TINY))
    keys = []

    def noise(tree):
        keys.extend(jax.tree.leaves(tree))
        return jax.tree.map(lambda leaf: leaf * 2, tree)

    twice = method.apply(own, codec, TINY, noise)
    once = method.apply(own, codec, TINY, tuning.quiet)
    stored = jax.tree.leaves(method.stored(own, codec, TINY)) if name != "prompt" else [own]
    assert len(keys) == len(stored) and all(np.array_equal(a, b) for a, b in zip(keys, stored, strict=True))
    assert any(not np.allclose(a, b) for a, b in zip(jax.tree.leaves(twice), jax.tree.leaves(once), strict=True))

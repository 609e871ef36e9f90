"""The decoder, its loader and its loop."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax import llm
from nvcim_jax.data import text
from nvcim_jax.llm import decoder, layers
from nvcim_jax.llm.config import plain_rope
from tests.conftest import EMBEDDED

TINY = llm.Config(
    vocab_size=37, dim=16, hidden_dim=24, layers=2, heads=4, kv_heads=2, head_dim=4,
    context=64, rope=plain_rope(10000.0, 4), norm_eps=1e-5, tied=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def params():
    return decoder.Decoder(TINY).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]


def ids(rows, tokens, seed=1):
    return jax.random.randint(jax.random.key(seed), (rows, tokens), 0, TINY.vocab_size)


def test_no_token_sees_the_future(params):
    x = decoder.embed(params, TINY, ids(1, 6))
    gradient = jax.grad(lambda e: llm.logits(params, TINY, embeddings=e)[0, 3].sum())(x)
    moved = np.abs(gradient[0]).sum(1)
    assert np.all(moved[:4] > 0) and np.all(moved[4:] == 0)


def test_padding_anywhere_changes_nothing(params):
    plain = llm.logits(params, TINY, ids(1, 5))
    x = decoder.embed(params, TINY, ids(1, 5))
    holes = jnp.insert(x, jnp.array([0, 2, 5]), 7.0, axis=1)
    positions = jnp.array([[decoder.NOWHERE, 0, 1, decoder.NOWHERE, 2, 3, 4, decoder.NOWHERE]])
    padded = llm.logits(params, TINY, embeddings=holes, positions=positions)
    np.testing.assert_allclose(padded[:, [1, 2, 4, 5, 6]], plain, atol=1e-5)


def test_rotation_depends_on_distance_only():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    rope = plain_rope(10000.0, 8)
    at = lambda x, p: layers.rotate(x, layers.rotation(rope, jnp.array([[p]]), jnp.array([p])))  # noqa: E731
    near, far = (float(jnp.vdot(at(q, p), at(k, p + 3))) for p in (0, 40))
    assert near == pytest.approx(far, abs=1e-4)


def test_label_loss_is_the_cross_entropy_of_the_label_positions(params):
    tokens = ids(2, 7)
    x = decoder.embed(params, TINY, tokens)
    labels, label_at = tokens[:, 4:7], jnp.array([[3, 4, 5]] * 2)
    labels = labels.at[1, 2].set(-1)  # padding
    log_p = jax.nn.log_softmax(llm.logits(params, TINY, tokens))
    by_hand = [np.mean([-log_p[0, a, t] for a, t in zip((3, 4, 5), tokens[0, 4:7])]),
               np.mean([-log_p[1, a, t] for a, t in zip((3, 4), tokens[1, 4:6])])]  # fmt: skip
    loss = llm.label_loss(params, TINY, llm.Inputs(x), labels, label_at)
    np.testing.assert_allclose(loss, by_hand, rtol=1e-5)


def greedy_without_cache(params, tokens, count):
    """Padding on the right changes nothing before it, so one length serves every step."""
    said = jax.jit(llm.logits, static_argnums=1)
    row = np.zeros((1, 24), np.int32)
    start = tokens.shape[1]
    row[:, :start] = tokens
    for at in range(start, start + count):
        row[:, at] = jnp.argmax(said(params, TINY, row)[:, at - 1], -1)
    return row[0, start : start + count]


def test_generation_with_cache_is_generation_without_whatever_the_neighbours(params):
    prompts = [ids(1, 4, 5), ids(1, 9, 6)]
    alone = [greedy_without_cache(params, prompt, 12) for prompt in prompts]
    asked = text.questions([list(map(int, prompt[0])) for prompt in prompts])
    out = llm.generate(
        params, TINY, llm.Inputs(decoder.embed(params, TINY, asked.ids), jnp.asarray(asked.positions)),
        new_tokens=12, pad=0,
    )  # fmt: skip
    np.testing.assert_array_equal(out, alone)


def test_a_row_stops_at_its_end_token(params):
    prompt = ids(1, 4, 5)
    free = greedy_without_cache(params, prompt, 12)
    end = int(free[5])
    first = list(free).index(end)
    positions = decoder.causal_positions((1, 4))
    out = llm.generate(
        params, TINY, llm.Inputs(decoder.embed(params, TINY, prompt), positions), new_tokens=12, end=(end,), pad=36
    )  # fmt: skip
    np.testing.assert_array_equal(out[0], [*free[: first + 1], *[36] * (11 - first)])


def test_either_ids_or_embeddings(params):
    with pytest.raises(ValueError, match="and not both"):
        llm.logits(params, TINY)


def test_saved_weights_load_to_the_same_model(model, tmp_path):
    from nvcim_jax.llm.weights import save_weights

    shutil.copytree(EMBEDDED, tmp_path / "copy")
    save_weights(tmp_path / "copy/model.safetensors", model.params, model.config)
    again = llm.load(tmp_path / "copy")
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    assert again.config == model.config


def broken(tmp_path, change):
    shutil.copytree(EMBEDDED, tmp_path / "m")
    change(tmp_path / "m")
    return tmp_path / "m"


def edit(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "holds no config.json"),
        (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer.json"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "can run code"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), "is damaged"),
        (edit(model_type="bert"), "model_type 'bert' is not supported"),
        (edit(model_type="martian"), "model_type 'martian' is not supported; known: llama"),
        (edit(hidden_act="mish"), "activation 'mish' is not supported; known: silu"),
        (edit(num_hidden_layers=5), "its tensors are of 4 layers, its configuration says 5"),
        (edit(num_hidden_layers=3), "its tensors are of 4 layers, its configuration says 3"),
        (edit(intermediate_size=351), "the configuration asks for"),
        (edit(vocab_size=100), r"embed_tokens.weight has shape \[2400, 128\]; the configuration asks for \[100, 128\]"),
    ],
)
def test_a_broken_checkpoint_is_named(tmp_path, change, words):
    with pytest.raises(llm.CheckpointError, match=words):
        llm.load(broken(tmp_path, change))


def test_a_truncated_checkpoint_is_named(tmp_path):
    def cut(folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(llm.CheckpointError, match="is damaged"):
        llm.load(broken(tmp_path, cut))


def test_a_real_checkpoint_tells_its_story(outside):
    story = llm.load(outside / "models/stories260K")
    start = jnp.array([[1]])
    x = llm.embed(story.params, story.config, start)
    out = llm.generate(
        story.params, story.config, llm.Inputs(x), new_tokens=200, pad=0
    )  # fmt: skip
    told = story.tokenizer.decode(np.asarray(out[0]))
    assert told.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    )


@pytest.mark.parametrize(
    "change", [{}, {"windows": (3, None)}, {"parallel": True, "shared_norm": True, "norm": "layer"}]
)
def test_the_last_layer_where_it_is_asked_is_the_last_layer(params, change):
    config = replace(TINY, **change)
    own = decoder.Decoder(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    x = decoder.embed(own, config, ids(2, 9))
    at, positions = jnp.array([[8, 2, 2], [0, 5, 7]]), decoder.causal_positions((2, 9))
    whole, seen = decoder.hidden(own, config, x, positions)
    some, also = decoder.hidden(own, config, x, positions, at=at)
    np.testing.assert_allclose(some, jnp.take_along_axis(whole, at[..., None], axis=1), atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), seen, also)


def test_recomputed_activations_give_the_same_gradient(params):
    """By embeddings, weights and a prefix; of the layers nothing is kept but what enters them."""
    x, labels, at = decoder.embed(params, TINY, ids(2, 7)), ids(2, 2), jnp.array([[4, 5]] * 2)
    prefix = llm.Prefix(*jax.random.normal(jax.random.key(2), (2, 2, TINY.layers, 3, TINY.kv_heads, TINY.head_dim)))

    def gradient(recompute):
        run = lambda *to: decoder.label_loss(  # noqa: E731
            to[0], TINY, llm.Inputs(to[1], prefix=to[2]), labels, at, recompute=recompute
        ).sum()
        return jax.grad(run, argnums=(0, 1, 2))(params, x, prefix)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient(True), gradient(False))
    three, six = (gradient_program(replace(TINY, hidden_dim=512, layers=layers), recompute=True) for layers in (3, 6))
    grown = six.memory_analysis().temp_size_in_bytes - three.memory_analysis().temp_size_in_bytes
    assert grown < 3 * 2 * 4 * 32 * TINY.dim * 4  # a state of 16 per token and layer, where 512 are computed


@pytest.mark.parametrize("recompute", [False, True])
def test_a_row_that_is_not_finite_leaves_the_gradients_of_others_alone(params, recompute):
    labels, at, where = ids(2, 2), jnp.array([[4, 5]] * 2), decoder.causal_positions((2, 7))
    loss = lambda x: llm.label_loss(params, TINY, llm.Inputs(x, where), labels, at, recompute=recompute).sum()  # noqa: E731
    x = decoder.embed(params, TINY, ids(2, 7))
    clean, broken = jax.grad(loss)(x), jax.grad(loss)(x.at[0].set(jnp.nan))
    assert np.isnan(broken[0]).any()
    np.testing.assert_array_equal(broken[1], clean[1])


def gradient_program(config, **options):
    """The compiled gradient of the loss of four rows of 32 tokens by their embeddings."""
    shape, at = (4, 32), jnp.zeros((4, 2), jnp.int32)
    start = lambda: decoder.Decoder(config).init(jax.random.key(0), at)["params"]  # noqa: E731
    loss = lambda x, params: llm.label_loss(params, config, llm.Inputs(x), at, at, **options).sum()  # noqa: E731
    x = jax.ShapeDtypeStruct((*shape, config.dim), jnp.float32)
    return jax.jit(jax.grad(loss)).lower(x, jax.eval_shape(start)).compile()


def test_angles_are_worked_out_once_for_all_heads_and_layers():
    assert gradient_program(replace(TINY, layers=3)).as_text().count(" cosine(") == 1


def test_layers_of_one_kind_are_traced_once(params, monkeypatch):
    """Of seven layers the last looks at fewer tokens, and every third has a window: three kinds."""
    config = replace(TINY, layers=7, windows=(None, None, 4) * 2 + (None,), hidden_dim=32)
    start = jax.eval_shape(decoder.Decoder(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    traced, whole = [], decoder.Block.__call__
    monkeypatch.setattr(decoder.Block, "__call__", lambda block, *given: traced.append(1) or whole(block, *given))
    at = jnp.zeros((2, 1), jnp.int32)
    jax.eval_shape(
        lambda params: decoder.hidden(params, config, jnp.ones((2, 5, 16)), decoder.causal_positions((2, 5)), at=at),
        start,
    )
    assert len(traced) == 3


@pytest.mark.parametrize(
    ("activation", "gated", "wide"), [("silu", True, 4), ("gelu_tanh", True, 4), ("gelu", False, 2)]
)
def test_a_layer_keeps_little_of_its_activation_for_the_way_back(activation, gated, wide):
    config = replace(TINY, hidden_dim=512, activation=activation, gated=gated)
    three, six = (
        gradient_program(replace(config, layers=layers)).memory_analysis().temp_size_in_bytes for layers in (3, 6)
    )
    assert (six - three) / 3 < wide * 4 * 32 * config.hidden_dim * 4  # one more without recomputing, or two for gelu


@pytest.mark.parametrize("rows", [3, layers.FEW_ROWS])  # the way of few rows, and with five tokens each that of many
@pytest.mark.parametrize(("precision", "missing"), [(None, 2.0**-16), ("bfloat16", 2.0**-8)])
def test_a_bfloat16_weight_multiplies_float32_activations(rows, precision, missing):
    """What a product lacks is bounded by the bits that its activations lose: 16 of 24 stay, or 8; so on the way back."""
    x, weight = jax.random.normal(jax.random.key(0), (rows, 5, 64)), jax.random.normal(jax.random.key(1), (32, 64))
    half = weight.astype(jnp.bfloat16)
    change = jax.random.normal(jax.random.key(2), (rows, 5, 32))
    with jax.default_matmul_precision(precision):
        y, back = jax.jit(lambda x: jax.vjp(layers.product, x, half))(x)
        dx, dw = jax.jit(back)(change)
    assert y.dtype == dx.dtype == jnp.float32 and dw.dtype == jnp.bfloat16
    exact = np.asarray(half.astype(jnp.float32), np.float64)
    for out, given, matrix in ((y, x, exact.T), (dx, change, exact)):
        given = np.asarray(given, np.float64)
        lost, bound = np.abs(out - given @ matrix), missing * np.abs(given) @ np.abs(matrix)
        assert np.all(lost < bound)
        assert np.any(lost > bound / 2000)  # and the bits are indeed lost
        if precision == "bfloat16":
            rounded = np.asarray(jnp.asarray(given, jnp.bfloat16), np.float64)
            np.testing.assert_allclose(out, rounded @ matrix, atol=1e-4)
    np.testing.assert_allclose(dw.astype(jnp.float32), np.einsum("bto,bti->oi", change, x), rtol=1e-2, atol=1e-2)


def test_bfloat16_weights_answer_like_float32_ones_of_the_same_values(params):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    same = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), half)
    exact, near = (llm.logits(each, TINY, ids(2, 8)) for each in (same, half))
    assert near.dtype == jnp.float32
    np.testing.assert_allclose(near, exact, atol=1e-4)
    write = lambda each: llm.generate(each, TINY, llm.Inputs(llm.embed(each, TINY, ids(2, 8))), new_tokens=8)  # noqa: E731
    np.testing.assert_array_equal(write(same), write(half))


def test_looking_up_bfloat16_embeddings_makes_no_float32_table(params):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    look = jax.jit(lambda params, tokens: llm.embed(params, TINY, tokens))
    np.testing.assert_array_equal(look(half, ids(2, 3)), half["embedding"]["embedding"][ids(2, 3)].astype(jnp.float32))
    assert f"f32[{TINY.vocab_size},{TINY.dim}]" not in look.lower(half, ids(2, 3)).compile().as_text()

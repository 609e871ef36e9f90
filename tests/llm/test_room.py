"""What a pass takes: counted from sizes, held against what the compiler allocates."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from nvcim_jax.llm import decoder, room
from nvcim_jax.llm.config import Config, plain_rope

SMOLLM = Config(
    vocab_size=4096, dim=576, hidden_dim=1536, layers=4, heads=9, kv_heads=3, head_dim=64, context=512, norm_eps=1e-5,
    tied=True, rope=plain_rope(1e4, 64),
)  # fmt: skip
PHI = replace(SMOLLM, layers=3, dim=1024, hidden_dim=4096, heads=16, kv_heads=16, gated=False, activation="gelu")


def shapes(config):
    zeros = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(lambda: decoder.Decoder(config).init(jax.random.key(0), zeros)["params"])


def allocated(config, rows, tokens, labels, recompute):
    """Bytes beside weights, inputs and results that the compiled gradient of a soft prompt takes."""
    x = jax.ShapeDtypeStruct((rows, tokens, config.dim), jnp.float32)
    told = jax.ShapeDtypeStruct((rows, labels), jnp.int32)

    def loss(x, params, labels):
        return decoder.label_loss(params, config, decoder.Inputs(x), labels, labels, recompute=recompute).sum()

    return jax.jit(jax.grad(loss)).lower(x, shapes(config), told).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("config", "rows", "tokens"), [(SMOLLM, 4, 200), (PHI, 2, 320)], ids=["SmolLM", "Phi"])
def test_a_gradient_takes_what_is_counted(config, rows, tokens, recompute):
    row = room.gradient(config, tokens, 8)
    counted = rows * (row.recomputed if recompute else row.kept)
    assert counted == pytest.approx(allocated(config, rows, tokens, 8, recompute), rel=0.15)


@pytest.mark.parametrize(("config", "tokens"), [(SMOLLM, 80), (SMOLLM, 250), (PHI, 80)])
def test_a_curvature_takes_what_is_counted(config, tokens):
    x = jax.ShapeDtypeStruct((2, tokens, config.dim), jnp.float32)
    told = jax.ShapeDtypeStruct((2, 8), jnp.int32)

    def curved(x, params, labels):
        loss = lambda x: decoder.label_loss(params, config, decoder.Inputs(x), labels, labels).sum()  # noqa: E731
        return jax.grad(lambda x: jax.grad(loss)(x).sum())(x)

    taken = jax.jit(curved).lower(x, shapes(config), told).compile().memory_analysis().temp_size_in_bytes
    assert 2 * room.curvature(config, tokens) == pytest.approx(taken, rel=0.15)


@pytest.mark.parametrize("tokens", [80, 400])
@pytest.mark.parametrize("config", [SMOLLM, PHI], ids=["SmolLM", "Phi"])
def test_an_answer_takes_what_is_counted(config, tokens):
    """Reading the question, which is where memory is largest; the scores of one token are little beside it."""

    def read(x, params):
        cache = decoder.empty_cache(config, 2, tokens + 8)
        last = jnp.full((2, 1), tokens - 1)
        states, cache = decoder.hidden(params, config, x, decoder.causal_positions((2, tokens)), cache, 0, at=last)
        return decoder.unembed(params, config, states), cache

    x = jax.ShapeDtypeStruct((2, tokens, config.dim), jnp.float32)
    taken = jax.jit(read).lower(x, shapes(config)).compile().memory_analysis()
    allocated = taken.temp_size_in_bytes + taken.output_size_in_bytes
    assert 2 * room.answer(config, tokens, 8) == pytest.approx(allocated, rel=0.15)


@pytest.mark.parametrize(
    ("text", "size"), [("6GB", 6e9), ("6 gb", 6e9), ("1.5G", 1.5e9), ("512MiB", 2**29), ("100", 100), ("2e9", 2e9)]
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert room.parse(text) == size


@pytest.mark.parametrize("text", ["", "much", "-6GB", "0", "6 apples", "1e999", "nan", ".", "GB"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="give a size such as 6GB or 512MiB"):
        room.parse(text)


def test_what_the_process_holds_counts_against_its_memory():
    held = room.psutil.Process().memory_info().rss
    assert room.of(held + room.compiling(SMOLLM) + 10**9, SMOLLM) == pytest.approx(10**9, abs=2e8)
    with pytest.raises(ValueError, match=r"this takes 9e\+02 GB beside what is loaded, but 0 GB are left"):
        room.require(9 * 10**11, 1, SMOLLM, "this")

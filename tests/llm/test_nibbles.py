"""Kernels of 4 bits: what they stand for, and models that keep them."""

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax import llm
from nvcim_jax.llm import nibbles
from nvcim_jax.llm.fingerprint import fingerprint
from tests.helpers import gguf_files
from tests.helpers.make_golden import GOLDEN

IDS = jnp.array([[5, 9, 33, 60, 3]])


def test_a_block_by_hand():
    """Q4_1 stores scale and offset, Q4_0 a scale from -8 on; the low halves are the first 16 values."""
    packed = np.full(16, 0xF1, np.uint8)
    both = np.concatenate([np.array([0.5, -2.0], "<f2").view(np.uint8), packed])
    scale = np.concatenate([np.array([0.5], "<f2").view(np.uint8), packed])
    values = {
        kind: nibbles.dequantise(nibbles.of_bytes(kind, data[None])) for kind, data in (("Q4_1", both), ("Q4_0", scale))
    }
    np.testing.assert_array_equal(values["Q4_1"], [[-1.5] * 16 + [5.5] * 16])
    np.testing.assert_array_equal(values["Q4_0"], [[-3.5] * 16 + [3.5] * 16])


@pytest.mark.parametrize("kind", nibbles.KINDS)
def test_kernels_are_what_the_package_dequantises_to_the_bit(kind):
    rows, wide, type_ = 3, 512, gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[type_]
    blocks = np.random.default_rng(0).integers(0, 256, (rows, wide // block, size), np.uint8)
    blocks[..., 1:4:2] &= 0x3B  # the high bytes of scale and offset: both are finite
    data = blocks.reshape(rows, -1)
    kernel = nibbles.of_bytes(kind, data)
    np.testing.assert_array_equal(nibbles.dequantise(kernel), gguf.dequantize(data, type_))
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(kernel)) <= rows * wide * 6 / 8


def written(path, name, kind="Q4_1"):
    """A golden model whose layers are in blocks, but for kernels of 40 inputs, which no block divides."""
    kinds = lambda tensor: kind if tensor.startswith("blk.") and "down" not in tensor else "F32"  # noqa: E731
    return gguf_files.write(path, GOLDEN / name, kinds=kinds)


@pytest.mark.parametrize(("name", "kind"), [("llama", "Q4_1"), ("llama", "Q4_0"), ("qwen2", "Q4_1"), ("phi3", "Q4_0")])
def test_a_packed_model_says_and_is_the_same(tmp_path, name, kind):
    """Also with biases, and with modules that a file keeps as one."""
    path = written(tmp_path / "x.gguf", name, kind)
    plain, packed = llm.load(path), llm.load(path, dequantise="lazy")
    assert any("nibbles" in layer for layer in packed.params["blocks_0"]["attention"].values())
    said = [jax.jit(llm.logits, static_argnums=1)(model.params, model.config, IDS) for model in (plain, packed)]
    np.testing.assert_allclose(*said, atol=1e-6)
    assert fingerprint(plain) == fingerprint(packed)
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(model.params["blocks_0"])) for model in (plain, packed)]
    assert sizes[1] < sizes[0] / 2  # of which a third is not in blocks


def test_gradients_pass_through_packed_kernels(tmp_path):
    path = written(tmp_path / "x.gguf", "llama")

    def gradient(model):
        x = llm.embed(model.params, model.config, IDS)
        loss = lambda x, params: llm.logits(params, model.config, embeddings=x)[:, -1].var()  # noqa: E731
        return jax.jit(jax.grad(loss))(x, model.params)

    plain, packed = gradient(llm.load(path)), gradient(llm.load(path, dequantise="lazy"))
    np.testing.assert_allclose(packed, plain, atol=1e-6)
    assert np.abs(plain).max() > 1e-3


def test_a_scale_that_is_not_finite_is_refused(tmp_path):
    path = written(tmp_path / "x.gguf", "llama")
    tensor = llm.weights.gguf_file.header(path).tensors["blk.0.ffn_up.weight"]
    assert tensor.kind == "Q4_1"
    with open(path, "r+b") as file:
        file.seek(tensor.start)
        file.write(np.array([np.inf], "<f2").tobytes())
    with pytest.raises(llm.CheckpointError, match="ffn_up.weight holds inf"):
        llm.load(path, dequantise="lazy")

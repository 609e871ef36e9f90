"""GGUF files: the same model as the checkpoint they were made from, lazily read, and refused where they are damaged."""

from dataclasses import replace

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax import llm
from nvcim_jax.llm import gguf_file
from nvcim_jax.llm.fingerprint import fingerprint
from tests.helpers import gguf_files
from tests.helpers.make_golden import GOLDEN

TWINS = ("llama", "llama3", "mistral", "gemma", "gemma2", "phi", "phi3", "phi3_long", "gpt_neox", "gpt_neox_sequential",
         "stablelm", "stablelm_parallel", "qwen2", "qwen3", "gpt2")  # fmt: skip


def told(config: llm.Config) -> llm.Config:
    """What a GGUF file can say of a configuration: no windows of Mistral's and Qwen's, no scale of Gemma 2's."""
    windows = config.windows if config.attention_cap else ()
    scale = config.head_dim**-0.5 if config.attention_scale else None
    return replace(config, windows=windows, attention_scale=scale)


@pytest.mark.parametrize("name", TWINS)
def test_a_file_is_the_model_that_it_was_made_from(tmp_path, name):
    twin, model = llm.load(GOLDEN / name), llm.load(gguf_files.write(tmp_path / "x.gguf", GOLDEN / name))
    rope, other = model.config.rope, twin.config.rope
    if other is not None:
        for field in ("frequencies", "long_frequencies", "scale"):
            np.testing.assert_allclose(getattr(rope, field), getattr(other, field), rtol=3e-7, err_msg=field)
        assert rope.original_context == other.original_context
    assert replace(model.config, rope=None) == replace(told(twin.config), rope=None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-7, rtol=0), model.params, twin.params)


def test_a_twin_has_the_same_logits_and_the_same_fingerprint(tmp_path):
    twin = llm.load(GOLDEN / "llama")
    model = llm.load(gguf_files.write(tmp_path / "x.GGUF", GOLDEN / "llama"))
    ids = jnp.array([[5, 9, 33, 60, 3]])
    np.testing.assert_array_equal(
        llm.logits(model.params, model.config, ids), llm.logits(twin.params, twin.config, ids)
    )
    assert fingerprint(model) == fingerprint(twin)
    half = llm.load(tmp_path / "x.GGUF", dtype="bfloat16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(half.params)} == {"bfloat16"}


@pytest.mark.parametrize("kind", gguf_file.TYPES)
def test_every_type_is_what_the_package_dequantises(tmp_path, kind):
    """K-quants cannot be written by the package: their bytes are drawn, with scales that are finite."""
    rows, wide, type_ = 3, 512, gguf.GGMLQuantizationType[kind]
    rng = np.random.default_rng(0)
    if kind.endswith("_K"):
        block, size = gguf.GGML_QUANT_SIZES[type_]
        data = rng.integers(0, 0x3C, (rows, wide // block * size), np.uint8)  # below 0x3c00 a float16 is below 1
    else:
        data = gguf.quantize(rng.normal(size=(rows, wide)).astype(np.float32), type_)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("before", np.ones(3, np.float32))
    writer.add_tensor("x", data, raw_dtype=type_)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    tensor = gguf_file.header(tmp_path / "x.gguf").tensors["x"]
    expected = gguf.dequantize(data, type_)
    assert tensor.shape == (rows, wide) and tensor.kind == kind and np.ptp(expected) > 0
    np.testing.assert_array_equal(tensor.read(), expected)
    np.testing.assert_array_equal(tensor.read(slice(1, 2)), expected[1:2])
    np.testing.assert_array_equal(tensor._replace(shift=-1.0).read(), expected - 1)


def test_q4_1_by_hand(tmp_path):
    """A block is a scale, a minimum and 32 nibbles, of which the low ones are the first 16 values."""
    block = np.concatenate([np.array([0.5, -2.0], "<f2").view(np.uint8), np.full(16, 0xF1, np.uint8)])
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("x", block[None], raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    values = gguf_file.header(tmp_path / "x.gguf").tensors["x"].read()
    np.testing.assert_array_equal(values, [[-1.5] * 16 + [5.5] * 16])


def test_quantised_weights_and_the_rest(tmp_path):
    """As in published files: most tensors in blocks, rows that no block divides in halves, norms as they are."""
    path = gguf_files.write(
        tmp_path / "x.gguf", GOLDEN / "llama", kinds=lambda name: "F16" if "down" in name else "Q8_0"
    )
    near = lambda a, b: np.testing.assert_allclose(a, b, atol=2e-2 * float(np.abs(b).max()))  # noqa: E731
    jax.tree.map(near, llm.load(path).params, llm.load(GOLDEN / "llama").params)


def test_one_tensor_is_held_at_a_time(tmp_path, monkeypatch):
    """Beside the weights reading takes the bytes of one tensor and its float32 values."""
    path = gguf_files.write(tmp_path / "x.gguf", GOLDEN / "llama")
    header = gguf_file.header(path)
    order, whole = [], gguf_file.Tensor.read
    monkeypatch.setattr(gguf_file.Tensor, "read", lambda tensor: order.append(tensor.name) or whole(tensor))
    llm.load(path)
    assert sorted(order) == sorted(header.tensors)
    sizes = [header.tensors[name].size for name in order]
    assert sizes == sorted(sizes, reverse=True)


def test_the_tokenizer_and_its_template(tmp_path):
    path = gguf_files.write(tmp_path / "x.gguf", GOLDEN / "llama", **{"tokenizer.chat_template": "{{ 1 }}"})
    tokenizer = llm.load(path).tokenizer
    assert tokenizer("the hat </s>").input_ids == [31, 29, 10, 3, 22, 29, 21]  # "</s>" in a text is text
    assert tokenizer.chat_template == "{{ 1 }}" and tokenizer.eos_token_id == 2

"""GPTQ words against real slices, a hand-worked word and packing done here the other way round."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nvcim_jax import llm
from nvcim_jax.llm.config import Packed, plain_rope
from nvcim_jax.llm.decoder import Decoder
from tests.helpers.make_golden import GOLDEN

SLICES = ("falcon3_1b_int4", "falcon3_1b_int8", "llama_3_2_1b_gptqmodel_int8", "llama_3_2_1b_int4")


@pytest.mark.parametrize("name", SLICES)
def test_real_slices_come_out_bit_for_bit(outside, name):
    tensors = load_file(outside / f"data/gptq-slices/{name}.safetensors")
    bits = 4 if name.endswith("int4") else 8
    words = (tensors[leaf] for leaf in ("qweight", "qzeros", "scales", "g_idx"))
    mine = llm.gptq.dequantise(*words, bits=bits, checkpoint_format="gptq").astype(jnp.bfloat16)
    theirs = tensors["expected"]
    theirs = theirs if theirs.shape == mine.shape else theirs.T
    np.testing.assert_array_equal(np.asarray(mine).view(np.uint16), theirs.view(np.uint16))


def test_a_word_by_hand():
    """0x76543210 holds 0, 1, ..., 7 from its lowest bits; version 1 keeps the zero 3 as 2."""
    qweight = np.full((1, 8), 0x76543210, np.int32)
    qzeros = np.full((1, 1), 0x22222222, np.int32)
    scales, g_idx = np.full((1, 8), 0.5, np.float16), np.zeros(8, np.int32)
    for layout, zero in (("gptq", 3), ("gptq_v2", 2)):
        weights = llm.gptq.dequantise(qweight, qzeros, scales, g_idx, bits=4, checkpoint_format=layout)
        np.testing.assert_array_equal(weights, np.repeat((np.arange(8)[:, None] - zero) * 0.5, 8, axis=1))


def pack(values, bits):
    """Values [n, columns] to words [n * bits / 32, columns], as arithmetic on Python's whole numbers."""
    per_word = 32 // bits
    words = np.zeros((len(values) // per_word, values.shape[1]), np.uint64)
    for row, line in enumerate(values):
        words[row // per_word] += line.astype(np.uint64) * np.uint64(2 ** (bits * (row % per_word)))
    return words.astype(np.uint32).view(np.int32)


def quantised(rng, shape, bits, layout, group, act_order):
    """Random words and the weights they stand for; version 1 without the zero point it cannot store."""
    fan_in, out = shape
    groups = -(-fan_in // group)
    q = rng.integers(0, 2**bits, shape)
    zeros = rng.integers(1, 2**bits, (groups, out))
    scales = (rng.uniform(0.5, 1.5, (groups, out)) / (2**bits * fan_in**0.5)).astype(np.float16)
    g_idx = np.arange(fan_in, dtype=np.int32) // group
    if act_order:
        g_idx = rng.permutation(g_idx)
    stored = zeros - 1 if layout == "gptq" else zeros
    words = {"qweight": pack(q, bits), "qzeros": pack(stored.T, bits).T.copy(), "scales": scales, "g_idx": g_idx}
    return words, (q - zeros[g_idx]) * scales[g_idx].astype(np.float64)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("act_order", [False, True])
def test_what_was_packed_is_what_comes_out(bits, layout, act_order):
    words, weights = quantised(np.random.default_rng(bits), (48, 16), bits, layout, 16, act_order)
    mine = llm.gptq.dequantise(*words.values(), bits=bits, checkpoint_format=layout)
    np.testing.assert_array_equal(mine, weights)


def quantise_checkpoint(source, target, bits=4, layout="gptq", group=8, **told):
    """A golden checkpoint whose layers' kernels are replaced: once by words, once by what the words stand for."""
    rng, tensors = np.random.default_rng(1), load_file(source / "model.safetensors")
    packed, plain = {}, {}
    for name, tensor in tensors.items():
        is_kernel = name.endswith(".weight") and tensor.ndim == 2 and (".layers." in name or ".h." in name)
        if not is_kernel:
            packed[name] = plain[name] = tensor
            continue
        turned = ".h." in name  # GPT-2's own [in, out]
        words, weights = quantised(rng, tensor.shape if turned else tensor.shape[::-1], bits, layout, group, True)
        packed |= {name.replace("weight", leaf): value for leaf, value in words.items()}
        plain[name] = np.ascontiguousarray(weights if turned else weights.T).astype(np.float32)
    for folder, held in ((target / "packed", packed), (target / "plain", plain)):
        shutil.copytree(source, folder)
        save_file(held, folder / "model.safetensors", {"format": "pt"})
    path = target / "packed/config.json"
    how = {"quant_method": "gptq", "bits": bits, "group_size": group, "checkpoint_format": layout} | told
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": how}))
    return target / "packed", target / "plain"


@pytest.mark.parametrize(
    ("name", "bits", "layout"),
    [
        ("llama", 4, "gptq"),
        ("gpt_neox", 4, "gptq_v2"),
        ("phi3", 8, "gptq"),
        ("gpt2", 4, "gptq"),
        ("gemma2", 8, "gptq_v2"),
    ],
)
def test_loaded_and_lazy_are_the_plain_model(tmp_path, name, bits, layout):
    packed, plain = quantise_checkpoint(GOLDEN / name, tmp_path, bits, layout)
    ids = jnp.array([[3, 14, 15, 9, 26, 5]])
    said = jax.jit(llm.logits, static_argnums=1)
    models = [llm.load(plain), llm.load(packed), llm.load(packed, dequantise="lazy")]
    expected, loaded, lazy = (said(model.params, model.config, ids) for model in models)
    np.testing.assert_array_equal(loaded, expected)
    np.testing.assert_allclose(lazy, expected, atol=1e-5)
    nbytes = [sum(leaf.nbytes for leaf in jax.tree.leaves(model.params["blocks_0"])) for model in models]
    assert nbytes[2] < nbytes[1] * (0.75 if bits == 4 else 1)  # a group of 8 keeps many scales


def test_lazy_gradients_are_those_of_the_plain_model(tmp_path):
    packed, plain = quantise_checkpoint(GOLDEN / "llama", tmp_path)

    def gradient(model):
        x = llm.embed(model.params, model.config, jnp.array([[3, 14, 15, 9]]))
        loss = lambda x, params: llm.logits(params, model.config, embeddings=x)[:, -1].var()  # noqa: E731
        return jax.jit(jax.grad(loss))(x, model.params)

    plain, lazy = gradient(llm.load(plain)), gradient(llm.load(packed, dequantise="lazy"))
    np.testing.assert_allclose(lazy, plain, atol=1e-5)
    assert np.abs(plain).max() > 1e-3


def test_a_row_that_is_not_finite_leaves_others_alone(tmp_path):
    model = llm.load(quantise_checkpoint(GOLDEN / "llama", tmp_path)[0], dequantise="lazy")
    x = llm.embed(model.params, model.config, jnp.array([[3, 14, 15], [9, 26, 5]]))
    say = jax.jit(lambda x: llm.logits(model.params, model.config, embeddings=x))
    clean, broken = say(x), say(x.at[0].set(jnp.nan))
    assert np.isnan(broken[0]).all()
    np.testing.assert_array_equal(broken[1], clean[1])


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"quant_method": "awq"}, "quantisation 'awq' is not supported; known: gptq, gptq_v2"),
        ({"checkpoint_format": "marlin"}, "quantisation 'marlin' is not supported"),
        ({"quant_method": "exl2"}, "quantisation 'exl2' is not supported"),
        ({"checkpoint_format": "bitblas"}, "quantisation 'bitblas' is not supported"),
        ({"bits": 3}, "GPTQ with 3 bits is not supported; known: 4, 8"),
    ],
)
def test_other_packings_are_refused_by_name(tmp_path, told, words):
    packed, _ = quantise_checkpoint(
        GOLDEN / "llama", tmp_path, **({"bits": 4} | {k: v for k, v in told.items() if k != "bits"})
    )
    path = packed / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"quantization_config": config["quantization_config"] | told}))
    with pytest.raises(llm.CheckpointError, match=words):
        llm.load(packed)


KEY = "model.layers.1.mlp.up_proj"


def spoiled(tmp_path, name, value):
    """A packed checkpoint with one value of a tensor changed, or all of them for a function."""
    packed, _ = quantise_checkpoint(GOLDEN / "llama", tmp_path)
    tensors = load_file(packed / "model.safetensors")
    tensors[name] = value(tensors[name]) if callable(value) else tensors[name].copy()
    if not callable(value):
        tensors[name].reshape(-1)[5] = value
    save_file(tensors, packed / "model.safetensors", {"format": "pt"})
    return packed


@pytest.mark.parametrize("dequantise", ["load", "lazy"])
@pytest.mark.parametrize(
    ("leaf", "value", "words"),
    [
        ("g_idx", 4, r"g_idx names groups 0 to 4; there are 0 to 3"),  # 32 inputs in groups of 8; jax would clip
        ("g_idx", -1, r"g_idx names groups -1 to 3; there are 0 to 3"),  # jax would count from the end
        ("g_idx", lambda v: v.astype(np.int64), "g_idx has the type I64; allowed: I32"),
        ("g_idx", lambda v: v[:-1], r"g_idx has shape \[31\]; the configuration asks for \[32\]"),
        ("scales", np.inf, "scales holds inf; allowed"),
        ("scales", np.nan, "scales holds NaN; allowed"),
        ("scales", -0.25, r"scales goes from -0.25 to .*; allowed: scales above zero"),
        ("scales", np.zeros_like, "scales goes from 0 to 0; allowed: scales above zero"),
        ("scales", lambda v: v[:-1], r"scales has shape \[3, 40\]; the configuration asks for \[4, 40\]"),
        ("qweight", lambda v: v.astype(np.float32), "qweight has the type F32; allowed: I32"),
        ("qzeros", lambda v: v[:, :-1], r"qzeros has shape \[4, 4\]; the configuration asks for \[4, 5\]"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(tmp_path, dequantise, leaf, value, words):
    folder = spoiled(tmp_path, f"{KEY}.{leaf}", value)
    with pytest.raises(llm.CheckpointError, match=f"model.safetensors: {re.escape(KEY)}.{words}"):
        llm.load(folder, dequantise=dequantise)


def test_the_last_group_and_a_single_scale_of_zero_are_sound(tmp_path):
    for name, value in ((f"{KEY}.g_idx", 3), (f"{KEY}.scales", 0.0)):
        llm.load(spoiled(tmp_path / name, name, value), dequantise="lazy")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"bits": True}, "bits is True; allowed: a whole number from 1 to 32"),
        ({"bits": 4.0}, "bits is 4.0; allowed"),
        ({"group_size": 0}, "group_size is 0; allowed: -1 or a whole number from 1 on"),
        ({"group_size": "8"}, "group_size is '8'; allowed"),
        ({"dynamic": {"+:.*up.*": {"bits": 8}}}, "dynamic is .*; allowed: null or empty"),
        ({"group_size": 16}, r"has shape \[\d, \d+\]; the configuration asks for"),
    ],
)
def test_a_description_that_cannot_be_meant_is_refused(tmp_path, told, words):
    packed, _ = quantise_checkpoint(GOLDEN / "llama", tmp_path)
    path = packed / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"quantization_config": config["quantization_config"] | told}))
    with pytest.raises(llm.CheckpointError, match=words):
        llm.load(packed)


def test_parts_of_a_fused_module_fill_whole_words():
    """Words of eight outputs. Heads of eight, query, key and value in turn, do; heads of four share words."""
    how = Packed(4, 8, "gptq")
    heads = np.arange(48).reshape(2, 3, 8)
    np.testing.assert_array_equal(llm.gptq.words_of(heads[:, 1].reshape(-1), how), [1, 4])
    with pytest.raises(llm.CheckpointError, match="do not fill words of 8 values"):
        llm.gptq.words_of(np.arange(48).reshape(4, 3, 4)[:, 1].reshape(-1), how)
    with pytest.raises(llm.CheckpointError, match="a kernel of 32 by 20 does not fill words of 8 values"):
        llm.gptq.word_shapes(32, 20, how)


def test_a_plain_model_cannot_be_lazy():
    with pytest.raises(llm.CheckpointError, match="is not quantised"):
        llm.load(GOLDEN / "llama", dequantise="lazy")


def test_a_zero_point_that_wraps_is_told(tmp_path):
    packed, _ = quantise_checkpoint(GOLDEN / "llama", tmp_path)
    tensors = load_file(packed / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.qzeros"][0, 0] = -1  # fifteen everywhere
    save_file(tensors, packed / "model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match=r"model.layers.0.mlp.up_proj: an asymmetric version-1 zero point"):
        llm.load(packed)


def test_only_one_layer_is_dequantised_at_a_time():
    """Neither a gradient nor a generation needs more room for more layers, as it would if kernels were kept."""

    def room(layers, function):
        config = llm.Config(
            vocab_size=8, dim=256, hidden_dim=512, layers=layers, heads=2, kv_heads=2, head_dim=128, context=64,
            rope=plain_rope(1e4, 128), norm_eps=1e-5, tied=True, packed=Packed(4, 128, "gptq"),
        )  # fmt: skip
        params = jax.eval_shape(Decoder(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
        x = jax.ShapeDtypeStruct((1, 4, 256), jnp.float32)
        return (
            jax.jit(function, static_argnums=2).lower(x, params, config).compile().memory_analysis().temp_size_in_bytes
        )

    kernels = 4 * (4 * 256 * 256 + 3 * 256 * 512)  # bytes of a layer

    def gradient(x, params, config):
        return jax.grad(lambda x: llm.logits(params, config, embeddings=x).var())(x)

    def generation(x, params, config):
        return llm.generate(params, config, llm.Inputs(x), new_tokens=4)

    for function in (gradient, generation):
        assert room(4, function) - room(2, function) < 0.2 * kernels

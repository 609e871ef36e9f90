"""GGUF files: the same model as the checkpoint they were made from, lazily read, and refused where they are damaged."""

import os
from dataclasses import replace

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax import llm
from nvcim_jax.llm import gguf_config, gguf_file
from nvcim_jax.llm.fingerprint import fingerprint
from tests.helpers import gguf_files
from tests.helpers.make_golden import GOLDEN

TWINS = ("llama", "llama3", "mistral", "gemma", "gemma2", "granite", "olmo2", "phi", "phi3", "phi3_long", "gpt_neox", "gpt_neox_sequential",
         "stablelm", "stablelm_parallel", "qwen2", "qwen3", "gpt2")  # fmt: skip


def told(config: llm.Config) -> llm.Config:
    """What a GGUF file can say of a configuration: no windows of Mistral's and Qwen's, no scale of Gemma's."""
    if config.norm == "rms_plus_one":
        return replace(config, attention_scale=config.head_dim**-0.5 if config.attention_scale else None)
    return replace(config, windows=())


def test_which_layers_turn_and_how_far_they_see_is_known_of_an_architecture(tmp_path):
    """SmolLM3 leaves every fourth layer unturned; every sixth of Gemma 3 sees all tokens, as no file says."""
    files = {name: gguf_files.write(tmp_path / f"{name}.gguf", GOLDEN / name) for name in ("smollm3", "gemma3")}
    smol, gemma = (gguf_config.read(gguf_file.header(path))[0] for path in files.values())
    assert smol.unturned == () and gemma.windows == (5, 5)
    twin = llm.load(GOLDEN / "gemma3").config
    assert gemma.local_rope == twin.local_rope and gemma.rope == twin.rope
    params = llm.load(files["smollm3"]).params
    jax.tree.map(np.testing.assert_array_equal, params, llm.load(GOLDEN / "smollm3").params)


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


WORDS = ["<unk>", "<s>", "</s>", "a", "t", "h", "e", "th", "the", "1", "2", "12", "Ġ", "ĠĠ"]
PIECES = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁ab"]


@pytest.mark.parametrize(
    ("said", "text", "ids"),
    [
        ({"pre": "gpt-2"}, "a  12", [3, 12, 12, 11]),  # "a", " ", " 12"
        ({"pre": "smollm"}, "a  12", [3, 13, 9, 10]),  # "a", "  ", "1", "2"
        ({"pre": "gpt-2"}, "the", [7, 6]),  # no merge leads to "the"
        ({"pre": "llama-bpe"}, "the", [1, 8]),
        ({"pre": "llama-bpe", "add_bos_token": False}, "the", [8]),
        ({"pre": "gpt-2", "add_bos_token": True}, "the", [1, 7, 6]),
        ({"model": "llama"}, "ab", [1, 7]),
        ({"model": "llama", "add_space_prefix": False}, "ab", [1, 6]),
        ({"model": "llama", "add_bos_token": False}, "ab", [7]),
    ],
)
def test_texts_are_cut_as_the_file_says(tmp_path, said, text, ids):
    pieces = said.get("model") == "llama"
    tokens = PIECES if pieces else WORDS
    own = {
        "tokens": tokens + [f"[{at}]" for at in range(61 - len(tokens))],
        "merges": None if pieces else ["t h", "1 2", "Ġ Ġ"],
        "scores": [-float(at) for at in range(61)] if pieces else None,
        "pre": None,
    }
    named = {f"tokenizer.ggml.{name}": value for name, value in (own | said).items()}
    tokenizer = llm.load(gguf_files.write(tmp_path / "x.gguf", GOLDEN / "llama", **named)).tokenizer
    assert tokenizer(text).input_ids == ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_file_that_does_not_say_how_texts_are_cut_is_told(tmp_path):
    path = gguf_files.write(tmp_path / "x.gguf", GOLDEN / "llama", **{"tokenizer.ggml.pre": None})
    with pytest.warns(UserWarning, match="does not say how its tokenizer cuts texts into words"):
        llm.load(path)


def test_answers_end_at_every_token_that_the_file_names(tmp_path):
    path = gguf_files.write(tmp_path / "x.gguf", GOLDEN / "llama", **{"tokenizer.ggml.eot_token_id": 1})
    assert llm.load(path).ends == (2, 1)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return gguf_files.write(tmp_path_factory.mktemp("gguf") / "x.gguf", GOLDEN / "llama")


def cut(part):
    return lambda data: data[: int(part * len(data))]


def over(old: bytes, new: bytes, behind: int = 0):
    """`new` in the place of what stands `behind` bytes behind the end of `old`."""

    def change(data):
        at = data.index(old) + len(old) + behind
        return data[:at] + new + data[at + len(new) :]

    return change


NUMBER = lambda value: int(value).to_bytes(8, "little")  # noqa: E731
UP = b"blk.1.ffn_up.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"", "is damaged: it ends too early"),
        (lambda data: b"PK\3\4" + data[4:], "is no GGUF file"),
        (lambda data: data[:4] + b"\1\0\0\0" + data[8:], "GGUF version 1 is not supported; known: 2 and 3"),
        (lambda data: data[:4] + b"\0\0\0\3" + data[8:], "GGUF version 50331648 is not supported; .*little-endian"),
        (cut(0.001), "it ends too early"),
        (cut(0.02), "it ends too early"),
        (cut(0.5), "lies beyond its end"),
        (cut(0.99999), "lies beyond its end"),
        (over(b"GGUF\3\0\0\0", NUMBER(2**60)), "it claims 1152921504606846976 tensors; at most 65536"),
        (over(b"GGUF\3\0\0\0", NUMBER(2**40), 8), "it claims 1099511627776 fields"),
        (over(b"GGUF\3\0\0\0", NUMBER(2**62), 16), "it claims 4611686018427387904 bytes of a text"),
        (over(b"tokenizer.ggml.tokens", NUMBER(2**61), 8), "it claims 2305843009213693952 items of a list"),
        (over(b"tokenizer.ggml.tokens", b"\xff", 4), "a list holds items of type 255"),
        (over(b"general.architecture", b"\x77"), "a field is of type 119"),
        (over(b"general.architecture", b"\xff\xfe", 12), "a text is not UTF-8"),
        (over(UP, NUMBER(2**50), 4), r"'blk.1.ffn_up.weight' of shape \[40, 1125899906842624\] lies beyond its end"),
        (over(UP, NUMBER(2**63) * 2, 4), "'blk.1.ffn_up.weight' of shape .* lies beyond its end"),
        (over(UP, NUMBER(0), 4), r"'blk.1.ffn_up.weight' of F32 has shape \[40, 0\]"),
        (over(UP, b"\xff"), "'blk.1.ffn_up.weight' has 255 axes"),
        (over(UP, NUMBER(33), 4), r"ffn_up.weight has shape \[40, 33\]; the configuration asks for \[40, 32\]"),
        (over(UP, b"\x10", 20), "'blk.1.ffn_up.weight' has the type IQ2_XXS; known: F32, F16, BF16, Q4_0"),
        (over(UP, b"\xee", 20), "'blk.1.ffn_up.weight' has the type 238; known"),
        (over(UP, b"\x0c", 20), r"'blk.1.ffn_up.weight' of Q4_K has shape \[40, 32\]"),
        (over(UP, NUMBER(2**63), 24), "lies beyond its end"),
        (lambda data: data.replace(UP, b"blk.1.ffn_xx.weight"), "tensors missing: 'blk.1.ffn_up.weight'; .* unknown: 'blk.1.ffn_xx"),
        (lambda data: data.replace(UP, b"blk.2.ffn_up.weight"), "a tensor is there twice"),
        (lambda data: data.replace(b"llama.context_length", b"llama.block_count___"), "it lacks llama.context_length"),
        (lambda data: data.replace(b"token_embd.weight", b"token_abcd.weight"), "tensors missing: token_embd.weight"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_sentence(tmp_path, sound, change, words):
    path = tmp_path / "x.gguf"
    path.write_bytes(change(sound.read_bytes()))
    with pytest.raises(llm.CheckpointError, match=f"{path}.*{words}") as refused:
        llm.load(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"general.architecture": "martian"}, "architecture 'martian' is not supported; known: llama, gemma"),
        ({"llama.block_count": 10**9}, "num_hidden_layers is 1000000000; allowed: a whole number from 1 to 1000"),
        ({"llama.block_count": 2}, "its tensors are of 3 layers, its configuration says 2"),
        ({"llama.attention.head_count": [4, 4, 4]}, r"num_attention_heads is \[4, 4, 4\]; allowed: a whole number"),
        ({"llama.embedding_length": "wide"}, "hidden_size is 'wide'; allowed"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "rms_norm_eps is nan; allowed"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, "rope_type 'yarn' is not supported"),
        ({"llama.rope.freq_base": 0.0}, r"rope_theta is 0.0; allowed"),
        ({"llama.expert_count": 8}, "mixtures of experts are not supported"),
        ({"llama.attention.value_length": 16}, "keys and values of different lengths"),
        ({"split.count": 3}, "it is one of several parts: join them"),
        ({"general.alignment": 48}, "general.alignment is 48"),
        ({"tokenizer.ggml.model": None}, "it holds no tokenizer"),
        ({"tokenizer.ggml.tokens": None}, "it holds no tokenizer"),
        ({"tokenizer.ggml.model": "rwkv"}, "tokenizer.ggml.model 'rwkv' is not supported; known: gpt2, llama"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.scores is None; a list of 61 is needed"),
        ({"tokenizer.ggml.pre": "martian"}, "tokenizer.ggml.pre 'martian' is not supported; known: gpt-2"),
        ({"tokenizer.ggml.pre": [1]}, r"tokenizer.ggml.pre \[1\] is not supported"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges is None; a list of pairs is needed"),
        ({"tokenizer.ggml.merges": ["t h e"]}, "the tokenizer cannot be read"),
        ({"tokenizer.ggml.merges": ["q zz"]}, "the tokenizer cannot be read"),
        ({"tokenizer.ggml.token_type": [1, 2]}, r"tokenizer.ggml.token_type is \[1, 2\]; a list of 61 is needed"),
        ({"tokenizer.ggml.tokens": ["a"] * 62}, "its tokenizer has 62 tokens, but the embedding has 61 rows"),
        ({"tokenizer.ggml.eos_token_id": 61}, "tokenizer.ggml.eos_token_id is 61; allowed: 0 to 60"),
        ({"tokenizer.ggml.eos_token_id": None}, "no token ends an answer"),
        ({"tokenizer.chat_template": 5}, "tokenizer.chat_template is 5; a text is needed"),
    ],
)  # fmt: skip
def test_a_header_that_says_what_cannot_be_is_one_sentence(tmp_path, said, words):
    path = tmp_path / "x.gguf"
    gguf_files.write(path, GOLDEN / "llama", **said)
    with pytest.raises(llm.CheckpointError, match=f"{path}.*{words}"):
        llm.load(path)


def test_values_that_no_sound_file_has_are_refused(tmp_path, sound):
    path = tmp_path / "x.gguf"
    tensor = gguf_file.header(sound).tensors["blk.1.ffn_up.weight"]
    data = bytearray(sound.read_bytes())
    data[tensor.start : tensor.start + 4] = np.float32(np.inf).tobytes()
    path.write_bytes(data)
    with pytest.raises(llm.CheckpointError, match=r"blk.1.ffn_up.weight holds inf; allowed: numbers up to 65504"):
        llm.load(path)


def test_links_pipes_and_what_is_not_there(tmp_path, sound):
    (tmp_path / "link.gguf").symlink_to(sound)
    with pytest.raises(llm.CheckpointError, match="link.gguf is a link that leads out of the folder"):
        llm.load(tmp_path / "link.gguf")
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(llm.CheckpointError, match="pipe.gguf cannot be read"):
        llm.load(tmp_path / "pipe.gguf")
    with pytest.raises(llm.CheckpointError, match="none.gguf cannot be read"):
        llm.load(tmp_path / "none.gguf")
    with pytest.raises(llm.CheckpointError, match="holds no config.json: give the folder .* or a .gguf file"):
        llm.load(sound.parent)


def test_weights_that_are_not_of_4_bits_cannot_stay_packed(sound):
    with pytest.raises(llm.CheckpointError, match="no layer in Q4_0, Q4_1, Q4_K to keep packed: choose float32"):
        llm.load(sound, dequantise="lazy")


def test_a_header_with_bytes_changed_at_random_is_sound_or_refused(tmp_path, sound):
    """Nothing but a CheckpointError, whatever byte of the header is another."""
    data, rng = sound.read_bytes(), np.random.default_rng(0)
    end = min(tensor.start for tensor in gguf_file.header(sound).tensors.values())
    for _ in range(300):
        spoilt = bytearray(data)
        spoilt[rng.integers(4, end)] = rng.integers(0, 256)
        (tmp_path / "x.gguf").write_bytes(spoilt)
        try:
            gguf_file.header(tmp_path / "x.gguf")
        except llm.CheckpointError as error:
            assert "\n" not in str(error)


@pytest.mark.slow
def test_a_real_file_is_asked_and_answers_as_transformers_does(outside):
    """Ids and greedy answer of transformers with PyTorch on the same file, dequantised there, in float32."""
    from nvcim_jax.data import text
    from nvcim_jax.data.wording import Wording
    from nvcim_jax.people import Sample
    from nvcim_jax.pipeline.answer import generate

    path = outside / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    model, question = llm.load(path), "What is the capital of Italy?"
    ids = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2,
           198, 1, 4093, 198, 1780, 314, 260, 3575, 282, 7158, 47, 2, 198, 1, 520, 9531, 198]  # fmt: skip
    sample = Sample(question, "", question)
    assert text.asked(model.tokenizer, sample, Wording("auto", "turn")) == (ids, 24)
    assert generate(model, [sample], new_tokens=40, wording=Wording("auto")) == ["Il Coriobella, Italy."]

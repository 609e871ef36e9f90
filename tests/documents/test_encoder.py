"""Sentence encoders against transformers, and what they refuse."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.documents import encoder as encoders
from nvcim_jax.llm.config import CheckpointError
from tests.conftest import EMBEDDED
from tests.helpers import make_golden

BERT = make_golden.GOLDEN / make_golden.ENCODER


@pytest.fixture(scope="module")
def tiny():
    return encoders.load_encoder(BERT)


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(BERT, tmp_path / "bert")
    return tmp_path / "bert"


def rewrite(path, **changes):
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | changes))


def test_texts_side_by_side_are_what_transformers_says_of_each_alone(tiny):
    found = encoders.encode(tiny, make_golden.TEXTS)
    np.testing.assert_allclose(found.vectors, np.load(BERT / "expected.npz")["mean"], atol=1e-5)
    assert found.cut == 1


def test_the_first_token_speaks_where_the_folder_says_so(folder):
    rewrite(folder / "1_Pooling" / "config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    found = encoders.encode(encoders.load_encoder(folder), make_golden.TEXTS)
    np.testing.assert_allclose(found.vectors, np.load(BERT / "expected.npz")["cls"], atol=1e-5)


def test_a_vector_does_not_depend_on_its_neighbours(tiny):
    alone = [encoders.encode(tiny, [each]).vectors[0] for each in make_golden.TEXTS[:2]]
    np.testing.assert_allclose(encoders.encode(tiny, make_golden.TEXTS).vectors[:2], alone, atol=2e-6)


def test_texts_of_one_width_share_a_program(tiny):
    words = ["this", "is", "an", "example"]
    encoders.encode(tiny, [" ".join(words[:at]) for at in (1, 2, 3, 4) * 4])
    programs = encoders._vectors._cache_size()
    encoders.encode(tiny, [" ".join((words * 3)[:at]) for at in range(1, 13)])  # as many rows, no wider than 16
    assert encoders._vectors._cache_size() == programs
    encoders.encode(tiny, [" ".join(words * 5)])
    assert encoders._vectors._cache_size() == programs + 1


def test_what_goes_before_questions_is_read_from_the_folder(folder, tiny):
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "this is ", "passage": "an "}})
    )
    own = encoders.load_encoder(folder)
    asked = encoders.encode(own, ["example"], is_question=True).vectors
    np.testing.assert_allclose(asked, encoders.encode(tiny, ["this is example"]).vectors, atol=1e-6)
    assert own.digest != tiny.digest


def test_half_the_weights_bytes_say_nearly_the_same(tiny):
    halved = encoders.load_encoder(BERT, dtype="bfloat16")
    found = encoders.encode(halved, make_golden.TEXTS).vectors
    whole = encoders.encode(tiny, make_golden.TEXTS).vectors
    assert found.dtype == np.float32 and halved.digest != tiny.digest
    assert 0.999 < (found * whole).sum(axis=1).min() < 1 - 1e-6  # products are in bfloat16
    with jax.default_matmul_precision("float32"):
        exact = encoders.encode(halved, make_golden.TEXTS).vectors
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(leaf.dtype), tiny.params)
    same = encoders.encode(tiny._replace(params=rounded), make_golden.TEXTS).vectors
    np.testing.assert_allclose(exact, same, atol=1e-5)
    assert np.abs(found - same).max() > 1e-4


def test_mean_token_embeddings_need_no_encoder(model):
    own = encoders.encoder_of_model(model)
    found = encoders.encode(own, ["the sour loaf", "loaf sour the"]).vectors
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("texts", "said"),
    [([" "], "text 0 is empty"), (["a", ""], "text 1 is empty"), (["a", "\ud800"], "half of a character")],
)
def test_a_text_without_meaning_is_named(tiny, texts, said):
    with pytest.raises(ValueError, match=said):
        encoders.encode(tiny, texts)


def test_no_texts_are_no_vectors(tiny):
    assert encoders.encode(tiny, []).vectors.shape == (0, 32)


def test_what_is_no_bert_is_refused():
    with pytest.raises(CheckpointError, match="'llama' is no BERT"):
        encoders.load_encoder(EMBEDDED)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "modules.json",
            [{"type": "sentence_transformers.models.Transformer"}, {"type": "x.Dense", "path": "2"}],
            "'Dense'",
        ),
        ("modules.json", [{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "../bert"}], "is not followed"),
        ("modules.json", [{"type": 3}], "a module with type and path"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling by pooling_mode_max_tokens"),
        ("sentence_bert_config.json", {"max_seq_length": "long"}, "max_seq_length is 'long'"),
    ],
)
def test_modules_that_are_not_built_here_are_named(folder, file, content, said):
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=said):
        encoders.load_encoder(folder)


def test_pickled_weights_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled weights are not read"):
        encoders.load_encoder(folder)


def test_a_vector_without_direction_is_refused(tiny):
    nothing = tiny._replace(
        vectors=lambda params, config, ids, lengths: 0.0 * tiny.vectors(params, config, ids, lengths)
    )
    with pytest.raises(ValueError, match="text 0, 'this', is a vector of zeros or NaN"):
        encoders.encode(nothing, ["this"])

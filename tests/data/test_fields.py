"""What config.json may hold: every number has its range, and the numbers fit each other and the tensors."""

import json
import shutil

import numpy as np
import pytest

from nvcim_jax import llm
from nvcim_jax.llm import families, fields, parameters
from tests.helpers.make_golden import CASES, GOLDEN


def changed(tmp_path, name, **changes):
    """A golden checkpoint with other values in its config.json."""
    folder = shutil.copytree(GOLDEN / name, tmp_path / name)
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | changes))
    return folder


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("llama", {"rms_norm_eps": 0.0}, r"rms_norm_eps is 0\.0; allowed: a number from 1e-12 to 1"),
        ("llama", {"rms_norm_eps": -1e-6}, "rms_norm_eps is -1e-06; allowed"),
        ("llama", {"rms_norm_eps": 1e-50}, "rms_norm_eps is 1e-50; allowed"),  # nothing in float32
        ("llama", {"rms_norm_eps": float("nan")}, "NaN is no number of JSON"),
        ("llama", {"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6'; allowed"),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; allowed: a whole number from 1 to 1000"),
        ("llama", {"num_hidden_layers": True}, "num_hidden_layers is True; allowed"),
        ("llama", {"num_hidden_layers": 3.0}, "num_hidden_layers is 3.0; allowed"),
        ("llama", {"hidden_size": 2**18, "vocab_size": 2**24}, r"embed_tokens.weight has shape \[61, 32\]; the configuration asks"),
        ("llama", {"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'; allowed: true or false"),
        ("llama", {"num_key_value_heads": 3}, "num_attention_heads 4 does not divide by num_key_value_heads 3"),
        ("llama", {"head_dim": 2**14, "num_attention_heads": 2**12, "hidden_size": 2**12}, "4096 heads of 16384 values; at most 262144"),
        ("gpt2", {"n_head": 5}, "hidden size 32 does not divide by num_attention_heads 5"),
        ("llama", {"head_dim": 1}, "rope turns pairs of values: 1 of a head of 1 leaves none"),
        ("stablelm", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.05}},
         "0.05 of a head of 8 leaves none"),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 0.5}}, r"rope_parameters.rope_theta is 0\.5; all"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor is 0; allowed: a number from 1 to"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": None}}, "rope_type 'linear' lacks factor"),
        ("llama3", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 4.0,
                                        "high_freq_factor": 4.0, "original_max_position_embeddings": 16}},
         "low_freq_factor 4.0 is not below high_freq_factor 4.0"),
        ("gemma2", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope parameters for each kind of layer are not supported"),
        ("gemma2", {"final_logit_softcapping": 0.0}, "final_logit_softcapping is 0.0; allowed: a number from 0.01 to 1e\\+06 or null"),
        ("gemma2", {"layer_types": ["full_attention"]}, "num_hidden_layers"),
        ("mistral", {"sliding_window": 0}, "sliding_window is 0; allowed: a whole number from 1 to"),
        ("mistral", {"layer_types": ["full_attention"] * 3}, "layer_types in a mistral configuration are those of ministral"),
        ("phi3", {"num_key_value_heads": 1}, r"qkv_proj.weight has shape \[64, 32\]; the configuration asks for \[48, 32\]"),
        ("phi3", {"intermediate_size": 20}, r"down_proj.weight has shape \[32, 40\]; the configuration asks for \[32, 20\]"),
        ("llama", {"per_layer_config": {"0": {"num_attention_heads": 2}}}, "per_layer_config is .*; allowed: null"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_name(tmp_path, name, changes, words):
    folder = changed(tmp_path, name, **changes)
    with pytest.raises(llm.CheckpointError, match=f"(config.json|model.safetensors).*{words}") as refused:
        llm.load(folder)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("length", [3, 5])
def test_factors_of_longrope_are_one_for_each_pair(tmp_path, length):
    told = json.loads((GOLDEN / "phi3_long/config.json").read_text())["rope_parameters"]
    folder = changed(tmp_path, "phi3_long", rope_parameters=told | {"long_factor": [1.0] * length})
    with pytest.raises(llm.CheckpointError, match=f"long_factor.*(4.*{length}|{length}.*4)"):
        llm.load(folder)


def test_the_edges_of_a_range_are_allowed_and_what_lies_beyond_is_not():
    inside, beyond = fields.whole(1, 4), fields.real(1, 4)
    assert [inside.holds(value) for value in (0, 1, 4, 5, 1.0, True, "1", None)] == [False, True, True] + [False] * 5
    assert [beyond.holds(value) for value in (0.999, 1, 1.0, 4, 4.001, float("nan"), True)] == [
        False,
        True,
        True,
        True,
    ] + [False] * 3
    assert fields.or_null(inside).holds(None) and not fields.or_null(inside).holds(5)
    assert fields.several(inside, 2).holds([1, 4]) and not fields.several(inside, 2).holds([1, 1, 1])


def test_fields_that_nobody_reads_do_not_matter(tmp_path):
    """Nothing of them reaches transformers, which would make attributes of them."""
    stray = {"attribute_map": {"rms_norm_eps": "x"}, "x": -1, "dtype": "none", "id2label": {"a": 1}, "to_dict": 5}
    folder = changed(tmp_path, "llama", **stray)
    assert families.read(folder)[0] == families.read(GOLDEN / "llama")[0]


@pytest.mark.parametrize("name", CASES)
def test_all_layers_have_the_shapes_of_the_first(name):
    """Only one layer is traced; each golden checkpoint has several, with the parameters that its model has."""
    config = families.read(GOLDEN / name)[0]
    found = parameters.shapes(config)
    one = {ours.removeprefix("blocks_0/"): leaf for ours, leaf in found.items() if ours.startswith("blocks_0/")}
    assert len(one) >= 7
    for layer in range(config.layers):
        assert {ours: leaf for ours, leaf in found.items() if ours.startswith(f"blocks_{layer}/")} == {
            f"blocks_{layer}/{ours}": leaf for ours, leaf in one.items()
        }
    assert not any(ours.startswith(f"blocks_{config.layers}/") for ours in found)


def test_a_config_of_a_thousand_layers_is_traced_at_once():
    config = families.read(GOLDEN / "llama")[0]
    wide = {"layers": 1000, "dim": 2**18, "hidden_dim": 2**20, "vocab_size": 2**24, "heads": 2**15}
    found = parameters.shapes(llm.Config(**{**vars(config), **wide}))
    assert found["blocks_999/up/weight"].shape == (2**20, 2**18)
    assert np.prod(found["embedding/embedding"].shape, dtype=float) == 2.0**42

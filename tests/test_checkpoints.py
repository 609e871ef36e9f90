"""Checkpoint folders as they come: sharded, half precision, old names, damaged; and the hub."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nvcim_jax import llm
from tests.make_golden import GOLDEN


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(GOLDEN / "llama", tmp_path / "llama")


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors) or tensors, folder / "model.safetensors", {"format": "pt"})


def shard(folder):
    tensors = load_file(folder / "model.safetensors")
    parts = {f"model-0000{i}-of-00003.safetensors": dict(list(tensors.items())[i::3]) for i in range(3)}
    for name, part in parts.items():
        save_file(part, folder / name, {"format": "pt"})
    where = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "model.safetensors").unlink()
    return list(parts)


def test_shards_are_one_model(folder):
    shard(folder)
    same(llm.load(folder), llm.load(GOLDEN / "llama"))


@pytest.mark.parametrize("dtype", ["float16", jnp.int8])
def test_a_type_that_would_answer_wrongly_is_refused(dtype):
    with pytest.raises(ValueError, match="float32 or bfloat16 is needed"):
        llm.load(GOLDEN / "llama", dtype=dtype)


@pytest.mark.parametrize("kind", [jnp.bfloat16, np.float16])
def test_half_precision_files_widen_exactly(folder, kind):
    rewrite(folder, lambda tensors: {name: tensor.astype(kind) for name, tensor in tensors.items()})
    widened = jax.tree.map(lambda leaf: leaf.astype(kind).astype(jnp.float32), llm.load(GOLDEN / "llama").params)
    model = llm.load(folder)
    jax.tree.map(np.testing.assert_array_equal, model.params, widened)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(llm.load(folder, dtype=jnp.bfloat16).params)} == {"bfloat16"}


@pytest.mark.parametrize(("name", "stem"), [("gpt2", "transformer."), ("opt", "model.")])
def test_files_of_the_bare_decoder_are_read(tmp_path, name, stem):
    """The hub's own gpt2 and opt files lack the first part of every name, and carry buffers."""
    folder = shutil.copytree(GOLDEN / name, tmp_path / name)
    rewrite(folder, lambda tensors: {
        **{key.removeprefix(stem): tensor for key, tensor in tensors.items()},
        **({"h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)} if name == "gpt2" else {}),
    })  # fmt: skip
    same(llm.load(folder), llm.load(GOLDEN / name))


def test_a_tied_head_in_the_file_is_no_unknown_tensor(tmp_path):
    folder = shutil.copytree(GOLDEN / "llama3", tmp_path / "m")
    rewrite(folder, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].copy()})
    same(llm.load(folder), llm.load(GOLDEN / "llama3"))


def test_several_end_tokens_come_from_the_generation_defaults(folder):
    assert llm.load(folder).ends == (2,)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7]}))
    assert llm.load(folder).ends == (2, 7)


def test_nan_weights_are_told_by_name(folder):
    def poison(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan

    rewrite(folder, poison)
    with pytest.warns(UserWarning, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        llm.load(folder)


def edit(**changes):
    def change(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def drop_shard(folder):
    (folder / shard(folder)[1]).unlink()


def lose_tensor(folder):
    name = shard(folder)[1]
    save_file(dict(list(load_file(folder / name).items())[1:]), folder / name, {"format": "pt"})


def outside_index(folder):
    names = shard(folder)
    (folder / names[0]).rename(folder.parent / names[0])
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(names[0], f"../{names[0]}"))


def unsupported_rope(folder):
    edit(rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0})(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_shard, "shard model-00001-of-00003.safetensors is missing"),
        (lose_tensor, "lacks .* which the index places there"),
        (outside_index, "shard model-00000-of-00003.safetensors is missing"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{"), "index.json is damaged"),
        (unsupported_rope, "rope_type 'yarn' is not supported; known: default, linear, llama3, longrope"),
        (edit(hidden_act="xielu"), "activation 'xielu' is not supported"),
        (edit(num_key_value_heads=4), "config.json asks for"),
        (lambda f: rewrite(f, lambda t: t | {"model.strange.weight": np.ones(3, np.float32)}), "tensors unknown .*strange"),
        (lambda f: (f / "tokenizer.json").write_text("nonsense"), "the tokenizer cannot be read"),
    ],
)  # fmt: skip
def test_a_broken_folder_is_named(folder, change, words):
    change(folder)
    with pytest.raises(llm.CheckpointError, match=words):
        llm.load(folder)


@pytest.mark.parametrize(
    ("name", "told", "words"),
    [
        ("phi", {"qk_layernorm": True}, "qk_layernorm True is not supported; known: False"),
        ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine False is not supported"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
    ],
)
def test_a_variant_nobody_built_is_refused(tmp_path, name, told, words):
    folder = shutil.copytree(GOLDEN / name, tmp_path / name)
    edit(**told)(folder)
    with pytest.raises(llm.CheckpointError, match=words):
        llm.load(folder)


def test_a_hub_name_goes_to_the_hub_with_its_revision(monkeypatch):
    import huggingface_hub

    seen = {}

    def snapshot(name, *, revision, allow_patterns):
        seen.update(name=name, revision=revision, patterns=allow_patterns)
        return str(GOLDEN / "llama")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    same(llm.load("someone/llama", revision="v2"), llm.load(GOLDEN / "llama"))
    assert (seen["name"], seen["revision"]) == ("someone/llama", "v2")
    assert not any(pattern.endswith((".bin", ".pt", ".py")) or pattern == "*" for pattern in seen["patterns"])


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(llm.CheckpointError, match="no-one/nothing is no folder here, and the hub did not give it"):
        llm.load("no-one/nothing")


def test_neither_a_folder_nor_a_name(tmp_path):
    with pytest.raises(llm.CheckpointError, match="neither a folder nor a hub name"):
        llm.load(tmp_path / "nothing/here")

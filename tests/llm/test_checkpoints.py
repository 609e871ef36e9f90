"""Checkpoint folders as they come: sharded, half precision, old names, damaged; and the hub."""

import json
import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nvcim_jax import llm
from tests.helpers.make_golden import GOLDEN


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


UP = "model.layers.1.mlp.up_proj.weight"


def put(name, value):
    """One value of a tensor, or all of them for an array."""

    def change(folder):
        tensors = load_file(folder / "model.safetensors")
        tensors[name] = tensors[name].copy()
        tensors[name][...] = value if np.ndim(value) else tensors[name]
        if not np.ndim(value):
            tensors[name].reshape(-1)[7] = value
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return change


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.nan, "NaN"),
        (np.inf, "inf"),
        (-np.inf, "-inf"),
        (3e38, r"[23]\.?9?9?\d*e\+38|inf"),
        (-65600, "-65600|-65536"),
    ],
)
def test_a_weight_beyond_any_is_refused(folder, dtype, value, words):
    put(UP, value)(folder)
    with pytest.raises(llm.CheckpointError, match=rf"{re.escape(UP)} holds ({words}); allowed: numbers up to 65504"):
        llm.load(folder, dtype=dtype)


def test_the_largest_half_precision_weight_is_taken(folder):
    put(UP, -65504.0)(folder)
    assert np.min(llm.load(folder).params["blocks_1"]["up"]["weight"]) == -65504


def test_values_are_looked_at_in_every_piece(folder, monkeypatch):
    """A tensor of 40 x 32 in pieces of 512 values, the last of them 256."""
    monkeypatch.setattr("nvcim_jax.llm.tensors._PIECE", 512)
    llm.load(folder)
    for place in (0, 511, 512, 1279):
        tensor = load_file(GOLDEN / "llama/model.safetensors")[UP].reshape(-1)
        tensor[place] = np.inf
        put(UP, tensor.reshape(40, 32))(folder)
        with pytest.raises(llm.CheckpointError, match="holds inf"):
            llm.load(folder)


def test_an_embedding_or_a_norm_of_nothing_is_refused_and_a_kernel_of_zeros_told(tmp_path):
    """Gemma's norm multiplies by one more than its weight: there zero is a sound weight, and -1 is nothing."""
    for name, tensor, empty in (
        ("llama", "model.embed_tokens.weight", 0.0),
        ("llama", "model.layers.2.input_layernorm.weight", 0.0),
        ("gemma", "model.norm.weight", -1.0),
    ):
        folder = shutil.copytree(GOLDEN / name, tmp_path / f"{name}{tensor}")
        shape = load_file(folder / "model.safetensors")[tensor].shape
        put(tensor, np.full(shape, empty))(folder)
        with pytest.raises(llm.CheckpointError, match=f"{re.escape(tensor)} holds {empty:g} everywhere"):
            llm.load(folder)
        put(tensor, np.full(shape, -1.0 - empty))(folder)
        llm.load(folder)
    put(UP, np.zeros((40, 32)))(folder := shutil.copytree(GOLDEN / "llama", tmp_path / "zeros"))
    with pytest.warns(UserWarning, match=f"{re.escape(UP)} holds zeros only"):
        llm.load(folder)


def test_a_tied_head_that_is_another_is_told(tmp_path):
    folder = shutil.copytree(GOLDEN / "llama3", tmp_path / "m")
    rewrite(folder, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1})
    with pytest.warns(UserWarning, match="lm_head.weight is not used: config.json ties the head"):
        same(llm.load(folder), llm.load(GOLDEN / "llama3"))


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
        (drop_shard, "shard 'model-00001-of-00003.safetensors' is missing"),
        (lose_tensor, "lacks .* which the index places there"),
        (outside_index, "index.json: '../model-000.*' is no name of a safetensors file in its folder"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{"), "index.json is damaged"),
        (unsupported_rope, "rope_type 'yarn' is not supported; known: default, linear, llama3, longrope"),
        (edit(hidden_act="xielu"), "activation 'xielu' is not supported"),
        (edit(num_key_value_heads=4), "the configuration asks for"),
        (lambda f: rewrite(f, lambda t: t | {"model.strange.weight": np.ones(3, np.float32)}), "tensors unknown: .*strange"),
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


def test_the_links_of_the_hub_cache_are_followed_and_others_are_not(tmp_path):
    """There a snapshot is a folder of links into the `blobs` of its model."""
    snapshot, blobs = tmp_path / "models--a--b/snapshots/0", tmp_path / "models--a--b/blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(GOLDEN / "llama", blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    same(llm.load(snapshot), llm.load(GOLDEN / "llama"))
    (tmp_path / "other").mkdir()
    shutil.move(blobs / "model.safetensors", tmp_path / "other")
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(tmp_path / "other/model.safetensors")
    with pytest.raises(llm.CheckpointError, match="model.safetensors is a link that leads out of the folder"):
        llm.load(snapshot)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "model.safetensors", "tokenizer.json"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(folder, file):
    (folder / file).unlink()
    os.mkfifo(folder / file)
    with pytest.raises(llm.CheckpointError):
        llm.load(folder)


def test_a_folder_that_cannot_be_read_is_one_sentence(folder, monkeypatch):
    monkeypatch.setattr(Path, "iterdir", lambda path: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(llm.CheckpointError, match="llama cannot be read .*Permission denied"):
        llm.load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t | {UP: t[UP].astype(np.int32)}, r"up_proj.weight has the type I32; allowed: F16, BF16, F32, F64"),
        (
            lambda t: t | {UP: t[UP].T.copy()},
            r"up_proj.weight has shape \[32, 40\]; the configuration asks for \[40, 32\]",
        ),
        (
            lambda t: {name: value for name, value in t.items() if ".layers.1." not in name},
            "its tensors are of 2 layers",
        ),
        (lambda t: {n.replace("layers.2", "layers.7"): v for n, v in t.items()}, "tensors missing: .*layers.2"),
    ],
)
def test_headers_are_compared_before_anything_is_read(folder, monkeypatch, change, words):
    rewrite(folder, change)
    monkeypatch.setattr("nvcim_jax.llm.tensors.Tensor.read", lambda *_: pytest.fail("values were read"))
    with pytest.raises(llm.CheckpointError, match=words):
        llm.load(folder)


def test_each_value_is_read_once(folder, monkeypatch):
    from nvcim_jax.llm.tensors import Tensor

    read, whole = [], Tensor.read
    monkeypatch.setattr(Tensor, "read", lambda tensor: read.append(tensor.name) or whole(tensor))
    llm.load(folder)
    assert sorted(read) == sorted(load_file(folder / "model.safetensors"))


def test_neither_a_folder_nor_a_name(tmp_path):
    with pytest.raises(llm.CheckpointError, match="neither a folder nor a hub name"):
        llm.load(tmp_path / "nothing/here")

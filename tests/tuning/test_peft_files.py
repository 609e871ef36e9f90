"""Folders of PEFT adapters: written whole or not at all; what is damaged, of another model or unknown is refused."""

import json
import os
import subprocess
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nvcim_jax import llm, tuning
from nvcim_jax.tuning import peft, peft_files
from tests.tuning.test_peft import IA3, KINDS, LORA, made, model, read, written

DOWN_0, Q_2 = "base_model.model.model.layers.0.mlp.down_proj.ia3_l", "base_model.model.model.layers.2.self_attn.q_proj"


def settings(**changes):
    """Spoil the config file."""

    def spoil(folder):
        told = json.loads((folder / peft.CONFIG).read_text())
        (folder / peft.CONFIG).write_text(json.dumps(told | changes))

    return spoil


def tensors(change):
    """Spoil the weights: `change` takes their dict and changes it."""

    def spoil(folder):
        held = load_file(folder / peft.WEIGHTS)
        change(held)
        save_file(held, folder / peft.WEIGHTS)

    return spoil


def renamed(held, old, new):
    for name in list(held):
        held[name.replace(old, new)] = held.pop(name)


FILES = [
    (
        settings(peft_type="ADALORA"),
        "holds an adapter of type 'ADALORA', not .*import_prompt, import_prefix, import_lora",
    ),
    (lambda f: (f / peft.CONFIG).write_text("{"), "is damaged"),
    (lambda f: (f / peft.CONFIG).write_text("[]"), "is damaged"),
    (lambda f: (f / peft.CONFIG).unlink(), "holds no adapter_config.json"),
    (lambda f: (f / peft.WEIGHTS).rename(f / "adapter_model.bin"), "never pickles"),
    (lambda f: (f / peft.WEIGHTS).write_bytes(b"\x00" * 20), "is damaged"),
    (lambda f: (f / peft.WEIGHTS).write_bytes((f / peft.WEIGHTS).read_bytes()[:-4]), "is damaged"),
    (tensors(lambda t: t.update({n: v * np.nan for n, v in t.items()})), "holds NaN; allowed: numbers up to 65504"),
    (
        tensors(lambda t: t.update({n: v + 1e6 for n, v in t.items()})),
        "holds 1e[+]06; allowed: numbers up to 65504|holds 100",
    ),
    (tensors(lambda t: t.update({n: v.astype(np.int8) for n, v in t.items()})), "has the type I8; allowed: F16"),
    (lambda f: ((f / peft.WEIGHTS).unlink(), os.mkfifo(f / peft.WEIGHTS)), "holds no adapter_model.safetensors"),
    (lambda f: ((f / peft.CONFIG).unlink(), (f / peft.CONFIG).symlink_to("/dev/zero")), "holds no adapter_config.json"),
    (
        lambda f: ((f / peft.CONFIG).rename(f.parent / "out"), (f / peft.CONFIG).symlink_to("../out")),
        "leads out of the f",
    ),
    (lambda f: (f / peft.CONFIG).write_text("[" * 10**5), "is damaged"),
    (tensors(lambda t: t.update(stray=np.zeros(1, np.float32))), "nothing here can take stray: .* another model"),
]
PROMPTS = [
    (settings(num_virtual_tokens=5), r"the prompt is \(4, 32\), its adapter_config.json says \(5, 32\)"),
    (settings(token_dim=16), r"the prompt is \(4, 32\), its adapter_config.json says \(4, 16\)"),
    (settings(num_virtual_tokens="4"), "damaged: num_virtual_tokens is '4', no positive int"),
    (tensors(lambda t: renamed(t, "prompt", "other")), "nothing here can take other_embeddings"),
    (tensors(lambda t: t.clear()), "lacks prompt_embeddings"),
    (tensors(lambda t: t.update(prompt_embeddings=np.array(1, np.float32))), r"the prompt is \(\)"),
]
PREFIXES = [
    (settings(num_layers=2), "num_layers is 2, not 3: an adapter for another model"),
    (settings(num_attention_heads=4), "num_attention_heads is 4, not 2"),
    (settings(token_dim=32), "token_dim is 32, not 16"),
    (settings(num_virtual_tokens=3), r"prompt_embeddings is \(4, 96\), \(3, 96\) is needed"),
    (settings(num_transformer_submodules=2), "num_transformer_submodules 2 cannot be read"),
    (tensors(lambda t: t.clear()), "lacks prompt_embeddings"),
]
LORAS = [
    (settings(use_dora=True), "use_dora True cannot be read: export the adapter without it"),
    (settings(rank_pattern={"q_proj": 4}), "rank_pattern {'q_proj': 4} cannot be read"),
    (settings(alpha_pattern={"q_proj": 4}), "alpha_pattern {'q_proj': 4} cannot be read"),
    (settings(bias="lora_only"), "bias 'lora_only' cannot be read"),
    (settings(modules_to_save=["lm_head"]), r"modules_to_save \['lm_head'\] cannot be read"),
    (settings(init_lora_weights="pissa"), "init_lora_weights 'pissa' cannot be read"),
    (settings(r=4), r"q_proj.lora_A.weight is \(3, 32\), \(4, 32\) is needed: an adapter for another model"),
    (settings(r=True), "damaged: r is True, no positive int"),
    (settings(lora_alpha=None), "damaged: lora_alpha is None, no positive float"),
    (settings(lora_alpha=float("nan")), "damaged, no JSON .NaN is no number of JSON"),
    (settings(lora_alpha=1e300), "damaged: lora_alpha is 1e[+]300, no positive float up to 1000000"),
    (settings(lora_alpha=10**400), "damaged: lora_alpha is 1000"),
    (settings(use_rslora="false"), "damaged: use_rslora is 'false', neither true nor false"),
    (tensors(lambda t: t.pop(f"{Q_2}.lora_B.weight")), "lacks .*layers.2.self_attn.q_proj.lora_B.weight: it is of ano"),
    (tensors(lambda t: renamed(t, "layers.2", "layers.3")), "nothing here can take .*layers.3.mlp.up_proj.lora_A"),
    (tensors(lambda t: renamed(t, "self_attn.q_proj", "block.w1")), "nothing here can take .*layers.0.block.w1.lora_A"),
    (tensors(lambda t: t.clear()), "holds no tensors"),
]
IA3S = [
    (settings(modules_to_save=["lm_head"]), r"modules_to_save \['lm_head'\] cannot be read"),
    (tensors(lambda t: t.update({DOWN_0: t[DOWN_0].T.copy()})), r"ia3_l is \(40, 1\), \(32, 1\) is needed"),
    (tensors(lambda t: t.update({DOWN_0: t[DOWN_0][:, :-1].copy()})), r"ia3_l is \(1, 39\), \(1, 40\) is needed"),
    (tensors(lambda t: t.pop(DOWN_0)), "lacks base_model.model.model.layers.0.mlp.down_proj.ia3_l"),
]
BAD = [(kind, *case) for kind in KINDS for case in FILES]
for kind, own in zip(KINDS, (PROMPTS, PREFIXES, LORAS, IA3S)):
    BAD += [(kind, *case) for case in own]


@pytest.mark.parametrize(("kind", "spoil", "said"), BAD)
def test_what_cannot_be_meant_is_refused(tmp_path, kind, spoil, said):
    folder = written(tmp_path, kind)
    spoil(folder)
    with pytest.raises(ValueError, match=said):
        read(folder, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_another_model_is_refused(tmp_path, kind):
    folder = written(tmp_path, kind)
    read(folder, kind, base_model="tiny")
    with pytest.raises(ValueError, match="is an adapter for 'tiny', not for 'google/gemma-2b'"):
        read(folder, kind, base_model="google/gemma-2b")
    with pytest.raises(ValueError, match="another model"):
        read(folder, kind, config=replace(model("llama").config, dim=48, layers=4))


def test_a_prompt_of_another_space_is_refused(tmp_path):
    """Gemma's prompts of before transformers 5.5 are scaled by sqrt(dim) inside the model: 45 times too small here."""
    folder = written(tmp_path, "prompt")
    save_file(load_file(folder / peft.WEIGHTS), folder / peft.WEIGHTS, metadata={"prompt_space": "pre_scale"})
    with pytest.raises(ValueError, match="lives in 'pre_scale', the models here take 'post_scale'"):
        read(folder, "prompt")


def test_a_prompt_is_read_without_its_model(tmp_path):
    np.testing.assert_array_equal(
        peft.import_prompt(written(tmp_path, "prompt")), made("prompt", model("llama").config)
    )


def test_rank_stabilised_lora_is_scaled_by_the_root_of_its_rank(tmp_path):
    folder = written(tmp_path, "lora")
    settings(use_rslora=True)(folder)
    assert read(folder, "lora")[0].alpha / LORA.rank == pytest.approx(LORA.alpha / np.sqrt(LORA.rank))


def test_half_precision_is_read(tmp_path):
    folder = written(tmp_path, "ia3")
    tensors(lambda t: t.update({name: values.astype(jnp.bfloat16) for name, values in t.items()}))(folder)
    held, expected = read(folder, "ia3")[1]["down"], made("ia3", model("llama").config)["down"]
    np.testing.assert_allclose(held, expected, rtol=2**-8)
    assert held.dtype == jnp.float32


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_overwritten(tmp_path, kind):
    (tmp_path / "adapter").mkdir()
    with pytest.raises(ValueError, match="exists already: give another folder"):
        written(tmp_path, kind)
    assert not list((tmp_path / "adapter").iterdir())


@pytest.mark.parametrize("step", ["Path.write_bytes", "os.rename"])
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, step):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(f"{peft_files.__name__}.{step}", fail)
    with pytest.raises(OSError, match="disk full"):
        written(tmp_path, "lora")
    assert not list(tmp_path.iterdir())


def test_what_does_not_fit_is_not_written(tmp_path):
    c, out = model("llama").config, tmp_path / "adapter"
    prompt, prefix, factors, vectors = (made(kind, c) for kind in KINDS)
    for bad in (prompt[0], prompt * np.nan, prompt[:0]):
        with pytest.raises(ValueError, match="finite values"):
            peft.export_prompt(out, bad, base_model="x")
    for bad in (llm.Prefix(prefix.keys[None], prefix.values[None]), prefix._replace(values=prefix.values[1:])):
        with pytest.raises(ValueError, match=r"prefix.* has shape .*: the model and the method ask for"):
            peft.export_prefix(out, bad, c, base_model="x")
    with pytest.raises(ValueError, match="prompt_embeddings holds (NaN|-?inf); allowed: numbers up to 65504"):
        peft.export_prefix(out, prefix._replace(keys=prefix.keys * np.inf), c, base_model="x")
    with pytest.raises(ValueError, match=r"attention/q: a has shape \(3, 32, 3\)"):
        peft.export_lora(out, factors, tuning.Lora(4), c, "llama", base_model="x")
    with pytest.raises(ValueError, match="no module 'attention/x' in a layer: choose among attention/q"):
        peft.export_lora(out, {"attention/x": factors["up"]}, LORA, c, "llama", base_model="x")
    with pytest.raises(ValueError, match="has no target"):
        peft.export_lora(out, {}, LORA, c, "llama", base_model="x")
    with pytest.raises(ValueError, match=r"down has shape \(3, 40\): .* ask for \(3, 32\)"):
        peft.export_ia3(out, {"down": vectors["down"]}, tuning.Ia3(("down",), ()), c, "llama", base_model="x")
    for family in ("bert", "gpt2"):
        with pytest.raises(ValueError, match=f"family '{family}' does not fit the model's config"):
            peft.export_ia3(out, vectors, IA3, c, family, base_model="x")
    assert not list(tmp_path.iterdir())


def test_what_enters_a_fused_module_is_stretched_alike(tmp_path):
    c, ones = model("phi3").config, np.ones((3, 32), np.float32)
    for held in ({"gate": ones}, {"gate": ones, "up": 2 * ones}):
        with pytest.raises(ValueError, match="gate, up are one module there|up, gate are one module there"):
            peft.export_ia3(tmp_path / "x", held, tuning.Ia3((), tuple(held)), c, "phi3", base_model="x")
    method = tuning.Ia3((), ("up", "gate"))
    peft.export_ia3(tmp_path / "x", {"gate": 2 * ones, "up": 2 * ones}, method, c, "phi3", base_model="x")
    back, held = read(tmp_path / "x", "ia3", "phi3")
    assert back == method
    np.testing.assert_array_equal(held["gate"], 2 * ones)


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    try:
        with pytest.raises(OSError, match=r"cannot be written \(No space left on device\): make room"):
            peft.export_prompt(disk / "adapter", np.ones((64, 1024), np.float32), base_model="")
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", str(disk)], check=True)

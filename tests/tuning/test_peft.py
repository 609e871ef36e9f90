"""Adapters as PEFT keeps them: written, read back, and the same logits as PEFT, both ways."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from nvcim_jax import llm, tuning
from nvcim_jax.llm import decoder
from nvcim_jax.tuning import peft
from nvcim_jax.tuning.lora import Factors
from tests.helpers.make_golden import CASES, GOLDEN

LORA = tuning.Lora(3, 5.0, ("attention/q", "attention/v", "attention/o", "up"))
IA3 = tuning.Ia3(("attention/k", "attention/v", "attention/o"), ("down",))
IDS = np.random.default_rng(0).integers(3, 61, (2, 7), dtype=np.int32)
KINDS = ("prompt", "prefix", "lora", "ia3")
LIVE = ("llama", "gemma", "opt", "gpt2", "phi3", "gpt_neox")  # grouped heads, one head, biases, three ways of fusing


@cache
def model(name: str) -> llm.Model:
    return llm.load(GOLDEN / name)


def made(kind: str, c: llm.Config):
    """Random values of a method, as its `stored` returns them."""
    rng = np.random.default_rng(1)
    random = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    if kind == "prompt":
        return random(4, c.dim)
    if kind == "prefix":
        return llm.Prefix(*random(2, c.layers, 4, c.kv_heads, c.head_dim))
    sizes = c.kernel_sizes()
    if kind == "lora":
        return {
            t: Factors(random(c.layers, sizes[t][0], 3) / 5, random(c.layers, 3, sizes[t][1])) for t in LORA.targets
        }
    wide = {t: sizes[t][1] for t in IA3.outputs} | {t: sizes[t][0] for t in IA3.inputs}
    return {target: random(c.layers, width) for target, width in wide.items()}


def written(folder, kind: str, name: str = "llama", base_model: str = "tiny"):
    """A folder with the adapter of `made`."""
    config, family = model(name).config, CASES[name][0]
    more = {"prompt": (), "prefix": (config,), "lora": (LORA, config, family), "ia3": (IA3, config, family)}[kind]
    getattr(peft, f"export_{kind}")(folder / "adapter", made(kind, config), *more, base_model=base_model)
    return folder / "adapter"


def read(folder, kind: str, name: str = "llama", config: llm.Config | None = None, **options):
    more = (config or model(name).config, *([CASES[name][0]] if kind in ("lora", "ia3") else []))
    return getattr(peft, f"import_{kind}")(folder, *more, **options)


def adapted(kind: str, held, c: llm.Config) -> tuning.Adapted:
    """What was read, as a model takes it."""
    method, trained = held if kind in ("lora", "ia3") else (tuning.Prefix(), held)
    return tuning.Adapted(front=held) if kind == "prompt" else method.apply(trained, None, c, tuning.quiet)


@partial(jax.jit, static_argnames="config")
def said(params, row: tuning.Adapted, *, config: llm.Config):
    rows = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(IDS)), row)
    placed = tuning.place(params, rows, llm.embed(params, config, IDS), decoder.causal_positions(IDS.shape))
    return llm.logits(placed.params, config, **placed.inputs._asdict())


def ours(name: str, kind: str, held):
    return said(model(name).params, adapted(kind, held, model(name).config), config=model(name).config)


def hf(name: str):
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(GOLDEN / name, dtype=torch.float32, attn_implementation="eager")


def theirs(adapter) -> np.ndarray:
    import torch

    with torch.no_grad():
        return adapter.eval()(input_ids=torch.tensor(IDS, dtype=torch.long)).logits.numpy()


def same(mine, other, plain):
    np.testing.assert_allclose(mine, other, atol=1e-4, rtol=0)
    assert np.abs(mine[:, -7:] - plain).max() > 0.1


@pytest.mark.filterwarnings("ignore")  # of torch and transformers, about themselves
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LIVE)
def test_an_adapter_made_here_says_the_same_in_peft(tmp_path, name, kind):
    base = hf(name)
    from peft import PeftModel

    plain = theirs(base)
    loaded = PeftModel.from_pretrained(base, str(written(tmp_path, kind, name)))
    held = made(kind, model(name).config)
    same(ours(name, kind, {"lora": (LORA, held), "ia3": (IA3, held)}.get(kind, held)), theirs(loaded), plain)


STRETCHED = {"gpt2": ["c_attn", "mlp.c_proj"], "opt": ["k_proj", "out_proj", "fc2"], "gpt_neox": ["query_key_value"],
             "phi3": ["qkv_proj", "gate_up_proj"]}  # fmt: skip
INWARD = {"gpt2": ["mlp.c_proj"], "opt": ["fc2"], "gpt_neox": [], "phi3": ["gate_up_proj"]}


def settings(kind: str, name: str):
    import peft as p

    common = {"task_type": "CAUSAL_LM"}
    if kind in ("lora", "rslora"):
        own = {"r": 5, "lora_alpha": 3, "target_modules": "all-linear", "init_lora_weights": "gaussian"}
        return p.LoraConfig(**common, **own, use_rslora=kind == "rslora")
    if kind == "ia3":
        targets = STRETCHED.get(name, ["k_proj", "v_proj", "down_proj"])
        return p.IA3Config(**common, target_modules=targets, feedforward_modules=INWARD.get(name, ["down_proj"]))
    if kind == "prompt":
        return p.PromptTuningConfig(**common, num_virtual_tokens=3)
    return p.PrefixTuningConfig(**common, num_virtual_tokens=3, prefix_projection=kind == "projection")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "kind"), [(n, k) for n in LIVE for k in KINDS] + [("llama", "rslora"), ("llama", "projection")]
)
def test_an_adapter_made_in_peft_says_the_same_here(tmp_path, name, kind):
    base = hf(name)
    import torch
    from peft import get_peft_model

    plain = theirs(base)
    adapter = get_peft_model(base, settings(kind, name))
    with torch.no_grad():
        for weight in adapter.parameters():
            if weight.requires_grad:
                weight.add_(0.3 * torch.randn_like(weight))
    adapter.save_pretrained(tmp_path)
    known = {"rslora": "lora", "projection": "prefix"}.get(kind, kind)
    held = read(tmp_path, known, name, base_model=str(GOLDEN / name))
    same(ours(name, known, held), theirs(adapter), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_exported_is_what_is_imported(tmp_path, kind):
    held, expected = read(written(tmp_path, kind), kind), made(kind, model("llama").config)
    if kind in ("lora", "ia3"):
        assert held[0] == {"lora": LORA, "ia3": IA3}[kind]
        held = held[1]
    jax.tree.map(np.testing.assert_array_equal, held, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("name", ["gpt2", "phi3", "gpt_neox"])
@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_a_fused_module_gives_each_part_its_own_back(tmp_path, name, kind):
    c = model(name).config
    method, held = read(written(tmp_path, kind, name), kind, name)
    for target, values in held.items():
        if kind == "ia3":
            np.testing.assert_array_equal(values, made(kind, c).get(target, np.ones_like(values)))
            continue
        own = made(kind, c).get(target)
        expected = 0 if own is None else own.a @ own.b * (LORA.alpha / LORA.rank)
        np.testing.assert_allclose(values.a @ values.b * (method.alpha / method.rank), expected, atol=1e-5)


def test_where_the_values_of_a_prefix_stand(tmp_path):
    c = model("llama").config
    keys, values = made("prefix", c)
    flat = load_file(written(tmp_path, "prefix") / peft.WEIGHTS)["prompt_embeddings"]
    assert flat.shape == (4, c.layers * 2 * c.kv_heads * c.head_dim)
    half = c.kv_heads * c.head_dim
    np.testing.assert_array_equal(flat[3, :half], keys[0, 3].reshape(-1))
    np.testing.assert_array_equal(flat[3, half : 2 * half], values[0, 3].reshape(-1))
    np.testing.assert_array_equal(flat[3, 2 * half : 3 * half], keys[1, 3].reshape(-1))

"""Prompts as PEFT adapters: written, read back, refused when wrong, and loaded by PEFT itself."""

import json

import jax
import numpy as np
import pytest

from nvcim_jax.tuning import peft

PROMPT = np.asarray(jax.random.normal(jax.random.key(0), (4, 16)))


@pytest.fixture
def folder(tmp_path):
    peft.export_prompt(tmp_path / "adapter", PROMPT, base_model="tiny/llama")
    return tmp_path / "adapter"


def test_what_is_exported_is_what_is_imported(folder):
    np.testing.assert_array_equal(peft.import_prompt(folder), PROMPT)
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, about itself
def test_peft_puts_the_prompt_in_front_of_its_model(folder):
    pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    from peft import PeftModel
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=20, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    ids = torch.tensor([[3, 5, 7]])
    embedded = torch.cat([torch.tensor(PROMPT)[None], model.get_input_embeddings()(ids)], dim=1)
    with torch.no_grad():
        expected = model(inputs_embeds=embedded).logits
        adapted = PeftModel.from_pretrained(model, str(folder)).eval()(input_ids=ids).logits
    np.testing.assert_allclose(adapted, expected, atol=1e-5)


def rewritten(folder, **changes):
    config = json.loads((folder / peft.CONFIG).read_text())
    (folder / peft.CONFIG).write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: rewritten(f, peft_type="LORA"), "holds a LORA adapter: only PROMPT_TUNING"),
        (
            lambda f: rewritten(f, num_virtual_tokens=5),
            r"the prompt is \(4, 16\), its adapter_config.json says \(5, 16\)",
        ),
        (lambda f: (f / peft.CONFIG).write_text("{"), "is damaged"),
        (lambda f: (f / peft.CONFIG).write_text("[]"), "is damaged"),
        (lambda f: (f / peft.CONFIG).unlink(), "holds no adapter_config.json"),
        (lambda f: (f / peft.WEIGHTS).rename(f / "adapter_model.bin"), "never pickles"),
        (lambda f: (f / peft.WEIGHTS).write_bytes(b"\x00" * 20), "is damaged"),
        (lambda f: (f / peft.WEIGHTS).write_bytes((f / peft.WEIGHTS).read_bytes()[:-4]), "is damaged"),
    ],
)
def test_what_is_no_prompt_adapter_is_refused(folder, spoil, said):
    spoil(folder)
    with pytest.raises(ValueError, match=said):
        peft.import_prompt(folder)


def test_nothing_is_overwritten_and_nothing_empty_written(folder, tmp_path):
    with pytest.raises(ValueError, match="exists already"):
        peft.export_prompt(folder, PROMPT, base_model="x")
    for bad in (PROMPT[0], PROMPT * np.nan, PROMPT[:0]):
        with pytest.raises(ValueError, match="finite values"):
            peft.export_prompt(tmp_path / "other", bad, base_model="x")
    assert not (tmp_path / "other").exists()


def test_a_prompt_of_another_space_is_refused(folder):
    """Gemma's prompts of before transformers 5.5 are scaled by sqrt(dim) inside the model: 45 times too small here."""
    from safetensors.numpy import save_file

    save_file({"prompt_embeddings": PROMPT}, folder / peft.WEIGHTS, metadata={"prompt_space": "pre_scale"})
    with pytest.raises(ValueError, match="lives in 'pre_scale', the models here take 'post_scale'"):
        peft.import_prompt(folder)

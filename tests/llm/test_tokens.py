"""The tokenizer of a checkpoint, and its end tokens."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nvcim_jax import llm
from tests.attacks.checkpoints import inside, text, told
from tests.helpers.make_golden import GOLDEN


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(GOLDEN / "llama", tmp_path / "llama")


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [61], "tokens": ["<s>"]}},
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (inside("tokenizer.json", "model", vocab={"<unk>": 0, "</s>": 2, "x": 61}), "token 'x' has the id 61, but the embedding has 61 rows"),
        (inside("tokenizer.json", "model", unk_token="absent"), "the tokenizer cannot encode and decode a text"),
        (told("tokenizer.json", post_processor=TEMPLATE), "the tokenizer adds the token 61, but the embedding has 61 rows"),
        (told("generation_config.json", eos_token_id=61), "generation_config.json: eos_token_id 61; allowed: tokens from 0 to 60"),
        (told("generation_config.json", eos_token_id=[2, -1]), "eos_token_id -1; allowed"),
        (told("generation_config.json", eos_token_id=True), "eos_token_id True; allowed"),
        (text("generation_config.json", "{"), "generation_config.json is damaged, no JSON"),
        (told("tokenizer_config.json", eos_token=...), "no token ends an answer: name the eos_token in tokenizer_config.json"),
        (told("tokenizer_config.json", gguf_file="../x.gguf"), "gguf_file names another file, which is not followed"),
        (told("special_tokens_map.json", fast_tokenizer_files=["../tokenizer.1.json"]), "fast_tokenizer_files names another file"),
        (text("tokenizer_config.json", "[]"), "tokenizer_config.json is damaged: it holds .., a JSON object is needed"),
        (told("tokenizer_config.json", padding_side="up"), "the tokenizer cannot be read"),
    ],
)  # fmt: skip
def test_a_tokenizer_that_cannot_serve_is_refused(folder, change, words):
    change(folder)
    with pytest.raises(llm.CheckpointError, match=f"{folder}.*{words}"):
        llm.load(folder)


def test_the_first_end_token_may_be_zero(folder):
    told("generation_config.json", eos_token_id=0)(folder)
    assert llm.load(folder).ends == (0,)


def test_a_tokenizer_without_an_end_token_gets_that_of_the_generation_defaults(folder):
    told("tokenizer_config.json", eos_token=...)(folder)
    told("generation_config.json", eos_token_id=[1, 2])(folder)
    model = llm.load(folder)
    assert model.ends == (1, 2)
    assert model.tokenizer.eos_token_id == 1


def test_an_end_token_that_the_tokenizer_lacks_is_told(folder):
    told("tokenizer_config.json", eos_token="<end>")(folder)
    with pytest.warns(UserWarning, match="tokenizer.json lacks the end token '<end>': it gets the id 3"):
        llm.load(folder)


def test_a_token_that_is_moved_is_told(folder):
    added = {
        "content": "new",
        "special": True,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
    }
    told("tokenizer.json", added_tokens=[added | {"id": 40}])(folder)
    with pytest.warns(UserWarning, match="of its tokens 1 get another id, such as 'new' 3 instead of 40"):
        llm.load(folder)


def test_a_tokenizer_of_another_kind_than_its_family_uses_is_refused(tmp_path):
    """Transformers makes byte pairs of a Qwen 2's words, and no text has a token any more."""
    folder = shutil.copytree(GOLDEN / "qwen2", tmp_path / "qwen2")
    shutil.copy(GOLDEN / "llama/tokenizer.json", folder)
    with pytest.raises(llm.CheckpointError, match="finds no token in a text"):
        llm.load(folder)


def test_code_beside_a_checkpoint_is_never_run(folder):
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Evil: pass\n")
    code = {"AutoConfig": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"], "AutoModelForCausalLM": "evil.Evil"}
    for file in ("config.json", "tokenizer_config.json"):
        told(file, auto_map=code)(folder)
    llm.load(folder)
    for change in (told("tokenizer_config.json", tokenizer_class="Evil"), told("config.json", model_type="evil")):
        change(folder)
        with pytest.raises(llm.CheckpointError, match="contains custom code|'evil' is not supported"):
            llm.load(folder)
    assert not (folder / "ran").exists()


def test_a_script_that_loads_a_model_prints_nothing_of_its_libraries():
    """Transformers has advice about PyTorch, rope parameters and end tokens, on its own streams."""
    script = f"from nvcim_jax import llm\nllm.load({str(GOLDEN / 'phi3_long')!r})"
    quiet = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_NO_ADVISORY_WARNINGS"}
    here = {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=quiet | here, check=True)
    assert done.stdout + done.stderr == ""


def test_transformers_speaks_again_afterwards(folder):
    from transformers.utils import logging

    before = logging.get_verbosity()
    llm.load(folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(llm.CheckpointError):
        llm.load(folder)
    assert logging.get_verbosity() == before

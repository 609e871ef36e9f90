"""Make tests/golden: small random checkpoints of every family, and what transformers with PyTorch says of them.

Run where torch is installed: `python tests/helpers/make_golden.py [name ...]`. The tests themselves read the files and need no
torch; where torch is installed they ask it again.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"
SEED, ROWS, TOKENS, PROMPT, PREFIX, NEW = 0, 2, 11, 3, 4, 32
_SIZES = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
_PLAIN = {name: value for name, value in _SIZES.items() if name != "num_key_value_heads"}
_LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
           "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip
_LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.3, 1.5],
         "long_factor": [1.0, 2.0, 4.0, 8.0]}  # fmt: skip

_SPECIAL = {"<unk>": 0, "<s>": 1, "</s>": 2}
_WORDS = {"type": "WordLevel", "vocab": _SPECIAL, "unk_token": "<unk>"}
# Transformers takes every tokenizer of a Qwen 2 for one of byte pairs, and finds no token in any text with words.
_LETTERS = {"type": "BPE", "vocab": _SPECIAL | {letter: 3 + at for at, letter in enumerate("abcdefghijklmnopqrstuvwxyz")},
            "merges": []}  # fmt: skip

# Name of a golden checkpoint -> model_type and what its configuration says.
CASES: dict[str, tuple[str, dict]] = {
    "llama": ("llama", _SIZES | {"attention_bias": True, "mlp_bias": True}),
    "llama3": ("llama", _SIZES | {"rope_parameters": _LLAMA3, "tie_word_embeddings": True}),
    "mistral": ("mistral", _SIZES | {"sliding_window": 5, "head_dim": 16}),
    "gemma": ("gemma", _SIZES | {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma2": ("gemma2", _SIZES | {"head_dim": 16, "sliding_window": 5, "query_pre_attn_scalar": 20,
                                   "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", _SIZES | {"num_hidden_layers": 2, "head_dim": 16, "sliding_window": 5,
                                        "sliding_window_pattern": 2, "query_pre_attn_scalar": 20}),
    "granite": ("granite", _SIZES | {"embedding_multiplier": 12.0, "attention_multiplier": 0.25,
                                     "residual_multiplier": 0.22, "logits_scaling": 8.0}),
    "olmo2": ("olmo2", _SIZES),
    "smollm3": ("smollm3", _SIZES | {"no_rope_layers": [1, 0, 1], "pad_token_id": None}),
    "phi": ("phi", _SIZES | {"num_key_value_heads": 4}),
    "phi3": ("phi3", _SIZES | {"pad_token_id": 0}),
    "phi3_long": ("phi3", _SIZES | {"pad_token_id": 0, "rope_parameters": _LONG, "original_max_position_embeddings": 8}),
    "gpt_neox": ("gpt_neox", _PLAIN),
    "gpt_neox_sequential": ("gpt_neox", _PLAIN | {"use_parallel_residual": False}),
    "opt": ("opt", _PLAIN | {"ffn_dim": 40, "word_embed_proj_dim": 32}),
    "opt_350m": ("opt", _PLAIN | {"ffn_dim": 40, "word_embed_proj_dim": 24, "do_layer_norm_before": False}),
    "stablelm": ("stablelm", _SIZES | {"use_qkv_bias": True}),
    "stablelm_parallel": ("stablelm", _SIZES | {"use_parallel_residual": True}),
    "qwen2": ("qwen2", _SIZES | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("qwen3", _SIZES | {"head_dim": 16, "tie_word_embeddings": True}),
    "gpt2": ("gpt2", {"vocab_size": 61, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
}  # fmt: skip


class Inputs(NamedTuple):
    """What every golden checkpoint is asked."""

    ids: np.ndarray  # [rows, tokens]
    prompt: np.ndarray  # [rows, prompt, dim], in front of the token embeddings
    keys: np.ndarray  # [rows, layers, prefix, kv_heads, head_dim]
    values: np.ndarray


def inputs(vocab_size: int, dim: int, layers: int, kv_heads: int, head_dim: int) -> Inputs:
    """Seeded inputs of the right shapes."""
    rng = np.random.default_rng(SEED)
    ids = rng.integers(3, vocab_size, (ROWS, TOKENS), dtype=np.int32)
    shape = (ROWS, layers, PREFIX, kv_heads, head_dim)
    prompt, keys, values = (rng.normal(size=s).astype(np.float32) for s in ((ROWS, PROMPT, dim), shape, shape))
    return Inputs(ids, prompt, keys, values)


def told_by_torch(folder: Path, given: Inputs) -> dict[str, np.ndarray]:
    """Logits for ids, behind a soft prompt and behind a prefix, and greedy tokens, of transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.tensor(given.ids, dtype=torch.long)
    decoder = getattr(model.base_model, "decoder", None)
    widen = getattr(decoder, "project_in", None)  # of OPT-350M, behind which our prompts live
    with torch.no_grad():
        words = model.get_input_embeddings()(ids)
        prompt = torch.tensor(given.prompt) / getattr(model.config, "embedding_multiplier", 1.0)  # Granite scales all
        embedded = torch.cat([prompt, widen(words) if widen else words], dim=1)
        cache = DynamicCache()
        for layer in range(given.keys.shape[1]):
            pair = (torch.tensor(part[:, layer]).transpose(1, 2) for part in (given.keys, given.values))
            cache.update(*pair, layer)
        told = {
            "ids": model(ids).logits.numpy(),
            "prefix": model(
                ids, past_key_values=cache, attention_mask=torch.ones(ROWS, PREFIX + TOKENS, dtype=torch.long)
            ).logits.numpy(),
            "greedy": model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW, eos_token_id=None,
                pad_token_id=0,
            )[:, TOKENS:].numpy().astype(np.int32),
        }  # fmt: skip
        if widen:
            decoder.project_in = None
        return told | {"prompt": model(inputs_embeds=embedded).logits.numpy()}


def make(name: str) -> None:
    """Write one checkpoint and its answers."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    family, told = CASES[name]
    config = AutoConfig.for_model(family, bos_token_id=1, eos_token_id=2, **told)
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for part, weight in model.named_parameters():  # large enough for every part to matter
            if "embed" in part or "wte" in part or "wpe" in part:
                size = 0.2  # small: tied embeddings would make a model repeat its last token for ever
            else:
                size = 2 * weight.shape[-1] ** -0.5 if weight.ndim == 2 else 2.0 if "post_feed" in part else 0.2
            weight.add_(torch.randn_like(weight) * size)
    folder = GOLDEN / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    words = {"version": "1.0", "added_tokens": [], "model": _LETTERS if family == "qwen2" else _WORDS}
    (folder / "tokenizer.json").write_text(json.dumps(words) + "\n")
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind) + "\n")
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    given = inputs(config.vocab_size, config.hidden_size, config.num_hidden_layers, kv_heads, head_dim)
    np.savez_compressed(folder / "expected.npz", **told_by_torch(folder, given))


ENCODER = "bert"  # of texts, beside the decoders of CASES
TEXTS = (
    "This is an example sentence",
    "Each sentence is converted",
    "caf\u00e9 na\u00efve, un-aff-able 42!",
    "a",
    "zzz " * 40,
)
_PIECES = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] this is an each sentence converted example cafe naive un ##aff ##able , - ! 42 a"
)


def embedded_by_torch(folder: Path, pooling: str) -> np.ndarray:
    """What transformers and sentence-transformers' pooling make of TEXTS, each alone, to 24 tokens."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer, found = AutoTokenizer.from_pretrained(folder), []
    with torch.no_grad():
        for text in TEXTS:
            given = tokenizer(text, return_tensors="pt", truncation=True, max_length=24)
            states = model(**given).last_hidden_state[0]
            vector = states[0] if pooling == "cls" else states.mean(dim=0)
            found.append(torch.nn.functional.normalize(vector, dim=0).numpy())
    return np.stack(found)


def make_encoder() -> None:
    """Write a small random BERT with the files of sentence-transformers, and its vectors under both poolings."""
    import torch
    from transformers import BertConfig, BertModel

    folder, pieces = GOLDEN / ENCODER, _PIECES.split()
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40,
        max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(SEED)
    model = BertModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    model.save_pretrained(folder)
    template = {"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}}], "pair": [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {word: {"id": word, "ids": [pieces.index(word)], "tokens": [word]} for word in ("[CLS]", "[SEP]")}}  # fmt: skip
    words = {
        "version": "1.0",
        "added_tokens": [
            {"id": at, "content": word, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for at, word in enumerate(pieces[:5])
        ],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                  "vocab": {word: at for at, word in enumerate(pieces)}},
    }  # fmt: skip
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    written = {
        "tokenizer.json": words,
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
        | {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
        "modules.json": [
            {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for at, (kind, path) in enumerate(modules)
        ],
        "sentence_bert_config.json": {"max_seq_length": 24, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": 32,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
        },
    }
    for name, value in written.items():
        (folder / name).write_text(json.dumps(value) + "\n")
    np.savez_compressed(folder / "expected.npz", **{way: embedded_by_torch(folder, way) for way in ("mean", "cls")})


if __name__ == "__main__":
    for name in sys.argv[1:] or [*CASES, ENCODER]:
        if name == ENCODER:
            make_encoder()
        else:
            make(name)
        size = sum(path.stat().st_size for path in (GOLDEN / name).iterdir())
        print(f"{name}: {size / 1e3:.0f} kB")

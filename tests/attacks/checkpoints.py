"""Bad checkpoint folders: small good ones with one thing changed."""

import json
import os
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from nvcim_jax import llm
from tests.helpers.attacks import Attack
from tests.helpers.make_golden import GOLDEN
from tests.llm.test_gptq import quantise_checkpoint

Spoil = Callable[[Path], None]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
UP = "model.layers.1.mlp.up_proj.weight"


class Loaded(NamedTuple):
    """A model that was taken, and the warnings on the way."""

    model: llm.Model
    warned: list[str]


def sound(loaded: Loaded) -> bool:
    """Finite logits for every kind of token, or a warning; and whatever the tokenizer gives is in the vocabulary."""
    model, rows = loaded.model, loaded.model.config.vocab_size
    ids = [0, 1, 2, rows - 1, *model.tokenizer("a text, an é").input_ids]
    if not all(0 <= token < rows for token in (*ids, *model.ends)):
        return False
    asked = [*ids, 0, 0, 0][: min(7, model.config.context)]  # one length, and little to compile
    scores = llm.logits(model.params, model.config, jnp.array([asked]))
    return bool(loaded.warned) or bool(np.isfinite(np.asarray(scores, np.float32)).all())


def every(folder: Path) -> Iterator[Attack]:
    """All attacks; each copies a golden checkpoint below `folder`, changes it and loads it."""
    groups = {"config": configs, "file": files, "header": headers, "values": values, "index": indices,
              "tokenizer": tokenizers, "ends": ends, "gptq": packed}  # fmt: skip
    for group, cases in groups.items():
        for count, (name, golden, spoil, options) in enumerate(cases()):
            yield Attack(f"{group}: {name}", run(folder / f"{group}{count}", golden, spoil, options))


def run(place: Path, golden: str, spoil: Spoil, options: dict) -> Callable[[], Loaded]:
    def attack():
        try:
            return load(copied(place, golden), spoil, options)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    return attack


def copied(place: Path, golden: str) -> Path:
    if golden.startswith("packed "):
        return quantise_checkpoint(GOLDEN / golden.removeprefix("packed "), place)[0]
    return Path(shutil.copytree(GOLDEN / golden, place / "model", ignore=shutil.ignore_patterns("*.npz")))


def load(folder: Path, spoil: Spoil, options: dict) -> Loaded:
    spoil(folder)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model = llm.load(folder, **options)
    return Loaded(model, [str(warning.message) for warning in warned])


# Changes


def told(file: str, **changes) -> Spoil:
    """Other values in a JSON object; `...` takes a field away."""

    def spoil(folder):
        path = folder / file
        fields = (json.loads(path.read_text()) if path.is_file() else {}) | changes
        path.write_text(json.dumps({name: value for name, value in fields.items() if value is not ...}))

    return spoil


def inside(file: str, name: str, **changes) -> Spoil:
    """Other values in an object inside one."""

    def spoil(folder):
        fields = json.loads((folder / file).read_text())
        fields[name] = {key: value for key, value in (fields[name] | changes).items() if value is not ...}
        (folder / file).write_text(json.dumps(fields))

    return spoil


def text(file: str, content: str | bytes) -> Spoil:
    return lambda folder: (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)


def cut(file: str, part: float) -> Spoil:
    def spoil(folder):
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: int(part * len(data))])

    return spoil


def instead(file: str, put: Callable[[Path], object]) -> Spoil:
    """Something else in the place of a file."""

    def spoil(folder):
        path = folder / file
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        put(path)

    return spoil


def linked(file: str, to: str) -> Spoil:
    return instead(file, lambda path: path.symlink_to(to))


def outside(file: str) -> Spoil:
    """The file itself is moved out, and a link put in its place."""

    def spoil(folder):
        (folder / file).rename(folder.parent / file)
        (folder / file).symlink_to(f"../{file}")

    return spoil


def weights(change: Callable[[dict], object]) -> Spoil:
    def spoil(folder):
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / WEIGHTS)

    return spoil


def entry(name: str, value) -> Spoil:
    """One value of a tensor; all of them for a function of the tensor."""

    def change(tensors):
        if callable(value):
            tensors[name] = value(tensors[name])
        else:
            tensors[name].reshape(-1)[3 % tensors[name].size] = value

    return weights(change)


def header(change: Callable[[dict], object] | bytes, length: int | None = None) -> Spoil:
    """Another header before the same data."""

    def spoil(folder):
        data = (folder / WEIGHTS).read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        if callable(change):
            fields = json.loads(data[8 : 8 + size])
            new = json.dumps(change(fields) or fields).encode()
        else:
            new = change
        head = struct.pack("<Q", len(new) if length is None else length)
        (folder / WEIGHTS).write_bytes(head + new + data[8 + size :])

    return spoil


def sharded(change: Callable[[dict], object] = lambda index: None, then: Spoil = lambda folder: None) -> Spoil:
    def spoil(folder):
        tensors = load_file(folder / WEIGHTS)
        parts = {f"model-0000{i}-of-00002.safetensors": dict(list(tensors.items())[i::2]) for i in range(2)}
        for file, part in parts.items():
            save_file(part, folder / file)
        (folder / WEIGHTS).unlink()
        index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
        (folder / INDEX).write_text(json.dumps(change(index) or index))
        then(folder)

    return spoil


# Cases: name, golden checkpoint, change, options of llm.load

NUMBERS = (None, True, "8", "x", [], {}, -1, 0, 3, 2.5, 10**9, 10**30, float("nan"), float("inf"), -1e300, 1e-300)
FIELDS = {
    "llama": ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
              "num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "rope_theta"),
    "gemma2": ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "sliding_window"),
    "gpt2": ("n_embd", "n_layer", "n_head", "n_inner", "n_positions", "layer_norm_epsilon"),
    "opt": ("word_embed_proj_dim", "ffn_dim"),
    "stablelm": ("layer_norm_eps", "partial_rotary_factor"),
    "phi3_long": ("original_max_position_embeddings",),
    "qwen2": ("max_window_layers",),
}  # fmt: skip
ROPES = {
    "llama": ("rope_theta", "partial_rotary_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "phi3_long": ("attention_factor", "factor"),
}
WORDS = (None, 5, True, [], {}, "", "x" * 10**5, "\x1b[31m", "llama\n", "../llama")


def configs():
    for golden, names in FIELDS.items():
        for name in names:
            for value in NUMBERS:
                yield f"{golden}: {name} = {value}", golden, told("config.json", **{name: value}), {}
    for golden, names in ROPES.items():
        for name in names:
            for value in NUMBERS:
                change = inside("config.json", "rope_parameters", **{name: value})
                yield f"{golden}: rope {name} = {value}", golden, change, {}
    for name in ("model_type", "hidden_act", "tie_word_embeddings", "attention_bias", "rope_parameters", "layer_types"):
        for value in WORDS:
            yield f"{name} = {str(value)[:20]}", "llama", told("config.json", **{name: value}), {}
    for name in ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "rope_parameters", "rms_norm_eps"):
        yield f"{name} taken away", "llama", told("config.json", **{name: ...}), {}
    for kind in ("yarn", "dynamic", "linear", "llama3", "longrope", "proportional", "", 5, None, ["default"]):
        yield f"rope type {kind}", "llama", inside("config.json", "rope_parameters", rope_type=kind), {}
        yield f"old rope type {kind}", "llama", told("config.json", rope_scaling={"type": kind, "factor": 2.0}), {}
    for value in (
        [],
        [1.0],
        [0.0] * 4,
        [1.0, "2", 3.0, 4.0],
        [-1.0] * 4,
        [float("nan")] * 4,
        [1e-40] * 4,
        5,
        None,
        [True] * 4,
    ):
        for name in ("short_factor", "long_factor"):
            yield f"{name} = {value}", "phi3_long", inside("config.json", "rope_parameters", **{name: value}), {}
    for high in (1.0, 0.5):
        yield "llama3 low over high", "llama3", inside("config.json", "rope_parameters", high_freq_factor=high), {}
    for value in (["sliding_attention"], ["x"] * 3, [5] * 3, "sliding_attention", ["full_attention"] * 10**4):
        for golden in ("qwen2", "gemma2", "mistral"):
            yield f"{golden}: layer_types {str(value)[:30]}", golden, told("config.json", layer_types=value), {}
    nested = {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default"},
    }
    for golden in ("llama", "gemma2", "qwen2"):
        yield f"{golden}: rope per layer type", golden, told("config.json", rope_parameters=nested), {}
    for name, value in {
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
        "configuration_files": ["config.9.9.9.json"],
        "per_layer_config": {"0": {"num_attention_heads": 2}},
        "attribute_map": {"rms_norm_eps": "x"},
        "dtype": "no_such_type",
        "torch_dtype": {},
        "id2label": {"a": "b"},
        "name_or_path": 5,
        "_name_or_path": ["x"],
        "__class__": "int",
        "to_dict": 1,
        "tokenizer_class": 5,
        "architectures": 5,
        "eos_token_id": 10**9,
        "pad_token_id": "x",
        "transformers_version": "x",
        "quantization_config": "gptq",
        "attn_implementation": "flash",
        "output_attentions": 7,
    }.items():  # fmt: skip
        yield f"{name} = {value}", "llama", told("config.json", **{name: value}), {}


def files():
    deep = "[" * 10**5 + "]" * 10**5
    whole = {
        "a list": "[]", "a number": "5", "a text": '"llama"', "null": "null", "nothing": "", "half": '{"model_type": "lla',
        "not UTF-8": b'{"model_type": "\xff\xfe"}', "UTF-16": '{"model_type": "llama"}'.encode("utf-16"),
        "deep": '{"model_type": ' + deep + "}", "many digits": '{"vocab_size": ' + "9" * 10**5 + "}",
        "a float without end": '{"rms_norm_eps": 1e999}', "lone surrogate": '{"model_type": "\\ud800"}',
        "zeros": b"\x00" * 1000, "huge": '{"x": "' + "x" * 2**28 + '"}', "empty object": "{}",
    }  # fmt: skip
    for name, content in whole.items():
        yield f"config.json: {name}", "llama", text("config.json", content), {}
        if name != "huge":
            yield f"quantize_config.json: {name}", "llama", text("quantize_config.json", content), {}
    for file in ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"):
        yield f"{file} gone", "llama", instead(file, lambda path: None), {}
        yield f"{file} a folder", "llama", instead(file, Path.mkdir), {}
        yield f"{file} a pipe", "llama", instead(file, os.mkfifo), {}
        yield f"{file} a link to itself", "llama", linked(file, file), {}
        yield f"{file} a link to nothing", "llama", linked(file, "nothing"), {}
        yield f"{file} a link to a device", "llama", linked(file, "/dev/zero"), {}
        yield f"{file} a link out", "llama", outside(file), {}
        yield f"{file} a link to a system file", "llama", linked(file, "/etc/passwd"), {}
    yield "a tree of links within", "llama", _within, {}
    yield "weights as pickles", "llama", lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"), {}
    yield "two files without an index", "llama", _two, {}


def _within(folder):
    for path in list(folder.iterdir()):
        path.rename(folder / f"real-{path.name}.x")
        path.symlink_to(f"real-{path.name}.x")


def _two(folder):
    shutil.copy(folder / WEIGHTS, folder / "a.safetensors")
    (folder / WEIGHTS).rename(folder / "b.safetensors")


def headers():
    for part in (0, 0.0001, 0.01, 0.03, 0.05, 0.1, 0.5, 0.9, 0.999, 0.99999):
        yield f"cut at {part}", "llama", cut(WEIGHTS, part), {}
    yield "longer by some bytes", "llama", lambda folder: _append(folder / WEIGHTS, b"more"), {}
    for length in (0, 1, 2**31, 2**63, 2**64 - 1):
        yield f"header of {length} bytes", "llama", header(lambda fields: None, length), {}
    for content in (b"", b"{", b"[]", b"5", b"null", b"\xff" * 50, b"[" * 10**5, b'{"a": 5}', b'{"a": {}}', b"{}"):
        yield f"header {content[:20]}", "llama", header(content), {}

    def field(name, value, tensor=UP):
        return header(lambda fields: fields[tensor].update({name: value}))

    for kind in ("F64", "F16", "I32", "I64", "U8", "BOOL", "F8_E4M3", "C64", "F4", "X", "", 5, None, []):
        yield f"type {kind}", "llama", field("dtype", kind), {}
    for shape in ([], [0], [1280], [32, 40], [40, 32, 1], [1, 40, 32], [40, 33], [-40, 32], [2**63, 2**63], ["40", 32],
                  [40.5, 32], None, 5, [2**40, 2**40]):  # fmt: skip
        yield f"shape {shape}", "llama", field("shape", shape), {}
    for offsets in ([0, 0], [0, 2**62], [-1, 5], [5, 1], [0], [], None, "x", [0, 5120], [2**64, 2**65]):
        yield f"offsets {offsets}", "llama", field("data_offsets", offsets), {}
    yield "metadata that is none", "llama", header(lambda fields: fields.update(__metadata__=5)), {}
    yield "a name of controls", "llama", header(lambda fields: fields.update({"\x1b[2J\n": fields.pop(UP)})), {}
    yield "a name of a mile", "llama", header(lambda fields: fields.update({"x" * 10**6: fields.pop(UP)})), {}
    for kind in (np.int32, np.int64, np.int8, np.uint8, np.bool_, np.uint16, np.complex64):
        yield f"{kind.__name__} weights", "llama", entry(UP, lambda value, kind=kind: value.astype(kind)), {}
    for kind in (np.float16, np.float64, jnp.bfloat16):
        yield f"{jnp.dtype(kind).name} weights", "llama", entry(UP, lambda value, kind=kind: value.astype(kind)), {}
    turns = {"turned": lambda v: v.T, "flat": lambda v: v.reshape(-1), "a row more": lambda v: np.concatenate([v, v[:1]]),
             "a row less": lambda v: v[:-1], "empty": lambda v: v[:0], "one more axis": lambda v: v[None],
             "a scalar": lambda v: v[0, 0]}  # fmt: skip
    fused = {"llama": UP, "phi3": "model.layers.0.self_attn.qkv_proj.weight", "gpt2": "transformer.h.0.attn.c_attn.weight",
             "gpt_neox": "gpt_neox.layers.0.attention.query_key_value.weight"}  # fmt: skip
    for golden, name in fused.items():
        for how, turn in turns.items():
            yield f"{golden}: {name.split('.')[-2]} {how}", golden, entry(name, turn), {}
    yield "phi3 with fewer key heads", "phi3", told("config.json", num_key_value_heads=1), {}
    yield "gpt2 with a feed-forward less wide", "gpt2", told("config.json", n_inner=64), {}
    yield "phi3 with a feed-forward less wide", "phi3", told("config.json", intermediate_size=20), {}
    yield "phi3 with heads less wide", "phi3", told("config.json", head_dim=4), {}
    yield "a layer gone", "llama", weights(lambda t: [t.pop(name) for name in list(t) if ".layers.1." in name]), {}
    yield "a layer of number 10^8", "llama", weights(lambda t: _renumber(t, ".layers.2.", ".layers.100000000.")), {}
    table = "model.embed_tokens.weight"
    for what, turn in {"another": lambda v: v + 1, "of bytes": lambda v: v.astype(np.uint8), "flat": lambda v: v.reshape(-1),
                       "of complex numbers": lambda v: v.astype(np.complex64), "a scalar": lambda v: v[0, 0]}.items():  # fmt: skip
        head = weights(lambda t, turn=turn: t.update({"lm_head.weight": turn(t[table])}))
        yield f"a tied head that is {what}", "llama3", head, {}
    yield "all gone", "llama", weights(dict.clear), {}


def _append(path, data):
    path.write_bytes(path.read_bytes() + data)


def _renumber(tensors, old, new):
    for name in list(tensors):
        tensors[name.replace(old, new)] = tensors.pop(name)


PLACES = {
    "llama": ("model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", UP, "lm_head.weight",
              "model.layers.2.self_attn.q_proj.bias", "model.norm.weight"),
    "gemma": ("model.embed_tokens.weight", "model.norm.weight"),
    "gpt2": ("transformer.wpe.weight", "transformer.h.0.attn.c_attn.weight", "transformer.ln_f.bias"),
}  # fmt: skip


def values():
    for golden, names in PLACES.items():
        for name in names:
            for value in (np.nan, np.inf, -np.inf, 1e38, -1e30, 60000.0):
                yield f"{golden}: {name} has {value}", golden, entry(name, value), {}
            everywhere = {
                "zeros": np.zeros_like,
                "-1": lambda v: -np.ones_like(v),
                "6e4": lambda v: np.full_like(v, 6e4),
            }
            for what, fill in everywhere.items():
                yield f"{golden}: {name} is {what}", golden, entry(name, fill), {}
    for value in (np.nan, np.inf, 1e38):
        yield f"{value} loaded as bfloat16", "llama", entry(UP, value), {"dtype": "bfloat16"}
    for value in (1e39, 1e300, -1e300):
        change = weights(lambda t, value=value: t.update({UP: np.full((40, 32), value)}))
        yield f"{value} in float64", "llama", change, {}
        yield f"{value} in float64 loaded as bfloat16", "llama", change, {"dtype": "bfloat16"}
    yield "zeros everywhere", "llama", weights(lambda t: t.update({k: v * 0 for k, v in t.items()})), {}
    for kind in (np.float16, jnp.bfloat16):
        infinite = entry(UP, lambda value, kind=kind: np.full_like(value, np.inf).astype(kind))
        yield f"infinity in {jnp.dtype(kind).name}", "llama", infinite, {}


def indices():
    yield "two shards", "llama", sharded(), {}

    def place(file):
        return lambda index: index["weight_map"].update({UP: file})

    for file in ("", ".", "..", "../x.safetensors", "/etc/passwd", "a/../x.safetensors", "model", "config.json", "~",
                 "x" * 300, "\x00", "\x1b[2J.safetensors", None, 5, [], {}, "http://x/y.safetensors"):  # fmt: skip
        yield f"a shard called {str(file)[:20]!r}", "llama", sharded(place(file)), {}
    for value in ([], 5, None, {}, "x", [["a", "b"]], {UP: 5}):
        yield f"a map that is {value}", "llama", sharded(lambda index, value=value: {"weight_map": value}), {}
    for content in ("[]", "{", "5", "", "null", b"\xff"):
        yield f"an index {content}", "llama", sharded(then=text(INDEX, content)), {}
    first = "model-00000-of-00002.safetensors"
    yield "a shard that is a link out", "llama", sharded(then=outside(first)), {}
    yield "a shard outside", "llama", sharded(
        lambda index: json.loads(json.dumps(index).replace(first, f"../{first}")),
        lambda folder: (folder / first).rename(folder.parent / first),
    ), {}  # fmt: skip
    yield "a shard that is a device", "llama", sharded(then=linked(first, "/dev/zero")), {}
    yield "a shard that is a pipe", "llama", sharded(then=instead(first, os.mkfifo)), {}
    yield "a shard gone", "llama", sharded(then=instead(first, lambda path: None)), {}
    yield "a shard cut", "llama", sharded(then=cut(first, 0.9)), {}
    yield "tensors in the wrong shard", "llama", sharded(place(first)), {}
    yield "a tensor left out", "llama", sharded(lambda index: index["weight_map"].pop(UP) and None), {}
    yield "a tensor that is nowhere", "llama", sharded(lambda index: index["weight_map"].update(stray=first)), {}


def tokenizers():
    word = {"<unk>": 0, "<s>": 1, "</s>": 2}

    def vocabulary(**changes):
        return inside("tokenizer.json", "model", **changes)

    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        for content in ("", "{", "[]", "5", "null", "{}", b"\xff\xfe", "[" * 10**5, '"x"', '{"a": NaN}'):
            yield f"{file}: {content[:10]}", "llama", text(file, content), {}
    yield "tokenizer.json cut", "llama", cut("tokenizer.json", 0.7), {}
    for vocab in ({}, {"<unk>": -1}, {"<unk>": 2**32}, {"<unk>": 1.5}, {"<unk>": "0"}, [], None, word | {"x": 61},
                  word | {"x": 10**6}, word | {"x": 2**32 - 1}, {"<unk>": 0, "</s>": 0}, {"<unk>": 70, "</s>": 71}):  # fmt: skip
        yield f"vocabulary {vocab}", "llama", vocabulary(vocab=vocab), {}
    for changes in ({"unk_token": "absent"}, {"unk_token": None}, {"unk_token": 5}, {"type": "Martian"}, {"type": 5},
                    {"type": "BPE"}, {"type": "Unigram"}, {"type": "WordPiece"}, {"type": ...}, {"vocab": ...}):  # fmt: skip
        yield f"model {changes}", "llama", vocabulary(**changes), {}
    unigram = {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.0]], "unk_id": 7}
    yield "an unknown token beyond", "llama", told("tokenizer.json", model=unigram), {}
    added = {
        "content": "new",
        "special": True,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
    }
    for number in (3, 60, 61, 10**6, 2**32 - 1, -1, "x", None):
        yield f"an added token {number}", "llama", told("tokenizer.json", added_tokens=[added | {"id": number}]), {}
    post = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}  # fmt: skip
    for number in (1, 61, 10**6, 2**32 - 1):
        template = json.loads(json.dumps(post).replace("[1]", f"[{number}]"))
        yield f"a template's token {number}", "llama", told("tokenizer.json", post_processor=template), {}
    for name in (
        "normalizer",
        "pre_tokenizer",
        "post_processor",
        "decoder",
        "truncation",
        "padding",
        "added_tokens",
        "version",
    ):
        for value in (5, {"type": "Martian"}, [], "x"):
            yield f"{name} = {value}", "llama", told("tokenizer.json", **{name: value}), {}
    short = {"max_length": 1, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    yield "texts cut to one token", "llama", told("tokenizer.json", truncation=short), {}
    fill = {
        "strategy": {"Fixed": 10**7},
        "direction": "Right",
        "pad_to_multiple_of": 0,
        "pad_id": 99,
        "pad_type_id": 0,
        "pad_token": "x",
    }
    yield "texts filled to 10^7 tokens", "llama", told("tokenizer.json", padding=fill), {}
    for name, options in {
        "eos_token": (None, 5, True, [], {}, "absent", "", {"content": "</s>"}, {"content": 5}, {"__type": "AddedToken"}),
        "pad_token": ("absent", 5, []),
        "tokenizer_class": (5, None, "Martian", "LlamaTokenizer", "GPT2Tokenizer", "T5Tokenizer", "BertTokenizer", "os.system", "../x", []),
        "auto_map": ({"AutoTokenizer": ["evil.Tokenizer", None]}, ["evil.Tokenizer", None], 5, "x", {"AutoTokenizer": 5}),
        "added_tokens_decoder": ({"61": added}, {"-1": added}, {"x": added}, {"5": 5}, [], 5, {"9999999999": added}),
        "extra_special_tokens": (5, "x", {"a": "b"}, [5], ["new"] * 3, [f"t{i}" for i in range(100)]),
        "model_max_length": ("x", -1, None, 10**40),
        "gguf_file": ("../x.gguf", 5),
        "fast_tokenizer_files": (["../tokenizer.0.0.1.json"], 5),
        "vocab_file": ("/etc/passwd", 5),
        "tokenizer_file": ("/etc/passwd", "../tokenizer.json"),
        "init_inputs": ([5], "x", {"a": 1}),
        "chat_template": (5, [], {"a": 5}, "{{ 1/0 }}"),
        "padding_side": ("up", 5),
        "add_prefix_space": ("x",),
        "vocab": ({"a": 10**6}, 5),
        "tokenizer_object": (5, "x"),
        "backend": (5,),
        "name_or_path": ("../x", 5),
    }.items():  # fmt: skip
        for value in options:
            yield (
                f"tokenizer_config.json: {name} = {str(value)[:40]}",
                "llama",
                told("tokenizer_config.json", **{name: value}),
                {},
            )
    yield "an eos_token in two files", "llama", told("special_tokens_map.json", eos_token="<s>"), {}
    yield "a gguf_file in the special tokens", "llama", told("special_tokens_map.json", gguf_file="../x"), {}
    yield "added tokens beyond", "llama", told("added_tokens.json", new=61), {}
    yield "added tokens far beyond", "llama", told("added_tokens.json", new=10**9), {}

    def other(vocab, merges=None, model=None):
        def spoil(folder):
            (folder / "tokenizer.json").unlink()
            for file, content in (("vocab.json", vocab), ("merges.txt", merges), ("tokenizer.model", model)):
                if content is not None:
                    (folder / file).write_bytes(content)

        return spoil

    letters = json.dumps(word | {letter: 3 + at for at, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}).encode()
    for vocab in (letters, b"", b"{", b"[]", b"5", b'{"a": "b"}', b'{"a": -1}', b'{"a": 100}'):
        for merges in (None, b"", b"#version: 0.2\n", b"a\n", b"a b c\n", b"\xff", b"q zz\n"):
            yield f"vocab.json {vocab[:9]}, merges.txt {merges}", "gpt2", other(vocab, merges), {}
    for model in (b"", b"\x00" * 100, b"\xff" * 100, b"IQ== 0\n", b"IQ== 100\n"):
        yield f"tokenizer.model {model[:9]}", "llama", other(None, None, model), {}
    yield "a vocabulary larger than the table", "llama", told("config.json", vocab_size=2), {}


def ends():
    for value in (
        None,
        [],
        0,
        2,
        60,
        61,
        -1,
        10**30,
        "2",
        2.0,
        True,
        [2, "x"],
        [61],
        {},
        [[2]],
        [2] * 1000,
        [None],
        [2, 7],
    ):
        yield f"eos_token_id {str(value)[:20]}", "llama", told("generation_config.json", eos_token_id=value), {}
    for content in (
        "",
        "{",
        "[]",
        "5",
        "null",
        b"\xff",
        "{}",
        '{"temperature": -5}',
        '{"eos_token_id": NaN}',
        "[" * 10**5,
    ):
        yield f"generation_config.json {content[:20]}", "llama", text("generation_config.json", content), {}
    yield "no end token at all", "llama", told("tokenizer_config.json", eos_token=...), {}

    def only(folder):
        told("tokenizer_config.json", eos_token=...)(folder)
        told("generation_config.json", eos_token_id=2)(folder)

    yield "an end token of the generation only", "llama", only, {}
    yield "no words at all", "llama", instead("tokenizer.json", lambda path: None), {}


def packed():
    key = "model.layers.1.mlp.up_proj"
    for options in ({}, {"dequantise": "lazy"}):
        how = "kept" if options else "dequantised"

        def case(name, spoil, how=how, options=options):
            return f"{how}: {name}", "packed llama", spoil, options

        for value in (4, 10**6, -1, -(2**31), 2**31 - 1):
            yield case(f"group {value}", entry(f"{key}.g_idx", value))
        for value in (np.nan, np.inf, -np.inf, -0.5, 0.0, 65504.0):
            yield case(f"scale {value}", entry(f"{key}.scales", value))
        yield case("scales of zero", entry(f"{key}.scales", np.zeros_like))
        yield case("scales of zero in a fused part", entry("model.layers.0.self_attn.k_proj.scales", np.zeros_like))
        for leaf in ("qweight", "qzeros", "scales", "g_idx"):
            yield case(f"{leaf} gone", weights(lambda t, leaf=leaf: t.pop(f"{key}.{leaf}")))
            yield case(f"{leaf} shorter", entry(f"{key}.{leaf}", lambda value: value[:-1]))
            yield case(f"{leaf} longer", entry(f"{key}.{leaf}", lambda value: np.concatenate([value, value])))
            yield case(
                f"{leaf} turned", entry(f"{key}.{leaf}", lambda value: value.T if value.ndim > 1 else value[None])
            )
            for kind in (np.float32, np.int64, np.uint8, np.float64):
                yield case(
                    f"{leaf} as {kind.__name__}", entry(f"{key}.{leaf}", lambda value, kind=kind: value.astype(kind))
                )
        for name, choices in {
            "bits": (None, 0, 3, 4.0, "4", True, 8, 2**40, -4),
            "group_size": (None, 0, -1, -2, "8", 8.0, 7, 10**30, True, 16),
            "quant_method": (None, 5, "awq", [], {}),
            "checkpoint_format": (None, 5, "marlin", [], "gptq_v2"),
            "dynamic": ({"+:.*up.*": {"bits": 8}}, []),
        }.items():  # fmt: skip
            for value in choices:
                yield case(f"{name} = {value}", inside("config.json", "quantization_config", **{name: value}))
        yield case("no description", told("config.json", quantization_config=...))
        for value in ([], "gptq", 5, {}):
            yield case(f"description {value}", told("config.json", quantization_config=value))
    yield "a plain model kept", "llama", lambda folder: None, {"dequantise": "lazy"}
    yield (
        "a plain model called packed",
        "llama",
        told("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        {},
    )

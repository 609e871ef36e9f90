"""A PEFT adapter that somebody forged or a disk damaged is read with finite values, or refused in one sentence."""

import os
import shutil
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from tests.attacks.checkpoints import cut, instead, linked, outside, text, told
from tests.helpers.attacks import Attack, outcomes
from tests.tuning.test_peft import KINDS, read, written

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
VALUES = (None, True, "4", "x", [], {}, -1, 0, 3, 2.5, 10**9, 10**400, float("nan"), float("inf"), 1e300, 1e-300)
NUMBERS = {
    "prompt": ("num_virtual_tokens", "token_dim"),
    "prefix": ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim", "num_transformer_submodules"),
    "lora": ("r", "lora_alpha", "use_rslora", "bias", "init_lora_weights", "target_modules"),
    "ia3": ("target_modules", "feedforward_modules", "modules_to_save"),
}


def every(folder: Path):
    for kind in KINDS:
        whole = written(folder / f"whole-{kind}", kind)
        for count, (name, spoil) in enumerate(cases(kind)):
            place = folder / f"{kind}{count}/adapter"

            def attack(whole=whole, place=place, spoil=spoil, kind=kind):
                shutil.copytree(whole, place)
                spoil(place)
                return read(place, kind)

            yield Attack(f"{kind}: {name}", attack)


def cases(kind: str):
    for name in ("peft_type", *NUMBERS[kind]):
        for value in VALUES:
            yield f"{name} = {str(value)[:20]}", told(CONFIG, **{name: value})
    for content in ("", "{", "[]", "5", "null", '"peft_type"', b"\xff", "[" * 10**5, '{"peft_type": NaN}', "{}"):
        yield f"config {content[:10]}", text(CONFIG, content)
    for file in (CONFIG, WEIGHTS):
        yield f"{file} gone", instead(file, lambda path: None)
        yield f"{file} a folder", instead(file, Path.mkdir)
        yield f"{file} a pipe", instead(file, os.mkfifo)
        yield f"{file} a link to itself", linked(file, file)
        yield f"{file} a link to a device", linked(file, "/dev/zero")
        yield f"{file} a link out", outside(file)
    for part in (0, 0.01, 0.1, 0.5, 0.99):
        yield f"weights cut at {part}", cut(WEIGHTS, part)
    for value in (np.nan, np.inf, -1e38, 1e300):
        yield f"a value of {value}", tensors(lambda v, value=value: np.full(v.shape, value))
    for wide in (np.int32, np.int8, np.bool_, np.float64, np.float16, np.complex64):
        yield f"{wide.__name__} values", tensors(lambda v, wide=wide: v.astype(wide))
    for what, turn in {
        "empty": lambda v: v[:0],
        "flat": lambda v: v.reshape(-1),
        "longer": lambda v: np.concatenate([v, v]),
    }.items():
        yield f"{what} tensors", tensors(turn)


def tensors(change):
    def spoil(folder):
        held = load_file(folder / WEIGHTS)
        save_file({name: np.ascontiguousarray(change(value)) for name, value in held.items()}, folder / WEIGHTS)

    return spoil


def finite(made) -> bool:
    """Every array of what was read, and every number of its method."""
    leaves = [leaf for leaf in jax.tree.leaves(made) if hasattr(leaf, "dtype")]
    method = (
        [value for value in vars(made[0]).values() if isinstance(value, float)] if hasattr(made[0], "__dict__") else []
    )
    return bool(leaves) and all(np.isfinite(np.float32(leaf)).all() for leaf in (*leaves, *method))


def test_every_adapter_is_sound_or_refused(tmp_path):
    counts = outcomes(every(tmp_path), refusals=(ValueError,), is_sound=finite)
    assert counts.total() > 400

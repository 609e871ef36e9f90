"""What is digested of settings hangs on no class name, no order of fields and no `repr`."""

import json
from dataclasses import dataclass, make_dataclass
from functools import partial

import pytest

from nvcim_jax import tuning
from nvcim_jax.description import described
from nvcim_jax.llm.config import Config, Packed, Rope
from nvcim_jax.llm.fingerprint import description_1, later
from nvcim_jax.pipeline.presets import PRESETS, RECOMMENDED, mitigated


def scale(x, *, by):
    return x * by


def test_by_hand():
    @dataclass(frozen=True)
    class Wheel:
        spokes: int
        colour: str = "black"
        size: tuple[float, ...] = (1.0, 2.0)

    names = {Wheel: "wheel", scale: "scaled"}
    assert described(Wheel(3), names) == {"kind": "wheel", "spokes": 3}
    assert described(Wheel(3, size=(2.0,)), names) == {"kind": "wheel", "spokes": 3, "size": [2.0]}
    assert described(partial(scale, by=2), names) == {"function": "scaled", "with": {"by": 2}}
    assert described(scale, {}).endswith(":scale")  # a function of a user's own
    with pytest.raises(TypeError, match="a set has no description"):
        described({1}, names)


def test_a_renamed_class_and_fields_in_another_order_change_nothing():
    one = make_dataclass("One", [("a", int), ("b", int)])
    other = make_dataclass("Other", [("b", int), ("a", int)])
    told = [json.dumps(described(made(a=1, b=2), {made: "pair"}), sort_keys=True) for made in (one, other)]
    assert told[0] == told[1]


def test_every_part_of_a_preset_has_a_name_on_disk():
    for settings in (
        *PRESETS.values(),
        *(mitigated(RECOMMENDED, name) for name in ("none", "swv", "cxdnn", "correctnet")),
    ):
        assert ":" not in json.dumps(settings.described()).replace('": ', "")
    for method in (tuning.Prompt(), tuning.CodePrompt(), tuning.Dept(), tuning.Prefix(), tuning.Lora(), tuning.Ia3()):
        assert ":" not in described(method, tuning.NAMES)["kind"]


def test_a_models_description_is_the_one_of_the_first_releases():
    """To the letter: banks hold its digest."""
    config = Config(
        vocab_size=5, dim=8, hidden_dim=16, layers=1, heads=2, kv_heads=1, head_dim=4, context=64, norm_eps=1e-05,
        tied=True, rope=None, windows=(None,), packed=Packed(4, 32, "gptq"), norm_after=True,
    )  # fmt: skip
    assert description_1(config) == (
        "Config(vocab_size=5, dim=8, hidden_dim=16, layers=1, heads=2, kv_heads=1, head_dim=4, context=64, "
        "norm_eps=1e-05, tied=True, rope=None, position_offset=0, norm='rms', norm_out=False, norm_qk=False, "
        "parallel=False, shared_norm=False, activation='silu', gated=True, qkv_bias=False, out_bias=False, "
        "mlp_bias=False, head_bias=False, attention_scale=None, attention_cap=None, logit_cap=None, "
        "windows=(None,), embedding_scale=1.0, packed=Packed(bits=4, group=32, checkpoint_format='gptq'))"
    )


def test_what_no_weight_tells_of_a_model_is_described_where_it_is_not_the_default():
    sizes = {"vocab_size": 5, "dim": 8, "hidden_dim": 16, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 4,
             "context": 64, "norm_eps": 1e-05, "tied": True, "rope": None}  # fmt: skip
    assert later(Config(**sizes)) == later(Config(**sizes, norm_in=False, norm_qk_whole=True)) == ""
    granite = Config(**sizes, residual_scale=0.5, logit_scale=0.125, unturned=(3,), local_rope=Rope((1.0,)))
    assert later(granite) == (
        "(residual_scale=0.5, logit_scale=0.125, unturned=(3,), "
        "local_rope=Rope(frequencies=(1.0,), scale=1.0, long_frequencies=(), original_context=0))"
    )

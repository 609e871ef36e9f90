"""Config of each model family, from the fields of its config.json."""

from pathlib import Path
from typing import Any

from nvcim_jax.llm import fields, gptq, huggingface
from nvcim_jax.llm.config import CheckpointError, Config, Packed
from nvcim_jax.llm.fields import LAYER_TYPES, MOST_WIDTH
from nvcim_jax.llm.folder import read_object
from nvcim_jax.llm.rope import rope

ACTIVATIONS = {
    "silu": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def read(folder: Path) -> tuple[Config, Packed | None, Any]:
    """The Config of a checkpoint folder, how GPTQ packed its weights (None: not at all), and what transformers knows.

    Raises CheckpointError for a field out of its range, and for a family, rope type, activation, packing or variant
    that is not built here.
    """
    path, beside = folder / "config.json", folder / "quantize_config.json"
    told = read_object(path)
    if not told.get("quantization_config") and beside.is_file():
        told["quantization_config"] = read_object(beside)
    try:
        return configured(told, folder)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def configured(told: dict, where: Path) -> tuple[Config, Packed | None, Any]:
    """As `read`, from the fields of a config.json, of a checkpoint that lies at `where`."""
    found = fields.known(told)
    words = found.pop("quantization_config", None)
    family = found.get("model_type")
    if family not in FAMILIES:
        raise CheckpointError(f"model_type {family!r} is not supported; known: {', '.join(FAMILIES)}")
    hf = huggingface.configuration(found | {"name_or_path": str(where)})
    config = FAMILIES[family](hf)
    _check_heads(config)
    return config, gptq.packed(words) if words else None, hf


def _check_heads(c: Config) -> None:
    if c.heads % c.kv_heads:
        raise CheckpointError(f"num_attention_heads {c.heads} does not divide by num_key_value_heads {c.kv_heads}")
    if c.heads * c.head_dim > MOST_WIDTH:
        raise CheckpointError(f"{c.heads} heads of {c.head_dim} values; at most {MOST_WIDTH} values are allowed in all")


def _require(hf, **allowed) -> None:
    """Refuse variants of a family that nobody has built here, by name."""
    for name, known in allowed.items():
        value = getattr(hf, name, known[0])
        if value not in known:
            raise CheckpointError(f"{name} {value!r} is not supported; known: {', '.join(map(str, known))}")


def _activation(name: str) -> str:
    if name not in ACTIVATIONS:
        raise CheckpointError(f"activation {name!r} is not supported; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _head_dim(hf) -> int:
    if hf.hidden_size % hf.num_attention_heads:
        raise CheckpointError(
            f"hidden size {hf.hidden_size} does not divide by num_attention_heads {hf.num_attention_heads}"
        )
    return hf.hidden_size // hf.num_attention_heads


def _sizes(hf, **differences) -> dict:
    """What most families spell alike."""
    head_dim = getattr(hf, "head_dim", None) or _head_dim(hf)
    return {
        "vocab_size": hf.vocab_size,
        "dim": hf.hidden_size,
        "hidden_dim": hf.intermediate_size,
        "layers": hf.num_hidden_layers,
        "heads": hf.num_attention_heads,
        "kv_heads": getattr(hf, "num_key_value_heads", None) or hf.num_attention_heads,
        "head_dim": head_dim,
        "context": hf.max_position_embeddings,
        "norm_eps": hf.rms_norm_eps if hasattr(hf, "rms_norm_eps") else hf.layer_norm_eps,
        "tied": bool(hf.tie_word_embeddings),
        "rope": None if "rope" in differences else rope(_one_rule(hf), hf, head_dim),
        "activation": _activation(hf.hidden_act if hasattr(hf, "hidden_act") else hf.hidden_activation),
    } | differences


def _one_rule(hf) -> dict:
    """The rope parameters of a family whose layers turn alike."""
    told = hf.rope_parameters
    if any(told.get(kind) for kind in LAYER_TYPES):
        raise CheckpointError("rope parameters for each kind of layer are not supported in this family")
    return told


def _llama(hf) -> Config:
    bias = bool(hf.attention_bias)
    return Config(**_sizes(hf, qkv_bias=bias, out_bias=bias, mlp_bias=bool(hf.mlp_bias)))


def _mistral(hf) -> Config:
    if getattr(hf, "layer_types", None):
        raise CheckpointError("layer_types in a mistral configuration are those of ministral, which is not supported")
    return Config(**_sizes(hf, windows=_windows(hf)))


def _gemma(hf) -> Config:
    _require(hf, use_bidirectional_attention=(None, False), attention_bias=(False,))
    return Config(**_sizes(hf, norm="rms_plus_one", embedding_scale=float(hf.hidden_size) ** 0.5))


def _gemma2(hf, **differences) -> Config:
    _require(hf, use_bidirectional_attention=(None, False), attention_bias=(False,))
    told = {
        "activation": _activation(hf.hidden_activation),
        "norm": "rms_plus_one",
        "norm_out": True,
        "embedding_scale": float(hf.hidden_size) ** 0.5,
        "attention_scale": float(hf.query_pre_attn_scalar) ** -0.5,
        "attention_cap": hf.attn_logit_softcapping,
        "logit_cap": hf.final_logit_softcapping,
        "windows": _windows(hf),
    }
    return Config(**_sizes(hf, **told | differences))


def _gemma3(hf) -> Config:
    turns = {kind: rope(hf.rope_parameters[kind], hf, hf.head_dim) for kind in LAYER_TYPES}
    return _gemma2(hf, rope=turns["full_attention"], local_rope=turns["sliding_attention"], norm_qk=True)


def _olmo2(hf) -> Config:
    _require(hf, attention_bias=(False,))
    return Config(**_sizes(hf, norm_in=False, norm_out=True, norm_qk_whole=True))


def _granite(hf) -> Config:
    bias = bool(hf.attention_bias)
    return Config(
        **_sizes(
            hf,
            qkv_bias=bias,
            out_bias=bias,
            mlp_bias=bool(hf.mlp_bias),
            embedding_scale=float(hf.embedding_multiplier),
            attention_scale=float(hf.attention_multiplier),
            residual_scale=float(hf.residual_multiplier),
            logit_scale=1 / float(hf.logits_scaling),
        )
    )


def _smollm3(hf) -> Config:
    bias, turned = bool(hf.attention_bias), hf.no_rope_layers
    if len(turned) != hf.num_hidden_layers:
        raise CheckpointError(
            f"no_rope_layers names {len(turned)} layers, num_hidden_layers says {hf.num_hidden_layers}"
        )
    unturned = tuple(layer for layer, turns in enumerate(turned) if not turns)
    more = {"unturned": unturned, "windows": _windows(hf) if hf.use_sliding_window else ()}
    return Config(**_sizes(hf, qkv_bias=bias, out_bias=bias, mlp_bias=bool(hf.mlp_bias), **more))


def _phi(hf) -> Config:
    _require(hf, qk_layernorm=(False,))
    bias = dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias", "head_bias"), True)
    return Config(**_sizes(hf, norm="layer", parallel=True, shared_norm=True, gated=False, **bias))


def _phi3(hf) -> Config:
    return Config(**_sizes(hf, windows=_windows(hf)))


def _gpt_neox(hf) -> Config:
    bias = bool(hf.attention_bias)
    parallel = bool(hf.use_parallel_residual)
    return Config(
        **_sizes(hf, norm="layer", parallel=parallel, gated=False, qkv_bias=bias, out_bias=bias, mlp_bias=True)
    )


def _stablelm(hf) -> Config:
    _require(hf, qk_layernorm=(False,))
    parallel = bool(hf.use_parallel_residual)
    return Config(**_sizes(hf, norm="layer", parallel=parallel, shared_norm=parallel, qkv_bias=bool(hf.use_qkv_bias)))


def _qwen2(hf) -> Config:
    return Config(**_sizes(hf, qkv_bias=True, windows=_windows(hf)))


def _qwen3(hf) -> Config:
    bias = bool(hf.attention_bias)
    return Config(**_sizes(hf, norm_qk=True, qkv_bias=bias, out_bias=bias, windows=_windows(hf)))


def _opt(hf) -> Config:
    _require(
        hf,
        layer_norm_elementwise_affine=(True,),
        _remove_final_layer_norm=(False,),
    )
    table = hf.word_embed_proj_dim
    return Config(
        vocab_size=hf.vocab_size,
        dim=hf.hidden_size,
        hidden_dim=hf.ffn_dim,
        layers=hf.num_hidden_layers,
        heads=hf.num_attention_heads,
        kv_heads=hf.num_attention_heads,
        head_dim=_head_dim(hf),
        context=hf.max_position_embeddings,
        norm_eps=1e-5,
        tied=bool(hf.tie_word_embeddings),
        rope=None,
        position_offset=2,
        norm="layer",
        norm_after=not hf.do_layer_norm_before,
        embedding_dim=None if table == hf.hidden_size else table,
        activation=_activation(hf.activation_function),
        gated=False,
        **dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), bool(hf.enable_bias)),
    )


def _gpt2(hf) -> Config:
    _require(hf, scale_attn_by_inverse_layer_idx=(False,), scale_attn_weights=(True,), add_cross_attention=(False,))
    return Config(
        vocab_size=hf.vocab_size,
        dim=hf.n_embd,
        hidden_dim=hf.n_inner or 4 * hf.n_embd,
        layers=hf.n_layer,
        heads=hf.n_head,
        kv_heads=hf.n_head,
        head_dim=_head_dim(hf),
        context=hf.n_positions,
        norm_eps=hf.layer_norm_epsilon,
        tied=bool(hf.tie_word_embeddings),
        rope=None,
        norm="layer",
        activation=_activation(hf.activation_function),
        gated=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )


def bert(hf: Any) -> Config:
    """Config of a BERT, which is no decoder and so not among `FAMILIES`."""
    _require(hf, position_embedding_type=("absolute",), is_decoder=(False,), add_cross_attention=(False,))
    config = Config(
        vocab_size=hf.vocab_size,
        dim=hf.hidden_size,
        hidden_dim=hf.intermediate_size,
        layers=hf.num_hidden_layers,
        heads=hf.num_attention_heads,
        kv_heads=hf.num_attention_heads,
        head_dim=_head_dim(hf),
        context=hf.max_position_embeddings,
        norm_eps=hf.layer_norm_eps,
        tied=True,
        rope=None,
        norm="layer",
        norm_after=True,
        activation=_activation(hf.hidden_act),
        gated=False,
        token_types=hf.type_vocab_size,
        **dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), True),
    )
    _check_heads(config)
    return config


def _windows(hf) -> tuple[int | None, ...]:
    """The sliding window of every layer; () where no layer has one."""
    window = getattr(hf, "sliding_window", None)
    kinds = getattr(hf, "layer_types", None) or ["sliding_attention"] * hf.num_hidden_layers
    if len(kinds) != hf.num_hidden_layers:
        raise CheckpointError(f"layer_types names {len(kinds)} layers, num_hidden_layers says {hf.num_hidden_layers}")
    for kind in kinds:
        if kind not in LAYER_TYPES:
            raise CheckpointError(f"layer type {kind!r} is not supported; known: {', '.join(LAYER_TYPES)}")
    if window is None or "sliding_attention" not in kinds:
        return ()
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


FAMILIES = {
    "llama": _llama,
    "mistral": _mistral,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "gemma3_text": _gemma3,
    "granite": _granite,
    "olmo2": _olmo2,
    "phi": _phi,
    "phi3": _phi3,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "smollm3": _smollm3,
    "stablelm": _stablelm,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gpt2": _gpt2,
}

"""What a frozen decoder needs to know about itself, read from a Hugging Face config.json: differences are data."""

import math
from dataclasses import dataclass, field

import numpy as np

# Virtual tokens live where the decoder's own embeddings enter the first layer: after Gemma's scale by sqrt(dim) and
# OPT-350M's widening. Transformers before 5.5 scaled what it was given once more, so a prompt of one convention is 45
# times too large in the other (Gemma-2B).
PROMPT_SPACE = "post_scale"

ACTIVATIONS = {
    "silu": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says what was found and what is allowed."""


@dataclass(frozen=True)
class Rope:
    """Rotary positions: the angle per position of each rotated pair; the rest of a head is left as it is."""

    frequencies: tuple[float, ...]
    scale: float = 1.0  # of cosine and sine
    long_frequencies: tuple[float, ...] = ()  # longrope: for sequences beyond `original_context`
    original_context: int = 0


@dataclass(frozen=True)
class Packed:
    """GPTQ words kept as they are and dequantised layer by layer inside the program."""

    bits: int
    group: int
    checkpoint_format: str


@dataclass(frozen=True)
class Config:
    """Sizes, constants and variants of a decoder; hashable, so it can be static under jit. Defaults are Llama's."""

    vocab_size: int
    dim: int
    hidden_dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    norm_eps: float
    tied: bool
    rope: Rope | None  # None: a learned embedding per position
    position_offset: int = 0  # OPT's table starts two rows late
    norm: str = "rms"  # "rms", "rms_plus_one" (Gemma scales by 1 + weight), "layer"
    norm_out: bool = False  # Gemma 2 norms what attention and feed-forward give, too
    norm_qk: bool = False  # Qwen 3 norms every head of queries and keys
    parallel: bool = False  # attention and feed-forward side by side
    shared_norm: bool = False  # ... and behind one norm
    activation: str = "silu"
    gated: bool = True
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    attention_scale: float | None = None  # None: 1 / sqrt(head_dim)
    attention_cap: float | None = None
    logit_cap: float | None = None
    windows: tuple[int | None, ...] = ()  # per layer, how many tokens are seen; none given: all of them
    embedding_scale: float = 1.0
    packed: Packed | None = None
    # Outside the repr: banks hold its digest from before these two, which the names and shapes of the weights tell too.
    norm_after: bool = field(default=False, repr=False)  # OPT-350M norms what parts add up to, not what they get
    embedding_dim: int | None = field(default=None, repr=False)  # of a table narrower than the layers (OPT-350M)

    def window(self, layer: int) -> int | None:
        """How many tokens layer `layer` sees, itself included; None for all."""
        return self.windows[layer] if self.windows else None

    def kernel_sizes(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of every kernel in a layer, by module."""
        asked, seen = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sizes = {"attention/q": (self.dim, asked), "attention/k": (self.dim, seen), "attention/v": (self.dim, seen)}
        sizes |= {"attention/o": (asked, self.dim), "up": (self.dim, self.hidden_dim)}
        sizes |= {"gate": (self.dim, self.hidden_dim)} if self.gated else {}
        return sizes | {"down": (self.hidden_dim, self.dim)}


def from_hf(hf) -> Config:
    """Config of a transformers configuration object.

    Raises CheckpointError for a family, rope type, activation or variant that this decoder does not have.
    """
    if hf.model_type not in FAMILIES:
        raise CheckpointError(f"model_type {hf.model_type!r} is not supported; known: {', '.join(FAMILIES)}")
    return FAMILIES[hf.model_type](hf)


def plain_rope(theta: float, dims: int) -> Rope:
    """The frequencies theta^(-2 i / dims) of Su et al. (2021), in float32."""
    exponent = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    return Rope(_floats(np.float32(1) / np.float32(theta) ** exponent))


def rope(hf, head_dim: int) -> Rope:
    """Frequencies of a configuration, for the rope types default, linear, llama3 and longrope (their papers' rules)."""
    told = hf.rope_parameters
    kind = told.get("rope_type", "default")
    dims = int(head_dim * told.get("partial_rotary_factor", 1.0))
    if kind == "default":
        return plain_rope(told["rope_theta"], dims)
    plain = np.asarray(plain_rope(told["rope_theta"], dims).frequencies, np.float32)
    if kind == "linear":
        return Rope(_floats(plain / told["factor"]))
    if kind == "llama3":
        return Rope(_floats(_llama3(plain, told)))
    if kind == "longrope":
        original = told["original_max_position_embeddings"]
        factor = told.get("factor") or hf.max_position_embeddings / original
        scale = told.get("attention_factor")
        if scale is None:
            scale = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        short, long = (plain / np.asarray(told[name], np.float32) for name in ("short_factor", "long_factor"))
        return Rope(_floats(short), scale, _floats(long), original)
    raise CheckpointError(f"rope_type {kind!r} is not supported; known: default, linear, llama3, longrope")


def _llama3(plain, told):
    """Slow frequencies are divided by the factor, fast ones kept, those between them blended."""
    context = told["original_max_position_embeddings"]
    low, high = told["low_freq_factor"], told["high_freq_factor"]
    turns = context * plain / (2 * np.pi)  # over the original context
    blend = np.clip((turns - low) / (high - low), 0, 1)
    return (1 - blend) * plain / told["factor"] + blend * plain


def _floats(values) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


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


def _sizes(hf, **differences) -> dict:
    """What most families spell alike."""
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
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
        "rope": rope(hf, head_dim),
        "activation": _activation(hf.hidden_act if hasattr(hf, "hidden_act") else hf.hidden_activation),
    } | differences


def _llama(hf) -> Config:
    bias = bool(hf.attention_bias)
    return Config(**_sizes(hf, qkv_bias=bias, out_bias=bias, mlp_bias=bool(hf.mlp_bias)))


def _mistral(hf) -> Config:
    return Config(**_sizes(hf, windows=_windows(hf)))


def _gemma(hf) -> Config:
    _require(hf, use_bidirectional_attention=(None, False), attention_bias=(False,))
    return Config(**_sizes(hf, norm="rms_plus_one", embedding_scale=float(hf.hidden_size) ** 0.5))


def _gemma2(hf) -> Config:
    _require(hf, use_bidirectional_attention=(None, False), attention_bias=(False,))
    return Config(
        **_sizes(
            hf,
            activation=_activation(hf.hidden_activation),
            norm="rms_plus_one",
            norm_out=True,
            embedding_scale=float(hf.hidden_size) ** 0.5,
            attention_scale=float(hf.query_pre_attn_scalar) ** -0.5,
            attention_cap=hf.attn_logit_softcapping,
            logit_cap=hf.final_logit_softcapping,
            windows=_windows(hf),
        )
    )


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
        head_dim=hf.hidden_size // hf.num_attention_heads,
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
        head_dim=hf.n_embd // hf.n_head,
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


def _windows(hf) -> tuple[int | None, ...]:
    """The sliding window of every layer; () where no layer has one."""
    window = getattr(hf, "sliding_window", None)
    kinds = getattr(hf, "layer_types", None) or ["sliding_attention"] * hf.num_hidden_layers
    known = ("sliding_attention", "full_attention")
    for kind in kinds:
        if kind not in known:
            raise CheckpointError(f"layer type {kind!r} is not supported; known: {', '.join(known)}")
    if window is None or "sliding_attention" not in kinds:
        return ()
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


FAMILIES = {
    "llama": _llama,
    "mistral": _mistral,
    "gemma": _gemma,
    "gemma2": _gemma2,
    "phi": _phi,
    "phi3": _phi3,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "stablelm": _stablelm,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gpt2": _gpt2,
}

"""What a frozen decoder needs to know about itself, read from a Hugging Face config.json."""

from dataclasses import dataclass


class CheckpointError(ValueError):
    """A checkpoint folder that cannot be used; the message says what was found and what is allowed."""


@dataclass(frozen=True)
class Config:
    """Sizes and constants of a Llama-style decoder; hashable, so it can be static under jit."""

    vocab_size: int
    dim: int
    hidden_dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    rope_theta: float
    norm_eps: float
    tied: bool


def from_hf(hf) -> Config:
    """Config of a transformers configuration object. Raises CheckpointError for anything that is not plain Llama."""
    if hf.model_type != "llama":
        raise CheckpointError(f"model_type {hf.model_type!r} is not supported; known: llama")
    rope = hf.rope_parameters
    allowed = {
        "hidden_act": (hf.hidden_act, ("silu",)),
        "rope_type": (rope.get("rope_type", "default"), ("default",)),
        "attention_bias": (hf.attention_bias, (False,)),
        "mlp_bias": (hf.mlp_bias, (False,)),
    }
    for name, (value, known) in allowed.items():
        if value not in known:
            raise CheckpointError(f"{name} {value!r} is not supported; known: {', '.join(map(str, known))}")
    return Config(
        vocab_size=hf.vocab_size,
        dim=hf.hidden_size,
        hidden_dim=hf.intermediate_size,
        layers=hf.num_hidden_layers,
        heads=hf.num_attention_heads,
        kv_heads=hf.num_key_value_heads,
        head_dim=hf.head_dim,
        context=hf.max_position_embeddings,
        rope_theta=float(rope["rope_theta"]),
        norm_eps=hf.rms_norm_eps,
        tied=hf.tie_word_embeddings,
    )

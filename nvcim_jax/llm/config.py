"""What a frozen decoder needs to know about itself: differences are data."""

from dataclasses import dataclass

import numpy as np

# Virtual tokens live where the decoder's own embeddings enter the first layer: after Gemma's scale by sqrt(dim) and
# OPT-350M's widening. Transformers before 5.5 scaled what it was given once more, so a prompt of one convention is 45
# times too large in the other (Gemma-2B).
PROMPT_SPACE = "post_scale"


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

    def groups(self, inputs: int) -> int:
        """How many groups of inputs have a scale and a zero point each; a group of -1 holds all inputs."""
        return -(-inputs // self.group) if self.group > 0 else 1


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
    # No part of the description that banks hold a digest of: the names and shapes of the weights tell these.
    norm_after: bool = False  # OPT-350M norms what parts add up to, not what they get
    embedding_dim: int | None = None  # of a table narrower than the layers (OPT-350M)
    norm_in: bool = True  # OLMo 2 norms only what attention and feed-forward give
    norm_qk_whole: bool = False  # ... and all heads of queries, or of keys, together
    # Described where they are not as here.
    residual_scale: float = 1.0  # of what attention and feed-forward add (Granite)
    logit_scale: float = 1.0
    unturned: tuple[int, ...] = ()  # layers without rotary positions (SmolLM3)
    local_rope: Rope | None = None  # of layers with a window (Gemma 3)
    token_types: int = 0  # of a BERT

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


def plain_rope(theta: float, dims: int) -> Rope:
    """The frequencies theta^(-2 i / dims) of Su et al. (2021), in float32."""
    exponent = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    return Rope(tuple(map(float, np.float32(1) / np.float32(theta) ** exponent)))

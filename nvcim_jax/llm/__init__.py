"""Frozen language models: load a Hugging Face checkpoint, embed, score, generate. The only door to Flax."""

from nvcim_jax.llm import gptq
from nvcim_jax.llm.config import PROMPT_SPACE, CheckpointError, Config, Rope
from nvcim_jax.llm.decoder import Inputs, Prefix, embed, hidden, label_loss, logits, unembed
from nvcim_jax.llm.generation import Sampling, generate, stream
from nvcim_jax.llm.weights import Model, load

__all__ = [
    "PROMPT_SPACE", "CheckpointError", "Config", "Inputs", "Model", "Prefix", "Rope", "Sampling",
    "embed", "generate", "gptq", "hidden", "label_loss", "load", "logits", "stream", "unembed",
]  # fmt: skip

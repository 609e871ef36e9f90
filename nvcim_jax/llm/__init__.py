"""Frozen language models: load a Hugging Face checkpoint, embed, score, generate. The only door to Flax."""

from nvcim_jax.llm.config import CheckpointError, Config
from nvcim_jax.llm.decoder import embed, hidden, label_loss, logits, unembed
from nvcim_jax.llm.weights import Model, load

__all__ = ["CheckpointError", "Config", "Model", "embed", "hidden", "label_loss", "load", "logits", "unembed"]

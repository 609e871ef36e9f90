"""Prompt tuning of a frozen model with Optax: what is trained, and the program that trains it."""

from nvcim_jax.tuning.prompt import CODE_SPACE, EMBEDDING_SPACE, Space, own_tokens, random_tokens
from nvcim_jax.tuning.train import Job, Tuned, prompt_loss, tune

__all__ = [
    "CODE_SPACE",
    "EMBEDDING_SPACE",
    "Job",
    "Space",
    "Tuned",
    "own_tokens",
    "prompt_loss",
    "random_tokens",
    "tune",
]

"""Adapting a frozen model with Optax: methods (what is trained, read and stored), and the program that trains them."""

from nvcim_jax.tuning.blocks import FIRST, NAMES, Progress, discard, run
from nvcim_jax.tuning.dept import Dept
from nvcim_jax.tuning.fitting import fitted
from nvcim_jax.tuning.ia3 import Ia3
from nvcim_jax.tuning.lora import Lora
from nvcim_jax.tuning.method import Adapted, Method, Placed, Samples, label_loss, place, quiet, taken
from nvcim_jax.tuning.prefix import Prefix
from nvcim_jax.tuning.prompt import CodePrompt, Prompt, Start, own_tokens, random_tokens, vocabulary_tokens
from nvcim_jax.tuning.train import Job, Training, Tuned, tune

__all__ = [
    "FIRST", "NAMES", "Adapted", "CodePrompt", "Dept", "Ia3", "Job", "Lora", "Method", "Placed", "Prefix", "Progress",
    "Prompt", "Samples", "Start", "Training", "Tuned", "discard", "fitted", "label_loss", "own_tokens", "place",
    "quiet", "random_tokens", "run", "taken", "tune", "vocabulary_tokens",
]  # fmt: skip

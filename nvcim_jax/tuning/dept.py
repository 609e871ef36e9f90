"""DEPT (Shi and Lipani, 2024): a shorter soft prompt and a low-rank update of the question's embeddings."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nvcim_jax.core.codec import Codec
from nvcim_jax.llm.config import Config
from nvcim_jax.tuning.method import Adapted, Noise


class Trained(NamedTuple):
    """The prompt, and the two factors of the update. The original gives the factors a learning rate of their own."""

    prompt: Float[Array, "tokens dim"]
    a: Float[Array, "longest rank"]
    b: Float[Array, "rank dim"]


@dataclass(frozen=True)
class Dept:
    """The start's first `tokens`; `a @ b` is added to a question's first `longest` embeddings, and b starts at 0."""

    tokens: int = 8
    longest: int = 64
    rank: int = 8

    def init(self, key: PRNGKeyArray, tokens: Float[Array, "start dim"], codec: Codec, config: Config) -> Trained:
        a = jax.random.normal(key, (self.longest, self.rank)) * self.rank**-0.5
        return Trained(tokens[: self.tokens], a, jnp.zeros((self.rank, tokens.shape[1])))

    def apply(self, trained: Trained, codec: Codec, config: Config, noise: Noise) -> Adapted:
        prompt, a, b = noise(trained)
        return Adapted(front=prompt, shift=a @ b)

    def stored(self, trained: Trained, codec: Codec, config: Config) -> Trained:
        return trained

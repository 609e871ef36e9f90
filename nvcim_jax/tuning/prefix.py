"""Prefix tuning: keys and values before every layer, which the model's tokens attend to.

Li and Liang (2021) train them through a network, which is thrown away afterwards (`Prefix(hidden=...)`); P-tuning v2
(Liu et al., 2022) trains them as they are (`Prefix()`).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nvcim_jax.core.codec import Codec
from nvcim_jax.llm import decoder
from nvcim_jax.llm.config import Config
from nvcim_jax.tuning.method import Adapted, Noise


class Network(NamedTuple):
    """Two layers with tanh between them make the keys and values of all layers from one vector for each token."""

    tokens: Float[Array, "tokens dim"]
    inward: Float[Array, "dim hidden"]
    inward_bias: Float[Array, "hidden"]
    outward: Float[Array, "hidden values"]
    outward_bias: Float[Array, "values"]


@dataclass(frozen=True)
class Prefix:
    """`tokens` keys and values for every layer, small Gaussians at first; with `hidden`, made by a network."""

    tokens: int = 16
    hidden: int | None = None

    def init(
        self, key: PRNGKeyArray, tokens: Float[Array, "start dim"], codec: Codec, config: Config
    ) -> decoder.Prefix | Network:
        shape = (config.layers, self.tokens, config.kv_heads, config.head_dim)
        if self.hidden is None:
            keys, values = 0.02 * jax.random.normal(key, (2, *shape))
            return decoder.Prefix(keys, values)
        dim, out = tokens.shape[1], 2 * config.layers * config.kv_heads * config.head_dim
        first, second, third = jax.random.split(key, 3)
        return Network(
            jax.random.normal(first, (self.tokens, dim)),
            jax.random.normal(second, (dim, self.hidden)) * dim**-0.5, jnp.zeros(self.hidden),
            0.02 * jax.random.normal(third, (self.hidden, out)) * self.hidden**-0.5, jnp.zeros(out),
        )  # fmt: skip

    def apply(self, trained: decoder.Prefix | Network, codec: Codec, config: Config, noise: Noise) -> Adapted:
        return Adapted(prefix=noise(self.stored(trained, codec, config)))

    def stored(self, trained: decoder.Prefix | Network, codec: Codec, config: Config) -> decoder.Prefix:
        if isinstance(trained, decoder.Prefix):
            return trained
        inner = jnp.tanh(trained.tokens @ trained.inward + trained.inward_bias[None])
        out = inner @ trained.outward + trained.outward_bias[None]
        keys, values = out.reshape(self.tokens, 2, config.layers, config.kv_heads, config.head_dim).transpose(
            1, 2, 0, 3, 4
        )
        return decoder.Prefix(keys, values)

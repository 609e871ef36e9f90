"""Prompt tuning (Lester et al., 2021): virtual tokens before the question. The form in which an OVT is stored.

The paper's reading trains the tokens in the model's embedding space and squeezes them into their code afterwards
(`Prompt`); `CodePrompt` trains the stored code itself, through the decoder: what the memory will return.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from nvcim_jax.core.codec import Codec, decode, encode
from nvcim_jax.llm import decoder
from nvcim_jax.llm.config import Config
from nvcim_jax.tuning.method import Adapted, Noise


@dataclass(frozen=True)
class Prompt:
    """Virtual tokens, trained in embedding space under the noise of Eq. 4, stored as their code."""

    def init(
        self, key: PRNGKeyArray, tokens: Float[Array, "tokens dim"], codec: Codec, config: Config
    ) -> Float[Array, "tokens dim"]:
        return tokens

    def apply(self, trained: Float[Array, "tokens dim"], codec: Codec, config: Config, noise: Noise) -> Adapted:
        return Adapted(front=noise(trained))

    def stored(self, trained: Float[Array, "tokens dim"], codec: Codec, config: Config) -> Float[Array, "tokens code"]:
        return encode(codec, trained)


@dataclass(frozen=True)
class CodePrompt:
    """The stored code, trained under the device's noise through the codec's decoder."""

    def init(
        self, key: PRNGKeyArray, tokens: Float[Array, "tokens dim"], codec: Codec, config: Config
    ) -> Float[Array, "tokens code"]:
        return encode(codec, tokens)

    def apply(self, trained: Float[Array, "tokens code"], codec: Codec, config: Config, noise: Noise) -> Adapted:
        return Adapted(front=decode(codec, noise(trained)))

    def stored(self, trained: Float[Array, "tokens code"], codec: Codec, config: Config) -> Float[Array, "tokens code"]:
        return trained


# The embeddings of virtual tokens at first, from the ids that sum up a sample (`text.start_ids`) or another text.
Start = Callable[[PRNGKeyArray, PyTree, Config, Int[Array, "tokens"]], Float[Array, "tokens dim"]]


def own_tokens(
    key: PRNGKeyArray, params: PyTree, config: Config, ids: Int[Array, "tokens"]
) -> Float[Array, "tokens dim"]:
    """The embeddings of the ids: the sample's own content and answer, or a given text."""
    return decoder.embed(params, config, ids[None])[0]


def vocabulary_tokens(
    key: PRNGKeyArray, params: PyTree, config: Config, ids: Int[Array, "tokens"]
) -> Float[Array, "tokens dim"]:
    """The embeddings of words drawn from the vocabulary, as many as there are ids (Lester et al., 2021)."""
    return own_tokens(key, params, config, jax.random.randint(key, ids.shape, 0, config.vocab_size))


def random_tokens(
    key: PRNGKeyArray, params: PyTree, config: Config, ids: Int[Array, "tokens"]
) -> Float[Array, "tokens dim"]:
    """Gaussian values as large as the embeddings of the ids: the paper's random set of virtual tokens."""
    tokens = own_tokens(key, params, config, ids)
    return jax.random.normal(key, tokens.shape, tokens.dtype) * jnp.sqrt(jnp.mean(tokens**2))

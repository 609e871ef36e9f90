"""Where a prompt is trained: in the model's embedding space, or in the space that the memory stores."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nvcim_jax.codec import Codec, decode, encode
from nvcim_jax.devices import Device
from nvcim_jax.noise import inject


class Space(NamedTuple):
    """How a prompt enters the space it is trained in, what the model reads of it under noise, and its final code."""

    enter: Callable[[Codec, Float[Array, "tokens dim"]], Float[Array, "tokens width"]]
    render: Callable[..., Float[Array, "tokens dim"]]
    leave: Callable[[Codec, Float[Array, "tokens width"]], Float[Array, "tokens code"]]


def own_tokens(key: PRNGKeyArray, tokens: Float[Array, "tokens dim"]) -> Float[Array, "tokens dim"]:
    """Start from the embeddings of the sample's own tokens."""
    return tokens


def random_tokens(key: PRNGKeyArray, tokens: Float[Array, "tokens dim"]) -> Float[Array, "tokens dim"]:
    """Start from Gaussian values as large as the sample's embeddings: the paper's random set of virtual tokens."""
    return jax.random.normal(key, tokens.shape) * jnp.sqrt(jnp.mean(tokens**2))


def _in_embedding_space(key: PRNGKeyArray, prompt, codec: Codec, device: Device, sigma):
    return inject(key, prompt, sigma=sigma, factors=device.factors)


def _in_code_space(key: PRNGKeyArray, code, codec: Codec, device: Device, sigma):
    return decode(codec, inject(key, code, sigma=sigma, factors=device.factors))


def _unchanged(codec: Codec, values):
    return values


# The paper's reading of noise-aware training: the prompt is trained under Eq. 4, and squeezed into its code afterwards.
EMBEDDING_SPACE = Space(_unchanged, _in_embedding_space, encode)

# The stored code is trained, under the device's noise and through the decoder: what the memory will return.
CODE_SPACE = Space(encode, _in_code_space, _unchanged)

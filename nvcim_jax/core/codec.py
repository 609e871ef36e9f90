"""The prompt autoencoder: a model's embedding dimensions squeezed into the 48 that an array stores.

One pair of functions, `encode` and `decode`, serves both codecs: the linear one (`fit_pca`) is a single layer each
way, the paper's autoencoder (`fit_autoencoder`) two.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

DIM = 48

Layer = tuple[Float[Array, "inputs outputs"], Float[Array, "outputs"]]


class Codec(NamedTuple):
    """The layers of an encoder and of a decoder, with GELU between layers and nothing after the last."""

    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]


Fit = Callable[[PRNGKeyArray, Float[Array, "words dim"], Float[Array, "words"]], Codec]


def encode(codec: Codec, x: Float[Array, "tokens dim"]) -> Float[Array, "tokens code"]:
    """The code of each token."""
    return _apply(codec.encoder, x)


def decode(codec: Codec, z: Float[Array, "tokens code"]) -> Float[Array, "tokens dim"]:
    """The embedding that each code stands for."""
    return _apply(codec.decoder, z)


def fit_pca(
    key: PRNGKeyArray, vectors: Float[Array, "words dim"], counts: Float[Array, "words"], *, dim: int = DIM
) -> Codec:
    """The linear codec with the least squared error over `vectors`, each counted `counts` times, about their mean.

    The principal directions are then rotated at random, so that every code dimension carries the same variance and
    noise that scales with the largest code hits no direction harder than another. A model narrower than `dim` leaves
    the last dimensions empty.
    """
    width = vectors.shape[1]
    mean = jnp.dot(counts, vectors, precision="highest") / jnp.sum(counts)
    centred = vectors - mean[None, :]
    covariance = jnp.dot(centred.T * counts[None, :], centred, precision="highest")
    _, directions = jnp.linalg.eigh(covariance)  # ascending, of either sign
    tops = jnp.take_along_axis(directions, jnp.argmax(jnp.abs(directions), axis=0)[None], axis=0)
    directions = directions * jnp.sign(tops)  # so that rounding decides no code
    kept = min(dim, width)
    rotation, _ = jnp.linalg.qr(jax.random.normal(key, (kept, kept)))
    basis = jnp.dot(directions[:, width - kept :], rotation, precision="highest")
    basis = jnp.pad(basis, ((0, 0), (0, dim - kept)))
    inward = -jnp.dot(mean, basis, precision="highest")
    return Codec(((basis, inward),), ((basis.T, mean),))


def loss(codec: Codec, x: Float[Array, "tokens dim"], counts: Float[Array, "tokens"]) -> Float[Array, ""]:
    """Squared reconstruction error as a share of the variance, each token counted `counts` times."""
    error = jnp.sum((decode(codec, encode(codec, x)) - x) ** 2, axis=1)
    return jnp.sum(counts * error) / jnp.sum(counts * jnp.sum(x**2, axis=1))


def fit_autoencoder(
    key: PRNGKeyArray,
    vectors: Float[Array, "words dim"],
    counts: Float[Array, "words"],
    *,
    dim: int = DIM,
    steps: int = 300,
    learning_rate: float = 3e-3,
) -> Codec:
    """The paper's autoencoder (Section III-D): two layers each way, trained on the user's tokens with Adam."""
    width = vectors.shape[1]
    hidden = max(2 * dim, width)
    keys = jax.random.split(key, 4)
    start = Codec(
        (_layer(keys[0], width, hidden), _layer(keys[1], hidden, dim)),
        (_layer(keys[2], dim, hidden), _layer(keys[3], hidden, width)),
    )
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def step(carry, _):
        codec, state = carry
        updates, state = optimiser.update(jax.grad(loss)(codec, vectors, counts), state)
        return (jax.tree.map(jnp.add, codec, updates), state), None

    (codec, _), _ = jax.lax.scan(step, (start, optimiser.init(start)), None, length=steps)
    return codec


def _layer(key, inputs: int, outputs: int) -> Layer:
    return jax.random.normal(key, (inputs, outputs)) / inputs**0.5, jnp.zeros(outputs)


def _apply(layers: tuple[Layer, ...], x):
    for at, (weight, bias) in enumerate(layers):
        x = jnp.dot(x if at == 0 else jax.nn.gelu(x), weight, precision="highest") + bias[None, :]
    return x

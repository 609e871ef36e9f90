"""Ways to bring a text's vector to the dimensions that an array holds: each is a `core.codec.Codec`.

All are fitted by one kind of function, `Fit`, and applied by one, `codes`; PCA and the autoencoder are those of OVTs
(`core.codec.fit_pca`, `fit_autoencoder`). What is learned by retrieving (`training`) starts from one of these.
"""

from collections.abc import Callable
from functools import cache, partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nvcim_jax.core import codec
from nvcim_jax.core.codec import Codec, Fit, Layer

Vectors = Float[Array, "words dim"]
Counts = Float[Array, "words"]


def codes(own: Codec, vectors: Float[Array, "vectors dim"]) -> Float[Array, "vectors code"]:
    """The codes of vectors, of length one each, so that the inner product is the cosine; a zero one stays zero."""
    found = codec.encode(own, vectors)
    norm = jnp.sqrt(jnp.maximum(jnp.sum(found**2, axis=1, keepdims=True), 1e-24))  # whose gradient is finite at zero
    return found / norm


compiled = jax.jit(codes)


def whole(key: PRNGKeyArray, vectors: Vectors, counts: Counts, *, dim: int) -> Codec:
    """Every dimension as it is. ValueError unless `dim` is the encoder's."""
    if dim != vectors.shape[1]:
        raise ValueError(f"{dim} dimensions, but the encoder makes {vectors.shape[1]}: cut them by another codec")
    return _linear(jnp.eye(dim))


def first(key: PRNGKeyArray, vectors: Vectors, counts: Counts, *, dim: int) -> Codec:
    """The first `dim` dimensions: what is left where nobody learns."""
    _require(dim, vectors)
    return _linear(jnp.eye(vectors.shape[1], dim))


def random(key: PRNGKeyArray, vectors: Vectors, counts: Counts, *, dim: int) -> Codec:
    """A random projection onto orthogonal directions (Johnson and Lindenstrauss, 1984)."""
    _require(dim, vectors)
    basis, _ = jnp.linalg.qr(jax.random.normal(key, (vectors.shape[1], dim)))
    return _linear(basis)


def pca(key: PRNGKeyArray, vectors: Vectors, counts: Counts, *, dim: int) -> Codec:
    """The principal directions, rotated at random: `core.codec.fit_pca`. No more than the encoder has dimensions."""
    _require(dim, vectors)
    return codec.fit_pca(key, vectors, counts, dim=dim)


def autoencoder(key: PRNGKeyArray, vectors: Vectors, counts: Counts, *, dim: int) -> Codec:
    """The autoencoder of two layers each way: `core.codec.fit_autoencoder`."""
    _require(dim, vectors)
    return codec.fit_autoencoder(key, vectors, counts, dim=dim)


def mlp(key: PRNGKeyArray, vectors: Vectors, counts: Counts, *, dim: int) -> Codec:
    """Two layers that compute what `pca` does, to be trained on from there.

    The hidden layer holds every code twice, with both signs: `gelu(x) - gelu(-x) = x`. It has no way back.
    """
    ((weight, bias),) = pca(key, vectors, counts, dim=dim).encoder
    hidden = jnp.concatenate([weight, -weight], axis=1), jnp.concatenate([bias, -bias])
    eye = jnp.eye(dim)
    return Codec((hidden, (jnp.concatenate([eye, -eye]), jnp.zeros(dim))), ())


FITS: dict[str, Callable[..., Codec]] = {
    "whole": whole, "first": first, "random": random, "pca": pca, "autoencoder": autoencoder, "mlp": mlp,
}  # fmt: skip


@cache  # the same function object, so that its compiled program is found again
def fit(name: str, dim: int) -> Fit:
    """The fit called `name`, to `dim` dimensions; ValueError lists the known names."""
    if name not in FITS:
        raise ValueError(f"unknown codec {name!r}: choose one of {', '.join(FITS)}")
    return partial(FITS[name], dim=dim)


def _linear(basis: Float[Array, "dim code"]) -> Codec:
    outward: Layer = basis, jnp.zeros(basis.shape[1])
    return Codec((outward,), ((basis.T, jnp.zeros(basis.shape[0])),))


def _require(dim: int, vectors: Vectors) -> None:
    if not 1 <= dim <= vectors.shape[1]:
        raise ValueError(f"{dim} dimensions, but the encoder makes {vectors.shape[1]}: ask for 1 to {vectors.shape[1]}")

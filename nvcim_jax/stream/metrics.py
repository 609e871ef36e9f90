"""What a moment is worth, as functions of one moment: EOE, DSS and IDD; higher is better for all three.

The paper leaves open what the entropy is taken of. Each reading is a function of a moment's token vectors, of which
the first `length` count: `spectral_entropy` is recommended, `eoe_paper` is close to the print, `eoe_released` is what
the authors' scripts compute.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NONE = -1  # the domain of a moment that holds no word of any lexicon
BINS = 100  # of the released histogram

Length = Int[Array, ""] | int
Eoe = Callable[[Float[Array, "tokens dim"], Length], Float[Array, ""]]
Pool = Callable[[Float[Array, "tokens dim"], Length], Float[Array, "dim"]]


def spectral_entropy(vectors: Float[Array, "tokens dim"], length: Length) -> Float[Array, ""]:
    """Entropy of the eigenvalues of the tokens' cosine matrix, in nats, not divided by anything (EOE, recommended).

    It is the logarithm of how many directions the tokens effectively span: 0 for one token or for equal ones.
    """
    unit = _unit(_real(vectors, length))
    rows, dim = unit.shape
    gram = jnp.dot(unit, unit.T, precision="highest") if rows <= dim else jnp.dot(unit.T, unit, precision="highest")
    return _entropy(jnp.linalg.eigvalsh(gram))


def norm_entropy(vectors: Float[Array, "tokens dim"], length: Length) -> Float[Array, ""]:
    """Entropy in nats of the tokens' shares, each the norm of its vector over the sum of all norms."""
    return _entropy(jnp.linalg.norm(_real(vectors, length), axis=1))


def histogram_entropy(vector: Float[Array, "dim"]) -> Float[Array, ""]:
    """Entropy in bits of a histogram of the values of one vector: `BINS` equal bins from the least to the largest."""
    low, high = jnp.min(vector), jnp.max(vector)
    place = jnp.floor((vector - low) / jnp.where(high > low, high - low, 1) * BINS)
    counts = jnp.zeros(BINS).at[jnp.clip(place, 0, BINS - 1).astype(jnp.int32)].add(1)
    return _entropy(counts) / jnp.log(2.0)


def eoe_paper(vectors: Float[Array, "tokens dim"], length: Length) -> Float[Array, ""]:
    """`-sum p(e_i) log p(e_i) / log n`, p from the norms, as it is printed; 0 for one token, whose log n is 0."""
    divisor = jnp.log(jnp.maximum(length, 1).astype(jnp.float32))
    return jnp.where(divisor > 0, norm_entropy(vectors, length) / jnp.where(divisor > 0, divisor, 1), 0)


def eoe_released(vectors: Float[Array, "tokens dim"], length: Length) -> Float[Array, ""]:
    """The released scripts' EOE: the histogram entropy of the last token's vector over `log2(n + 1)`; 0 for no token.

    A histogram's entropy hardly varies between texts, so this falls with the length and says little else.
    """
    divisor = jnp.log2(jnp.maximum(length, 1).astype(jnp.float32) + 1)
    return jnp.where(jnp.asarray(length) > 0, histogram_entropy(last_vector(vectors, length)) / divisor, 0)


def mean_vector(vectors: Float[Array, "tokens dim"], length: Length) -> Float[Array, "dim"]:
    """The mean of a moment's token vectors; zero for no token."""
    return jnp.sum(_real(vectors, length), axis=0) / jnp.maximum(length, 1)


def last_vector(vectors: Float[Array, "tokens dim"], length: Length) -> Float[Array, "dim"]:
    """The vector of a moment's last token, which stands for the whole in the released scripts."""
    return vectors[jnp.maximum(length, 1) - 1]


def dss(matches: Int[Array, "lexicons"], words: Length) -> Float[Array, ""]:
    """Domain-specific score: the share of a text's words that a lexicon holds, averaged over the lexicons.

    `matches` counts distinct words as printed, or every one as the released scripts do (`lexicon.Lexicon.matches`).
    Without a word or without a lexicon it is 0.
    """
    return jnp.sum(matches) / (jnp.maximum(words, 1) * max(matches.shape[0], 1))


def dominant_domain(matches: Int[Array, "lexicons"]) -> Int[Array, ""]:
    """The lexicon with the most matches, of equals the first; `NONE` where no word matches."""
    if not matches.shape[0]:
        return jnp.int32(NONE)
    return jnp.where(jnp.max(matches) > 0, jnp.argmax(matches), NONE).astype(jnp.int32)


def idd(
    embedding: Float[Array, "dim"], stored: Float[Array, "stored dim"], same: Bool[Array, "stored"]
) -> Float[Array, ""]:
    """In-domain dissimilarity: the mean of `1 - cos` to the stored moments of the `same` domain; 1 if there are none.

    So that a domain can enter that has nothing in the buffer yet. A zero vector has the cosine 0 to every other.
    """
    cosine = jnp.dot(_unit(stored), _unit(embedding[None])[0], precision="highest")
    return mean_dissimilarity(cosine, same)


def idd_released(
    embedding: Float[Array, "dim"], stored: Float[Array, "stored dim"], same: Bool[Array, "stored"]
) -> Float[Array, ""]:
    """What the released scripts call IDD: the mean cosine itself, and 0 for a domain with nothing stored."""
    return 1 - idd(embedding, stored, same)


def mean_dissimilarity(cosine: Float[Array, "stored"], same: Bool[Array, "stored"]) -> Float[Array, ""]:
    """The mean of `1 - cosine` over those of the `same` domain; 1 if there are none."""
    count = jnp.sum(same)
    total = jnp.sum(jnp.where(same, 1 - jnp.clip(cosine, -1, 1), 0))
    return jnp.where(count > 0, total / jnp.maximum(count, 1), 1)


class Reading(NamedTuple):
    """What is meant by a token's vector, by the entropy and by a match; `name` says so in every table."""

    name: str
    eoe: Eoe
    embedding: Pool  # of the whole moment, which IDD compares
    contextual: bool  # vectors are the last layer's; else the embeddings that enter the first
    repeats: bool  # a word that stands twice matches twice


RECOMMENDED = Reading("recommended", spectral_entropy, mean_vector, contextual=False, repeats=False)
PAPER = Reading("paper", eoe_paper, mean_vector, contextual=False, repeats=False)
RELEASED = Reading("released", eoe_released, last_vector, contextual=True, repeats=True)
READINGS = {reading.name: reading for reading in (RECOMMENDED, PAPER, RELEASED)}


def _real(vectors, length):
    return jnp.where(jnp.arange(vectors.shape[0])[:, None] < length, vectors, 0)


def _unit(x):
    norm = jnp.linalg.norm(x, axis=1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1)


def _entropy(weights):
    """In nats, of weights from 0 on, whose sum need not be 1."""
    weights = jnp.maximum(weights, 0)
    total = jnp.sum(weights)
    share = weights / jnp.where(total > 0, total, 1)
    return -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1)), 0))

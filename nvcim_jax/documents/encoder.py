"""Texts as vectors: a sentence encoder of Hugging Face, or without any the mean token embedding of a language model."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int, PyTree

from nvcim_jax.data import fields, text
from nvcim_jax.llm import bert, decoder, sentences
from nvcim_jax.llm.config import Config
from nvcim_jax.llm.fingerprint import fingerprint
from nvcim_jax.llm.layers import precision
from nvcim_jax.llm.weights import Model

TOKENS = 1024  # of one program: so many rows of short texts, or fewer of long ones; a CPU is slower with more
# Tokens of a text, rounded up to one of these.
WIDTHS = (16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512)
Vectors = Callable[..., Float[Array, "texts dim"]]


class Encoder(NamedTuple):
    """What makes vectors of texts; `vectors(params, config, ids, lengths)` is what it does with token ids."""

    params: PyTree
    config: Config
    tokenizer: Any
    vectors: Vectors
    window: int  # tokens of a text that are read
    is_special: bool  # the tokenizer's own tokens stand around a text
    before: tuple[str, str]  # what goes before questions, and before texts
    digest: str  # which tells one encoder from another

    @property
    def dim(self) -> int:
        return self.config.dim


class Encoded(NamedTuple):
    """One vector for each text, of length one, and how many texts were longer than the encoder reads."""

    vectors: Float[np.ndarray, "texts dim"]
    cut: int


def load_encoder(folder: Path | str, *, dtype: DTypeLike = jnp.float32) -> Encoder:
    """The encoder in a folder of sentence-transformers, or of a plain BERT, whose tokens are then averaged.

    Vectors are always float32, and scaled to length one. With weights in bfloat16 products are in bfloat16, too: about
    twice as fast on a CPU with matrix units for it, at a cosine of 0.9999 with the vectors of float32. A store of
    documents asks for the encoder that made it, so for the same type. Raises CheckpointError for what is no BERT, and
    for pooling, modules and weights that are not read here.
    """
    found = bert.load(folder, dtype=dtype)
    said = sentences.read(Path(folder).expanduser(), found.config.context)
    pool = {"mean": mean_state, "cls": first_state}[said.pooling]
    model = Model(found.params, found.config, found.tokenizer, ())
    told = f"{fingerprint(model)} {said.pooling} {said.window} {said.before_question!r} {said.before_text!r}"
    digest = hashlib.sha256(told.encode()).hexdigest()[:32]
    before = (said.before_question, said.before_text)
    return Encoder(found.params, found.config, found.tokenizer, pool, said.window, True, before, digest)


def encoder_of_model(model: Model) -> Encoder:
    """Mean token embeddings of a language model: no download, no layer is run, word order means nothing."""
    digest = hashlib.sha256(f"{fingerprint(model)} token embeddings".encode()).hexdigest()[:32]
    embedding = {"embedding": model.params["embedding"]} if not model.config.embedding_dim else model.params
    return Encoder(embedding, model.config, model.tokenizer, mean_token, model.config.context, False, ("", ""), digest)


def mean_state(
    params: PyTree, config: Config, ids: Int[Array, "texts tokens"], lengths: Int[Array, "texts"]
) -> Float[Array, "texts dim"]:
    """The mean last state of a BERT over the tokens of each text."""
    return _mean(bert.states(params, config, ids, lengths), lengths)


def first_state(
    params: PyTree, config: Config, ids: Int[Array, "texts tokens"], lengths: Int[Array, "texts"]
) -> Float[Array, "texts dim"]:
    """The last state of a BERT at the first token, [CLS], for which alone the last layer is computed."""
    return bert.states(params, config, ids, lengths, at=jnp.zeros((ids.shape[0], 1), jnp.int32))[:, 0]


def mean_token(
    params: PyTree, config: Config, ids: Int[Array, "texts tokens"], lengths: Int[Array, "texts"]
) -> Float[Array, "texts dim"]:
    """The mean token embedding of each text, before any layer."""
    return _mean(decoder.embed(params, config, ids), lengths)


def encode(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    is_question: bool = False,
    report: Callable[[int], None] = lambda texts: None,
) -> Encoded:
    """The vectors of `texts`, which are encoded in order of length, so that little is padded.

    A text that is longer than the encoder's window is cut there, and counted. ValueError, with its number, for a text
    that is empty, or of which the tokenizer leaves nothing.
    """
    ids, cut = _token_ids(encoder, texts, is_question)
    order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
    vectors = np.zeros((len(ids), encoder.dim), np.float32)
    while order:
        width = _width(len(ids[order[-1]]), encoder)
        rows = max(TOKENS // width, 1)
        chosen = order[-rows:]
        del order[-rows:]
        block = min(rows, 1 << (len(chosen) - 1).bit_length())  # few programs: powers of two, or a whole block
        padded = text.pad([ids[at] for at in np.resize(chosen, block)], width, 0)
        lengths = np.resize([len(ids[at]) for at in chosen], block).astype(np.int32)
        found = _vectors(encoder.params, padded, lengths, config=encoder.config, vectors=encoder.vectors)
        vectors[chosen] = np.asarray(found)[: len(chosen)]
        report(len(chosen))
    broken = np.flatnonzero(~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 0.01))
    if broken.size:
        raise ValueError(
            f"text {broken[0]}, {fields.shown(texts[broken[0]])}, is a vector of zeros or NaN: leave it out, or give "
            "another encoder"
        )
    return Encoded(vectors, cut)


def _token_ids(encoder: Encoder, texts: Sequence[str], is_question: bool) -> tuple[list[text.Ids], int]:
    before = encoder.before[0 if is_question else 1]
    for at, each in enumerate(texts):
        if not each.strip():
            raise ValueError(f"text {at} is empty: leave it out, for any vector would be as good")
    if not texts:
        return [], 0
    whole = [before + fields.whole(each) for each in texts]
    found = encoder.tokenizer(whole, add_special_tokens=False).input_ids
    edges = encoder.tokenizer("", add_special_tokens=True).input_ids if encoder.is_special else []
    room = encoder.window - len(edges)
    for at, ids in enumerate(found):
        if not ids:
            raise ValueError(
                f"text {at}, {fields.shown(texts[at])}, has no token that this encoder knows: leave it out"
            )
    first, last = edges[: len(edges) // 2 + len(edges) % 2], edges[len(edges) // 2 + len(edges) % 2 :]
    return [[*first, *ids[:room], *last] for ids in found], sum(len(ids) > room for ids in found)


def _width(longest: int, encoder: Encoder) -> int:
    widths = [width for width in WIDTHS if width >= longest]
    return min(widths[0] if widths else text.bucket(longest, 256), max(encoder.config.context, longest))


def _mean(states: Float[Array, "texts tokens dim"], lengths: Int[Array, "texts"]) -> Float[Array, "texts dim"]:
    there = (jnp.arange(states.shape[1])[None] < lengths[:, None])[..., None]
    return jnp.sum(jnp.where(there, states, 0), axis=1) / jnp.maximum(lengths, 1)[:, None]


@partial(jax.jit, static_argnames=("config", "vectors"))
def _vectors(params, ids, lengths, *, config: Config, vectors: Vectors):
    with jax.default_matmul_precision(precision() or "bfloat16"):  # of bfloat16 weights; float32 is multiplied as such
        found = vectors(params, config, ids, lengths)
    norm = jnp.linalg.norm(found, axis=1, keepdims=True)
    return found / jnp.where(norm > 0, norm, 1)

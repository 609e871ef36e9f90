"""The frozen decoder in Flax: embeddings in, last hidden states out, with an optional key/value cache.

Every token carries its position, and a token sees the tokens whose positions are not larger than its own.
Padding takes the position `NOWHERE`, which nobody reaches; so one integer array says what is causal, what is
padding and which cache slots are still empty, for prompts of any length side by side in one batch.

Params are an argument of every function, never closed over: closed-over weights would be baked into each program.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from nvcim_jax.llm.config import Config

NOWHERE = jnp.iinfo(jnp.int32).max


class Cache(NamedTuple):
    """Keys and values of the tokens seen so far, one array per layer, and the position held by each slot."""

    keys: tuple[Float[Array, "batch slots kv_heads head_dim"], ...]
    values: tuple[Float[Array, "batch slots kv_heads head_dim"], ...]
    positions: Int[Array, "batch slots"]


def empty_cache(config: Config, batch: int, slots: int, dtype=jnp.float32) -> Cache:
    """A cache in which every slot is still `NOWHERE`."""
    zeros = tuple(jnp.zeros((batch, slots, config.kv_heads, config.head_dim), dtype) for _ in range(config.layers))
    return Cache(zeros, zeros, jnp.full((batch, slots), NOWHERE, jnp.int32))


def rotate(
    x: Float[Array, "batch tokens heads head_dim"], positions: Int[Array, "batch tokens"], theta: float
) -> Float[Array, "batch tokens heads head_dim"]:
    """Rotary position embedding (Su et al., 2021), the two halves of a head as real and imaginary parts."""
    half = x.shape[-1] // 2
    frequency = 1.0 / theta ** (jnp.arange(half, dtype=jnp.float32) / half)
    angle = jnp.where(positions == NOWHERE, 0, positions)[..., None].astype(jnp.float32) * frequency[None, None]
    cos, sin = (f(angle)[:, :, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class Attention(nn.Module):
    """Grouped-query attention over the tokens given and those in the cache."""

    config: Config

    @nn.compact
    def __call__(self, x, positions, seen_positions, cached, slot):
        c = self.config
        batch, tokens, _ = x.shape

        def heads(name, count):
            return nn.Dense(count * c.head_dim, use_bias=False, name=name)(x).reshape(batch, tokens, count, c.head_dim)

        query = rotate(heads("q", c.heads), positions, c.rope_theta)
        key, value = rotate(heads("k", c.kv_heads), positions, c.rope_theta), heads("v", c.kv_heads)
        if cached is not None:
            key = jax.lax.dynamic_update_slice_in_dim(cached[0], key, slot, axis=1)
            value = jax.lax.dynamic_update_slice_in_dim(cached[1], value, slot, axis=1)
        grouped = query.reshape(batch, tokens, c.kv_heads, c.heads // c.kv_heads, c.head_dim)
        scores = jnp.einsum("btkgh,bskh->bkgts", grouped, key) * c.head_dim**-0.5
        visible = seen_positions[:, None, :] <= positions[:, :, None]
        scores = jnp.where(visible[:, None, None], scores.astype(jnp.float32), -1e30)
        weights = jax.nn.softmax(scores, axis=-1).astype(x.dtype)
        mixed = jnp.einsum("bkgts,bskh->btkgh", weights, value).reshape(batch, tokens, c.heads * c.head_dim)
        return nn.Dense(c.dim, use_bias=False, name="o")(mixed), (key, value)


class Block(nn.Module):
    """Attention, then a gated feed-forward, each behind a norm and beside a residual."""

    config: Config

    @nn.compact
    def __call__(self, x, positions, seen_positions, cached, slot):
        c = self.config
        normed = nn.RMSNorm(epsilon=c.norm_eps, name="attention_norm")(x)
        attended, cached = Attention(c, name="attention")(normed, positions, seen_positions, cached, slot)
        x = x + attended
        normed = nn.RMSNorm(epsilon=c.norm_eps, name="mlp_norm")(x)
        gate = nn.silu(nn.Dense(c.hidden_dim, use_bias=False, name="gate")(normed))
        up = nn.Dense(c.hidden_dim, use_bias=False, name="up")(normed)
        return x + nn.Dense(c.dim, use_bias=False, name="down")(gate * up), cached


class Decoder(nn.Module):
    """Blocks, unrolled: on a CPU a scan over layers costs about half of the speed."""

    config: Config

    def setup(self):
        c = self.config
        self.embedding = nn.Embed(c.vocab_size, c.dim)
        self.blocks = [Block(c) for _ in range(c.layers)]
        self.norm = nn.RMSNorm(epsilon=c.norm_eps)
        if not c.tied:
            self.head = nn.Dense(c.vocab_size, use_bias=False)

    def __call__(self, ids):
        return self.unembed(self.hidden(self.embed(ids), causal_positions(ids.shape), None, 0)[0])

    def embed(self, ids):
        return self.embedding(ids)

    def hidden(self, x, positions, cache, slot):
        seen = positions
        if cache is not None:
            seen = jax.lax.dynamic_update_slice_in_dim(cache.positions, positions, slot, axis=1)
        keys, values = [], []
        for layer, block in enumerate(self.blocks):
            cached = None if cache is None else (cache.keys[layer], cache.values[layer])
            x, (key, value) = block(x, positions, seen, cached, slot)
            keys.append(key)
            values.append(value)
        return self.norm(x), Cache(tuple(keys), tuple(values), seen)

    def unembed(self, x):
        return self.embedding.attend(x) if self.config.tied else self.head(x)


def causal_positions(shape: tuple[int, int]) -> Int[Array, "batch tokens"]:
    """Positions 0, 1, 2, ... for every row."""
    return jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32), shape)


def embed(params: PyTree, config: Config, ids: Int[Array, "batch tokens"]) -> Float[Array, "batch tokens dim"]:
    """Token embeddings: the space in which virtual tokens live."""
    return Decoder(config).apply({"params": params}, ids, method=Decoder.embed)


def hidden(
    params: PyTree,
    config: Config,
    embeddings: Float[Array, "batch tokens dim"],
    positions: Int[Array, "batch tokens"],
    cache: Cache | None = None,
    slot: Int[Array, ""] | int = 0,
) -> tuple[Float[Array, "batch tokens dim"], Cache]:
    """Last hidden states, and the keys and values of all tokens seen, written from `slot` on into `cache`."""
    return Decoder(config).apply({"params": params}, embeddings, positions, cache, slot, method=Decoder.hidden)


def unembed(params: PyTree, config: Config, x: Float[Array, "batch tokens dim"]) -> Float[Array, "batch tokens vocab"]:
    """Logits of hidden states; call it on the positions that need them only."""
    return Decoder(config).apply({"params": params}, x, method=Decoder.unembed)


def logits(
    params: PyTree,
    config: Config,
    ids: Int[Array, "batch tokens"] | None = None,
    *,
    embeddings: Float[Array, "batch tokens dim"] | None = None,
    positions: Int[Array, "batch tokens"] | None = None,
) -> Float[Array, "batch tokens vocab"]:
    """Logits after every token, from `ids` or from `embeddings`. Raises ValueError unless exactly one is given."""
    if (ids is None) == (embeddings is None):
        raise ValueError("give either ids or embeddings, and not both")
    x = embed(params, config, ids) if embeddings is None else embeddings
    return unembed(params, config, hidden(params, config, x, _or_causal(positions, x))[0])


def label_loss(
    params: PyTree,
    config: Config,
    embeddings: Float[Array, "batch tokens dim"],
    positions: Int[Array, "batch tokens"],
    labels: Int[Array, "batch labels"],
    label_at: Int[Array, "batch labels"],
) -> Float[Array, "batch"]:
    """Mean cross-entropy per row of `labels`, each predicted from the token at index `label_at`; negative ones
    are padding. Only label positions meet the vocabulary (256,000 words in Gemma)."""
    states, _ = hidden(params, config, embeddings, positions)
    at_labels = jnp.take_along_axis(states, label_at[..., None], axis=1)
    log_p = jax.nn.log_softmax(unembed(params, config, at_labels).astype(jnp.float32))
    real = labels >= 0
    picked = jnp.take_along_axis(log_p, jnp.where(real, labels, 0)[..., None], axis=-1)[..., 0]
    return -jnp.sum(jnp.where(real, picked, 0.0), axis=-1) / jnp.maximum(jnp.sum(real, axis=-1), 1)


def _or_causal(positions, x):
    return causal_positions(x.shape[:2]) if positions is None else positions

"""The frozen decoder in Flax: embeddings in, last hidden states out, with an optional key/value cache.

Every token carries its position, and a token sees the tokens whose positions are not larger than its own.
Padding takes the position `NOWHERE`, which nobody reaches; so one integer array says what is causal, what is
padding and which cache slots are still empty, for prompts of any length side by side in one batch.

Params are an argument of every function, never closed over: closed-over weights would be baked into each program.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Int, PyTree

from nvcim_jax.llm.attention import attend
from nvcim_jax.llm.config import Config
from nvcim_jax.llm.layers import ACTIVATIONS, NOWHERE, Linear, Norm, product, rotate, rotation
from nvcim_jax.llm.ties import recomputed


class Prefix(NamedTuple):
    """Keys and values in front of every layer (Li and Liang, 2021), used as they are: keys are not rotated.

    They take the first positions; the tokens follow from position `tokens` on, as in PEFT.
    """

    keys: Float[Array, "batch layers tokens kv_heads head_dim"]
    values: Float[Array, "batch layers tokens kv_heads head_dim"]


class Inputs(NamedTuple):
    """What the decoder reads: embedded tokens, and what stands before each row's first.

    Positions count the prefix, and are `NOWHERE` at padding; without any they run on from its end.
    """

    embeddings: Float[Array, "batch tokens dim"]
    positions: Int[Array, "batch tokens"] | None = None
    prefix: Prefix | None = None

    @property
    def first(self) -> int:
        """Position behind the prefix."""
        return 0 if self.prefix is None else self.prefix.keys.shape[2]


class Cache(NamedTuple):
    """Keys and values of the tokens seen so far, one array per layer, and the position held by each slot.

    Rows and heads share an axis, before the slots: what attention multiplies is then the very array that is written,
    and a step neither turns nor copies the cache.
    """

    keys: tuple[Float[Array, "batch*kv_heads slots head_dim"], ...]
    values: tuple[Float[Array, "batch*kv_heads slots head_dim"], ...]
    positions: Int[Array, "batch slots"]


def empty_cache(
    config: Config, batch: int, slots: int, dtype: DTypeLike = jnp.float32, prefix: Prefix | None = None
) -> Cache:
    """A cache of `slots` slots that are still `NOWHERE`, behind those of `prefix`."""
    zeros = jnp.zeros((batch * config.kv_heads, slots, config.head_dim), dtype)
    nowhere = jnp.full((batch, slots), NOWHERE, jnp.int32)
    if prefix is None:
        return Cache((zeros,) * config.layers, (zeros,) * config.layers, nowhere)
    keys, values = (
        tuple(
            jnp.concatenate([_by_head(part[:, layer]).astype(dtype), zeros], axis=1) for layer in range(config.layers)
        )
        for part in prefix
    )
    return Cache(keys, values, jnp.concatenate([causal_positions((batch, prefix.keys.shape[2])), nowhere], axis=1))


class Attention(nn.Module):
    """Grouped-query attention: queries of all given tokens or of those `at`, keys and values with the cache's."""

    config: Config
    window: int | None

    @nn.compact
    def __call__(self, x, positions, seen_positions, turn, cached, slot, at):
        c = self.config

        def heads(name, count, x):
            return Linear(c.packed, count * c.head_dim, c.qkv_bias, name=name)(x).reshape(*x.shape[:2], count, -1)

        query, key, value = heads("q", c.heads, _only(at, x)), heads("k", c.kv_heads, x), heads("v", c.kv_heads, x)
        batch, tokens = query.shape[:2]
        if c.norm_qk_whole:
            query, key = (
                Norm(c, name=f"{name}_norm")(part.reshape(*part.shape[:2], -1)).reshape(part.shape)
                for name, part in (("q", query), ("k", key))
            )
        if c.norm_qk:
            query, key = Norm(c, name="q_norm")(query), Norm(c, name="k_norm")(key)
        if turn is not None:
            cos, sin = turn
            query, key = rotate(query, (_only(at, cos), _only(at, sin))), rotate(key, turn)
        positions = _only(at, positions)
        key, value = _by_head(key), _by_head(value)
        if cached is not None:
            key = jax.lax.dynamic_update_slice_in_dim(cached[0], key.astype(cached[0].dtype), slot, axis=1)
            value = jax.lax.dynamic_update_slice_in_dim(cached[1], value.astype(cached[1].dtype), slot, axis=1)
        query = query * (c.head_dim**-0.5 if c.attention_scale is None else c.attention_scale)
        grouped = _by_head(query).reshape(batch * c.kv_heads, -1, c.head_dim)  # the queries that share a key
        allowed = seen_positions[:, None, :] <= positions[:, :, None]
        if self.window is not None:
            allowed &= seen_positions[:, None, :] > positions[:, :, None] - self.window
        mixed = attend(grouped, key, value, allowed, c.attention_cap).reshape(batch, c.heads, tokens, c.head_dim)
        mixed = mixed.swapaxes(1, 2).reshape(batch, tokens, c.heads * c.head_dim)
        return Linear(c.packed, c.dim, c.out_bias, name="o")(mixed), (key, value)


class Block(nn.Module):
    """Attention and feed-forward, one after the other or side by side, each with a norm and a residual connection."""

    config: Config
    window: int | None

    @nn.compact
    def __call__(self, x, positions, seen_positions, turn, cached, slot, at):
        c = self.config
        normed = Norm(c, name="attention_norm")(x) if c.norm_in and not c.norm_after else x
        attended, cached = Attention(c, self.window, name="attention")(
            normed, positions, seen_positions, turn, cached, slot, at
        )
        x, normed = _only(at, x), _only(at, normed)
        if c.norm_out:
            attended = Norm(c, name="attention_out_norm")(attended)
        attended = _scaled(attended, c.residual_scale)
        if not c.parallel:
            x = x + attended
        if c.norm_after:
            x = normed = Norm(c, name="attention_norm")(x)
        elif not c.norm_in:
            normed = x
        elif not c.shared_norm:
            normed = Norm(c, name="mlp_norm")(x)
        up = Linear(c.packed, c.hidden_dim, c.mlp_bias, name="up")(normed)
        gate = Linear(c.packed, c.hidden_dim, c.mlp_bias, name="gate")(normed) if c.gated else None
        fed = Linear(c.packed, c.dim, c.mlp_bias, name="down")(_activate(c.activation, up, gate))
        if c.norm_out:
            fed = Norm(c, name="mlp_out_norm")(fed)
        fed = _scaled(fed, c.residual_scale)
        x = x + attended + fed if c.parallel else x + fed
        return (Norm(c, name="mlp_norm")(x) if c.norm_after else x), cached


def _scaled(x: Array, scale: float) -> Array:
    return x if scale == 1.0 else x * jnp.asarray(scale, x.dtype)


def _activate(name, up, gate):
    """The activation, of which nothing is kept: backward has `up` and `gate` anyway, and the rest is cheap."""
    act = ACTIVATIONS[name]  # of the last argument, which `recomputed` ties to the way back
    if gate is None:
        return recomputed(lambda _, up: act(up))((), up)
    return recomputed(lambda up, gate: act(gate) * up)(up, gate)


@partial(jax.jit, static_argnums=(0, 1))
def _layer(config, window, params, *given):
    """What a block returns. Layers of one kind are traced once, as a program of their own that XLA inlines."""
    return Block(config, window, parent=None).apply({"params": params}, *given)


@partial(jax.jit, static_argnums=(0, 1))
def _layer_again(config, window, params, x, *given):
    """The same under remat: of its activations only x is kept for the backward pass."""
    run = recomputed(lambda beside, x: _layer(config, window, beside[0], x, *beside[1]))
    return run((params, given), x)


def _by_head(x: Float[Array, "batch tokens heads head_dim"]) -> Float[Array, "batch*heads tokens head_dim"]:
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])


def _only(at: Int[Array, "batch some"] | None, x: Array) -> Array:
    """What lies at the token indices `at` of each row; everything for None."""
    return x if at is None else jnp.take_along_axis(x, at.reshape(*at.shape, *(1,) * (x.ndim - 2)), axis=1)


class Decoder(nn.Module):
    """Blocks, unrolled: on a CPU a scan over layers costs about half of the speed."""

    config: Config
    recompute: bool = False

    def setup(self) -> None:
        c = self.config
        self.embedding = nn.Embed(c.vocab_size, c.embedding_dim or c.dim)
        if c.embedding_dim:
            self.widen = Linear(None, c.dim, False)
            self.narrow = Linear(None, c.embedding_dim, False)
        if c.rope is None:
            self.places = nn.Embed(c.context + c.position_offset, c.dim)
        self.blocks = [Block(c, c.window(layer)) for layer in range(c.layers)]
        if not c.norm_after:
            self.norm = Norm(c)
        if not c.tied:
            self.head = Linear(None, c.vocab_size, c.head_bias)

    def __call__(self, ids: Int[Array, "batch tokens"]) -> Float[Array, "batch tokens vocab"]:
        return self.unembed(self.hidden(self.embed(ids), causal_positions(ids.shape), None, 0, None)[0])

    def embed(self, ids: Int[Array | np.ndarray, "batch tokens"]) -> Float[Array, "batch tokens dim"]:
        x = _lookup(self.embedding.embedding, ids)
        if jax.default_backend() == "cpu":  # which is slow with activations of other types, whatever the weights
            x = x.astype(jnp.float32)
        x = _scaled(x, self.config.embedding_scale)
        return self.widen(x) if self.config.embedding_dim else x

    def hidden(
        self,
        x: Float[Array, "batch tokens dim"],
        positions: Int[Array, "batch tokens"],
        cache: Cache | None,
        slot: Int[Array, ""] | int,
        at: Int[Array, "batch some"] | None,
    ) -> tuple[Float[Array, "batch states dim"], Cache]:
        c, seen, turn, near = self.config, positions, None, None
        if cache is not None:
            seen = jax.lax.dynamic_update_slice_in_dim(cache.positions, positions, slot, axis=1)
        if c.rope is None:
            placed = self.places(jnp.where(positions == NOWHERE, 0, positions) + c.position_offset)
            x = x + placed.astype(x.dtype)
        else:
            longest = 1 + jnp.max(jnp.where(seen == NOWHERE, -1, seen), axis=1)
            turn = near = rotation(c.rope, positions, longest)
            if c.local_rope is not None:
                near = rotation(c.local_rope, positions, longest)
        keys, values = [], []
        for layer, block in enumerate(self.blocks):
            cached = None if cache is None else (cache.keys[layer], cache.values[layer])
            asking = at if layer == c.layers - 1 else None  # below the last layer every token is seen by others
            own = None if layer in c.unturned else turn if c.window(layer) is None else near
            given = (x, positions, seen, own, cached, slot, asking)
            if self.is_initializing():
                x, (key, value) = block(*given)
            else:
                run = _layer_again if self.recompute else _layer
                x, (key, value) = run(c, block.window, block.variables["params"], *given)
            keys.append(key)
            values.append(value)
        return x if c.norm_after else self.norm(x), Cache(tuple(keys), tuple(values), seen)

    def unembed(self, x: Float[Array, "batch tokens dim"]) -> Float[Array, "batch tokens vocab"]:
        c = self.config
        x = self.narrow(x) if c.embedding_dim else x
        scores = _scaled(product(x, self.embedding.embedding) if c.tied else self.head(x), c.logit_scale)
        return scores if c.logit_cap is None else jnp.tanh(scores / c.logit_cap) * c.logit_cap


def _lookup(table, ids):
    """Rows of the table. Those of bfloat16 are taken as bits: a CPU would turn the whole table to float32 first."""
    if table.dtype != jnp.bfloat16:
        return jnp.take(table, ids, axis=0)
    bits = jnp.take(jax.lax.bitcast_convert_type(table, jnp.uint16), ids, axis=0)
    return jax.lax.bitcast_convert_type(bits, jnp.bfloat16)


def causal_positions(shape: tuple[int, ...], start: int = 0) -> Int[Array, "batch tokens"]:
    """Positions start, start + 1, ... for every row, of [batch, tokens]."""
    return jnp.broadcast_to(start + jnp.arange(shape[1], dtype=jnp.int32), shape)


def embed(
    params: PyTree, config: Config, ids: Int[Array | np.ndarray, "batch tokens"]
) -> Float[Array, "batch tokens dim"]:
    """Token embeddings as they enter the first layer (`config.PROMPT_SPACE`): the space in which virtual tokens live.

    Float32 on a CPU, elsewhere in the type of the weights; all activations follow the type of the embeddings.
    """
    return _asked(params, config, Decoder.embed, ids)


def hidden(
    params: PyTree,
    config: Config,
    embeddings: Float[Array, "batch tokens dim"],
    positions: Int[Array, "batch tokens"],
    cache: Cache | None = None,
    slot: Int[Array, ""] | int = 0,
    *,
    at: Int[Array, "batch some"] | None = None,
    recompute: bool = False,
) -> tuple[Float[Array, "batch some dim"], Cache]:
    """Last hidden states, and the keys and values of all tokens seen, written from `slot` on into `cache`.

    With `at`, only the states at those token indices: the last layer is then computed for them alone. `recompute` is
    remat: no activations inside a layer are kept for the backward pass, which computes them again.
    """
    inputs = (embeddings, positions, cache, slot, at)
    return _asked(params, config, Decoder.hidden, *inputs, recompute=recompute)


def unembed(params: PyTree, config: Config, x: Float[Array, "batch tokens dim"]) -> Float[Array, "batch tokens vocab"]:
    """Logits of hidden states; call it on the positions that need them only."""
    return _asked(params, config, Decoder.unembed, x)


def _asked(params: PyTree, config: Config, method: Callable, *inputs: Any, recompute: bool = False) -> Any:
    """What a method of the decoder returns."""
    return Decoder(config, recompute).apply({"params": params}, *inputs, method=method)


def logits(
    params: PyTree,
    config: Config,
    ids: Int[Array, "batch tokens"] | None = None,
    *,
    embeddings: Float[Array, "batch tokens dim"] | None = None,
    positions: Int[Array, "batch tokens"] | None = None,
    prefix: Prefix | None = None,
) -> Float[Array, "batch tokens vocab"]:
    """Logits after every token, from `ids` or from `embeddings`, behind an optional key/value prefix per row.

    Positions count the prefix; without any they run on from its end. Raises ValueError unless exactly one of ids and
    embeddings is given, and for more tokens than the model's context holds.
    """
    if ids is not None and embeddings is None:
        embeddings = embed(params, config, ids)
    elif ids is not None or embeddings is None:
        raise ValueError("give either ids or embeddings, and not both")
    return unembed(params, config, _states(params, config, Inputs(embeddings, positions, prefix)))


def label_loss(
    params: PyTree,
    config: Config,
    inputs: Inputs,
    labels: Int[Array, "batch labels"],
    label_at: Int[Array, "batch labels"],
    *,
    recompute: bool = False,
) -> Float[Array, "batch"]:
    """Mean cross-entropy per row of `labels`, each predicted from the token at index `label_at`; negative ones
    are padding. Only label positions pass the last layer and meet the vocabulary (256,000 words in Gemma)."""
    states = _states(params, config, inputs, at=label_at, recompute=recompute)
    scores = unembed(params, config, states).astype(jnp.float32)
    real = labels >= 0
    picked = jnp.take_along_axis(scores, jnp.where(real, labels, 0)[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(scores, axis=-1) - picked
    return jnp.sum(jnp.where(real, losses, 0.0), axis=-1) / jnp.maximum(jnp.sum(real, axis=-1), 1)


def _states(params, config, inputs: Inputs, *, at=None, recompute=False):
    x, positions, prefix = inputs
    (batch, tokens, _), first = x.shape, inputs.first
    if positions is None:
        if first + tokens > config.context:
            raise ValueError(
                f"{first + tokens} tokens are more than the model's context of {config.context}: shorten them"
            )
        positions = causal_positions((batch, tokens), first)
    if prefix is None:
        return hidden(params, config, x, positions, at=at, recompute=recompute)[0]
    cache = empty_cache(config, batch, tokens, x.dtype, prefix)
    return hidden(params, config, x, positions, cache, first, at=at, recompute=recompute)[0]

"""What every method of adapting a frozen model hands to that model, and the loss of it.

A method is a frozen record of its settings with three functions, each of one row:

    init(key, tokens, codec, config) -> trained         what is trained, from the embeddings `tokens` [tokens, dim]
    apply(trained, codec, config, noise) -> Adapted     how the model reads it, disturbed by `noise(tree) -> tree`
    stored(trained, codec, config) -> tree              what a memory or a file keeps

One adapter for a whole buffer or one for each sample are ways of using a method, not methods.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from nvcim_jax.core.codec import Codec
from nvcim_jax.core.noise import inject
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.llm import decoder
from nvcim_jax.llm.config import Config
from nvcim_jax.llm.decoder import NOWHERE, Inputs, Prefix

Noise = Callable[[PyTree], PyTree]


class Adapted(NamedTuple):
    """What the frozen model reads of one row; with a leading axis of rows once the caller has mapped `apply`."""

    front: Float[Array, "*rows tokens dim"] | None = None  # virtual tokens before the question
    shift: Float[Array, "*rows longest dim"] | None = None  # added to the embeddings of the question's first tokens
    prefix: Prefix | None = None  # keys and values before every layer
    layers: PyTree | None = None  # leaves beside the kernels of the layers, as `layers.Linear` reads them


@runtime_checkable
class Method(Protocol):
    """The shape of a method; see the head of this file."""

    def init(self, key: PRNGKeyArray, tokens: Float[Array, "tokens dim"], codec: Codec, config: Config) -> PyTree: ...

    def apply(self, trained: PyTree, codec: Codec, config: Config, noise: Noise) -> Adapted: ...

    def stored(self, trained: PyTree, codec: Codec, config: Config) -> PyTree: ...


class Samples(NamedTuple):
    """One embedded sample a row, as `data.text.Batch` holds them: `labels` follow the tokens at `label_at`."""

    asked: Float[Array, "rows tokens dim"]
    positions: Int[Array, "rows tokens"]
    labels: Int[Array, "rows labels"]
    label_at: Int[Array, "rows labels"]
    place: Int[Array, "rows"] | None = None  # tokens that stand before the virtual ones


class Placed(NamedTuple):
    """Adapted rows as the decoder takes them: generate from it, or ask for its loss."""

    params: PyTree
    inputs: Inputs


def quiet(tree: PyTree) -> PyTree:
    """No noise."""
    return tree


def device_noise(key: PRNGKeyArray, condition: Condition, through_peak: bool) -> Noise:
    """Eq. 4 on every array of a tree, each with a key of its own; see `noise.inject`."""

    def put(key: PRNGKeyArray, values):
        flat = values.reshape(-1, values.shape[-1])
        factors = condition.device.factors
        noisy = inject(key, flat, sigma=condition.sigma, factors=factors, through_peak=through_peak)
        return noisy.reshape(values.shape)

    def noise(tree: PyTree) -> PyTree:
        leaves, shape = jax.tree.flatten(tree)
        keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
        return jax.tree.unflatten(shape, [put(*each) for each in zip(keys, leaves, strict=True)])

    return noise


def taken(adapted: Adapted) -> int:
    """Positions that stand before the question."""
    front, prefix = adapted.front, adapted.prefix
    return (0 if front is None else front.shape[-2]) + (0 if prefix is None else prefix.keys.shape[-3])


def place(
    params: PyTree,
    adapted: Adapted,
    asked: Float[Array, "rows tokens dim"],
    positions: Int[Array, "rows tokens"],
    lengths: Int[Array, "rows"] | None = None,
    place: Int[Array, "rows"] | None = None,
) -> Placed:
    """Embedded questions behind what a method adapted; `lengths` are the questions' where answers follow in `asked`.

    `positions` count from 0 at the question's first token. With `place`, so many tokens of each question stand before
    the virtual ones.
    """
    rows, tokens, _ = asked.shape
    if adapted.shift is not None:
        width = min(adapted.shift.shape[1], tokens)
        shift = jnp.pad(adapted.shift[:, :width], ((0, 0), (0, tokens - width), (0, 0))).astype(asked.dtype)
        inside = True if lengths is None else jnp.arange(tokens)[None] < lengths[:, None]
        asked = asked + jnp.where(jnp.broadcast_to(inside, (rows, tokens))[..., None], shift, 0)
    before = taken(adapted)
    positions = jnp.where(positions == NOWHERE, NOWHERE, positions + before)
    if adapted.front is not None:
        front = adapted.front.shape[1]
        asked = jnp.concatenate([adapted.front.astype(asked.dtype), asked], axis=1)
        asked = asked if place is None else _moved(asked, front, place)
        positions = jnp.concatenate([decoder.causal_positions((rows, front), before - front), positions], axis=1)
    return Placed(_beside(params, adapted.layers), Inputs(asked, positions, adapted.prefix))


def label_loss(
    params: PyTree,
    config: Config,
    adapted: Adapted,
    samples: Samples,
    *,
    recompute: bool = False,
) -> Float[Array, "rows"]:
    """Mean cross-entropy of each row's labels behind what a method adapted."""
    asked, positions, labels, label_at, at = samples
    front = 0 if adapted.front is None else adapted.front.shape[1]
    placed = place(params, adapted, asked, positions, label_at[:, 0] + 1, at)
    return decoder.label_loss(placed.params, config, placed.inputs, labels, label_at + front, recompute=recompute)


def _moved(tokens: Float[Array, "rows tokens dim"], front: int, place: Int[Array, "rows"]):
    """The first `front` tokens of each row behind the next `place`."""
    at, first = jnp.arange(tokens.shape[1])[None], place[:, None]
    order = jnp.where(at < first, at + front, jnp.where(at < first + front, at - first, at))
    return jnp.take_along_axis(tokens, order[..., None], axis=1)


def _beside(params: PyTree, layers: PyTree | None) -> PyTree:
    """`params` with the leaves of `layers` beside its own."""
    if layers is None:
        return params
    if not isinstance(layers, dict):
        return layers
    return params | {name: _beside(params.get(name, {}), below) for name, below in layers.items()}

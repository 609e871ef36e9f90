"""The compiled programs of the pipeline: every jit outside tuning and generation is here, made once.

Each maps a function of one example over the users, draws, slots or questions of a block.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from nvcim_jax import tuning
from nvcim_jax.core import selection
from nvcim_jax.core.codec import Codec, Fit, decode, encode
from nvcim_jax.core.pooling import resample
from nvcim_jax.data.text import Batch
from nvcim_jax.hardware import mitigation
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.llm import decoder
from nvcim_jax.llm.config import Config
from nvcim_jax.memory import bank, programming
from nvcim_jax.memory.bank import Bank, Ovt
from nvcim_jax.pipeline.presets import SearchKey, Settings
from nvcim_jax.stream import policies
from nvcim_jax.stream.buffer import Buffer, Decision, Item
from nvcim_jax.stream.metrics import Reading


@jax.jit
def prompts_of(codec: Codec, codes: Float[Array, "users rows tokens code"]) -> Float[Array, "users rows tokens dim"]:
    """Decode codes with the codec of their user."""
    return jax.vmap(lambda own, rows: jax.vmap(partial(decode, own))(rows))(codec, codes)


@partial(jax.jit, static_argnames=("config",))
def embed(params: PyTree, config: Config, ids: Int[Array, "rows tokens"]) -> Float[Array, "rows tokens dim"]:
    """Token embeddings of ids."""
    return decoder.embed(params, config, ids)


@partial(jax.jit, static_argnames=("config",))
def mean_embedding(
    params: PyTree, config: Config, ids: Int[Array, "users items tokens"], lengths: Int[Array, "users items"]
) -> Float[Array, "users items dim"]:
    """Mean embedding of the first `length` tokens of every item."""
    real = jnp.arange(ids.shape[-1])[None, None] < lengths[..., None]
    vectors = decoder.embed(params, config, ids.reshape(-1, ids.shape[-1])).reshape(*ids.shape, -1)
    return jnp.sum(jnp.where(real[..., None], vectors, 0), axis=2) / lengths[..., None]


@partial(jax.jit, static_argnames=("config", "rows"))
def encode_content(
    params: PyTree,
    config: Config,
    ids: Int[Array, "users items tokens"],
    lengths: Int[Array, "users items"],
    codec: Codec,
    *,
    rows: int,
) -> Float[Array, "users items {rows} code"]:
    """Items as `rows` rows of their user's code."""
    vectors = decoder.embed(params, config, ids.reshape(-1, ids.shape[-1])).reshape(*ids.shape, -1)
    one = lambda own, x, length: resample(encode(own, x), rows, length=length)  # noqa: E731
    return jax.vmap(jax.vmap(one, in_axes=(None, 0, 0)))(codec, vectors, lengths)


@partial(jax.jit, static_argnames=("most",))
def representatives(
    keys: Key[Array, "users"],
    points: Float[Array, "users items dim"],
    items: Bool[Array, "users items"],
    counts: Int[Array, "users"],
    *,
    most: int,
) -> tuple[Int[Array, "users {most}"], Bool[Array, "users {most}"], Int[Array, "users items"]]:
    """Cluster every user's points (Eq. 1): representatives (Eq. 3), which clusters have one, and every point's."""

    def one(key, points, items, count):
        clusters = selection.kmeans(key, points, items, count, most=most)
        return *selection.representatives(points, items, clusters), clusters.assignment

    return jax.vmap(one)(keys, points, items, counts)


@partial(jax.jit, static_argnames=("fit",))
def fit_codecs(
    keys: Key[Array, "users"],
    vectors: Float[Array, "users words dim"],
    counts: Float[Array, "users words"],
    *,
    fit: Fit,
) -> Codec:
    """One codec per user."""
    return jax.vmap(fit)(keys, vectors, counts)


@partial(jax.jit, static_argnames=("config", "settings"))
def start(
    params: PyTree,
    start_keys: Key[Array, "rows"],
    init_keys: Key[Array, "rows"],
    ids: Int[Array, "rows tokens"],
    given: Float[Array, "rows tokens dim"] | None,
    codecs: Codec,
    *,
    config: Config,
    settings: Settings,
) -> tuple[PyTree, PyTree, PyTree]:
    """What training starts from, its learning rates and its limits, row by row. From `given` tokens if any."""

    def one(start_key, init_key, ids, given, codec):
        tokens = settings.start(start_key, params, config, ids) if given is None else given
        values = settings.method.init(init_key, tokens, codec, config)
        limits = jax.tree.map(partial(_limit, clip=settings.clip), values)
        return values, settings.learning_rate(values), limits

    return jax.vmap(one)(start_keys, init_keys, ids, given, codecs)


def _limit(leaf: Float[Array, "..."], *, clip: float) -> Float[Array, ""]:
    """The quantile `clip` of the magnitudes; none where it is 0, as of LoRA's second factor, which starts there."""
    most = jnp.quantile(jnp.abs(leaf), clip) if clip < 1 else jnp.inf
    return jnp.where(most > 0, most, jnp.inf).astype(leaf.dtype)


@partial(jax.jit, static_argnames=("config", "probes", "at_once"))
def sensitivity(
    params: PyTree,
    keys: Key[Array, "rows"],
    codes: Float[Array, "rows tokens code"],
    codecs: Codec,
    batch: Batch,
    *,
    config: Config,
    probes: int,
    at_once: int,
) -> Float[Array, "rows tokens code"]:
    """How much each stored value's error costs: curvature of the label loss of an OVT's own sample, row by row.

    `batch` has one sample a row, and no axis of samples.
    """

    def one(row):
        key, code, codec, *sample = row
        ids, *rest = jax.tree.map(lambda leaf: leaf[None], sample)
        asked = decoder.embed(params, config, ids)

        def loss(code):
            front = tuning.Adapted(front=decode(codec, code)[None])
            return tuning.label_loss(params, config, front, tuning.Samples(asked, *rest))[0]

        return mitigation.curvature(key, loss, code, probes=probes)

    return jax.lax.map(one, (keys, codes, codecs, *batch), batch_size=at_once)


@partial(jax.jit, static_argnames=("write", "draws"))
def program(
    keys: Key[Array, "users"],
    codes: Float[Array, "users slots tokens code"],
    search_keys: Float[Array, "users slots tokens code"],
    valid: Bool[Array, "users slots"],
    sensitivity: Float[Array, "users slots tokens code"] | None,
    condition: Condition,
    *,
    write: programming.Write,
    draws: int,
) -> programming.Programmed:
    """Every user's bank, `draws` times: [users, draws, slots, ...]. `sensitivity` may be None."""
    users, slots = valid.shape
    # One flat axis of users, draws and slots: under three nested vmaps the generator compiles four times as long.
    user, draw, slot = (axis.reshape(-1) for axis in jnp.indices((users, draws, slots)))
    fold = jax.vmap(jax.random.fold_in)
    own_keys = fold(fold(keys[user], draw), slot)
    own = jax.tree.map(lambda leaf: leaf[user, slot], (codes, search_keys, sensitivity))

    def put(key, code, search_key, sensitivity):
        return programming.program_one(
            key, code, search_key, condition.device, sigma=condition.sigma, write=write, sensitivity=sensitivity,
            seconds=condition.seconds,
        )  # fmt: skip

    stored = jax.vmap(put)(own_keys, *own)
    prompts, copies = jax.tree.map(lambda leaf: leaf.reshape(users, draws, slots, *leaf.shape[1:]), stored)
    return programming.Programmed(prompts, copies, jnp.broadcast_to(valid[:, None], (users, draws, slots)))


@partial(jax.jit, static_argnames=("score",))
def search(
    banks: programming.Programmed, queries: Float[Array, "users queries tokens code"], *, score: programming.Score
) -> programming.Match:
    """Every programmed bank searched for every query of its user: [users, draws, queries, ...]."""
    one = jax.vmap(partial(programming.retrieve, score=score), in_axes=(None, 0))
    return jax.vmap(jax.vmap(one, in_axes=(0, None)))(banks, queries)


@partial(jax.jit, static_argnames=("config", "reading"))
def read_moments(
    params: PyTree,
    config: Config,
    ids: Int[Array | np.ndarray, "rows tokens"],
    lengths: Int[Array, "rows"],
    *,
    reading: Reading,
) -> tuple[Float[Array, "rows dim"], Float[Array, "rows"]]:
    """The embedding and the EOE of every moment, of its first `length` tokens."""
    vectors = decoder.embed(params, config, ids)
    if reading.contextual:
        place = jnp.arange(ids.shape[1])[None, :]
        positions = jnp.where(place < lengths[:, None], place, decoder.NOWHERE)
        vectors, _ = decoder.hidden(params, config, vectors, positions)
    vectors = vectors.astype(jnp.float32)
    return jax.vmap(reading.embedding)(vectors, lengths), jax.vmap(reading.eoe)(vectors, lengths)


@partial(jax.jit, static_argnames=("policy",))
def push_all(buffers: Buffer, items: Item, *, policy: policies.Policy) -> tuple[Buffer, Decision]:
    """Every user's moments, one after the other, into the user's buffer."""
    return jax.vmap(partial(policies.push_all, policy=policy))(buffers, items)


@partial(jax.jit, static_argnames=("victim",))
def take_in(
    banks: Bank,
    ovts: Ovt,
    new: Bool[Array, "users ovts"],
    gone: Bool[Array, "users slots"],
    *,
    victim: Callable[[Bank], Int[Array, ""]],
) -> Bank:
    """Every user's new OVTs into the user's bank (`memory.bank.take_in`)."""
    return jax.vmap(partial(bank.take_in, victim=victim))(banks, ovts, new, gone)


@jax.jit
def codes_of(codec: Codec, prompts: Float[Array, "users rows tokens dim"]) -> Float[Array, "users rows tokens code"]:
    """Code virtual tokens with the codec of their user."""
    return jax.vmap(lambda own, rows: jax.vmap(partial(encode, own))(rows))(codec, prompts)


@partial(jax.jit, static_argnames=("key",))
def search_keys(
    content: Float[Array, "users slots tokens code"], codes: Float[Array, "users slots tokens code"], *, key: SearchKey
) -> Float[Array, "users slots tokens code"]:
    """The search keys of all slots."""
    return jax.vmap(jax.vmap(key))(content, codes)


@partial(jax.jit, static_argnames=("method", "config"))
def adapted(values: PyTree, codecs: Codec, *, method: tuning.Method, config: Config) -> tuning.Adapted:
    """What a method hands to the model of trained rows, undisturbed."""
    return jax.vmap(lambda own, codec: method.apply(own, codec, config, tuning.quiet))(values, codecs)

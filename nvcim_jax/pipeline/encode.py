"""Between text and what the arrays hold: codecs, and the codes of samples and questions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from nvcim_jax.core.codec import Codec, Fit, fit_pca
from nvcim_jax.data import lamp, text
from nvcim_jax.data.lamp import Task
from nvcim_jax.llm.weights import Model
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline import compiled, keys
from nvcim_jax.pipeline.presets import Settings


def fit_codecs(
    key: PRNGKeyArray,
    model: Model,
    task: Task,
    users: Sequence[User],
    *,
    fit: Fit = fit_pca,
    most_tokens: int = 64,
) -> Codec:
    """One codec per user, fitted to the content and answers of the user's own buffer, `most_tokens` of each sample."""
    tokens = [
        [token for sample in user.history for token in _summary(model, task, sample)[:most_tokens]] for user in users
    ]
    width = text.bucket(max(map(len, tokens)), 256)
    counts = jnp.asarray(np.arange(width)[None] < np.array([len(row) for row in tokens])[:, None], jnp.float32)
    vectors = compiled.embed(model.params, model.config, text.pad(tokens, width, 0))
    return compiled.fit_codecs(keys.of_users(key, users, "codec"), vectors, counts, fit=fit)


def content_codes(
    model: Model, samples: Sequence[Sequence[Sample]], codec: Codec, rows: int
) -> Float[Array, "users samples rows code"]:
    """The content of every sample as `rows` rows of its user's code."""
    room = model.config.context
    ids = [[text.encode(model.tokenizer, sample.content)[:room] or [0] for sample in row] for row in samples]
    width = text.bucket(max(len(one) for row in ids for one in row))
    padded = np.stack([text.pad(row, width, 0) for row in ids])
    lengths = jnp.array([[len(one) for one in row] for row in ids])
    return compiled.encode_content(model.params, model.config, padded, lengths, codec, rows=rows)


def mean_embeddings(
    model: Model, contents: Sequence[Sequence[text.Ids]]
) -> tuple[Float[Array, "users items dim"], Bool[Array, "users items"]]:
    """Mean content embedding of each history item, and which items are real."""
    most = max(map(len, contents))
    ids = [[row[: model.config.context] or [0] for row in user] + [[0]] * (most - len(user)) for user in contents]
    width = text.bucket(max(len(row) for user in ids for row in user))
    padded = np.stack([text.pad(user, width, 0) for user in ids])
    lengths = jnp.array([[len(row) for row in user] for user in ids])
    items = jnp.arange(most)[None, :] < jnp.array([len(user) for user in contents])[:, None]
    return compiled.mean_embedding(model.params, model.config, padded, lengths), items


def search_keys(
    model: Model,
    samples: Sequence[Sample],
    codecs: Codec,
    codes: Float[Array, "rows tokens code"],
    *,
    settings: Settings,
) -> Float[Array, "rows tokens code"]:
    """The search keys of the OVTs of `samples`, row by row."""
    content = content_codes(model, [[sample] for sample in samples], codecs, settings.tokens)[:, 0]
    return jax.vmap(settings.key)(content, codes)


def stored(model: Model, values: PyTree, codecs: Codec, *, settings: Settings) -> Float[Array, "rows tokens code"]:
    """What the memory keeps of trained rows, each with its own codec."""
    return jax.vmap(lambda own, codec: settings.method.stored(own, codec, model.config))(values, codecs)


def codecs_of(codec: Codec, slots: keys.Slots) -> Codec:
    """The codec of each slot's user, row by row."""
    owners = np.array([user for user, _ in slots])
    return jax.tree.map(lambda leaf: np.asarray(leaf)[owners], codec)


def _summary(model: Model, task: Task, sample: Sample) -> text.Ids:
    gist = text.encode(model.tokenizer, lamp.gist(task, sample))
    return gist + text.encode(model.tokenizer, lamp.ANSWER) + text.answer_ids(model.tokenizer, sample)

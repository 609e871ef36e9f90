"""A block of users: what travels together from a history to a bank, and from a question to its answer."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nvcim_jax.core.codec import Codec, decode
from nvcim_jax.data.lamp import Task
from nvcim_jax.llm.weights import Model
from nvcim_jax.people import User
from nvcim_jax.pipeline.encode import fit_codecs
from nvcim_jax.pipeline.presets import Settings
from nvcim_jax.pipeline.select import Selected, buffered, select


class Common(NamedTuple):
    """What many people's histories have in common: a codec, and the code of virtual tokens tuned on all of them."""

    codec: Codec
    prompt: Float[Array, "tokens code"]


class Block(NamedTuple):
    """Users of one task who are learned together, the samples that stand for them, and a codec each.

    The codec's leaves have a leading user axis. With a `start`, all of a user's virtual tokens start from its rows,
    instead of as `Settings.start` says.
    """

    task: Task
    users: list[User]
    selected: Selected
    codec: Codec
    start: Float[Array, "users tokens dim"] | None = None


def gather(
    key: PRNGKeyArray,
    model: Model,
    task: Task,
    users: Sequence[User],
    *,
    settings: Settings,
    extra_domains: bool = False,
    common: Common | None = None,
) -> Block:
    """Users with the latest samples of their history, the representatives of these, and codecs fitted to them.

    With something in `common` all take its codec, and start from its prompt.

    ValueError without users, and for one whose history is empty.
    """
    if not users:
        raise ValueError("there are no users: give at least one, with a history")
    select_key, codec_key = jax.random.split(key)
    people = buffered(users, settings.buffer)
    selected = select(select_key, model, people, extra_domains=extra_domains)
    if common is None:
        return Block(task, people, selected, fit_codecs(codec_key, model, task, people, fit=settings.fit_codec))
    return started(task, people, selected, common)


def started(task: Task, users: list[User], selected: Selected, common: Common) -> Block:
    """A block of users who all take the codec of `common`, and start from its prompt."""
    each = lambda leaf: jnp.broadcast_to(leaf, (len(users), *leaf.shape))  # noqa: E731
    return Block(task, users, selected, *jax.tree.map(each, (common.codec, decode(common.codec, common.prompt))))

"""A block of users: what travels together from a history to a bank, and from a question to its answer."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
from jaxtyping import PRNGKeyArray

from nvcim_jax.core.codec import Codec
from nvcim_jax.data.lamp import Task
from nvcim_jax.llm.weights import Model
from nvcim_jax.people import User
from nvcim_jax.pipeline.encode import fit_codecs
from nvcim_jax.pipeline.presets import Settings
from nvcim_jax.pipeline.select import Selected, buffered, select


class Block(NamedTuple):
    """Users of one task who are learned together, the samples that stand for them, and a codec each.

    The codec's leaves have a leading user axis.
    """

    task: Task
    users: list[User]
    selected: Selected
    codec: Codec


def gather(
    key: PRNGKeyArray,
    model: Model,
    task: Task,
    users: Sequence[User],
    *,
    settings: Settings,
    extra_domains: bool = False,
) -> Block:
    """Users with the latest samples of their history, the representatives of these, and codecs fitted to them.

    ValueError without users, and for one whose history is empty.
    """
    if not users:
        raise ValueError("there are no users: give at least one, with a history")
    select_key, codec_key = jax.random.split(key)
    people = buffered(users, settings.buffer)
    selected = select(select_key, model, people, extra_domains=extra_domains)
    return Block(task, people, selected, fit_codecs(codec_key, model, task, people, fit=settings.fit_codec))

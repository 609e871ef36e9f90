"""A bank programmed into noisy arrays, and searched: from questions to the OVTs that are read back (Fig. 4)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nvcim_jax.data import text
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.llm import room
from nvcim_jax.llm.weights import Model
from nvcim_jax.memory import bank, programming
from nvcim_jax.pipeline import compiled, encode, keys
from nvcim_jax.pipeline.block import Block
from nvcim_jax.pipeline.learn import pair
from nvcim_jax.pipeline.presets import Settings

CURVED = 16  # rows whose curvature is computed at once, at most


def program(
    key: PRNGKeyArray,
    block: Block,
    learned: bank.Bank,
    condition: Condition,
    *,
    settings: Settings,
    draws: int = 1,
    sensitivity: Float[Array, "users slots tokens code"] | None = None,
) -> programming.Programmed:
    """Program each user's bank `draws` times, read `condition.seconds` later; leaves are [users, draws, slots, ...].

    `sensitivity` is what `sensitivities` found, for a `settings.write` that takes one.
    """
    own = keys.of_users(key, block.users, "program")
    later = None if condition.seconds is None else jnp.float32(condition.seconds)
    condition = condition._replace(sigma=jnp.float32(condition.sigma), seconds=later)
    return compiled.program(
        own, learned.prompts, learned.keys, learned.valid, sensitivity, condition, write=settings.write, draws=draws
    )


def search(model: Model, block: Block, banks: programming.Programmed, *, settings: Settings) -> programming.Match:
    """Search every programmed bank for every query of its user; leaves are [users, draws, queries, ...].

    A user with fewer queries than others has them repeated.
    """
    most = max(len(user.queries) for user in block.users)
    queries = [(user.queries * most)[:most] for user in block.users]
    codes = encode.content_codes(model, queries, block.codec, settings.tokens)
    return compiled.search(banks, codes, score=settings.score)


def sensitivities(
    key: PRNGKeyArray, model: Model, block: Block, learned: bank.Bank, *, settings: Settings
) -> Float[Array, "users slots tokens code"]:
    """How much an error of each stored value costs: curvature of the loss of the OVT's own sample (SWIM's measure)."""
    slots = block.selected.slots
    pairs = [pair(model, sample, settings) for sample in block.selected.learned]
    batch = text.batch([[each[:2]] for each in pairs], [[each[2]] for each in pairs])
    batch = jax.tree.map(lambda leaf: leaf[:, 0], batch)
    own, at = keys.of_slots(key, block.users, slots, "curvature"), tuple(np.array(slots).T)
    found = compiled.sensitivity(
        model.params, own, learned.prompts[at], encode.codecs_of(block.codec, slots), batch,
        config=model.config, probes=settings.probes, at_once=_rows_at_once(model, batch, settings),
    )  # fmt: skip
    return jnp.zeros_like(learned.prompts).at[at].set(found)


def _rows_at_once(model: Model, batch: text.Batch, settings: Settings) -> int:
    tokens = batch.ids.shape[-1] + settings.tokens
    each = room.curvature(model.config, tokens)
    rows = room.rows(each, CURVED)
    room.require(rows * each, model.memory, model.config, f"the curvature of samples of {tokens} tokens")
    return rows

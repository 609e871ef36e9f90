"""Tune many prompts at once against one copy of a frozen model. The only door to Optax beside the codec."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from nvcim_jax.codec import Codec
from nvcim_jax.devices import Device
from nvcim_jax.llm import decoder
from nvcim_jax.llm.config import Config
from nvcim_jax.text import Batch

Render = Callable[..., Float[Array, "tokens dim"]]


class Tuned(NamedTuple):
    """What was trained, row by row, and the loss of every step."""

    values: Float[Array, "rows tokens width"]
    losses: Float[Array, "steps rows"]


class Job(NamedTuple):
    """Rows to tune, each with its own start, codec, learning rate, limit on magnitude, samples and key."""

    keys: PRNGKeyArray  # [rows]
    start: Float[Array, "rows tokens width"]
    codec: Codec  # leaves have a leading row axis
    learning_rate: Float[Array, "rows"]
    limit: Float[Array, "rows"]  # values are clipped to it after every step; inf where they may go anywhere
    batch: Batch


@partial(jax.jit, static_argnames=("config", "render", "steps", "per_step"))
def tune(
    params: PyTree,
    job: Job,
    device: Device,
    sigma: Float[Array, ""] | float,
    *,
    config: Config,
    render: Render,
    steps: int,
    per_step: int = 1,
) -> Tuned:
    """Adam with cosine decay on the label loss of each row, with fresh device noise at every step.

    A row sees `per_step` samples of its pool at each step, in turn. Rows do not influence each other: the loss is
    their sum, and Adam works value by value.
    """
    pool = job.batch.ids.shape[1]
    schedule = optax.cosine_decay_schedule(1.0, steps)
    optimiser = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(lambda count: -schedule(count)))
    asked = jax.vmap(lambda ids: decoder.embed(params, config, ids), in_axes=1, out_axes=1)(job.batch.ids)

    def losses(values, step):
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(job.keys, step)
        prompts = jax.vmap(render, in_axes=(0, 0, 0, None, None))(keys, values, job.codec, device, sigma)
        turn = (step * per_step + jnp.arange(per_step)) % pool
        seen = jax.tree.map(lambda leaf: _flat(leaf[:, turn]), (asked, *job.batch[1:]))
        return prompt_loss(params, config, jnp.repeat(prompts, per_step, axis=0), *seen).reshape(-1, per_step).mean(1)

    def total(values, step):
        each = losses(values, step)
        return jnp.sum(each), each

    def update(carry, step):
        values, state = carry
        gradient, each = jax.grad(total, has_aux=True)(values, step)
        change, state = optimiser.update(gradient, state)
        limit = job.limit[:, None, None]
        values = jnp.clip(values + job.learning_rate[:, None, None] * change, -limit, limit)
        return (values, state), each

    start = jnp.clip(job.start, -job.limit[:, None, None], job.limit[:, None, None])
    (values, _), history = jax.lax.scan(update, (start, optimiser.init(start)), jnp.arange(steps))
    return Tuned(values, history)


def prompt_loss(params, config, prompts, asked, positions, labels, label_at):
    """Label loss of each row: a prompt [tokens, dim] in front of the embedded question `asked`."""
    rows, tokens, _ = prompts.shape
    prompt_positions = decoder.causal_positions((rows, tokens))
    embeddings = jnp.concatenate([prompts.astype(asked.dtype), asked], axis=1)
    positions = jnp.concatenate([prompt_positions, positions], axis=1)
    return decoder.label_loss(params, config, embeddings, positions, labels, label_at)


def _flat(leaf):
    return leaf.reshape(-1, *leaf.shape[2:])

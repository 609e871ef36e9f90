"""Train projections of many rows at once, for each person or for all, so that noisy arrays find the right text."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from nvcim_jax.core.codec import Codec
from nvcim_jax.description import described
from nvcim_jax.documents import examples, losses, stored
from nvcim_jax.documents.codecs import codes
from nvcim_jax.documents.examples import Examples, Make
from nvcim_jax.documents.losses import Loss
from nvcim_jax.documents.stored import Format
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.tuning import blocks


@dataclass(frozen=True)
class Recipe:
    """How a projection is trained; hashable, so it is static under jit.

    Dropout is of vectors, before the projection, what it keeps being scaled up (as PyTorch does).
    """

    make: Make = examples.pairs
    loss: Loss = losses.expected_hinge
    right_drop: float = 0.0
    wrong_drop: float = 0.0
    steps: int = 300
    batch: int = 32
    learning_rate: float = 1e-3
    noise: float = 1.0  # times the device's sigma, in training


# The constants of CDE and CDI are those of the released notebooks; one epoch there has 625 steps.
RECIPES = {
    "cde": Recipe(examples.cde, losses.margin_triplet, 0.1, 0.0, steps=625, batch=16, learning_rate=2e-5),
    "cdi": Recipe(examples.cdi, losses.margin_triplet, 0.1, 0.9, steps=625, batch=16, learning_rate=2e-5),
    "infonce": Recipe(loss=losses.info_nce),
    "hinge": Recipe(),
}
NAMES = {
    Recipe: "recipe", Format: "format", examples.cde: "cde", examples.cdi: "cdi", examples.pairs: "pairs",
    losses.margin_triplet: "margin triplet", losses.info_nce: "InfoNCE", losses.expected_hinge: "expected hinge",
}  # fmt: skip


class State(NamedTuple):
    """Where training stands: enough to go on from, bit by bit as if it had never stopped."""

    step: Int[Array, ""]
    codec: Codec  # leaves [rows, ...]
    optimiser: PyTree
    losses: Float[Array, "steps rows"]


class Job(NamedTuple):
    """Rows to train, each with its own key, start and examples."""

    keys: Key[Array, "rows"]
    start: Codec
    examples: Examples  # leaves [rows, examples, dim]
    counts: Int[Array | np.ndarray, "rows"]  # of real examples


def recipe(name: str, *, steps: int | None = None) -> Recipe | None:
    """The recipe called `name`, None for "none"; ValueError lists the known names."""
    if name == "none":
        return None
    if name not in RECIPES:
        raise ValueError(f"unknown training {name!r}: choose one of none, {', '.join(RECIPES)}")
    found = RECIPES[name]
    return found if steps is None else replace(found, steps=steps)


def train(
    job: Job,
    condition: Condition,
    *,
    recipe: Recipe,
    format: Format,
    folder: Path | None = None,
    report: Callable[[int], None] = lambda steps: None,
) -> tuple[Codec, Float[Array, "steps rows"]]:
    """The trained encoders of every row, and the loss of every step. Decoders stay those of the start.

    With a `folder` an interrupted run goes on from it, as `tuning.run` does. ValueError if a loss is not finite.
    """
    condition = condition._replace(sigma=jnp.float32(condition.sigma))
    rows = len(job.counts)
    encoder = Codec(job.start.encoder, ())
    state = State(jnp.int32(0), encoder, _adam(recipe).init(encoder), jnp.full((recipe.steps, rows), jnp.nan))
    kept = None
    if folder is not None:
        blocks.prepare(folder, {blocks.name_of(0)})
        kept = blocks.Kept(folder, 0, _digest(job, condition, recipe, format))
        state = kept.read(state)
    at, stretch, written = int(state.step), 4, time.monotonic()
    if at:
        report(at)
    try:
        while at < recipe.steps:
            began = time.monotonic()
            state = _advance(job, condition, state, min(at + stretch, recipe.steps), recipe=recipe, format=format)
            done, at = int(state.step) - at, int(state.step)
            report(done)
            stretch *= 2 if time.monotonic() - began < 0.5 else 1
            if kept is not None and time.monotonic() - written > blocks.KEEP_EVERY:
                kept.write(state)
                written = time.monotonic()
    except KeyboardInterrupt:
        if kept is not None:
            kept.write(state)
        raise
    if kept is not None:
        kept.write(state)
    if not np.isfinite(np.asarray(state.losses)).all():
        raise ValueError("training met a loss that is not finite: give a smaller learning rate, or fewer steps")
    return Codec(state.codec.encoder, job.start.decoder), state.losses


def loss_of(
    key: Key[Array, ""],
    own: Codec,
    batch: Examples,
    weight: Float[Array, "batch"],
    condition: Condition,
    *,
    recipe: Recipe,
    format: Format,
) -> Float[Array, ""]:
    """The loss of one row on one batch: anchors are digital, right and wrong documents lie in arrays."""
    right_key, wrong_key, draw_key = jax.random.split(key, 3)
    noisy = condition._replace(sigma=recipe.noise * condition.sigma)
    keep = partial(stored.law, condition=noisy, format=format)
    right = keep(codes(own, dropout(right_key, batch.right, recipe.right_drop)))
    wrong = keep(codes(own, dropout(wrong_key, batch.wrong, recipe.wrong_drop)))
    return recipe.loss(draw_key, codes(own, jnp.asarray(batch.anchors)), right, wrong, weight)


def dropout(
    key: Key[Array, ""], vectors: Float[Array | np.ndarray, "batch dim"], rate: float
) -> Float[Array, "batch dim"]:
    """Values are dropped at `rate`; those that stay are divided by `1 - rate`."""
    if not rate:
        return jnp.asarray(vectors)
    return jnp.where(jax.random.bernoulli(key, 1 - rate, vectors.shape), vectors / (1 - rate), 0)


@partial(jax.jit, static_argnames=("recipe", "format"))
def _advance(job: Job, condition: Condition, state: State, until, *, recipe: Recipe, format: Format) -> State:
    """Train on until step `until`. In however many calls, the bits are the same."""
    optimiser = _adam(recipe)

    def one(key, own, mine, count):
        choose_key, loss_key = jax.random.split(key)
        there = jnp.arange(mine.anchors.shape[0]) < count
        order = jnp.where(there, jax.random.uniform(choose_key, there.shape), 2.0)
        chosen = jnp.argsort(order)[: recipe.batch]  # no example twice in a batch: it would be its own rival
        batch = jax.tree.map(lambda leaf: leaf[chosen], mine)
        weight = there[chosen].astype(jnp.float32)
        return loss_of(loss_key, own, batch, weight, condition, recipe=recipe, format=format)

    def step(state: State) -> State:
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(job.keys, state.step)
        each = jax.vmap(jax.value_and_grad(one, argnums=1))
        values, gradient = each(keys, state.codec, job.examples, job.counts)
        change, own = optimiser.update(gradient, state.optimiser)
        moved: Any = optax.apply_updates(state.codec, change)
        return State(state.step + 1, moved, own, state.losses.at[state.step].set(values))

    return jax.lax.while_loop(lambda state: state.step < until, step, state)


def _adam(recipe: Recipe):
    return optax.adam(recipe.learning_rate)


def _digest(job: Job, condition: Condition, recipe: Recipe, format: Format) -> str:
    told = {"recipe": described(recipe, NAMES), "format": described(format, NAMES), "sigma": float(condition.sigma)}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for leaf in jax.tree.leaves((jax.random.key_data(job.keys), job[1:], condition.device)):
        data = np.ascontiguousarray(leaf)
        digest.update(f"{data.dtype}{data.shape}".encode() + data.tobytes())
    return digest.hexdigest()

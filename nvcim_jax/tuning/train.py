"""Tune many rows at once against one copy of a frozen model: one compiled program, whatever the method."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from nvcim_jax.core.codec import Codec
from nvcim_jax.data.text import Batch
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.llm import decoder
from nvcim_jax.llm.config import Config
from nvcim_jax.llm.layers import precision
from nvcim_jax.tuning.method import Adapted, Method, Samples, device_noise, label_loss


@dataclass(frozen=True)
class Training:
    """How rows are trained; hashable, so it is static under jit."""

    steps: int = 30
    warmup: int = 0  # steps of linear warm-up before the cosine decay to 0
    per_step: int | None = None  # samples of a row's pool in each step, taken in turn; None for all
    draws: int = 1  # of the device noise in each step; their losses are averaged
    at_once: int | None = None  # samples of a row in one pass, None for all; the gradients of the passes are averaged
    recompute: bool = False  # remat: activations are computed again in the backward pass: slower, far less memory
    through_peak: bool = False  # gradients through max|S| of Eq. 4
    pull: float = 0.0  # penalty that keeps an OVT near its sample's content, and so to be found by it
    rows: int = 48  # at most, in one compiled program; `run` trains more of them one block after the other
    patience: int | None = None  # a row stops after so many steps without a smaller loss


class Job(NamedTuple):
    """Rows to tune, each with its own start, codec, learning rates, limits on magnitude, samples and key.

    Learning rates and limits have the structure of the start: one number for each of its arrays.
    """

    keys: Key[Array, "rows"]
    start: PyTree  # leaves have a leading row axis, as all below
    codec: Codec
    learning_rate: PyTree  # leaves [rows]
    limit: PyTree  # leaves [rows]; values are clipped to it after every step; inf where they may go anywhere
    batch: Batch
    content: Float[Array, "rows dim"] | None = None  # mean embedding of the sample's content, where there is a pull


class State(NamedTuple):
    """Where training stands: enough to go on from, bit by bit as if it had never stopped."""

    step: Int[Array, ""]
    values: PyTree
    optimiser: PyTree
    losses: Float[Array, "steps rows"]  # NaN for steps that a row has not taken
    safe: PyTree  # the last values whose loss was finite
    best: Float[Array, "rows"]
    since: Int[Array, "rows"]  # steps since the smallest loss
    stopped: Bool[Array, "rows"]
    broken: Bool[Array, "rows"]


class Tuned(NamedTuple):
    """What was trained, row by row, the loss of every step, and which rows met a loss that was not finite.

    A broken row stopped there and holds its last values that had a finite loss.
    """

    values: PyTree  # leaves [rows, ...]
    losses: Float[Array, "steps rows"]
    broken: Bool[Array, "rows"]


_STATIC = ("config", "method", "training")


@partial(jax.jit, static_argnames=_STATIC)
def tune(
    params: PyTree,
    job: Job,
    condition: Condition,
    *,
    config: Config,
    method: Method,
    training: Training,
) -> Tuned:
    """Adam with warm-up and cosine decay on the label loss of each row, with fresh device noise at every step.

    Rows do not influence each other: the loss is their sum, and Adam works value by value. The program ends when all
    rows have taken their steps, or have stopped (`Training.patience`, a loss that is not finite).

    Beside bfloat16 weights activations are rounded to bfloat16 before each product, which is far below the noise
    trained against, unless `jax.default_matmul_precision("float32")` is set.
    """
    state = begin(job, training=training)
    return finish(
        advance(params, job, condition, state, training.steps, config=config, method=method, training=training)
    )


@partial(jax.jit, static_argnames=("training",))
def begin(job: Job, *, training: Training) -> State:
    """The state before the first step."""
    rows = job.keys.shape[0]
    values = jax.tree.map(_within, job.start, job.limit)
    no = jnp.zeros(rows, bool)
    return State(
        jnp.int32(0), values, _ADAM.init(values), jnp.full((training.steps, rows), jnp.nan, jnp.float32), values,
        jnp.full(rows, jnp.inf, jnp.float32), jnp.zeros(rows, jnp.int32), no, no,
    )  # fmt: skip


@partial(jax.jit, static_argnames=_STATIC)
def advance(
    params: PyTree,
    job: Job,
    condition: Condition,
    state: State,
    until: Int[Array, ""] | int,
    *,
    config: Config,
    method: Method,
    training: Training,
) -> State:
    """Train on until step `until`. In however many calls, the bits are the same."""
    pool = job.batch.ids.shape[1]
    per_step = training.per_step or pool
    at_once = training.at_once or per_step
    if per_step % at_once:
        raise ValueError(f"{per_step} samples a step, {at_once} at once: give a number that divides the former")

    def total(values, step, turn):
        adapted = _read(config, method, training, job, condition, values, step)
        each, batch = _paired(adapted, job.batch, turn)
        samples = Samples(decoder.embed(params, config, batch.ids), *batch[1:])
        losses = label_loss(params, config, each, samples, recompute=training.recompute)
        losses = losses.reshape(job.keys.shape[0], -1).mean(axis=1)
        if training.pull:
            losses = losses + training.pull * _distance(adapted.front, job.content)
        return jnp.sum(losses), losses

    def step(state: State) -> State:
        turn = (state.step * per_step + jnp.arange(per_step)) % pool
        once = lambda turn: jax.grad(total, has_aux=True)(state.values, state.step, turn)  # noqa: E731
        with jax.default_matmul_precision(precision() or "bfloat16"):
            return _updated(state, job, training, *_averaged(once, turn, at_once))

    return jax.lax.while_loop(lambda state: (state.step < until) & ~jnp.all(state.stopped), step, state)


def finish(state: State) -> Tuned:
    """What a state has come to."""
    return Tuned(jax.tree.map(partial(_choose, state.broken), state.safe, state.values), state.losses, state.broken)


_ADAM = optax.scale_by_adam()


def _read(config, method, training, job, condition, values, step) -> Adapted:
    """Every row under every draw of this step's noise: [rows, draws, ...]."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(job.keys, step)
    keys = jax.vmap(partial(jax.random.split, num=training.draws))(keys) if training.draws > 1 else keys[:, None]

    def one(key, own, codec):
        return method.apply(own, codec, config, device_noise(key, condition, training.through_peak))

    return jax.vmap(jax.vmap(one, in_axes=(0, None, None)))(keys, values, job.codec)


def _paired(adapted, batch: Batch, turn):
    """Every draw of every row with every sample at `turn` of the row's pool, as one flat axis."""
    draws, flat = jax.tree.leaves(adapted)[0].shape[1], lambda leaf: leaf.reshape(-1, *leaf.shape[3:])
    batch = jax.tree.map(jnp.asarray, batch)
    adapted = jax.tree.map(lambda leaf: flat(jnp.repeat(leaf[:, :, None], turn.shape[0], axis=2)), adapted)
    return adapted, jax.tree.map(lambda leaf: flat(jnp.repeat(leaf[:, None, turn], draws, axis=1)), batch)


def _averaged(once, turn, at_once):
    """`once(turn)` averaged over passes of `at_once` samples each."""
    if at_once == turn.shape[0]:
        return once(turn)
    passes = turn.reshape(-1, at_once)
    more = lambda sofar, turn: (jax.tree.map(jnp.add, sofar, once(turn)), None)  # noqa: E731
    summed, _ = jax.lax.scan(more, jax.tree.map(jnp.zeros_like, jax.eval_shape(once, passes[0])), passes)
    return jax.tree.map(lambda leaf: leaf / passes.shape[0], summed)


def _updated(state: State, job: Job, training: Training, gradient, losses) -> State:
    """The state after one step. Rows that have stopped stay as they are; a loss that is not finite stops its row."""
    finite = jnp.isfinite(losses)
    for leaf in jax.tree.leaves(gradient):
        finite &= jnp.all(jnp.isfinite(leaf.reshape(leaf.shape[0], -1)), axis=1)
    runs, broken = ~state.stopped & finite, state.broken | (~state.stopped & ~finite)
    gradient = jax.tree.map(lambda leaf: jnp.where(_rowwise(finite, leaf), leaf, 0), gradient)
    change, optimiser = _ADAM.update(gradient, state.optimiser)
    scale = jnp.negative(_schedule(training)(state.step))
    moved = jax.tree.map(
        lambda value, change, rate, limit: _within(value + scale * _rowwise(rate, value) * change, limit),
        state.values, change, job.learning_rate, job.limit,
    )  # fmt: skip
    better = losses < state.best
    since = jnp.where(better, 0, state.since + 1)
    stopped = state.stopped | broken | (False if training.patience is None else since >= training.patience)
    keep = partial(jax.tree.map, partial(_choose, runs))
    return State(
        state.step + 1, keep(moved, state.values), optimiser,
        state.losses.at[state.step].set(jnp.where(state.stopped, jnp.nan, losses)),
        keep(state.values, state.safe), jnp.where(runs & better, losses, state.best),
        jnp.where(runs, since, state.since), stopped, broken,
    )  # fmt: skip


def _schedule(training: Training):
    """A share of the learning rate for every step: up to 1 in equal steps, then down to 0 as a cosine."""
    decay = optax.cosine_decay_schedule(1.0, max(training.steps - training.warmup, 1))
    if not training.warmup:
        return decay
    rise = optax.linear_schedule(1 / (training.warmup + 1), 1.0, training.warmup)
    return optax.join_schedules([rise, decay], [training.warmup])


def _distance(front, content):
    """Squared distance of the mean virtual token from the mean content embedding, as a share of the latter's square."""
    gap = jnp.mean(front, axis=(1, 2)) - content
    return jnp.sum(gap**2, axis=1) / jnp.sum(content**2, axis=1)


def _within(values, limit):
    limit = _rowwise(limit, values)
    return jnp.clip(values, -limit, limit)


def _rowwise(numbers, values):
    return numbers.reshape(-1, *(1,) * (values.ndim - 1))


def _choose(rows, one, other):
    return jnp.where(_rowwise(rows, one), one, other)

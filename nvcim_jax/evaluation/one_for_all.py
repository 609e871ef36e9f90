"""The baseline of OVTs in Fig. 1: one prompt for a whole buffer, at the compute of the user's own OVTs."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from nvcim_jax.data import lamp
from nvcim_jax.data.lamp import Task
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.llm.weights import Model
from nvcim_jax.memory import bank
from nvcim_jax.pipeline import learn as learning
from nvcim_jax.pipeline.block import Block
from nvcim_jax.pipeline.encode import stored
from nvcim_jax.pipeline.learn import Report
from nvcim_jax.pipeline.presets import Settings
from nvcim_jax.pipeline.select import Selected


def learn(
    key: PRNGKeyArray,
    model: Model,
    block: Block,
    condition: Condition,
    *,
    settings: Settings,
    folder: Path | None = None,
    report: Report = lambda progress: None,
) -> bank.Bank:
    """One prompt for each user, in slot 0 of a bank, its own search key: instead of `learn.tune_bank`."""
    values = tune(key, model, block, condition, settings=settings, folder=folder, report=report)
    codes = stored(model, values, block.codec, settings=settings)
    valid = block.selected.valid
    is_first = jnp.arange(valid.shape[1]) == 0
    alone = jnp.where(is_first[None, :, None, None], codes[:, None], 0)
    return bank.new(alone, alone, bank.unknown(valid.shape), jnp.ones(valid.shape[0], jnp.int32))


def tune(
    key: PRNGKeyArray,
    model: Model,
    block: Block,
    condition: Condition,
    *,
    settings: Settings,
    folder: Path | None = None,
    report: Report = lambda progress: None,
) -> PyTree:
    """What `settings.method` trains on each user's whole buffer, in random order, one sample a step.

    Leaves are [users, ...]. There are as many steps as the steps of all the user's OVTs read samples (`budget`), so
    what a user gets does not depend on who else is in the block.
    """
    order_key, tune_key = jax.random.split(key)
    pools = learning.shuffled(order_key, block.task, block.users)
    jobs = list(zip(budget(block.task, block.selected, settings), map(len, pools), strict=True))
    trained: list[PyTree] = [None] * len(jobs)
    for steps, size in sorted(set(jobs)):
        chosen = [at for at, own in enumerate(jobs) if own == (steps, size)]
        training = replace(settings.training, steps=steps, per_step=1, at_once=None)
        firsts = [next(filter(None, block.selected.samples[at])) for at in chosen]
        tuned = learning.tune(
            tune_key, model, block, learning.Rows([(at, 0) for at in chosen], firsts, [pools[at] for at in chosen]),
            condition, settings=replace(settings, training=training),
            folder=folder and folder / f"{steps}-steps-of-{size}", report=report,
        )  # fmt: skip
        for row, at in enumerate(chosen):
            trained[at] = jax.tree.map(lambda leaf, row=row: leaf[row], tuned.values)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trained)


def budget(task: Task, selected: Selected, settings: Settings) -> list[int]:
    """How many samples all steps of all of a user's OVTs read together, user by user."""
    in_bank = zip(selected.samples, np.asarray(selected.valid).sum(axis=1), strict=True)
    pools = [[lamp.both_orders(task, sample) for sample in row[:count] if sample] for row, count in in_bank]
    return [settings.training.steps * sum(map(len, row)) for row in pools]

"""The rival of OVTs in Fig. 1: one prompt for a whole buffer, at the compute of the user's own OVTs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from nvcim_jax import bank, lamp, pipeline
from nvcim_jax.codec import Codec
from nvcim_jax.devices import Device
from nvcim_jax.lamp import Sample, Task, User
from nvcim_jax.llm.weights import Model
from nvcim_jax.pipeline import Learned, Selected, TuneReport
from nvcim_jax.presets import Settings


def learn(
    key: PRNGKeyArray,
    model: Model,
    task: Task,
    users: Sequence[User],
    selected: Selected,
    codec: Codec,
    device: Device,
    *,
    sigma: float,
    settings: Settings,
    folder: Path | None = None,
    report: TuneReport = lambda progress: None,
) -> Learned:
    """One prompt for each user, in slot 0 of a bank, its own search key: instead of `pipeline.learn`."""
    values = tune(
        key, model, task, users, selected, codec, device,
        sigma=sigma, settings=settings, folder=folder, report=report,
    )  # fmt: skip
    codes = pipeline.stored(model, values, codec, settings)
    is_first = jnp.arange(selected.valid.shape[1]) == 0
    alone = jnp.where(is_first[None, :, None, None], codes[:, None], 0)
    return Learned(codec, bank.Bank(alone, alone, bank.unknown(selected.valid.shape), jnp.ones(len(users), jnp.int32)))


def tune(
    key: PRNGKeyArray,
    model: Model,
    task: Task,
    users: Sequence[User],
    selected: Selected,
    codec: Codec,
    device: Device,
    *,
    sigma: float,
    settings: Settings,
    folder: Path | None = None,
    report: TuneReport = lambda progress: None,
) -> PyTree:
    """What `settings.method` trains on each user's whole buffer, in random order, one sample a step.

    Leaves are [users, ...]. There are as many steps as the steps of all the user's OVTs read samples (`budget`), so
    what a user gets does not depend on who else is in the block.
    """
    order_key, tune_key = jax.random.split(key)
    pools = shuffled(order_key, task, users)
    jobs = list(zip(budget(task, selected, settings), map(len, pools), strict=True))
    rows: list[PyTree] = [None] * len(users)
    for steps, size in sorted(set(jobs)):
        chosen = [at for at, own in enumerate(jobs) if own == (steps, size)]
        training = replace(settings.training, steps=steps, per_step=1, at_once=None)
        tuned = pipeline.tune(
            tune_key, model, task, users, [(at, 0) for at in chosen], [selected.samples[at][0] for at in chosen],
            [pools[at] for at in chosen], codec, device, sigma=sigma, settings=replace(settings, training=training),
            folder=folder and folder / f"{steps}-steps-of-{size}", report=report,
        )  # fmt: skip
        for row, at in enumerate(chosen):
            rows[at] = jax.tree.map(lambda leaf, row=row: leaf[row], tuned.values)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


def budget(task: Task, selected: Selected, settings: Settings) -> list[int]:
    """How many samples all steps of all of a user's OVTs read together, user by user."""
    in_bank = zip(selected.samples, np.asarray(selected.valid).sum(axis=1), strict=True)
    pools = [[lamp.both_orders(task, sample) for sample in row[:count]] for row, count in in_bank]
    return [settings.training.steps * sum(map(len, row)) for row in pools]


def shuffled(key: PRNGKeyArray, task: Task, users: Sequence[User]) -> list[list[Sample]]:
    """Every user's history in random order, both orders of a citation side by side."""
    keys = pipeline.user_keys(key, users, "order")
    orders = [np.asarray(jax.random.permutation(own, len(user.history))) for own, user in zip(keys, users, strict=True)]
    return [
        [turned for at in order for turned in lamp.both_orders(task, user.history[at])]
        for order, user in zip(orders, users, strict=True)
    ]

"""What many people have in common, learned once, so that each person's own OVTs need little: soft prompt transfer.

One prompt tuned on the samples of many people, and a codec fitted to them, are kept as a memory of one user, and can
be saved, loaded and handed to a device. OVTs of a person who is not among them then start from that prompt and live in
that codec (Vu et al., 2022, SPoT: Better Frozen Model Adaptation through Soft Prompt Transfer).
"""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from nvcim_jax.data.users import Users
from nvcim_jax.hardware import catalogue
from nvcim_jax.hardware.devices import Device
from nvcim_jax.llm.weights import Model
from nvcim_jax.people import User
from nvcim_jax.pipeline.answer import condition_of
from nvcim_jax.pipeline.block import Block, Common, gather
from nvcim_jax.pipeline.encode import fit_codecs
from nvcim_jax.pipeline.learn import Report, settings_of_many, tune_bank
from nvcim_jax.pipeline.memory import Memory, remembered
from nvcim_jax.pipeline.presets import COMMON, PERSONAL, Settings
from nvcim_jax.pipeline.select import Selected, buffered

EVERYONE = "everyone"


def learn_common(
    key: PRNGKeyArray,
    model: Model,
    users: Users,
    device: str | Device,
    *,
    sigma: float,
    settings: Settings = COMMON,
    folder: Path | None = None,
    report: Report = lambda progress: None,
) -> Memory:
    """One prompt and one codec for the histories of all `users`, as the memory of a user called "everyone".

    The prompt starts from the words of the task (Lester et al., 2021) unless `settings.start_text` says otherwise, and
    sees `settings.training.per_step` samples a step, in random order. Of the people's texts the memory keeps one
    sample. ValueError as `learn` says.
    """
    order_key, codec_key, tune_key = jax.random.split(key, 3)
    task = users.task
    pooled = [sample for user in buffered(users, settings.buffer) for sample in user.history]
    if not pooled:
        raise ValueError("there are no users: give at least one, with a history")
    shuffled = tuple(pooled[at] for at in np.asarray(jax.random.permutation(order_key, len(pooled))))
    everyone = User(EVERYONE, shuffled, ())
    selected = Selected([[shuffled[0]]], jnp.ones((1, 1), bool), [[shuffled]])
    block = Block(task, [everyone], selected, fit_codecs(codec_key, model, task, [everyone], fit=settings.fit_codec))
    how = replace(settings_of_many(task, settings), learn_from="cluster")
    condition = catalogue.condition(device, sigma)
    bank = tune_bank(tune_key, model, block, condition, settings=how, folder=folder, report=report)
    return remembered(model, block, bank, settings=settings, source=users.source, device=device, sigma=sigma)


def start_of(common: Memory) -> Common:
    """The codec and the prompt of a memory that `learn_common` made."""
    own = common.of(EVERYONE)
    return Common(*jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), (own.codec, own.bank.prompts[:, 0])))


def personalise(
    key: PRNGKeyArray,
    model: Model,
    users: Users,
    common: Memory,
    *,
    settings: Settings = PERSONAL,
    folder: Path | None = None,
    report: Report = lambda progress: None,
) -> Memory:
    """As `learn`, for the device and sigma of `common`: OVTs start from its prompt and are stored in its codec.

    Virtual tokens stand where those of `common` do. ValueError as `learn` says, and for another task, model or number
    of virtual tokens than that of `common`.
    """
    common.require(model)
    own = start_of(common)
    if users.task.name != common.task.name or len(own.prompt) != settings.tokens:
        raise ValueError(
            f"what is common was learned for {common.task.name} with {len(own.prompt)} virtual tokens, but these are "
            f"users of {users.task.name} with {settings.tokens}: learn it for these"
        )
    settings = replace(settings, wording=common.settings.wording)
    gather_key, tune_key = jax.random.split(key)
    block = gather(gather_key, model, users.task, users, settings=settings, common=own)
    condition = condition_of(common)
    bank = tune_bank(tune_key, model, block, condition, settings=settings, folder=folder, report=report)
    device, sigma = common.about.device, float(condition.sigma)
    return remembered(model, block, bank, settings=settings, source=users.source, device=device, sigma=sigma)

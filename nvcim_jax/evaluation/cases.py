"""What retrieval is judged by: banks, learned now or saved, with the questions of their users."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from nvcim_jax import tuning
from nvcim_jax.data import lamp, synthetic
from nvcim_jax.data.tasks import FREE
from nvcim_jax.data.users import Users
from nvcim_jax.evaluation.retrieval import Case, win_tables
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.llm.weights import Model
from nvcim_jax.memory.bank import Bank
from nvcim_jax.memory.storage.about import About
from nvcim_jax.people import EMBEDDED_WORLD, Sample, User
from nvcim_jax.pipeline import memory
from nvcim_jax.pipeline.block import Block, gather
from nvcim_jax.pipeline.encode import content_codes
from nvcim_jax.pipeline.learn import tune_bank
from nvcim_jax.pipeline.presets import Settings, content_key

NOISELESS = Condition(device("NVM-1"), 0.0)


def case(model: Model, block: Block, bank: Bank, *, settings: Settings) -> tuple[Case, str]:
    """The case of learned banks and their users' queries, and what "right" means in it.

    Right is an OVT whose sample is of the question's domain; where domains are unknown, the OVT that an array without
    variation would return.
    """
    users = block.users
    most = max(len(user.queries) for user in users)
    asked = [(user.queries * most)[:most] for user in users]
    queries = content_codes(model, asked, block.codec, settings.tokens)
    counts = jnp.arange(most)[None] < jnp.array([len(user.queries) for user in users])[:, None]
    if all(query.domain is not None for user in users for query in user.queries):
        domains = [[sample and sample.domain for sample in row] for row in block.selected.samples]
        right = [[[q.domain == d for d in row] for q in part] for part, row in zip(asked, domains, strict=True)]
        meaning = "an OVT of the question's domain is found"
        right = jnp.asarray(right) & bank.valid[:, None]
    else:
        (table,) = win_tables(queries, bank.keys, bank.valid, NOISELESS.device, jnp.zeros(1), settings.score)
        right = table == table.max(-1, keepdims=True)
        meaning = "the OVT that an array without variation returns is found"
    return Case(queries, counts, bank.keys, bank.valid, right), meaning


def embedded(key: jax.Array, model: Model, users: Users, *, settings: Settings) -> tuple[Block, Bank]:
    """What users learn now, as far as retrieval needs it: a key that is all content needs no tuned code."""
    if settings.key is content_key:
        settings = replace(settings, training=tuning.Training(steps=0))
    gather_key, tune_key = jax.random.split(key)
    block = gather(gather_key, model, users.task, users, settings=settings)
    return block, tune_bank(tune_key, model, block, NOISELESS, settings=settings)


def saved(folder: Path, model: Model, data: Path | None) -> tuple[Block, Bank, Settings]:
    """A saved bank with the questions of its users, from `data` or the toy world. ValueError if one is unknown."""
    found = memory.load(folder, model)
    people = owners(found.about, found.block.selected.samples, data)
    return found.block._replace(users=people), found.bank, found.settings


def owners(about: About, samples: Sequence[Sequence[Sample | None]], data: Path | None) -> list[User]:
    """The users of a bank, whose slots hold OVTs of `samples`, from `data` or the toy world.

    ValueError if they come from elsewhere: by what the bank says, or because somebody of that name has another history.
    """
    if about.task == FREE.name:
        raise ValueError(
            f"this bank was learned from {about.source}, which holds no questions: use it with ask or chat"
        )
    task, is_embedded = lamp.task(str(about.task)), about.source == EMBEDDED_WORLD
    if data is None and about.source is not None and not is_embedded:
        raise ValueError(f"the users of this bank come from {about.source}: give that folder with --data")
    if data is not None and is_embedded:
        raise ValueError("the users of this bank come from the embedded world: leave out --data")
    if data is not None:
        known = {user.id: user for user in lamp.read(data, task)}
    else:
        numbers = [name for name in about.users if name.isdecimal()]
        known = {name: synthetic.users(task, 1, first=int(name))[0] for name in numbers}
    where = data or EMBEDDED_WORLD
    for name, row in zip(about.users, samples, strict=True):
        if name not in known:
            raise ValueError(f"user {name!r} of this bank is not in {where}: give the folder it came from with --data")
        history = {(sample.content, sample.answer) for sample in known[name].history}
        if not {(sample.content, sample.answer) for sample in row if sample} <= history:
            raise ValueError(
                f"user {name!r} of {where} has another history than the user of this bank: give the folder that the "
                "bank was learned from with --data"
            )
    return [known[name] for name in about.users]

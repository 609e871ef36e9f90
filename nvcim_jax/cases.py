"""What retrieval is judged by: banks, learned now or saved, with the questions of their users."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp

from nvcim_jax import lamp, pipeline, store, synthetic, tuning
from nvcim_jax.about import EMBEDDED_WORLD, About
from nvcim_jax.devices import device
from nvcim_jax.lamp import Sample, Task, User
from nvcim_jax.llm.weights import Model
from nvcim_jax.pipeline import Learned
from nvcim_jax.presets import PRESETS, Settings, content_key
from nvcim_jax.retrieval import Case, win_tables


def case(
    model: Model,
    users: Sequence[User],
    learned: Learned,
    samples: Sequence[Sequence[Sample | None]],
    *,
    settings: Settings,
) -> tuple[Case, str]:
    """The case of learned banks, and what "right" means in it.

    Right is an OVT whose sample is of the question's domain; where domains are unknown, the OVT that an array without
    variation would return. `samples` are those of the slots.
    """
    most = max(len(user.queries) for user in users)
    asked = [(user.queries * most)[:most] for user in users]
    queries = pipeline.content_codes(model, asked, learned.codec, settings.tokens)
    counts = jnp.arange(most)[None] < jnp.array([len(user.queries) for user in users])[:, None]
    if all(query.domain is not None for user in users for query in user.queries):
        domains = [[sample and sample.domain for sample in row] for row in samples]
        right = [[[q.domain == d for d in row] for q in part] for part, row in zip(asked, domains, strict=True)]
        meaning = "an OVT of the question's domain is found"
        right = jnp.asarray(right) & learned.bank.valid[:, None]
    else:
        ideal = (device("NVM-1"), jnp.zeros(1))
        (table,) = win_tables(queries, learned.bank.keys, learned.bank.valid, *ideal, settings.score)
        right = table == table.max(-1, keepdims=True)
        meaning = "the OVT that an array without variation returns is found"
    return Case(queries, counts, learned.bank.keys, learned.bank.valid, right), meaning


def embedded(
    key: jax.Array, model: Model, task: Task, users: Sequence[User], *, settings: Settings
) -> tuple[list[User], Learned, list[list[Sample | None]]]:
    """Users, what they learned and the samples of their slots. A key that is all content needs no tuned code."""
    if settings.key is content_key:
        settings = replace(settings, training=tuning.Training(steps=0))
    users = pipeline.buffered(users, settings.buffer)
    select_key, codec_key, learn_key = jax.random.split(key, 3)
    selected = pipeline.select(select_key, model, users)
    codec = pipeline.fit_codecs(codec_key, model, task, users, fit=settings.fit_codec)
    learned = pipeline.learn(
        learn_key, model, task, users, selected, codec, device("NVM-1"), sigma=0.0, settings=settings
    )
    return users, learned, selected.samples


def saved(
    folder: Path, model: Model, data: Path | None
) -> tuple[list[User], Learned, list[list[Sample | None]], Settings]:
    """A saved bank with the questions of its users, from `data` or the embedded world. ValueError if one is unknown."""
    found = store.load(folder, model=model).for_questions()
    samples = found.about.of_slots(found.bank)
    people = owners(found.about, samples, data)
    return people, Learned(found.codec, found.bank), samples, PRESETS[found.about.preset]


def owners(about: About, samples: Sequence[Sequence[Sample | None]], data: Path | None) -> list[User]:
    """The users of a bank, whose slots hold OVTs of `samples`, from `data` or the embedded world.

    ValueError if they come from elsewhere: by what the bank says, or because somebody of that name has another history.
    """
    task, is_embedded = lamp.task(about.task), about.source == EMBEDDED_WORLD
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

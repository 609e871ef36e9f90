"""What all methods share on a block of users: samples, codecs, what was learned, the answers of the model alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nvcim_jax import tuning
from nvcim_jax.data import text
from nvcim_jax.data.lamp import Task
from nvcim_jax.data.users import Users
from nvcim_jax.description import described
from nvcim_jax.documents.ask import behind_texts
from nvcim_jax.evaluation import kept
from nvcim_jax.evaluation.methods import Cell
from nvcim_jax.llm.fingerprint import fingerprint
from nvcim_jax.llm.weights import Model
from nvcim_jax.memory.bank import Bank
from nvcim_jax.memory.storage import digests, schema
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline import retrieve
from nvcim_jax.pipeline.answer import answer_room, generate
from nvcim_jax.pipeline.block import Block, Common, started
from nvcim_jax.pipeline.encode import fit_codecs
from nvcim_jax.pipeline.learn import start_together
from nvcim_jax.pipeline.presets import NAMES, RECOMMENDED, Settings
from nvcim_jax.pipeline.select import Selected, buffered, select

MEASURED = 4  # questions of each user, to tell how long they are


class Crowd(NamedTuple):
    """A block of users of one task, their questions one after the other, and what all methods share."""

    model: Model
    task: Task
    users: list[User]
    selected: Selected
    queries: list[Sample]
    owners: np.ndarray  # of each question
    known: np.ndarray | None  # of each question the slot of its domain
    work: "Work"


class Work(NamedTuple):
    """What progress is counted in: tokens that go through the model, three times over where a gradient is taken."""

    step: int  # of one sample
    answer: int


class Shared(NamedTuple):
    """What methods and cells share on a block of users: each part is made when it is first asked for, and once."""

    crowd: Crowd
    alone: Callable[[], list[str]]  # the base model's answers
    block: Callable[[Callable], Block]  # by how codecs are fitted
    learned: Callable[[Callable, Settings, Cell | None], Bank]  # by `methods.training_of`
    sensitivity: Callable[[Callable, Settings, Cell | None, int], Array]  # by the same, and the number of probes
    behind: Callable[[int, Cell], list[Sample]]  # the questions behind so many texts that are found on a cell's device
    write_key: PRNGKeyArray
    learn_key: PRNGKeyArray
    report: Callable[[int], None]


def share(
    key: PRNGKeyArray,
    model: Model,
    users: Users,
    *,
    settings: Settings,
    choose: Callable[..., Selected] = select,
    common: Common | None = None,
    folder: Path | None = None,
    report: Callable[[int], None] = lambda work: None,
) -> Shared:
    """What all methods share on `users`; `settings` give the size of their buffer, and the base model its wording.

    `choose` picks the samples that OVTs are learned from. With something in `common` all take its codec and start from
    its prompt. Nothing is trained again for what it does not depend on, such as the device where training has no
    noise; with a `folder`, not by another process either.
    """
    select_key, codec_key, learn_key, write_key, curve_key = jax.random.split(key, 5)
    crowd = gather(select_key, model, users, buffer=settings.buffer, choose=choose)
    alike = {"model": fingerprint(model), "users": digests.of_text([users.task.name, users.people])} if folder else {}
    own = {
        **alike, "key": np.asarray(jax.random.key_data(key)).tolist(), "buffer": settings.buffer,
        "choose": described(choose, {select: "representatives"}), "common": common and _digest(common),
    }  # fmt: skip

    @cache
    def alone() -> list[str]:
        decides = {**alike, "part": "alone", "wording": described(settings.wording, NAMES)}
        return kept.value(folder, decides, lambda: answers(crowd, report, crowd.queries, None, settings))

    @cache
    def block(fit: Callable) -> Block:
        people = crowd.task, crowd.users, crowd.selected
        if common is not None:
            return started(*people, common)

        def fitted() -> kept.Arrays:
            codec = fit_codecs(codec_key, model, crowd.task, crowd.users, fit=fit)
            return {name: np.asarray(leaf) for name, leaf in schema.codec_to_arrays(codec).items()}

        decides = {**own, "part": "codec", "fit": described(fit, NAMES)}
        found = kept.arrays(folder, decides, fitted)
        return Block(*people, jax.tree.map(jnp.asarray, schema.codec_from_arrays(found)))

    def trained(how: Callable, settings: Settings, cell: Cell | None) -> dict[str, Any]:
        return {**own, "how": described(how, {}), "settings": described(settings, NAMES), "cell": cell}

    def told(progress: tuning.Progress) -> None:
        report(progress.row_steps * crowd.work.step)

    @cache
    def together(fit: Callable, settings: Settings, cell: Cell) -> Block:
        return start_together(learn_key, model, block(fit), cell.condition, settings=settings, report=told)

    @cache
    def learned(how: Callable, settings: Settings, cell: Cell | None) -> Bank:
        def bank() -> kept.Arrays:
            at, whole = cell or Cell("NVM-1", 0.0), block(settings.fit_codec)
            if settings.together is not None and whole.start is None:
                whole = together(settings.fit_codec, settings.together, at)
            made = how(learn_key, model, whole, at.condition, settings=settings, report=told)
            return {name: np.asarray(leaf) for name, leaf in schema.to_arrays(made, None).items()}

        found = kept.arrays(folder, {**trained(how, settings, cell), "part": "bank", "schema": schema.SCHEMA}, bank)
        return jax.tree.map(jnp.asarray, schema.from_arrays(found)[0])

    @cache
    def sensitivity(how: Callable, settings: Settings, cell: Cell | None, probes: int) -> Array:
        def curve() -> kept.Arrays:
            probed, own = replace(settings, probes=probes), block(settings.fit_codec)
            made = retrieve.sensitivities(curve_key, model, own, learned(how, settings, cell), settings=probed)
            return {"sensitivity": np.asarray(made)}

        decides = {**trained(how, settings, cell), "part": "sensitivity", "probes": probes}
        return jnp.asarray(kept.arrays(folder, decides, curve)["sensitivity"])

    @cache
    def behind(count: int, cell: Cell) -> list[Sample]:
        return behind_texts(write_key, model, crowd.task, crowd.users, cell.condition, count=count)

    return Shared(crowd, alone, block, learned, sensitivity, behind, write_key, learn_key, report)


def gather(
    key: PRNGKeyArray, model: Model, given: Users, *, buffer: int, choose: Callable[..., Selected] = select
) -> Crowd:
    """Users with their latest `buffer` samples, those among them that `choose` picks, and their questions."""
    users = buffered(given, buffer)
    selected = choose(key, model, users, extra_domains=True)
    queries = [query for user in users for query in user.queries]
    owners = np.array([at for at, user in enumerate(users) for _ in user.queries])
    known = slots_of_known_domain(users, selected)
    return Crowd(model, given.task, users, selected, queries, owners, known, work_on(model, users))


def work_on(model: Model, users: Sequence[User]) -> Work:
    """What one step on a sample and one answer are worth on `users`, from their questions' mean length."""
    questions = [query.question for user in users for query in user.queries[:MEASURED]]
    longest = min(RECOMMENDED.longest, model.config.context)
    lengths = [min(len(text.encode(model.tokenizer, each)), longest) for each in questions]
    length = RECOMMENDED.tokens + round(float(np.mean(lengths)))
    return Work(3 * length, length + answer_room(model, users))


def latest(key: PRNGKeyArray, model: Model, users: Sequence[User], *, extra_domains: bool = False) -> Selected:
    """Instead of representatives as many of the user's latest samples, each standing for itself."""
    usual = select(key, model, users, extra_domains=extra_domains)
    samples, clusters = [list(row) for row in usual.samples], [list(row) for row in usual.clusters or ()]
    for user, row, own, count in zip(users, samples, clusters, np.asarray(usual.valid).sum(axis=1), strict=True):
        for slot in range(count):
            row[slot] = user.history[-1 - slot]
            own[slot] = (user.history[-1 - slot],)
    return Selected(samples, usual.valid, clusters)


def answers(
    crowd: Crowd,
    report: Callable[[int], None],
    queries: Sequence[Sample],
    prompts: Float[Array, "questions tokens dim"] | None,
    settings: Settings,
) -> list[str]:
    """Answers to `queries`; row i of `prompts` stands before question i, None before none."""
    room, front = answer_room(crowd.model, crowd.users), tuning.Adapted(front=prompts)
    told = partial(_times, report, crowd.work.answer)
    return generate(crowd.model, queries, front, new_tokens=room, wording=settings.wording, report=told)


def slots_of_known_domain(users: Sequence[User], selected: Selected) -> np.ndarray | None:
    """For every question the first slot whose sample is of its domain; None where domains are unknown."""
    if any(query.domain is None for user in users for query in user.queries):
        return None
    slots = []
    for user, row in zip(users, selected.samples, strict=True):
        domains = [sample.domain if sample else None for sample in row]
        slots += [domains.index(query.domain) if query.domain in domains else 0 for query in user.queries]
    return np.array(slots)


def _digest(common: Common) -> str:
    return digests.of_text([digests.of(np.asarray(leaf)) for leaf in jax.tree.leaves(common)])


def _times(report, weight, count) -> None:
    report(count * weight)

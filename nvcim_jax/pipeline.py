"""NVCiM-PT end to end (Fig. 3): select, learn, program, search, answer.

Composition only: the mathematics is on the floors below, and what is compiled is in `programs`.
Everything runs for a block of users at once. Random numbers follow the user's name, the stage and the slot, so a user
draws the same ones in any block. What is computed from them agrees up to the rounding of float32: products of another
number of rows add up in another order.
"""

import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nvcim_jax import bank, crossbar, lamp, programs, selection, text, tuning
from nvcim_jax.codec import DIM, Codec, fit_pca
from nvcim_jax.devices import Device
from nvcim_jax.lamp import Sample, Task, User
from nvcim_jax.llm.weights import Model
from nvcim_jax.presets import Settings

SLOTS = 8  # a user's slots come in multiples of it, so that nearby counts share a program
MOST_CLUSTERS = 10
TuneReport = Callable[[tuning.Progress], None]


class Selected(NamedTuple):
    """Representative samples of a block of users, one per slot; slots without one are None and not valid."""

    samples: list[list[Sample | None]]
    valid: Bool[Array, "users slots"]


class Learned(NamedTuple):
    """What a block of users keeps: a codec and a bank each, all leaves with a leading user axis.

    Slots that are not in the bank hold the OVTs of `select`'s extra domains.
    """

    codec: Codec
    bank: bank.Bank


def user_keys(key: PRNGKeyArray, users: Sequence[User], stage: str) -> PRNGKeyArray:
    """One key per user, from the user's name and the stage that draws: no two stages see the same numbers."""
    own = jax.random.fold_in(key, zlib.crc32(stage.encode()))
    names = jnp.array([zlib.crc32(user.id.encode()) for user in users], jnp.uint32)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(own, names)


def buffered(users: Sequence[User], size: int) -> list[User]:
    """Users with the latest `size` samples of their history. ValueError names a user whose history is empty."""
    for user in users:
        if not user.history:
            raise ValueError(f"user {user.id} has an empty history: at least one sample is needed to learn from")
    return [user._replace(history=user.history[-size:]) for user in users]


def select(key: PRNGKeyArray, model: Model, users: Sequence[User], *, extra_domains: bool = False) -> Selected:
    """Cluster each user's buffer by the mean embedding of its content and pick the representatives (Eqs. 1-3).

    With `extra_domains`, domains that no representative covers get a slot outside the bank: the yardstick "right
    domain known" needs one.
    """
    contents = [[text.encode(model.tokenizer, sample.content) for sample in user.history] for user in users]
    points, items = _mean_embeddings(model, contents)
    counts = jnp.array([selection.cluster_count(len(user.history)) for user in users])
    picked, valid = programs.representatives(user_keys(key, users, "select"), points, items, counts, most=MOST_CLUSTERS)
    chosen = [
        [user.history[at] if is_valid else None for at, is_valid in zip(*rows, strict=True)]
        for user, *rows in zip(users, np.asarray(picked), np.asarray(valid), strict=True)
    ]
    chosen = [[sample for sample in row if sample] for row in chosen]
    counts = [len(row) for row in chosen]
    if extra_domains:
        chosen = [row + _uncovered(user, row) for user, row in zip(users, chosen, strict=True)]
    slots = text.bucket(max(map(len, chosen)), SLOTS)
    in_bank = np.arange(slots)[None] < np.array(counts)[:, None]
    return Selected([row + [None] * (slots - len(row)) for row in chosen], jnp.asarray(in_bank))


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
    """Tune one OVT per selected sample under `settings.train_sigma` times the device's noise, and code it.

    `codec` comes from `fit_codecs`. With a `folder`, an interrupted run goes on from what it kept there (`tuning.run`).
    Zero steps leave the start as it is, within the limits of `settings.clip`.
    """
    slots = _taken(selected)
    samples = [selected.samples[u][s] for u, s in slots]
    pools = [lamp.both_orders(task, sample) for sample in samples]
    tuned = tune(
        key, model, task, users, slots, samples, pools, codec, device,
        sigma=sigma, settings=settings, folder=folder, report=report,
    )  # fmt: skip
    codecs = rows_of(codec, slots)
    codes = stored(model, tuned.values, codecs, settings)
    keys = _search_keys(model, samples, codecs, codes, settings)
    user, slot = np.array(slots).T
    names = domains(selected)
    origin = bank.unknown((len(slots),))._replace(
        user=jnp.asarray(user),
        sample=jnp.asarray(slot),
        domain=jnp.array([names.index(sample.domain) if sample.domain else -1 for sample in samples]),
        loss=tuned.losses[-1] if tuned.losses.shape[0] else jnp.full(len(slots), jnp.nan),
        key=jax.random.key_data(_slot_keys(key, users, slots, "tune")),
    )
    put = lambda leaf: jnp.zeros((*selected.valid.shape, *leaf.shape[1:]), leaf.dtype).at[user, slot].set(leaf)  # noqa: E731
    return Learned(codec, bank.Bank(*jax.tree.map(put, (codes, keys, origin)), selected.valid.sum(axis=1)))


def rekeyed(model: Model, selected: Selected, learned: Learned, settings: Settings) -> Learned:
    """What was learned, found by another `settings.key`."""
    slots = _taken(selected)
    at, samples = tuple(np.array(slots).T), [selected.samples[u][s] for u, s in slots]
    keys = _search_keys(model, samples, rows_of(learned.codec, slots), learned.bank.prompts[at], settings)
    return learned._replace(bank=learned.bank._replace(keys=learned.bank.keys.at[at].set(keys)))


def _search_keys(model: Model, samples: Sequence[Sample], codecs: Codec, codes, settings: Settings):
    content = content_codes(model, [[sample] for sample in samples], codecs, settings.tokens)[:, 0]
    return jax.vmap(settings.key)(content, codes)


def domains(selected: Selected) -> list[str]:
    """The domains of a block's samples, in the order that a bank's `origin.domain` counts them."""
    return sorted({sample.domain for row in selected.samples for sample in row if sample and sample.domain})


def fit_codecs(
    key: PRNGKeyArray,
    model: Model,
    task: Task,
    users: Sequence[User],
    *,
    fit: Callable = fit_pca,
    most_tokens: int = 64,
) -> Codec:
    """One codec per user, fitted to the content and answers of the user's own buffer, `most_tokens` of each sample."""
    tokens = [
        [token for sample in user.history for token in _summary(model, task, sample)[:most_tokens]] for user in users
    ]
    width = text.bucket(max(map(len, tokens)), 256)
    counts = jnp.asarray(np.arange(width)[None] < np.array([len(row) for row in tokens])[:, None], jnp.float32)
    vectors = programs.embed(model.params, model.config, text.pad(tokens, width, 0))
    return programs.fit_codecs(user_keys(key, users, "codec"), vectors, counts, fit=fit)


def program(
    key: PRNGKeyArray,
    users: Sequence[User],
    learned: Learned,
    device: Device,
    *,
    sigma: float,
    settings: Settings,
    draws: int,
    sensitivity: Array | None = None,
) -> bank.Programmed:
    """Program each user's bank `draws` times; leaves are [users, draws, slots, ...].

    `sensitivity` is what `sensitivities` found, for a `settings.write` that takes one.
    """
    keys, own = user_keys(key, users, "program"), learned.bank
    how = {"write": settings.write, "draws": draws}
    return programs.program(keys, own.prompts, own.keys, own.valid, sensitivity, device, jnp.float32(sigma), **how)


def sensitivities(
    key: PRNGKeyArray,
    model: Model,
    users: Sequence[User],
    selected: Selected,
    learned: Learned,
    *,
    settings: Settings,
) -> Float[Array, "users slots tokens code"]:
    """How much an error of each stored value costs: curvature of the loss of the OVT's own sample (SWIM's measure)."""
    slots = _taken(selected)
    pools = [[pair(model, selected.samples[u][s], settings)[:2]] for u, s in slots]
    batch = jax.tree.map(lambda leaf: leaf[:, 0], text.batch(pools))
    keys = _slot_keys(key, users, slots, "curvature")
    at = tuple(np.array(slots).T)
    found = programs.sensitivity(
        model.params, keys, learned.bank.prompts[at], rows_of(learned.codec, slots), batch,
        config=model.config, probes=settings.probes,
    )  # fmt: skip
    return jnp.zeros_like(learned.bank.prompts).at[at].set(found)


def search(
    model: Model, users: Sequence[User], learned: Learned, banks: bank.Programmed, *, settings: Settings
) -> bank.Match:
    """Search every programmed bank for every query of its user; leaves are [users, draws, queries, ...].

    A user with fewer queries than others has them repeated.
    """
    most = max(len(user.queries) for user in users)
    queries = [(user.queries * most)[:most] for user in users]
    codes = content_codes(model, queries, learned.codec, settings.tokens)
    return programs.search(banks, codes, score=settings.score)


def tune(
    key: PRNGKeyArray,
    model: Model,
    task: Task,
    users: Sequence[User],
    slots: Sequence[tuple[int, int]],
    samples: Sequence[Sample],
    pools: Sequence[Sequence[Sample]],
    codec: Codec,
    device: Device,
    *,
    sigma: float,
    settings: Settings,
    folder: Path | None = None,
    report: TuneReport = lambda progress: None,
) -> tuning.Tuned:
    """Whatever `settings.method` trains, one row for each (user, slot): started from `samples`, trained on `pools`.

    A step sees a row's whole pool unless `settings.training.per_step` says otherwise. Raises ValueError for more
    virtual tokens than an array has columns and for samples without an answer.
    """
    check_tokens(model, settings)
    cut, pairs = 0, []
    for pool in pools:
        pairs.append([pair(model, sample, settings) for sample in pool])
        cut += sum(was_cut for *_, was_cut in pairs[-1])
    if cut:
        told = (
            f"{cut} of {sum(map(len, pools))} samples are longer than {settings.longest} tokens or the model's context"
        )
        if not settings.cut:
            raise ValueError(f"{told}: allow them to be cut, or shorten them")
        warnings.warn(f"{told}: they lost their beginnings", stacklevel=2)
    told = [
        start_ids(model, task, sample, settings, users[u].history)
        for (u, _), sample in zip(slots, samples, strict=True)
    ]
    codecs = rows_of(codec, slots)
    each = jax.vmap(lambda own: jax.random.split(own, 3))(_slot_keys(key, users, slots, "tune"))
    start_keys, init_keys, noise_keys = each[:, 0], each[:, 1], each[:, 2]
    start, rate, limit = programs.start(
        model.params, start_keys, init_keys, np.array(told, np.int32), codecs, config=model.config, settings=settings
    )
    batch = text.batch([[row[:2] for row in pool] for pool in pairs])
    job = tuning.Job(noise_keys, start, codecs, rate, limit, batch)
    if settings.training.pull:
        contents = [[text.encode(model.tokenizer, sample.content)] for sample in samples]
        job = job._replace(content=_mean_embeddings(model, contents)[0][:, 0])
    names = [f"{users[u].id}, {sample.content[:40]!r}" for (u, _), sample in zip(slots, samples, strict=True)]
    return tuning.run(
        model.params, job, device, sigma * settings.train_sigma, config=model.config, method=settings.method,
        training=settings.training, names=names, folder=folder, report=report,
    )  # fmt: skip


def start_ids(model: Model, task: Task, sample: Sample, settings: Settings, history: Sequence[Sample] = ()) -> text.Ids:
    """What the virtual tokens of a sample start from: `settings.start_text`, or its own most telling words.

    Which words tell most follows from the user's `history`.
    """
    if settings.start_text is None:
        bound = {"history": history, "answer": settings.start_answer}
        return text.start_ids(model.tokenizer, task, sample, settings.tokens, **bound)
    given = text.encode(model.tokenizer, settings.start_text)
    if not given:
        raise ValueError("the text to start from is empty: give at least one word, or leave it out")
    return (given * settings.tokens)[: settings.tokens]


def stored(model: Model, values, codecs: Codec, settings: Settings):
    """What the memory keeps of trained rows, each with its own codec."""
    return jax.vmap(lambda own, codec: settings.method.stored(own, codec, model.config))(values, codecs)


def check_tokens(model: Model, settings: Settings) -> None:
    """ValueError for more virtual tokens than an array has columns, or than leave the model room for a question."""
    crossbar.check_fits(settings.tokens, DIM)
    if settings.tokens > model.config.context // 2:
        raise ValueError(
            f"{settings.tokens} virtual tokens leave no room in the model's context of {model.config.context}: "
            "ask for fewer"
        )


def _slot_keys(key: PRNGKeyArray, users: Sequence[User], slots: Sequence[tuple[int, int]], stage: str) -> PRNGKeyArray:
    user, slot = np.array(slots).T
    return jax.vmap(jax.random.fold_in)(user_keys(key, users, stage)[user], jnp.asarray(slot))


def _taken(selected: Selected) -> list[tuple[int, int]]:
    """User and slot of every selected sample."""
    return [(u, s) for u, row in enumerate(selected.samples) for s, sample in enumerate(row) if sample is not None]


def pair(model: Model, sample: Sample, settings: Settings) -> tuple[text.Ids, text.Ids, bool]:
    """Question and answer ids of a sample as tuning reads them, and whether the question lost its beginning.

    ValueError for a sample without an answer.
    """
    if not sample.answer.strip():
        raise ValueError(f"the sample {sample.content[:60]!r} has no answer: there is nothing to learn from it")
    answer = text.answer_ids(model.tokenizer, sample)[: model.config.context // 4]
    room = min(settings.longest, model.config.context - settings.tokens - len(answer))
    whole = text.question_ids(model.tokenizer, sample)
    return whole[-room:], answer, len(whole) > room


def _summary(model: Model, task: Task, sample: Sample) -> text.Ids:
    gist = text.encode(model.tokenizer, lamp.gist(task, sample))
    return gist + text.encode(model.tokenizer, lamp.ANSWER) + text.answer_ids(model.tokenizer, sample)


def content_codes(model: Model, samples: Sequence[Sequence[Sample]], codec: Codec, rows: int):
    """The content of every sample as `rows` rows of its user's code: [users, samples, rows, code]."""
    room = model.config.context
    ids = [[text.encode(model.tokenizer, sample.content)[:room] or [0] for sample in row] for row in samples]
    width = text.bucket(max(len(one) for row in ids for one in row))
    padded = np.stack([text.pad(row, width, 0) for row in ids])
    lengths = jnp.array([[len(one) for one in row] for row in ids])
    return programs.encode_content(model.params, model.config, padded, lengths, codec, rows=rows)


def _mean_embeddings(model: Model, contents):
    """Mean content embedding of each history item, and which items are real: [users, items, dim], [users, items]."""
    most = max(map(len, contents))
    ids = [[row[: model.config.context] or [0] for row in user] + [[0]] * (most - len(user)) for user in contents]
    width = text.bucket(max(len(row) for user in ids for row in user))
    padded = np.stack([text.pad(user, width, 0) for user in ids])
    lengths = jnp.array([[len(row) for row in user] for user in ids])
    items = jnp.arange(most)[None, :] < jnp.array([len(user) for user in contents])[:, None]
    return programs.mean_embedding(model.params, model.config, padded, lengths), items


def _uncovered(user: User, chosen: list[Sample | None]) -> list[Sample]:
    covered = {sample.domain for sample in chosen if sample is not None} | {None}
    first_of = {sample.domain: sample for sample in reversed(user.history) if sample.domain not in covered}
    return [first_of[domain] for domain in sorted(first_of)]


def rows_of(codec: Codec, slots: Sequence[tuple[int, int]]) -> Codec:
    owners = np.array([user for user, _ in slots])
    return jax.tree.map(lambda leaf: np.asarray(leaf)[owners], codec)

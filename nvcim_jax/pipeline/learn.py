"""From a history to a memory: select, fit a codec, tune one OVT for each representative sample, code it (Fig. 3)."""

import itertools
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from nvcim_jax import tuning
from nvcim_jax.core.codec import DIM
from nvcim_jax.data import lamp, text
from nvcim_jax.data.users import Users
from nvcim_jax.hardware import catalogue, crossbar
from nvcim_jax.hardware.devices import Condition, Device
from nvcim_jax.llm.weights import Model
from nvcim_jax.memory import bank
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline import compiled, encode, keys
from nvcim_jax.pipeline.block import Block, gather
from nvcim_jax.pipeline.memory import Memory, remembered
from nvcim_jax.pipeline.presets import Settings, recommended

Report = Callable[[tuning.Progress], None]


class Rows(NamedTuple):
    """Prompts to be tuned: the (user, slot) of each, the sample that it starts from, and those that it is tuned on."""

    slots: list[tuple[int, int]]
    samples: Sequence[Sample]
    pools: Sequence[Sequence[Sample]]


def learn(
    key: PRNGKeyArray,
    model: Model,
    users: Users,
    device: str | Device,
    *,
    sigma: float,
    settings: Settings | None = None,
    folder: Path | None = None,
    report: Report = lambda progress: None,
) -> Memory:
    """Learn a memory from the histories of `users`: select, fit codecs, tune OVTs for `device` at `sigma`, code them.

    Without `settings` those that are `presets.recommended` for the model. `device` is a name of Table II, a .toml file,
    or the arrays of a device, whose name the memory then does not say. With a `folder`, an interrupted run goes on from
    what it kept there. ValueError without users, for a user without a history and for a sample without an answer.
    """
    settings = recommended(model) if settings is None else settings
    gather_key, tune_key = jax.random.split(key)
    block = gather(gather_key, model, users.task, users, settings=settings)
    condition = catalogue.condition(device, sigma)
    bank = tune_bank(tune_key, model, block, condition, settings=settings, folder=folder, report=report)
    return remembered(model, block, bank, settings=settings, source=users.source, device=device, sigma=sigma)


def tune_bank(
    key: PRNGKeyArray,
    model: Model,
    block: Block,
    condition: Condition,
    *,
    settings: Settings,
    folder: Path | None = None,
    report: Report = lambda progress: None,
) -> bank.Bank:
    """Tune one OVT per selected sample under `settings.train_sigma` times the condition's noise, and code it.

    The bank has a leading user axis; slots that are not valid hold the OVTs of `select`'s extra domains. With a
    `folder`, an interrupted run goes on from what it kept there (`tuning.run`). Zero steps leave the start as it is,
    within the limits of `settings.clip`. As `settings.together` says, one prompt for all of a user's samples is tuned
    before, unless the block has a start already.
    """
    if settings.together is not None and block.start is None:
        block = start_together(key, model, block, condition, settings=settings.together, folder=folder, report=report)
    selected, slots, samples = block.selected, block.selected.slots, block.selected.learned
    rows = Rows(slots, samples, pools(block, settings))
    tuned = tune(key, model, block, rows, condition, settings=settings, folder=folder, report=report)
    codecs = encode.codecs_of(block.codec, slots)
    codes = encode.stored(model, tuned.values, codecs, settings=settings)
    search_keys = encode.search_keys(model, samples, codecs, codes, settings=settings)
    user, slot = np.array(slots).T
    origin = bank.unknown((len(slots),))._replace(
        user=jnp.asarray(user),
        sample=jnp.asarray(slot),
        domain=jnp.array([selected.domains.index(sample.domain) if sample.domain else -1 for sample in samples]),
        loss=tuned.losses[-1] if tuned.losses.shape[0] else jnp.full(len(slots), jnp.nan),
        key=jax.random.key_data(keys.of_slots(key, block.users, slots, "tune")),
    )
    put = lambda leaf: jnp.zeros((*selected.valid.shape, *leaf.shape[1:]), leaf.dtype).at[user, slot].set(leaf)  # noqa: E731
    codes, search_keys, origin = jax.tree.map(put, (codes, search_keys, origin))
    return bank.new(codes, search_keys, origin, selected.valid.sum(axis=1))


def start_together(
    key: PRNGKeyArray,
    model: Model,
    block: Block,
    condition: Condition,
    *,
    settings: Settings,
    folder: Path | None = None,
    report: Report = lambda progress: None,
) -> Block:
    """The block whose users each start from one prompt, tuned on all of the user's samples in random order."""
    settings = settings_of_many(block.task, settings)
    order_key, tune_key = jax.random.split(jax.random.fold_in(key, zlib.crc32(b"together")))
    firsts = [next(filter(None, row)) for row in block.selected.samples]
    rows = Rows([(at, 0) for at in range(len(firsts))], firsts, shuffled(order_key, block.task, block.users))
    inner = None if folder is None else folder / tuning.FIRST
    tuned = tune(tune_key, model, block, rows, condition, settings=settings, folder=inner, report=report)
    adapted = compiled.adapted(tuned.values, block.codec, method=settings.method, config=model.config)
    return block._replace(start=adapted.front)


def settings_of_many(task: lamp.Task, settings: Settings) -> Settings:
    """The settings of a prompt for many samples, which starts from the words of the task (Lester et al., 2021).

    Unless `settings.start_text` says otherwise, or the task has none.
    """
    words = settings.start_text or " ".join(filter(None, map(str.strip, task.pieces))) or None
    return replace(settings, start_text=words)


def shuffled(key: PRNGKeyArray, task: lamp.Task, users: Sequence[User]) -> list[list[Sample]]:
    """Every user's history in random order, both orders of a citation side by side."""
    own_keys = keys.of_users(key, users, "order")
    orders = [
        np.asarray(jax.random.permutation(own, len(user.history))) for own, user in zip(own_keys, users, strict=True)
    ]
    return [
        [turned for at in order for turned in lamp.both_orders(task, user.history[at])]
        for order, user in zip(orders, users, strict=True)
    ]


def pools(block: Block, settings: Settings) -> list[tuple[Sample, ...]]:
    """What the OVT of each selected sample is tuned on, in the order of `Selected.slots`."""
    selected = block.selected
    if settings.learn_from == "sample" or selected.clusters is None:
        of = [(sample,) for sample in selected.learned]
    else:
        of = [selected.clusters[user][slot] for user, slot in selected.slots]
    return [tuple(turned for sample in each for turned in lamp.both_orders(block.task, sample)) for each in of]


def tune(
    key: PRNGKeyArray,
    model: Model,
    block: Block,
    rows: Rows,
    condition: Condition,
    *,
    settings: Settings,
    folder: Path | None = None,
    report: Report = lambda progress: None,
) -> tuning.Tuned:
    """Train what `settings.method` trains, once for each of `rows`.

    A step sees a row's whole pool unless `settings.training.per_step` says otherwise. ValueError for more virtual
    tokens than an array has columns, for samples without an answer, and for pools of several sizes where a step sees
    them whole. A warning names the rows whose loss is not finite.
    """
    check_tokens(model, settings)
    batch = _batch(model, _level(rows.pools, settings.training), settings)
    starts = [
        start_ids(model, block.task, sample, settings, block.users[u].history)
        for (u, _), sample in zip(rows.slots, rows.samples, strict=True)
    ]
    codecs = encode.codecs_of(block.codec, rows.slots)
    own = keys.of_slots(key, block.users, rows.slots, "tune")
    start_keys, init_keys, noise_keys = jnp.moveaxis(jax.vmap(lambda each: jax.random.split(each, 3))(own), 1, 0)
    given = None if block.start is None else block.start[np.array([user for user, _ in rows.slots])]
    start, rate, limit = compiled.start(
        model.params, start_keys, init_keys, np.array(starts, np.int32), given, codecs,
        config=model.config, settings=settings,
    )  # fmt: skip
    job = tuning.Job(noise_keys, start, codecs, rate, limit, batch)
    if settings.training.pull:
        contents = [[text.encode(model.tokenizer, sample.content)] for sample in rows.samples]
        job = job._replace(content=encode.mean_embeddings(model, contents)[0][:, 0])
    training = tuning.fitted(
        settings.training, model.config, pool=batch.ids.shape[1], tokens=batch.ids.shape[2] + settings.tokens,
        labels=batch.labels.shape[2], memory=model.memory,
    )  # fmt: skip
    trained_for = condition._replace(sigma=condition.sigma * settings.train_sigma)
    tuned = tuning.run(
        model.params, job, trained_for, config=model.config, method=settings.method, training=training,
        folder=folder, report=report,
    )  # fmt: skip
    _warn_of_broken(tuned, block, rows)
    return tuned


def _warn_of_broken(tuned: tuning.Tuned, block: Block, rows: Rows) -> None:
    """Tell which rows stopped at a loss that was not finite."""
    broken = np.flatnonzero(tuned.broken)
    if len(broken):
        told = [f"{block.users[rows.slots[at][0]].id}, {rows.samples[at].content[:40]!r}" for at in broken[:5]]
        warnings.warn(
            f"the loss of {len(broken)} of {len(rows.slots)} OVTs was not finite; they keep their last finite values: "
            f"{'; '.join(told)}{'; ...' if len(broken) > 5 else ''}. A smaller learning rate may help",
            stacklevel=3,
        )


def rekeyed(model: Model, block: Block, learned: bank.Bank, *, settings: Settings) -> bank.Bank:
    """A learned bank with the search keys that `settings.key` makes."""
    slots = block.selected.slots
    at, codecs = tuple(np.array(slots).T), encode.codecs_of(block.codec, slots)
    found_by = encode.search_keys(model, block.selected.learned, codecs, learned.prompts[at], settings=settings)
    return learned._replace(keys=learned.keys.at[at].set(found_by))


def start_ids(
    model: Model, task: lamp.Task, sample: Sample, settings: Settings, history: Sequence[Sample] = ()
) -> text.Ids:
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


def check_tokens(model: Model, settings: Settings) -> None:
    """ValueError for more virtual tokens than an array has columns, or than leave the model room for a question."""
    crossbar.check_fits(settings.tokens, DIM)
    if settings.tokens > model.config.context // 2:
        raise ValueError(
            f"{settings.tokens} virtual tokens leave no room in the model's context of {model.config.context}: "
            "ask for fewer"
        )


def pair(model: Model, sample: Sample, settings: Settings) -> tuple[text.Ids, text.Ids, int, bool]:
    """Question and answer ids of a sample as tuning reads them, how many tokens of the question stand before the
    virtual ones, and whether it lost its middle.

    ValueError for a sample without an answer, and as `text.asked` says.
    """
    if not sample.answer.strip():
        raise ValueError(f"the sample {sample.content[:60]!r} has no answer: there is nothing to learn from it")
    answer = text.answer_ids(model.tokenizer, sample, settings.wording)[: model.config.context // 4]
    room = min(settings.longest, model.config.context - settings.tokens - len(answer))
    whole = text.asked(model.tokenizer, sample, settings.wording)
    if len(whole.ids) <= room:
        return whole.ids, answer, whole.place, False
    return text.asked(model.tokenizer, sample, settings.wording, room).ids, answer, whole.place, True


def _level(pools: Sequence[Sequence[Sample]], training: tuning.Training) -> Sequence[Sequence[Sample]]:
    """The pools; if their sizes differ, as many samples of each, in turn, as all steps see."""
    if len(set(map(len, pools))) == 1:
        return pools
    if training.per_step is None and training.steps:
        sizes = sorted(set(map(len, pools)))
        raise ValueError(f"pools of {sizes[0]} to {sizes[-1]} samples: say how many a step sees, Training(per_step=1)")
    seen = max(training.steps * (training.per_step or 1), 1)
    return [[pool[at % len(pool)] for at in range(seen)] for pool in pools]


def _batch(model: Model, pools: Sequence[Sequence[Sample]], settings: Settings) -> text.Batch:
    """The pools as token ids. Samples that lose their middle are told, or refused if `settings.cut` is false."""
    pairs = [[pair(model, sample, settings) for sample in pool] for pool in pools]
    read = zip(itertools.chain(*pools), itertools.chain(*pairs), strict=True)
    lost = {sample: was_cut for sample, (*_, was_cut) in read}  # each once, however often it is read
    if cut := sum(lost.values()):
        said = f"{cut} of {len(lost)} samples are longer than {settings.longest} tokens or the model's context"
        if not settings.cut:
            raise ValueError(f"{said}: allow them to be cut, or shorten them")
        warnings.warn(f"{said}: they lost their middles", stacklevel=3)
    return text.batch([[row[:2] for row in pool] for pool in pairs], [[row[2] for row in pool] for pool in pairs])

"""What variation does to retrieval in learned banks: over devices, sigmas, users and their questions.

In closed form by default; `by_trials` programs the banks for real, keeps what is finished and goes on from there.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from nvcim_jax import crossbar, files, lamp, pipeline, store, synthetic, tuning, variation
from nvcim_jax.devices import Device, device
from nvcim_jax.figures import Line, Panel
from nvcim_jax.lamp import Sample, Task, User
from nvcim_jax.llm.weights import Model
from nvcim_jax.pipeline import Learned
from nvcim_jax.presets import PRESETS, Settings, content_key
from nvcim_jax.statistics import interval

FIDELITIES = {
    "value": (variation.value_law, crossbar.write_values),
    "cell": (variation.cell_law, crossbar.write_cells),
}
TRIALS = "trials.npz"


class Case(NamedTuple):
    """Users' banks, their questions, and which OVTs are right for which question; leaves lead with users."""

    queries: Float[Array, "users queries rows dim"]
    asked: Bool[Array, "users queries"]  # users with fewer questions have them repeated: those do not count
    keys: Float[Array, "users ovts rows dim"]
    valid: Bool[Array, "users ovts"]
    right: Bool[Array, "users queries ovts"]


class Table(NamedTuple):
    """Share of questions that find a right OVT, per user: expected, and what 95 % of the user's chips exceed."""

    expected: np.ndarray  # [devices, sigmas, users]
    worst: np.ndarray


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
        table = _tables(queries, learned.bank.keys, learned.bank.valid, _stack(["NVM-1"]), jnp.zeros(1), settings.score)
        right = table[:, 0, 0] == table[:, 0, 0].max(-1, keepdims=True)
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
    about, task = found.about, lamp.task(found.about.task)
    if data is not None:
        people = {user.id: user for user in lamp.read(data, task)}
    else:
        numbers = [name for name in about.users if name.isdecimal()]
        people = {name: synthetic.users(task, 1, first=int(name))[0] for name in numbers}
    for name in about.users:
        if name not in people:
            where = data or "the embedded world"
            raise ValueError(f"user {name!r} of {folder} is not in {where}: give the folder it came from with --data")
    learned, settings = Learned(found.codec, found.bank), PRESETS[about.preset]
    return [people[name] for name in about.users], learned, about.of_slots(found.bank), settings


def closed_form(
    key: jax.Array,
    of: Case,
    devices: Sequence[str],
    sigmas: Sequence[float],
    *,
    settings: Settings,
    fidelity: str,
    chips: int,
) -> Table:
    """Expected accuracy without a draw, and the worst 5 % of `chips` chips drawn in score space, over the grid."""
    law = FIDELITIES[fidelity][0]
    grid = (_stack(devices), jnp.asarray(sigmas, jnp.float32))
    wins = _tables(of.queries, of.keys, of.valid, *grid, settings.score, law)
    hits = jnp.moveaxis(jnp.sum(wins * of.right[:, None, None], -1), 0, 2)
    share = jnp.sum(jnp.where(of.asked[None, None], hits, 0), -1) / jnp.sum(of.asked, -1)[None, None]
    drawn = _chips(key, of, *grid, score=settings.score, law=law, chips=chips)
    return Table(np.asarray(share), np.quantile(np.asarray(drawn), 0.05, axis=-1, method="lower"))


def by_trials(
    key: jax.Array,
    of: Case,
    devices: Sequence[str],
    sigmas: Sequence[float],
    *,
    settings: Settings,
    fidelity: str,
    draws: int,
    keep: Path | None = None,
    report: Callable[[int], None] = lambda trials: None,
) -> np.ndarray:
    """Accuracy over all questions in each programming of all banks: [draws, devices, sigmas].

    All cells of the grid read the same draws. With `keep`, finished trials are written there after every chunk, and a
    second call goes on from them. ValueError if the file holds trials of something else, or is damaged.
    """
    trial = _trial(settings.score, FIDELITIES[fidelity][1])
    arguments = (of, _stack(devices), jnp.asarray(sigmas, jnp.float32))
    name = _fingerprint(key, arguments, settings.describe(), fidelity)
    parts = _finished(keep, name, (len(devices), len(sigmas)))
    parts = [parts[:draws]]
    report(len(parts[0]))
    chunk = max(250, draws // 100)
    for part in variation.monte_carlo(key, trial, arguments, draws=draws, chunk=chunk, start=len(parts[0])):
        parts.append(part)
        if keep:
            with files.replacing(keep) as partial_file:
                np.savez(partial_file, name=np.array(name), trials=np.concatenate(parts))
        report(len(part))
    return np.concatenate(parts)


def as_cells(devices: Sequence[str], sigmas: Sequence[float], found: Table, trials: np.ndarray | None) -> list[dict]:
    """The table as JSON values, one for each device and sigma."""
    cells = []
    for d, name in enumerate(devices):
        for s, sigma in enumerate(sigmas):
            cell = {"device": name, "sigma": sigma, **interval(found.expected[d, s])._asdict()}
            cell["worst_5_percent_of_chips"] = float(found.worst[d, s].mean())
            cell["per_user"] = found.expected[d, s].tolist()
            if trials is not None:
                drawn = trials[:, d, s]
                cell |= {"programmed": float(drawn.mean()), "standard_error": float(drawn.std() / len(drawn) ** 0.5)}
            cells.append(cell)
    return cells


def panel(devices: Sequence[str], sigmas: Sequence[float], found: Table, title: str) -> Panel:
    """Accuracy against sigma, a line for each device, with a band down to the worst 5 % of chips."""
    order = np.argsort(sigmas)
    x = np.asarray(sigmas)[order]
    lines = {name: Line(x, *(part[at].mean(-1)[order] for part in found)) for at, name in enumerate(devices)}
    return Panel(title, "sigma", "share of questions", lines)


def _stack(names: Sequence[str]) -> Device:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(device, names))


@partial(jax.jit, static_argnames=("score", "law"))
def _tables(queries, keys, valid, devices, sigmas, score, law=variation.value_law):
    """Win probabilities: [users, devices, sigmas, queries, ovts]."""

    def one(queries, keys, valid, of, sigma):
        return variation.win_table(queries, keys, valid, of, sigma=sigma, score=score, law=law)

    return _over_grid(jax.vmap(one, (0, 0, 0, None, None)), 3)(queries, keys, valid, devices, sigmas).transpose(
        2, 0, 1, 3, 4
    )


@partial(jax.jit, static_argnames=("score", "law", "chips"))
def _chips(key, of, devices, sigmas, *, score, law, chips):
    """Accuracy of each chip: [devices, sigmas, users, chips]. Cells of the grid read the same draws."""

    def one(key, user, device, sigma):
        copies = variation.bank_law(user.keys, device, sigma=sigma, law=law)
        chip = variation.chip_law(user.queries, copies, user.valid, score=score)

        def hits(key):
            found = jnp.argmax(variation.chip_scores(key, chip), axis=-1)
            right = jnp.take_along_axis(user.right, found[:, None], axis=1)[:, 0]
            return jnp.sum(right & user.asked) / jnp.sum(user.asked)

        return jax.vmap(hits)(jax.random.split(key, chips))

    keys = jax.random.split(key, of.keys.shape[0])
    return _over_grid(jax.vmap(one, (0, 0, None, None)), 2)(keys, of, devices, sigmas)


@cache  # the same function object, so that its compiled program is found again
def _trial(score, write):
    def trial(key, of, devices, sigmas):
        def one(key, user, device, sigma):
            bound = {"score": score, "write": write}
            found = variation.retrieve_once(key, user.queries, user.keys, user.valid, device, sigma, **bound)
            return jnp.take_along_axis(user.right, found[:, None], axis=1)[:, 0] & user.asked

        def share(device, sigma):
            keys = jax.random.split(key, of.keys.shape[0])
            return jnp.sum(jax.vmap(one, (0, 0, None, None))(keys, of, device, sigma)) / jnp.sum(of.asked)

        return _over_grid(share, 0)(devices, sigmas)

    return trial


def _over_grid(f, before: int):
    """`f` over stacked devices and over sigmas, its last two arguments."""
    fixed = (None,) * before
    return jax.vmap(jax.vmap(f, (*fixed, None, 0)), (*fixed, 0, None))


def _fingerprint(key, arguments, *settings) -> str:
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=16)
    for leaf in jax.tree.leaves((jax.random.key_data(key), arguments)):
        digest.update(f"{leaf.dtype}{leaf.shape}".encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _finished(path: Path | None, name: str, cells: tuple[int, int]) -> np.ndarray:
    if path is None or not path.exists():
        return np.zeros((0, *cells), np.float32)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
            whose, trials = str(saved["name"]), saved["trials"]
    except Exception as error:  # zipfile and numpy raise whatever they meet first in a damaged file
        raise ValueError(f"{path} is damaged ({type(error).__name__}): remove it and start again") from error
    if whose != name or trials.shape[1:] != cells:
        raise ValueError(f"{path} holds trials of another study: choose another folder, or remove it")
    return trials

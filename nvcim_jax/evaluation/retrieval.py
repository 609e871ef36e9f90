"""What variation does to retrieval: over devices, each at sigmas of its own, users' banks and their questions.

In closed form by default; `by_trials` programs the banks for real, keeps what is finished and goes on from there.
Devices may differ in all that they do: each is a program of its own, and all read the same draws.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from nvcim_jax import files
from nvcim_jax.core.similarity import SCALES
from nvcim_jax.evaluation.figures import Dot
from nvcim_jax.evaluation.points import SIGMAS as SIGMAS
from nvcim_jax.evaluation.points import Row as Row
from nvcim_jax.evaluation.points import notes as notes
from nvcim_jax.evaluation.points import rows as rows
from nvcim_jax.evaluation.statistics import interval
from nvcim_jax.hardware import ageing, crossbar, mitigation
from nvcim_jax.hardware.devices import Device
from nvcim_jax.memory import monte_carlo, variation
from nvcim_jax.memory.programming import Score
from nvcim_jax.pipeline.presets import RECOMMENDED, Settings

FIDELITIES = {  # the law of what a read returns, and the writing that it is the law of
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

    expected: np.ndarray  # [sigmas, users]
    worst: np.ndarray


def law_of(settings: Settings, fidelity: str) -> tuple[variation.Law | None, float | None]:
    """The law of what a read returns under `settings`, None for a mitigation; and how often cells are refreshed."""
    write = settings.write
    if write is crossbar.write_values:
        return FIDELITIES[fidelity][0], None
    if isinstance(write, partial) and write.func is mitigation.kept and write.keywords["write"] is mitigation.plain:
        return _compensated(write.keywords.get("compensate")), write.keywords.get("refresh")
    return None, None


@cache  # the same function object, so that its compiled program is found again
def _compensated(compensate) -> variation.Law:
    return partial(variation.cell_law, compensate=compensate)


def without_closed_form(rows: Sequence[Row], fidelity: str, settings: Settings = RECOMMENDED) -> dict[str, str]:
    """The devices whose reads are not Gaussian, so that only `by_trials` can tell: all of a mitigation. And why."""
    law, refresh = law_of(settings, fidelity)
    if law is None:
        return {row.name: "a mitigation" for row in rows}
    if law is variation.value_law:
        return {}
    found = {}
    for row in rows:
        times = row.arrays(refresh)[1]
        why = ageing.without_gaussian(row.sheet.device, None if times is None else float(jnp.max(times)))
        if why:
            found[row.name] = why
    return found


def normals(of: Case, rows: Sequence[Row], *, fidelity: str, chips: int, draws: int) -> float:
    """Gaussian numbers, or products that take as long, of the chips and the draws: what to estimate the time from."""
    users, ovts, *shape = of.keys.shape
    each = users * ovts * sum(len(row.points) for row in rows)
    copies = sum(1 / scale for scale in SCALES) * prod(shape) * (8 if fidelity == "cell" else 1)
    return each * (draws * copies + chips * of.queries.shape[1] ** 2)


def closed_form(
    key: jax.Array,
    of: Case,
    row: Row,
    *,
    settings: Settings,
    fidelity: str,
    chips: int,
) -> Table:
    """Expected accuracy without a draw, and the worst 5 % of `chips` chips drawn in score space, at each point.

    Chips of every device and sigma read the same draws. ValueError for a device whose reads are not Gaussian.
    """
    law, refresh = law_of(settings, fidelity)
    if law is None:
        raise ValueError("a mitigation has no closed form: draw it with by_trials (`nvcim vary --draws 2000`)")
    why = without_closed_form([row], fidelity, settings)
    if why:
        raise ValueError(f"{row.name} has {why[row.name]}: draw it with by_trials (`nvcim vary --draws 2000`)")
    sigmas, seconds = row.arrays(refresh)
    at = (row.sheet.device, sigmas)
    wins = win_tables(of.queries, of.keys, of.valid, *at, settings.score, law, seconds)
    hits = jnp.sum(wins * of.right[None], -1)
    share = jnp.sum(jnp.where(of.asked[None], hits, 0), -1) / jnp.sum(of.asked, -1)[None]
    drawn = _chips(key, of, *at, seconds, score=settings.score, law=law, chips=chips)
    return Table(np.asarray(share), np.quantile(np.asarray(drawn), 0.05, axis=-1, method="lower"))


def by_trials(
    key: jax.Array,
    of: Case,
    rows: Sequence[Row],
    *,
    settings: Settings,
    fidelity: str,
    draws: int,
    keep: Path | None = None,
    report: Callable[[int, bool], None] = lambda trials, kept: None,
) -> list[np.ndarray]:
    """Accuracy over all questions in each programming of all banks: for each row [draws, points].

    A mitigation that `settings` write with stands in for the fidelity's own writing. All rows and sigmas read the same
    draws. With `keep`, finished trials are written there after every chunk, and a
    second call goes on from them. `report` is told how many trials came, and whether they were kept by an earlier
    call. ValueError if the file holds trials of something else, or is damaged.
    """
    own = settings.write
    trial = _trial(settings.score, FIDELITIES[fidelity][1] if own is crossbar.write_values else own)
    asked = [(of, row.sheet.device, *(each for each in row.arrays() if each is not None)) for row in rows]
    ends = np.cumsum([len(row.points) for row in rows])
    name = _identity(key, of, rows, settings, fidelity)
    parts = [_finished(keep, name, int(ends[-1]))[:draws]]
    report(len(parts[0]), True)
    how = {"draws": draws, "chunk": max(250, draws // 100), "start": len(parts[0])}
    for chunks in zip(*(monte_carlo.monte_carlo(key, trial, each, **how) for each in asked), strict=True):
        parts.append(np.concatenate(chunks, axis=1))
        if keep:
            with files.replacing(keep) as partial_file:
                np.savez(partial_file, name=np.array(name), trials=np.concatenate(parts))
        report(len(parts[-1]), False)
    return np.split(np.concatenate(parts), ends[:-1], axis=1)


def dots(rows: Sequence[Row], found: Sequence[Table | None], trials: Sequence[np.ndarray]) -> dict[str, dict[str, Dot]]:
    """For a picture: of each device at each sigma the share of questions, and what 95 % of chips exceed.

    Of a device without a closed form both are those of the programmed banks.
    """

    def of(at: int, table: Table | None, s: int) -> Dot:
        if table is not None:
            return Dot(table.expected[s].mean(), table.worst[s].mean())
        return Dot(trials[at][:, s].mean(), np.quantile(trials[at][:, s], 0.05, method="lower"))

    return {
        row.name: {str(point): of(at, table, s) for s, point in enumerate(row.points)}
        for at, (row, table) in enumerate(zip(rows, found, strict=True))
    }


def as_cells(rows: Sequence[Row], found: Sequence[Table | None], trials: Sequence[np.ndarray]) -> list[dict]:
    """The tables as JSON values, one for each device and sigma; with `trials` also what was programmed."""
    cells = []
    for at, (row, table) in enumerate(zip(rows, found, strict=True)):
        for s, point in enumerate(row.points):
            cell = {"device": row.name, "sigma": point.sigma}
            if point.seconds is not None:
                cell["seconds"] = point.seconds
            if table is not None:
                cell |= interval(table.expected[s])._asdict()
                cell["worst_5_percent_of_chips"] = float(table.worst[s].mean())
                cell["per_user"] = table.expected[s].tolist()
            if trials:
                drawn = trials[at][:, s]
                cell |= {"programmed": float(drawn.mean()), "standard_error": float(drawn.std() / len(drawn) ** 0.5)}
            cells.append(cell)
    return cells


@partial(jax.jit, static_argnames=("score", "law"))
def win_tables(
    queries: Float[Array, "users queries rows dim"],
    keys: Float[Array, "users ovts rows dim"],
    valid: Bool[Array, "users ovts"],
    device: Device,
    sigmas: Float[Array, "points"],
    score: Score,
    law: variation.Law = variation.value_law,
    seconds: Float[Array, "points"] | None = None,
) -> Float[Array, "points users queries ovts"]:
    """Win probabilities of every OVT, for each sigma with its `seconds` since programming, if any."""

    def one(sigma, seconds, queries, keys, valid):
        own = _at(law, seconds)
        return variation.win_table(queries, keys, valid, device, sigma=sigma, score=score, law=own)

    over_users = jax.vmap(one, (None, None, 0, 0, 0))
    return jax.vmap(over_users, (0, 0, None, None, None))(sigmas, seconds, queries, keys, valid)


def _at(law: variation.Law, seconds) -> variation.Law:
    return law if seconds is None else partial(law, seconds=seconds)


@partial(jax.jit, static_argnames=("score", "law", "chips"))
def _chips(key, of, device, sigmas, seconds=None, *, score, law, chips):
    """Accuracy of each chip: [points, users, chips]. Chips of all points read the same draws."""

    def one(sigma, seconds, key, user):
        copies = variation.bank_law(user.keys, device, sigma=sigma, law=_at(law, seconds))
        chip = variation.chip_law(user.queries, copies, user.valid, score=score)

        def hits(key):
            found = jnp.argmax(variation.chip_scores(key, chip), axis=-1)
            right = jnp.take_along_axis(user.right, found[:, None], axis=1)[:, 0]
            return jnp.sum(right & user.asked) / jnp.sum(user.asked)

        return jax.lax.map(hits, jax.random.split(key, chips), batch_size=1000)

    keys = jax.random.split(key, of.keys.shape[0])
    return jax.vmap(jax.vmap(one, (None, None, 0, 0)), (0, 0, None, None))(sigmas, seconds, keys, of)


@cache  # the same function object, so that its compiled program is found again
def _trial(score, write):
    def trial(key, of, device, sigmas, seconds=None):
        def one(sigma, seconds, key, user):
            bound = {"score": score, "write": write, "seconds": seconds}
            found = monte_carlo.retrieve_once(key, user.queries, user.keys, user.valid, device, sigma, **bound)
            return jnp.take_along_axis(user.right, found[:, None], axis=1)[:, 0] & user.asked

        keys = jax.random.split(key, of.keys.shape[0])
        hits = jax.vmap(jax.vmap(one, (None, None, 0, 0)), (0, 0, None, None))(sigmas, seconds, keys, of)
        return jnp.sum(hits, axis=(1, 2)) / jnp.sum(of.asked)

    return trial


def _identity(key, of: Case, rows: Sequence[Row], settings: Settings, fidelity: str) -> str:
    """The digest of all that decides the trials, each part under a name of its own."""
    told = {"settings": settings.described(), "fidelity": fidelity, "version": 2}
    digest = hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16)
    arrays = {"key": jax.random.key_data(key)} | {f"case {name}": leaf for name, leaf in of._asdict().items()}
    for at, row in enumerate(rows):
        arrays[f"row {at} sigmas"] = np.asarray(row.sigmas, np.float32)
        if row.seconds:
            arrays[f"row {at} seconds"] = np.asarray(row.seconds, np.float32)
        arrays |= {f"row {at} {name}": leaf for name, leaf in row.sheet.device._asdict().items() if leaf is not None}
    for name, leaf in sorted(arrays.items()):
        digest.update(f"{name} {leaf.dtype} {leaf.shape}".encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _finished(path: Path | None, name: str, cells: int) -> np.ndarray:
    if path is None or not path.exists():
        return np.zeros((0, cells), np.float32)
    try:
        with open(files.open_own(path), "rb") as file, np.load(file, allow_pickle=False) as saved:
            whose, trials = str(saved["name"]), saved["trials"]
    except Exception as error:  # zipfile and numpy raise whatever they meet first in a damaged file
        raise ValueError(f"{path} is damaged ({type(error).__name__}): remove it and start again") from error
    if whose != name or trials.shape[1:] != (cells,):
        raise ValueError(f"{path} holds trials of another study: choose another folder, or remove it")
    return trials

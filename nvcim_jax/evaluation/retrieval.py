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
from nvcim_jax.evaluation.statistics import interval
from nvcim_jax.hardware import crossbar
from nvcim_jax.hardware.catalogue import RATIOS, Sheet, remarks, sheet
from nvcim_jax.hardware.devices import Device
from nvcim_jax.memory import monte_carlo, variation
from nvcim_jax.memory.programming import Score
from nvcim_jax.pipeline.presets import RECOMMENDED, Settings

FIDELITIES = {  # the law of what a read returns, and the writing that it is the law of
    "value": (variation.value_law, crossbar.write_values),
    "cell": (variation.cell_law, crossbar.write_cells),
}
LEFT_OUT = {  # fields of a device that a fidelity does not know
    "value": {"read_noise": "read noise", "stuck": "stuck cells", "drift": "drift"},
    "cell": {"drift": "drift after the first second"},
}
TRIALS = "trials.npz"
SIGMAS = (0.05, 0.1, 0.2, 0.4)


class Case(NamedTuple):
    """Users' banks, their questions, and which OVTs are right for which question; leaves lead with users."""

    queries: Float[Array, "users queries rows dim"]
    asked: Bool[Array, "users queries"]  # users with fewer questions have them repeated: those do not count
    keys: Float[Array, "users ovts rows dim"]
    valid: Bool[Array, "users ovts"]
    right: Bool[Array, "users queries ovts"]


class Row(NamedTuple):
    """A device under the name that tables show, and the sigmas at which it is asked."""

    name: str
    sheet: Sheet
    sigmas: tuple[float, ...]


class Table(NamedTuple):
    """Share of questions that find a right OVT, per user: expected, and what 95 % of the user's chips exceed."""

    expected: np.ndarray  # [sigmas, users]
    worst: np.ndarray


def rows(names: Sequence[str], sigmas: Sequence[float] = ()) -> list[Row]:
    """One row for each device (of Table II, or a .toml file), at those of `sigmas` for which it is known.

    Table II is asked at all of them; `notes` says what lies outside it. Without `sigmas` it is asked at `SIGMAS`, and
    every other device at its own. ValueError for a sigma at which no device is known, and for a device that is known
    at none of them.
    """
    sheets, sigmas = {name: sheet(name) for name in dict.fromkeys(names)}, sorted(set(sigmas))
    taken = {}
    for name, each in sheets.items():
        own = () if name in RATIOS else tuple(filter(each.covers, sigmas)) if sigmas else (each.own_sigma,)
        taken[name] = own or tuple(sigmas or SIGMAS)
        if name not in RATIOS and not own:
            each.check(sigma=sigmas[0])
    for sigma in sigmas:
        if not any(sigma in each for each in taken.values()):
            sheets[names[0]].check(sigma=sigma)
    labels = [each.name for each in sheets.values()]
    return [
        Row(each.name if labels.count(each.name) == 1 else f"{each.name} ({name})", each, taken[name])
        for name, each in sheets.items()
    ]


def without_closed_form(rows: Sequence[Row], fidelity: str, settings: Settings = RECOMMENDED) -> list[str]:
    """The names of the devices whose reads are not Gaussian, so that only `by_trials` can tell: all of a mitigation."""
    if settings.write is not crossbar.write_values:
        return [row.name for row in rows]
    return [row.name for row in rows if fidelity == "cell" and row.sheet.device.stuck is not None]


def normals(of: Case, rows: Sequence[Row], *, fidelity: str, chips: int, draws: int) -> float:
    """Gaussian numbers, or products that take as long, of the chips and the draws: what to estimate the time from."""
    users, ovts, *shape = of.keys.shape
    each = users * ovts * sum(len(row.sigmas) for row in rows)
    copies = sum(1 / scale for scale in SCALES) * prod(shape) * (8 if fidelity == "cell" else 1)
    return each * (draws * copies + chips * of.queries.shape[1] ** 2)


def notes(rows: Sequence[Row], fidelity: str) -> list[str]:
    """What a reader of the figures must know of the devices."""
    said = remarks([(row.sheet, row.sigmas) for row in rows])
    if fidelity == "cell":
        steps = " or ".join(str(levels - 1) for levels in sorted({row.sheet.levels for row in rows}))
        said.append(f"Sigma is a share of a cell's range; in level steps, as SWIM counts, it is {steps} times as much.")
    for row in rows:
        names = [words for field, words in LEFT_OUT[fidelity].items() if getattr(row.sheet.device, field) is not None]
        if names:
            said.append(f"{fidelity} fidelity leaves out the {' and the '.join(names)} of {row.name}.")
    return said


def closed_form(
    key: jax.Array,
    of: Case,
    row: Row,
    *,
    settings: Settings,
    fidelity: str,
    chips: int,
) -> Table:
    """Expected accuracy without a draw, and the worst 5 % of `chips` chips drawn in score space, at each sigma.

    Chips of every device and sigma read the same draws. ValueError for a device whose reads are not Gaussian.
    """
    law = FIDELITIES[fidelity][0]
    at = (row.sheet.device, jnp.asarray(row.sigmas, jnp.float32))
    wins = win_tables(of.queries, of.keys, of.valid, *at, settings.score, law)
    hits = jnp.sum(wins * of.right[None], -1)
    share = jnp.sum(jnp.where(of.asked[None], hits, 0), -1) / jnp.sum(of.asked, -1)[None]
    drawn = _chips(key, of, *at, score=settings.score, law=law, chips=chips)
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
    """Accuracy over all questions in each programming of all banks: for each row [draws, sigmas].

    A mitigation that `settings` write with stands in for the fidelity's own writing. All rows and sigmas read the same
    draws. With `keep`, finished trials are written there after every chunk, and a
    second call goes on from them. `report` is told how many trials came, and whether they were kept by an earlier
    call. ValueError if the file holds trials of something else, or is damaged.
    """
    own = settings.write
    trial = _trial(settings.score, FIDELITIES[fidelity][1] if own is crossbar.write_values else own)
    asked = [(of, row.sheet.device, jnp.asarray(row.sigmas, jnp.float32)) for row in rows]
    ends = np.cumsum([len(row.sigmas) for row in rows])
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
        row.name: {f"{sigma:g}": of(at, table, s) for s, sigma in enumerate(row.sigmas)}
        for at, (row, table) in enumerate(zip(rows, found, strict=True))
    }


def as_cells(rows: Sequence[Row], found: Sequence[Table | None], trials: Sequence[np.ndarray]) -> list[dict]:
    """The tables as JSON values, one for each device and sigma; with `trials` also what was programmed."""
    cells = []
    for at, (row, table) in enumerate(zip(rows, found, strict=True)):
        for s, sigma in enumerate(row.sigmas):
            cell = {"device": row.name, "sigma": sigma}
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
    sigmas: Float[Array, "sigmas"],
    score: Score,
    law: variation.Law = variation.value_law,
) -> Float[Array, "sigmas users queries ovts"]:
    """Win probabilities of every OVT."""

    def one(sigma, queries, keys, valid):
        return variation.win_table(queries, keys, valid, device, sigma=sigma, score=score, law=law)

    return jax.vmap(jax.vmap(one, (None, 0, 0, 0)), (0, None, None, None))(sigmas, queries, keys, valid)


@partial(jax.jit, static_argnames=("score", "law", "chips"))
def _chips(key, of, device, sigmas, *, score, law, chips):
    """Accuracy of each chip: [sigmas, users, chips]. Chips of all sigmas read the same draws."""

    def one(sigma, key, user):
        copies = variation.bank_law(user.keys, device, sigma=sigma, law=law)
        chip = variation.chip_law(user.queries, copies, user.valid, score=score)

        def hits(key):
            found = jnp.argmax(variation.chip_scores(key, chip), axis=-1)
            right = jnp.take_along_axis(user.right, found[:, None], axis=1)[:, 0]
            return jnp.sum(right & user.asked) / jnp.sum(user.asked)

        return jax.lax.map(hits, jax.random.split(key, chips), batch_size=1000)

    keys = jax.random.split(key, of.keys.shape[0])
    return jax.vmap(jax.vmap(one, (None, 0, 0)), (0, None, None))(sigmas, keys, of)


@cache  # the same function object, so that its compiled program is found again
def _trial(score, write):
    def trial(key, of, device, sigmas):
        def one(sigma, key, user):
            bound = {"score": score, "write": write}
            found = monte_carlo.retrieve_once(key, user.queries, user.keys, user.valid, device, sigma, **bound)
            return jnp.take_along_axis(user.right, found[:, None], axis=1)[:, 0] & user.asked

        keys = jax.random.split(key, of.keys.shape[0])
        hits = jax.vmap(jax.vmap(one, (None, 0, 0)), (0, None, None))(sigmas, keys, of)
        return jnp.sum(hits, axis=(1, 2)) / jnp.sum(of.asked)

    return trial


def _identity(key, of: Case, rows: Sequence[Row], settings: Settings, fidelity: str) -> str:
    """The digest of all that decides the trials, each part under a name of its own."""
    told = {"settings": settings.described(), "fidelity": fidelity, "version": 2}
    digest = hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16)
    arrays = {"key": jax.random.key_data(key)} | {f"case {name}": leaf for name, leaf in of._asdict().items()}
    for at, row in enumerate(rows):
        arrays[f"row {at} sigmas"] = np.asarray(row.sigmas, np.float32)
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

"""The main job: ladders over tasks and blocks of users, kept as they finish, written as JSON, PNG and banks."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nvcim_jax import bank, figures, files, lamp, pipeline, store, study, synthetic
from nvcim_jax.about import About
from nvcim_jax.lamp import Task, User
from nvcim_jax.llm.weights import Model
from nvcim_jax.presets import PRESETS, RECOMMENDED
from nvcim_jax.statistics import Interval, clear, difference, interval, ratio_of_gains

BLOCK = 8  # users that are learned and answered together
PACKAGES = ("nvcim_jax", "jax", "flax", "optax", "transformers", "orbax-checkpoint", "numpy")


class Block(NamedTuple):
    """A block of users and how the methods did on them."""

    users: list[User]
    ladder: study.Ladder


class TaskResult(NamedTuple):
    """Scores of the finished users of one task."""

    task: Task
    users: list[User]
    scores: dict[str, np.ndarray]  # [users] per method
    right_domain: dict[str, np.ndarray]
    examples: list[study.Example]


def people(task: Task, count: int, data: Path | None) -> tuple[list[User], int]:
    """`count` users with a history, and how many without one were passed over. The embedded world if no `data`."""
    if data is None:
        return synthetic.users(task, count), 0
    everyone = lamp.read(data, task)
    with_history = [user for user in everyone if user.history]
    if not with_history:
        raise lamp.DataError(f"{data}: no user has a history to learn from; give a folder with filled 'profile' fields")
    chosen = with_history[:count]
    return chosen, everyone.index(chosen[-1]) + 1 - len(chosen)


def blocks(
    key: jax.Array,
    model: Model,
    task: Task,
    users: Sequence[User],
    cells: Sequence[study.Cell],
    *,
    draws: int,
    report: Callable[[int], None],
    train_device: str | None = None,
) -> Iterator[Block]:
    """The ladder for one block of users after the other; what has been yielded is finished, whatever comes after."""
    for start in range(0, len(users), BLOCK):
        part = list(users[start : start + BLOCK])
        climbed = study.ladder(key, model, task, part, cells, draws=draws, train_device=train_device, report=report)
        yield Block(pipeline.buffered(part, RECOMMENDED.buffer), climbed)


def collect(task: Task, cell: study.Cell, finished: Sequence[Block]) -> TaskResult:
    """Finished blocks as one result, of one cell."""
    ladders = [block.ladder for block in finished]
    tables = [climbed.scores[cell] for climbed in ladders]

    def joined(part: str) -> dict[str, np.ndarray]:
        named = {name: [getattr(table[name], part) for table in tables] for name in tables[0]}
        return {name: np.concatenate(rows) for name, rows in named.items() if rows[0] is not None}

    examples = [example for climbed in ladders for example in climbed.examples]
    users = [user for block in finished for user in block.users]
    return TaskResult(task, users, joined("scores"), joined("right_domain"), examples)


def comparisons(result: TaskResult) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The paired differences that claims turn on, `a - b` over the same users: title to scores of a and b."""
    return {f"{a} - {b}": (result.scores[a], result.scores[b]) for a, b in study.pairs(result.scores)}


def gain_kept(result: TaskResult) -> Interval | None:
    """Share of the gain of the OVT with known domain over the base model that `recommended` keeps.

    None where domains are unknown, or where these users cannot tell that gain from none.
    """
    scores = result.scores
    if study.KNOWN not in scores:
        return None
    return ratio_of_gains(scores[study.whole("recommended")], scores[study.KNOWN], scores[study.BASE])


def as_json(results: Sequence[TaskResult], settings: dict[str, Any]) -> dict[str, Any]:
    """Everything a reader needs to judge and repeat the results."""

    def figures_of(result: TaskResult) -> dict[str, Any]:
        methods = {
            name: {
                **interval(scores)._asdict(),
                "per_user": scores.tolist(),
                **({"right_domain": float(result.right_domain[name].mean())} if name in result.right_domain else {}),
            }
            for name, scores in result.scores.items()
        }
        pairs, kept = comparisons(result), gain_kept(result)
        return {
            "metric": result.task.metric,
            "users": [user.id for user in result.users],
            "questions": sum(len(user.queries) for user in result.users),
            "methods": methods,
            "paired_differences": {
                title: {**difference(*pair)._asdict(), "clear": is_clear}
                for (title, pair), is_clear in zip(pairs.items(), clear(list(pairs.values())), strict=True)
            },
            "gain_kept_by_recommended": kept and kept._asdict(),
        }

    return {
        "settings": settings,
        "presets": {name: preset.describe() for name, preset in PRESETS.items()},
        "provenance": provenance(),
        "tasks": {result.task.name: figures_of(result) for result in results},
    }


def write(out: Path, results: Sequence[TaskResult], settings: dict[str, Any]) -> None:
    """`results.json` and `results.png` in `out`, each complete or absent."""
    files.write_json(out / "results.json", as_json(results, settings))
    tables = {r.task.name: {name: interval(scores) for name, scores in r.scores.items()} for r in results}
    title = f"{settings['device']}, sigma {settings['sigma']}, {settings['draws']} draws, model {settings['model']}"
    figures.bars(out / "results.png", tables, title=title)


def save_bank(folder: Path, model: Model, task: Task, block: Block, settings: dict[str, Any]) -> None:
    """Save what `recommended` learned for a block of users."""
    about = about_bank(model, task, block.users, block.ladder.selected, {**settings, "preset": "recommended"})
    store.save(folder, now(block.ladder.learned.bank), block.ladder.learned.codec, about)


def now(learned: bank.Bank) -> bank.Bank:
    """The bank with the present as the time of all its OVTs."""
    seconds = jax.numpy.full_like(learned.origin.time, int(time.time()))
    return learned._replace(origin=learned.origin._replace(time=seconds))


def about_bank(model: Model, task: Task, users: Sequence[User], selected, settings: dict[str, Any]) -> About:
    """What a saved bank says about itself. Of `settings`, "data" says where the users come from."""
    return About(
        model=store.fingerprint(model),
        task=task.name,
        source=settings["data"],
        users=tuple(user.id for user in users),
        samples=tuple(map(tuple, selected.samples)),
        domains=tuple(pipeline.domains(selected)),
        devices=(settings["device"],),
        settings=settings,
        provenance=provenance(),
    )


@cache
def provenance() -> dict[str, Any]:
    """Versions, commit and backend of this program, as they are when it is first asked: before long work, not after."""
    return {
        "commit": _commit(Path(__file__).parents[1]),
        "backend": jax.default_backend(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _commit(root: Path) -> str | None:
    """The commit of the checkout `root`, "-dirty" if files differ from it.

    None without git, and where `root` lies in a checkout of something else, as an installed package does.
    """
    git = ["git", "--no-optional-locks", "-C", str(root)]

    def said(*words: str) -> str:
        return subprocess.run([*git, *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        is_own = Path(said("rev-parse", "--show-toplevel")).samefile(root)
        is_own = is_own and 'name = "nvcim_jax"' in said("show", "HEAD:pyproject.toml").splitlines()
        return said("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") if is_own else None
    except (OSError, ValueError, subprocess.SubprocessError):  # ValueError: it did not speak UTF-8
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # it is run from a checkout that was not installed
        return None

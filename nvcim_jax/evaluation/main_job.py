"""The main job: ladders over tasks and blocks of users, kept as they finish, written as JSON, PNG and banks."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nvcim_jax import files
from nvcim_jax.data.lamp import Task
from nvcim_jax.data.synthetic import HELD_OUT
from nvcim_jax.data.users import Users, read_lamp, toy_users, with_history
from nvcim_jax.evaluation import figures, methods, metrics
from nvcim_jax.evaluation.ladder import Example, Ladder, ladder
from nvcim_jax.evaluation.statistics import Interval, clear, difference, interval, ratio_of_gains
from nvcim_jax.llm.weights import Model
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline import memory
from nvcim_jax.pipeline.block import Common
from nvcim_jax.pipeline.presets import PRESETS, recommended
from nvcim_jax.provenance import provenance

BLOCK = 8  # users that are learned and answered together
OTHERS = 20  # people, at most, whose common prompt a real model starts from


class Part(NamedTuple):
    """A block of users and how the methods did on them."""

    users: list[User]
    ladder: Ladder


class TaskResult(NamedTuple):
    """Scores of the finished users of one task."""

    task: Task
    users: list[User]
    scores: dict[str, np.ndarray]  # [users] per method
    right_domain: dict[str, np.ndarray]
    examples: list[Example]
    answers: dict[str, list[list[str]]]  # of each draw, per method, to the questions of one user after the other

    @property
    def questions(self) -> list[Sample]:
        """The questions, of one user after the other."""
        return [query for user in self.users for query in user.queries]


class Found(NamedTuple):
    """The users who are reported, how many without a history were passed over, and others, who are not reported."""

    users: Users
    passed_over: int = 0
    others: Users | None = None


def people(task: Task, count: int, data: Path | None) -> Found:
    """`count` users with a history, and others behind them where there are some. The toy world if no `data`."""
    if data is None:
        return Found(toy_users(task, count), others=toy_users(task, OTHERS, first=HELD_OUT + count))
    everyone = read_lamp(data, task)
    known = with_history(everyone)
    chosen, others = known[:count], known[count : count + OTHERS]
    passed_over = everyone.people.index(chosen[-1]) + 1 - len(chosen)
    return Found(chosen, passed_over, others if len(others) else None)


def blocks(
    key: jax.Array,
    model: Model,
    users: Users,
    cells: Sequence[methods.Cell],
    *,
    draws: int,
    report: Callable[[int], None],
    rows: Sequence[methods.Method] | None = None,
    train_device: str | None = None,
    common: Common | None = None,
) -> Iterator[Part]:
    """The ladder for one block of users after the other; what has been yielded is finished, whatever comes after."""
    how = {"draws": draws, "train_device": train_device, "rows": rows, "common": common, "report": report}
    for start in range(0, len(users), BLOCK):
        part = users[start : start + BLOCK]
        climbed = ladder(key, model, part, cells, **how)
        yield Part(climbed.block.users, climbed)


def collect(task: Task, cell: methods.Cell, finished: Sequence[Part]) -> TaskResult:
    """Finished blocks as one result, of one cell."""
    ladders = [block.ladder for block in finished]
    tables = [climbed.scores[cell] for climbed in ladders]

    def joined(part: str) -> dict[str, np.ndarray]:
        named = {name: [getattr(table[name], part) for table in tables] for name in tables[0]}
        return {name: np.concatenate(rows) for name, rows in named.items() if rows[0] is not None}

    examples = [example for climbed in ladders for example in climbed.examples]
    users = [user for block in finished for user in block.users]
    answers = {
        name: [[*itertools.chain(*draws)] for draws in zip(*(table[name].answers for table in tables), strict=True)]
        for name in tables[0]
    }
    return TaskResult(task, users, joined("scores"), joined("right_domain"), examples, answers)


def official(result: TaskResult, method: str) -> dict[str, float]:
    """LaMP's own metrics of a method, over all questions of all users together, averaged over the draws."""
    golds = [question.answer for question in result.questions]
    draws = [metrics.official(result.task, answers, golds) for answers in result.answers[method]]
    return {name: float(np.mean([each[name] for each in draws])) for name in draws[0]}


def scored(rows: Sequence[methods.Method], result: TaskResult) -> list[methods.Method]:
    """Those of `rows` that have a score: where domains are unknown, not all of them."""
    return [row for row in rows if row.label in result.scores]


def bars(rows: Sequence[methods.Method], scores: Mapping[str, np.ndarray]) -> list[figures.Bar]:
    """Of each row the mean of `scores` [users], which go by labels, with its interval."""
    return [figures.Bar(row.group, row.name, interval(scores[row.label])) for row in rows]


def comparisons(result: TaskResult) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The paired differences that claims turn on, `a - b` over the same users: title to scores of a and b."""
    return {f"{a} - {b}": (result.scores[a], result.scores[b]) for a, b in methods.pairs(result.scores)}


def gain_kept(result: TaskResult) -> Interval | None:
    """Share of the gain of the OVT with known domain over the base model that `recommended` keeps.

    None where domains are unknown, or where these users cannot tell that gain from none.
    """
    scores = result.scores
    if methods.KNOWN not in scores:
        return None
    return ratio_of_gains(scores[methods.whole("recommended")], scores[methods.KNOWN], scores[methods.BASE])


def as_json(results: Sequence[TaskResult], settings: dict[str, Any]) -> dict[str, Any]:
    """Everything a reader needs to judge and repeat the results."""

    def figures_of(result: TaskResult) -> dict[str, Any]:
        by_method = {
            name: {
                **interval(scores)._asdict(),
                "per_user": scores.tolist(),
                "official": official(result, name),
                **({"right_domain": float(result.right_domain[name].mean())} if name in result.right_domain else {}),
            }
            for name, scores in result.scores.items()
        }
        pairs, kept = comparisons(result), gain_kept(result)
        return {
            "metric": result.task.metric,
            "users": [user.id for user in result.users],
            "questions": len(result.questions),
            "methods": by_method,
            "paired_differences": {
                title: {**difference(*pair)._asdict(), "clear": is_clear}
                for (title, pair), is_clear in zip(pairs.items(), clear(list(pairs.values())), strict=True)
            },
            "gain_kept_by_recommended": kept and kept._asdict(),
        }

    return {
        "settings": settings,
        "presets": {name: preset.described() for name, preset in PRESETS.items()},
        "provenance": provenance(),
        "tasks": {result.task.name: figures_of(result) for result in results},
    }


def write(out: Path, results: Sequence[TaskResult], rows: Sequence[methods.Method], settings: dict[str, Any]) -> None:
    """`results.json` and `results.png`, of `rows`, in `out`, each complete or absent."""
    files.write_json(out / "results.json", as_json(results, settings))
    tables = {result.task.name: bars(scored(rows, result), result.scores) for result in results}
    title = f"{settings['device']}, sigma {settings['sigma']}, {settings['draws']} draws, model {settings['model']}"
    figures.bars(out / "results.png", tables, title=title)


def save_bank(folder: Path, model: Model, part: Part, settings: dict[str, Any]) -> None:
    """Save what `recommended` learned for a block of users. Of `settings`, "data" says where they come from."""
    block, bank = part.ladder.block, part.ladder.bank
    said = {"source": settings["data"], "device": settings["device"], "sigma": settings["sigma"]}
    memory.save(folder, memory.remembered(model, block, bank, settings=recommended(model), **said).noted(**settings))

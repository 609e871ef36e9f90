"""Where `learn` takes its user from: the toy world, a LaMP folder, or people's own histories."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from nvcim_jax.cli.shared import path

if TYPE_CHECKING:
    from nvcim_jax.data.users import Users
    from nvcim_jax.people import User

TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="LaMP-1 to 7; the embedded world has 1, 2, 3, 5 and 7.",
        show_default="LaMP-2; free with --history",
    ),
]
History = Annotated[
    list[Path] | None,
    typer.Option(
        "--history", parser=path, metavar="PATH", show_default="none",
        help="Your own: .jsonl, .csv, chats in .json, or a folder of these; may be repeated.",
    ),
]  # fmt: skip
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="NAME=COLUMN", show_default="usual names",
        help="What a column of --history holds: question, answer, time, user or domain; may be repeated.",
    ),
]  # fmt: skip


class Source(NamedTuple):
    """A task, and where its users are: `data` or `history`, else the toy world."""

    task: Any  # data.lamp.Task
    data: Path | None
    history: Sequence[Path]
    columns: dict[str, str | None]  # of the history
    bad: Callable[[str], None] | None = None  # told of lines of the history that are passed over, not refused


def source(task: str | None, data: Path | None, history: Sequence[Path] | None, column: Sequence[str] | None) -> Source:
    """The source that is meant. ValueError for options that do not go together."""
    from nvcim_jax.data import tasks

    if history and data is not None:
        raise ValueError("--data holds LaMP's files and --history your own: give one of them")
    if history and task not in (None, tasks.FREE.name):
        raise ValueError(f"--history is of the task {tasks.FREE.name}, not {task}: leave out --task")
    if history:
        return Source(tasks.FREE, None, history, _columns(column or ()))
    if column:
        raise ValueError("--column is about --history: name your file with it")
    if task == tasks.FREE.name:
        raise ValueError(f"the task {task} is that of people's own histories: give one with --history")
    return Source(tasks.task("LaMP-2" if task is None else task), data, (), {})


def find_user(source: Source, name: str | None) -> "Users":
    """The one user called `name`, by default the first with a history, as `nv.Users`."""
    from nvcim_jax.data import synthetic
    from nvcim_jax.data.users import toy_users

    everyone = _from_files(source)
    if everyone is None:
        number = synthetic.HELD_OUT if name is None else int(name) if name.isdecimal() and len(name) < 19 else -1
        if number < 0:
            raise ValueError(f"user {name!r}: the embedded world's users are numbers, such as {synthetic.HELD_OUT}")
        return toy_users(source.task, 1, first=number)
    first = next((at for at, user in enumerate(everyone) if user.history), 0)
    at = first if name is None else _at(everyone, name)
    return everyone[at : at + 1]


def find_users(source: Source, count: int) -> "Users":
    """The first `count` users who have a history."""
    from nvcim_jax.data.users import toy_users, with_history

    everyone = _from_files(source)
    return toy_users(source.task, count) if everyone is None else with_history(everyone)[:count]


def _from_files(source: Source) -> "Users | None":
    from nvcim_jax.data.users import read_history, read_lamp

    if source.history:
        return read_history(*source.history, columns=source.columns, bad=source.bad)
    return None if source.data is None else read_lamp(source.data, source.task)


def user_in(source: Source, name: str) -> "User":
    """The user called `name` in a history; one that names no users is all of this user's."""
    from nvcim_jax.data.history import ONLY
    from nvcim_jax.data.users import read_history

    everyone = read_history(*source.history, columns=source.columns)
    return everyone[0 if [user.id for user in everyone] == [ONLY] else _at(everyone, name)]


def _at(everyone: "Users", name: str) -> int:
    ids = [user.id for user in everyone]
    if name not in ids:
        raise ValueError(f"{everyone.source} has no user {name!r}; the first ids are {', '.join(ids[:5])}")
    return ids.index(name)


def _columns(named: Sequence[str]) -> dict[str, str | None]:
    """NAME=COLUMN as what `read_history` takes; nothing behind the sign is no column."""
    pairs = [each.partition("=") for each in named]
    for name, sign, _ in pairs:
        if not sign:
            raise ValueError(f"--column {name!r} has no '=': write it as question=COLUMN")
    return {name: column or None for name, _, column in pairs}

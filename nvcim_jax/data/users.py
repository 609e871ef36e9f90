"""Users to learn from, with their task and where they come from: the toy world, a LaMP folder, their own files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from nvcim_jax.data import history, lamp, synthetic
from nvcim_jax.data.lamp import Task
from nvcim_jax.data.tasks import FREE
from nvcim_jax.people import EMBEDDED_WORLD, User


@dataclass(frozen=True)
class Users(Sequence[User]):
    """Users of one task, and where they come from; a part of them, `users[:8]`, is again of this kind."""

    task: Task
    people: tuple[User, ...]
    source: str  # EMBEDDED_WORLD, the folder with their LaMP files, or the files with their histories

    def __len__(self) -> int:
        return len(self.people)

    def __iter__(self) -> Iterator[User]:
        return iter(self.people)

    @overload
    def __getitem__(self, at: int) -> User: ...

    @overload
    def __getitem__(self, at: slice) -> "Users": ...

    def __getitem__(self, at: int | slice) -> "User | Users":
        return replace(self, people=self.people[at]) if isinstance(at, slice) else self.people[at]


def toy_users(
    task: Task | str,
    count: int = 1,
    *,
    first: int = synthetic.HELD_OUT,
    history: int = synthetic.HISTORY,
    twofold: bool = False,
) -> Users:
    """`count` users of the toy world, from number `first` on, with `history` samples. ValueError for an unknown task.

    Those of the `twofold` world have habits that no single sample shows (`data.synthetic`).
    """
    task = lamp.task(task if isinstance(task, str) else task.name)
    source = f"{EMBEDDED_WORLD}, twofold" if twofold else EMBEDDED_WORLD
    return Users(task, tuple(synthetic.users(task, count, first=first, history=history, twofold=twofold)), source)


def read_lamp(folder: Path | str, task: Task | str, *, skip: bool = False) -> Users:
    """The users of a LaMP folder, as `lamp.read` finds them. DataError names the file, the entry and the field.

    With `skip`, questions without a gold answer of their own are left out, and a warning says how many.
    """
    task = lamp.task(task if isinstance(task, str) else task.name)
    return Users(task, tuple(lamp.read(folder, task, skip=skip)), str(Path(folder).resolve()))


def read_history(
    *paths: Path | str,
    columns: Mapping[str, str | None] | None = None,
    latest: int = history.LATEST,
    bad: history.Bad | None = None,
) -> Users:
    """Users of the task `free` from their own files: JSON lines, CSV, chats, or folders of these (`history.read`).

    `columns` names those that have no usual name, as in {"question": "Frage"}. DataError names the file and the line;
    where `bad` is given, lines of JSON that cannot be used are passed over and `bad` is told.
    """
    people = history.read(paths, columns=columns, latest=latest, bad=bad)
    return Users(FREE, tuple(people), ", ".join(str(Path(path).resolve()) for path in paths))


def hold_out(users: Users, count: int) -> Users:
    """Users whose `count` latest samples are the questions to answer, no longer history.

    ValueError names a user who would have nothing left to learn from.
    """
    if count < 1:
        raise ValueError(f"{count} samples to hold out: at least one is needed")
    for user in users:
        if len(user.history) <= count:
            raise ValueError(f"user {user.id!r} has {len(user.history)} samples: hold out fewer than that, not {count}")
    held = (user._replace(history=user.history[:-count], queries=user.history[-count:]) for user in users)
    return replace(users, people=tuple(held))


def with_history(users: Users) -> Users:
    """Those who have a history to learn from. DataError if nobody has."""
    people = tuple(user for user in users if user.history)
    if not people:
        raise lamp.DataError(
            f"{users.source}: no user has a history to learn from; give a folder with filled 'profile' fields"
        )
    return replace(users, people=people)

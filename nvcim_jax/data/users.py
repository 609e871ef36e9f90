"""Users to learn from, with their task and where they come from: the toy world, or a LaMP folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from nvcim_jax.data import lamp, synthetic
from nvcim_jax.data.lamp import Task
from nvcim_jax.people import EMBEDDED_WORLD, User


@dataclass(frozen=True)
class Users(Sequence[User]):
    """Users of one task, and where they come from; a part of them, `users[:8]`, is again of this kind."""

    task: Task
    people: tuple[User, ...]
    source: str  # EMBEDDED_WORLD, or the folder with their LaMP files

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


def toy_users(task: Task | str, count: int = 1, *, first: int = synthetic.HELD_OUT) -> Users:
    """`count` users of the toy world, from number `first` on. ValueError for an unknown task."""
    task = lamp.task(task) if isinstance(task, str) else task
    return Users(task, tuple(synthetic.users(task, count, first=first)), EMBEDDED_WORLD)


def read_lamp(folder: Path | str, task: Task | str) -> Users:
    """The users of a LaMP folder, as `lamp.read` finds them. DataError names the file, the entry and the field."""
    task = lamp.task(task) if isinstance(task, str) else task
    return Users(task, tuple(lamp.read(folder, task)), str(Path(folder).resolve()))


def with_history(users: Users) -> Users:
    """Those who have a history to learn from. DataError if nobody has."""
    people = tuple(user for user in users if user.history)
    if not people:
        raise lamp.DataError(
            f"{users.source}: no user has a history to learn from; give a folder with filled 'profile' fields"
        )
    return replace(users, people=people)

"""Records of people's text, which every room may pass on: a sample, and a person."""

from collections.abc import Sequence
from typing import NamedTuple

EMBEDDED_WORLD = "the embedded world"  # as the source of users


class Sample(NamedTuple):
    """A question as it is put to the model, its gold answer, and the question's content without template words."""

    question: str
    answer: str
    content: str
    domain: str | None = None  # known for the toy world, and where a history names it
    id: str | None = None  # of a question in LaMP's files, under which its answer is handed in


class User(NamedTuple):
    """One person: a labelled history, oldest first, and the questions to answer."""

    id: str
    history: tuple[Sample, ...]
    queries: tuple[Sample, ...]


def position(users: Sequence[User], name: str | None) -> int:
    """Where the user called `name` stands among those of a memory, by default the first. ValueError if nowhere."""
    names = [user.id for user in users]
    if name is not None and name not in names:
        shown = ", ".join(names[:5]) + (", ..." if names[5:] else "")
        raise ValueError(f"the memory holds no user {name!r}: it holds {shown}")
    return 0 if name is None else names.index(name)

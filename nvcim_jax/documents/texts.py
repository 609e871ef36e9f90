"""Documents as the samples of a person's history: LaMP's own forms, folders of text files, lines of JSON.

A document is a `Sample`. What is stored of it, what asks for it and what label it carries follow from the task.
"""

import os
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

from nvcim_jax.data import fields, lamp
from nvcim_jax.data.fields import DataError
from nvcim_jax.data.lamp import Task
from nvcim_jax.data.users import Users
from nvcim_jax.files import open_own
from nvcim_jax.people import Sample, User

TEXTS = Task("texts", "rouge1", ("",), ("text", "text"))  # of people's own files, which hold no questions
ENDINGS, LINES = (".txt", ".md"), (".jsonl", ".ndjson")
MOST_TEXT = 4 * 2**20  # bytes of a document
MOST, MOST_FILES = 10**6, 10**5  # lines of JSON, and files below a folder, of any kind
ONLY = "me"  # the owner where none is named


class Forms(NamedTuple):
    """How LaMP (Salemi et al., 2024) stores a sample of a task, and which part of it RoCR's CDE calls its label."""

    document: str
    text: str
    label: str


_TITLED = Forms("{answer} {content}", "{content}", "{answer}")  # title and text, of which a question holds the text
FORMS = {
    "LaMP-1": Forms("{content} {answer}", "{answer}", "{content}"),
    **dict.fromkeys(("LaMP-4", "LaMP-5"), _TITLED),
    **dict.fromkeys(("LaMP-2", "LaMP-3"), Forms("{content}", "{content}", "{answer}")),
    "LaMP-6": Forms("{content}", "{content}", "{answer}"),
}
PLAIN = Forms("{content}", "{content}", "")


def document(task: Task, sample: Sample) -> str:
    """The text that is stored of a sample."""
    return _filled(_forms(task, sample).document, sample)


def bare(task: Task, sample: Sample) -> str:
    """The text of a sample without its label, which is what asks for it."""
    return _filled(_forms(task, sample).text, sample)


def label(task: Task, sample: Sample) -> str:
    """What CDE adds to a text: tag, score or title; "" for tasks whose samples have none."""
    return _filled(_forms(task, sample).label, sample)


def holds_question(task: Task, sample: Sample) -> bool:
    """Whether a sample of a LaMP-1 history is a question with its answer, as in the toy world, and not a paper."""
    return task.name == "LaMP-1" and sample.answer in task.labels


def sought(task: Task, question: Sample) -> str:
    """What a question looks for: its content; in LaMP-1 the two candidate references, not the paper's title."""
    return lamp.references(task, question.question) or question.content


def require_distinct(user: User) -> None:
    """ValueError if two documents of a user have the same id."""
    named = [sample.id for sample in user.history if sample.id is not None]
    twice = next((name for at, name in enumerate(named) if name in named[:at]), None)
    if twice is not None:
        raise ValueError(
            f"user {user.id!r} has two documents called {fields.shown(twice)}: give each a name of its own"
        )


def read_documents(path: Path | str) -> Users:
    """The documents in a folder of text files (.txt, .md), or in lines of JSON (.jsonl), as users without questions.

    In a folder every file is a document of one owner, named after its place. A line is an object with `text`, and where
    they are there `id`, `title`, `label`, `topic` and `user`. Empty documents are left out with a warning. DataError
    names the file and the line.
    """
    path = Path(path)
    found = list(_folder(path) if path.is_dir() else _lines(path))
    empty = [name for name, each in found if each is None]
    if empty:
        warnings.warn(f"{len(empty)} empty documents were left out, the first is {empty[0]}", stacklevel=2)
    kept = [(name, each) for name, each in found if each is not None]
    if not kept:
        raise DataError(
            f"{path} holds no document: put files that end in {', '.join(ENDINGS)} there, with text in them"
        )
    owners: dict[str, dict[str, Sample]] = {}
    for where, (owner, sample) in kept:
        own = owners.setdefault(owner, {})
        if sample.id in own:
            raise DataError(
                f"{where}: the id {fields.shown(sample.id)} stands above already: every document needs its own"
            )
        own[str(sample.id)] = sample
    people = tuple(User(name, tuple(own.values()), ()) for name, own in owners.items())
    return Users(TEXTS, people, str(path.resolve()))


Found = Iterator[tuple[str, tuple[str, Sample] | None]]


def _folder(folder: Path) -> Found:
    """Every text file below a folder, by name; hidden ones are passed over, and no link is followed."""
    for path in _files(folder):
        text = fields.decoded(_bytes(path), str(path)).strip()
        name = str(path.relative_to(folder))
        yield str(path), (ONLY, Sample("", "", _whole(text, path), None, name)) if text else None


def _files(folder: Path) -> list[Path]:
    found, seen = [], 0
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        seen += len(names) + 1
        if seen > MOST_FILES:
            raise DataError(f"{folder} holds more than {MOST_FILES} files: give the folder of the texts alone")
        shown = sorted(name for name in names if not name.startswith("."))
        found += [Path(at) / name for name in shown if Path(name).suffix.lower() in ENDINGS]
    return found


def _bytes(path: Path) -> bytes:
    try:
        with os.fdopen(open_own(path), "rb") as file:
            data = file.read(MOST_TEXT + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read (a link, or no regular file): put the file itself there") from error
    if len(data) > MOST_TEXT:
        raise DataError(f"{path} has more than {MOST_TEXT // 2**20} MiB: split it into documents")
    return data


def _lines(path: Path) -> Found:
    if not path.is_file():
        raise DataError(f"{path} is missing or is no file: give a folder of texts, or a file of JSON lines")
    if path.suffix.lower() not in LINES:
        raise DataError(f"{path} ends in none of {', '.join(LINES)}: give a folder of texts, or a file of JSON lines")
    with path.open("rb") as file:
        for number in count(1):
            line, where = file.readline(MOST_TEXT + 1), f"{path}, line {number}"
            if not line:
                return
            if len(line) > MOST_TEXT or number > MOST:
                raise DataError(
                    f"{where} is too long, or one too many: {MOST_TEXT // 2**20} MiB and {MOST} lines are read"
                )
            if line.strip():
                yield (
                    where,
                    _line(fields.parse_json(line, where, mend="write one JSON object in each line"), where, number),
                )


def _line(value: object, where: str, number: int) -> tuple[str, Sample] | None:
    entry = fields.record(value, where)
    if isinstance(entry.get("text"), str) and not entry["text"].strip():
        return None
    text, title = fields.text(entry, "text", where), fields.optional_text(entry, "title", where)
    name = fields.name(entry, "id", where) if "id" in entry else f"line {number}"
    owner = fields.name(entry, "user", where) if "user" in entry else ONLY
    told = fields.name(entry, "label", where) if "label" in entry else ""
    whole = f"{title} {text}" if title else text
    return owner, Sample("", told, whole, fields.optional_text(entry, "topic", where), name)


def _forms(task: Task, sample: Sample) -> Forms:
    if task.name == TEXTS.name:
        return PLAIN._replace(label="{answer}")
    return PLAIN if holds_question(task, sample) else FORMS.get(task.name, PLAIN)


def _filled(form: str, sample: Sample) -> str:
    return form.format(content=sample.content, answer=sample.answer).strip()


def _whole(text: str, path: Path) -> str:
    try:
        return fields.whole(text)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error

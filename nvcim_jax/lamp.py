"""LaMP files as users with a labelled history: the five tasks, their templates, the reader.

Formats and templates are those of the LaMP benchmark (Salemi et al., 2024). A history item becomes a
question and an answer with the task's own template; an item that already carries `input` and `output`
(the embedded world writes them where LaMP has no labelled pair) is taken as it stands.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

TAGS = (
    "sci-fi", "based on a book", "comedy", "action", "twist ending", "dystopia", "dark comedy", "classic",
    "psychology", "fantasy", "romance", "thought-provoking", "social commentary", "violence", "true story",
)  # fmt: skip

ANSWER = "\nAnswer:"  # stands between a question and its answer, for every model


class Task(NamedTuple):
    """One LaMP task. `pieces` are the fixed parts of its template, in order, with the content between them."""

    name: str
    metric: str
    pieces: tuple[str, ...]
    fields: tuple[str, str]  # of a history item: the content and the answer
    labels: tuple[str, ...] = ()


class Sample(NamedTuple):
    """A question in LaMP's wording, its gold answer, the question's content without template words."""

    question: str
    answer: str
    content: str
    domain: str | None = None  # known only for the embedded world


class User(NamedTuple):
    """One person: a labelled history, oldest first, and the questions to answer."""

    id: str
    history: tuple[Sample, ...]
    queries: tuple[Sample, ...]


TASKS = {
    task.name: task
    for task in (
        Task(
            "LaMP-1",
            "accuracy",
            (
                'For an author who has written the paper with the title "',
                '", which reference is related? Just answer with [1] or [2] without explanation. [1]: "',
                '" [2]: "',
                '"',
            ),
            ("title", "abstract"),
            ("[1]", "[2]"),
        ),
        Task(
            "LaMP-2",
            "accuracy",
            (
                "Which tag does this movie relate to among the following tags? Just answer with the tag name without "
                f"further explanation. tags: [{', '.join(TAGS)}] description: ",
            ),
            ("description", "tag"),
            TAGS,
        ),
        Task(
            "LaMP-3",
            "accuracy",
            (
                "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 "
                "without further explanation. review: ",
            ),
            ("text", "score"),
            ("1", "2", "3", "4", "5"),
        ),
        Task(
            "LaMP-5",
            "rouge1",
            ("Generate a title for the following abstract of a paper: ",),
            ("abstract", "title"),
        ),
        Task(
            "LaMP-7",
            "rouge1",
            ("Paraphrase the following tweet without any explanation before or after it: ",),
            ("text", "text"),
        ),
    )
}


class DataError(ValueError):
    """A LaMP file that cannot be used; the message names the file, the field and the remedy."""


def task(name: str) -> Task:
    """The task called `name`, such as "LaMP-2"; ValueError lists the known names."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}: choose one of {', '.join(TASKS)}")
    return TASKS[name]


def ask(task: Task, *contents: str) -> str:
    """The question of `task` about `contents`: the template with its gaps filled."""
    gaps = contents + ("",) * (len(task.pieces) - len(contents))
    return "".join(piece + gap for piece, gap in zip(task.pieces, gaps, strict=True))


def content(task: Task, question: str) -> str:
    """The question without the template's words; unchanged where the template is not found."""
    if not question.startswith(task.pieces[0]):
        return question
    return " ".join(_gaps(task, question))


def gist(task: Task, sample: Sample) -> str:
    """What a short reminder of the sample would quote: its content; for LaMP-1 the chosen reference, then the title."""
    if task.name != "LaMP-1" or sample.answer not in task.labels or not sample.question.startswith(task.pieces[0]):
        return sample.content
    title, first, second = _gaps(task, sample.question)
    return f"{first if sample.answer == '[1]' else second} {title}"


def both_orders(task: Task, sample: Sample) -> tuple[Sample, ...]:
    """The sample and, for LaMP-1, the same with its references exchanged: else a prompt learns the position."""
    if task.name != "LaMP-1" or sample.answer not in task.labels:
        return (sample,)
    title, first, second = _gaps(task, sample.question)
    turned = "[2]" if sample.answer == "[1]" else "[1]"
    return sample, sample._replace(question=ask(task, title, second, first), answer=turned)


def read(folder: Path | str, task: Task) -> list[User]:
    """Users of a LaMP folder, `{dev|train}_questions.json` and `_outputs.json` (or any one such pair).

    Questions that share a `user_id` (the time-based files) are one user's; otherwise each question is a user.
    Raises DataError for a missing, malformed or unlabelled file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give --data a folder with *_questions.json and *_outputs.json")
    found = sorted(folder.glob("*_questions.json"), key=lambda path: (not path.name.startswith("dev"), path.name))
    if not found:
        raise DataError(f"{folder} holds no *_questions.json: give --data a LaMP folder, such as LaMP_3 with dev files")
    answers = found[0].with_name(found[0].name.replace("_questions", "_outputs"))
    if not answers.is_file():
        raise DataError(f"{answers} is missing: every *_questions.json needs its *_outputs.json with the gold answers")
    golds = _load(answers)
    if not isinstance(golds, dict) or not isinstance(golds.get("golds"), list):
        raise DataError(f'{answers}: expected {{"task": ..., "golds": [...]}}')
    if golds.get("task", "").replace("_", "-") != task.name:
        raise DataError(f"{answers} belongs to task {golds.get('task')!r}, not {task.name}: choose --task accordingly")
    return parse(_load(found[0]), golds, task, source=str(found[0]))


def parse(questions: list, outputs: dict, task: Task, *, source: str = "questions") -> list[User]:
    """Users from LaMP's two JSON values, already loaded. Raises DataError naming `source`, entry and field."""
    if not isinstance(questions, list) or not questions:
        raise DataError(f"{source}: expected a non-empty list of questions")
    golds = {gold.get("id"): gold.get("output") for gold in outputs["golds"]}
    users: dict[str, User] = {}
    for number, entry in enumerate(questions):
        where = f"{source}, entry {number}"
        name = _text(entry, "id", where)
        question = _text(entry, "input", where)
        profile = entry.get("profile")
        if not isinstance(profile, list):
            raise DataError(f"{where}: field 'profile' is {profile!r}; a list of the user's own items is needed")
        gold = _label(task, golds.get(name), f"{where}: the gold answer of id {name!r}")
        query = Sample(question, gold, content(task, question), entry.get("domain"))
        user_id = str(entry.get("user_id", name))
        if user_id in users:
            users[user_id] = users[user_id]._replace(queries=(*users[user_id].queries, query))
        else:
            dated = sorted(enumerate(profile), key=lambda pair: (str(pair[1].get("date", "")), pair[0]))
            history = tuple(_history_sample(task, item, f"{where}, profile item {at}") for at, item in dated)
            users[user_id] = User(user_id, history, (query,))
    return list(users.values())


def _history_sample(task: Task, item: dict, where: str) -> Sample:
    if "input" in item and "output" in item:
        question, answer = _text(item, "input", where), _text(item, "output", where)
    elif task.name == "LaMP-1":  # the official per-user pair: there is no labelled citation in a profile
        question = f"Write an abstract for this title: {_text(item, 'title', where)}"
        return Sample(question, _text(item, "abstract", where), item["title"], item.get("domain"))
    elif task.name == "LaMP-7":  # likewise: the first fifth of a tweet asks for the rest
        words = _text(item, "text", where).split()
        cut = max(1, len(words) // 5)
        question = f"Complete the following tweet: {' '.join(words[:cut])}"
        return Sample(question, " ".join(words[cut:]) or words[0], " ".join(words), item.get("domain"))
    else:
        question, answer = ask(task, _text(item, task.fields[0], where)), _text(item, task.fields[1], where)
    return Sample(question, _label(task, answer, where), content(task, question), item.get("domain"))


def _gaps(task: Task, question: str) -> list[str]:
    longest_first = sorted(task.pieces, key=len, reverse=True)
    gaps = re.split("|".join(map(re.escape, longest_first)), question)
    return [gap.strip() for gap in gaps if gap.strip()]


def _text(entry: dict, field: str, where: str) -> str:
    value = entry.get(field) if isinstance(entry, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: field {field!r} is {value!r}; a text is needed: mend the entry or take it out")
    return value


def _label(task: Task, answer, where: str) -> str:
    if not isinstance(answer, str) or not answer.strip():
        raise DataError(f"{where} is {answer!r}; a text is needed: mend the file or take the entry out")
    if task.labels and answer not in task.labels:
        raise DataError(f"{where}: {answer!r} is not a label of {task.name}; allowed: {', '.join(task.labels)}")
    return answer


def _load(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid JSON ({error}): download it again") from error

"""LaMP files as users with a labelled history: the seven tasks, their templates, the reader.

Formats and templates are those of the LaMP benchmark (Salemi et al., 2024). A history item becomes a
question and an answer with the task's own template; an item that already carries `input` and `output`
(the toy world writes them where LaMP has no labelled pair) is taken as it stands.
"""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

from nvcim_jax.data import fields
from nvcim_jax.data.fields import DataError as DataError
from nvcim_jax.people import Sample, User

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
            "LaMP-4",
            "rouge1",
            ("Generate a headline for the following article: ",),
            ("text", "title"),
        ),
        Task(
            "LaMP-5",
            "rouge1",
            ("Generate a title for the following abstract of a paper: ",),
            ("abstract", "title"),
        ),
        Task(
            "LaMP-6",
            "rouge1",
            ("Generate a subject for the following email: ",),
            ("text", "title"),
        ),
        Task(
            "LaMP-7",
            "rouge1",
            ("Paraphrase the following tweet without any explanation before or after it: ",),
            ("text", "text"),
        ),
    )
}


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
    gaps = _gaps(task, question)
    return question if gaps is None else " ".join(filter(None, gaps))


def reworded(sample: Sample, content: str, answer: str) -> Sample:
    """The sample with another content, in the words of its question's template where they are known, and answer."""
    is_inside = sample.content and sample.content in sample.question
    question = sample.question.replace(sample.content, content) if is_inside else content
    return sample._replace(question=question, content=content, answer=answer)


def gist(task: Task, sample: Sample) -> str:
    """What a short reminder of the sample would quote: its content; for LaMP-1 the chosen reference, then the title."""
    gaps = _gaps(task, sample.question)
    if task.name != "LaMP-1" or sample.answer not in task.labels or gaps is None:
        return sample.content
    title, first, second = gaps
    return f"{first if sample.answer == '[1]' else second} {title}"


def references(task: Task, question: str) -> str:
    """The two candidate references of a LaMP-1 question, by which LaMP looks for documents; "" for other questions."""
    gaps = _gaps(task, question) if task.name == "LaMP-1" else None
    return " ".join(gaps[1:]) if gaps else ""


def both_orders(task: Task, sample: Sample) -> tuple[Sample, ...]:
    """The sample and, for LaMP-1, the same with its references exchanged: else a prompt learns the position."""
    gaps = _gaps(task, sample.question)
    if task.name != "LaMP-1" or sample.answer not in task.labels or gaps is None:
        return (sample,)
    title, first, second = gaps
    turned = "[2]" if sample.answer == "[1]" else "[1]"
    return sample, sample._replace(question=ask(task, title, second, first), answer=turned)


def read(folder: Path | str, task: Task, *, skip: bool = False) -> list[User]:
    """Users of a LaMP folder, `{dev|train}_questions.json` and `_outputs.json` (or any one such pair).

    Questions that share a `user_id` (the time-based files) are one user's, whose history is the profile of the first;
    otherwise each question is a user. Raises DataError for a file that is missing or has an entry that cannot be used;
    `skip` as `parse` says.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give --data a folder with *_questions.json and *_outputs.json")
    found = sorted(folder.glob("*_questions.json"), key=lambda path: (not path.name.startswith("dev"), path.name))
    if not found:
        raise DataError(f"{folder} holds no *_questions.json: give --data a LaMP folder, such as LaMP_3 with dev files")
    answers = found[0].with_name(found[0].name.removesuffix("_questions.json") + "_outputs.json")
    if not answers.exists():
        raise DataError(f"{answers} is missing: every *_questions.json needs its *_outputs.json with the gold answers")
    outputs = fields.read_json(answers)
    return parse(fields.read_json(found[0]), outputs, task, source=str(found[0]), answers=str(answers), skip=skip)


def parse(
    questions: Any,
    outputs: Any,
    task: Task,
    *,
    source: str = "questions",
    answers: str = "outputs",
    skip: bool = False,
) -> list[User]:
    """Users from LaMP's two JSON values, already loaded. Raises DataError, which names the file, entry and field.

    Profile items with an empty text are left out, and a warning says how many; so are gold answers without a question.
    With `skip`, questions that have no gold answer, one that is no label, or an id that stands above are left out and
    counted, too; else they are refused.
    """
    golds, refused = _golds(task, outputs, answers, skip), []
    if not isinstance(questions, list) or not questions:
        raise DataError(f"{source}: expected a list of questions, not {fields.shown(questions)}")
    histories: dict[str, tuple[Sample, ...]] = {}
    queries: dict[str, list[Sample]] = {}
    asked, empty = set(), 0
    for number, value in enumerate(questions):
        where = f"{source}, entry {number}"
        entry = fields.record(value, where)
        name, question = fields.name(entry, "id", where), fields.text(entry, "input", where)
        user = fields.name(entry, "user_id", where) if "user_id" in entry else name
        profile = fields.items(entry, "profile", where)
        history = _history(task, profile, where)
        empty += len(profile) - len(history)
        if skip and (name in asked or name not in golds):
            refused.append(name)
            continue
        if name in asked:
            raise DataError(f"{where}: id {fields.shown(name)} stands above already: every question needs its own")
        if name not in golds:
            raise DataError(f"{where}: {answers} has no gold answer of id {fields.shown(name)}: add it or take it out")
        domain = fields.optional_text(entry, "domain", where)
        asked.add(name)
        histories.setdefault(user, history)
        queries.setdefault(user, []).append(Sample(question, golds[name], content(task, question), domain, name))
    if empty:
        warnings.warn(f"{source}: {empty} profile items with an empty text were left out", stacklevel=2)
    _warn_of_left_out(f"{source}: questions without one gold answer of their own", refused)
    _warn_of_left_out(f"{answers}: gold answers without a question", [name for name in golds if name not in asked])
    return [User(user, history, tuple(queries[user])) for user, history in histories.items()]


def _warn_of_left_out(what: str, names: list[str]) -> None:
    if names:
        shown = f"{len(names)} left out, the first of id {fields.shown(names[0])}"
        warnings.warn(f"{what}: {shown}", stacklevel=3)


def _golds(task: Task, outputs: Any, where: str, skip: bool) -> dict[str, str]:
    """The gold answers by the id of their question; with `skip` without those that are refused."""
    if not isinstance(outputs, dict) or not isinstance(outputs.get("golds"), list):
        raise DataError(f'{where}: expected {{"task": ..., "golds": [...]}}, not {fields.shown(outputs)}')
    belongs = fields.text(outputs, "task", where)
    if belongs.replace("_", "-") != task.name:
        raise DataError(f"{where} belongs to task {fields.shown(belongs)}, not {task.name}: choose --task accordingly")
    golds: dict[str, str] = {}
    refused = set()
    for number, value in enumerate(outputs["golds"]):
        at = f"{where}, gold answer {number}"
        name = fields.name(fields.record(value, at), "id", at)
        try:
            if name in golds:
                said = f"id {fields.shown(name)} stands above already: one gold answer for each is needed"
                raise DataError(f"{at}: {said}")
            golds[name] = _label(task, value, "output", at)
        except DataError:
            if not skip:
                raise
            refused.add(name)
    return {name: gold for name, gold in golds.items() if name not in refused}


def _history(task: Task, profile: list, where: str) -> tuple[Sample, ...]:
    """A profile's items, oldest first; those without a date come before the others, in the file's order.

    Without those that have an empty text: nothing can be learned from them.
    """
    named = [(f"{where}, profile item {at}", item) for at, item in enumerate(profile)]
    dated = [(fields.optional_text(fields.record(item, at), "date", at) or "", at, item) for at, item in named]
    return tuple(
        _history_sample(task, item, at)
        for _, at, item in sorted(dated, key=lambda row: row[0])
        if not any(isinstance(item.get(name), str) and not item[name].strip() for name in _texts(task, item))
    )


def _texts(task: Task, item: dict) -> tuple[str, str]:
    """The fields of a profile item that become question and answer."""
    return ("input", "output") if "input" in item and "output" in item else task.fields


def _history_sample(task: Task, item: dict, where: str) -> Sample:
    domain = fields.optional_text(item, "domain", where)
    if _texts(task, item) == ("input", "output"):
        question, answer = fields.text(item, "input", where), _label(task, item, "output", where)
    elif task.name == "LaMP-1":  # the official per-user pair: there is no labelled citation in a profile
        title = fields.text(item, "title", where)
        return Sample(f"Write an abstract for this title: {title}", fields.text(item, "abstract", where), title, domain)
    elif task.name == "LaMP-7":  # likewise: the first fifth of a tweet asks for the rest
        words = fields.text(item, "text", where).split()
        cut = max(1, len(words) // 5)
        question = f"Complete the following tweet: {' '.join(words[:cut])}"
        return Sample(question, " ".join(words[cut:]) or words[0], " ".join(words), domain)
    else:
        asked, answered = task.fields
        question, answer = ask(task, fields.text(item, asked, where)), _label(task, item, answered, where)
    return Sample(question, answer, content(task, question), domain)


def _label(task: Task, entry: dict, field: str, where: str) -> str:
    answer = fields.text(entry, field, where)
    if task.labels and answer not in task.labels:
        raise DataError(
            f"{where}: field {field!r} is {fields.shown(answer)}, no label of {task.name}; allowed: "
            + ", ".join(task.labels)
        )
    return answer


def _gaps(task: Task, question: str) -> list[str] | None:
    """What stands between the pieces of the template, each taken where it first occurs; None if one is missing."""
    first, *between = task.pieces
    if not question.startswith(first):
        return None
    gaps, rest = [], question.removeprefix(first)
    for piece in between[:-1]:
        gap, found, rest = rest.partition(piece)
        if not found:
            return None
        gaps.append(gap.strip())
    for closing in between[-1:]:
        rest = rest.rstrip()
        if not rest.endswith(closing):
            return None
        rest = rest.removesuffix(closing)
    return [*gaps, rest.strip()]

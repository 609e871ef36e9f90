"""LaMP's files from their official address (https://lamp-benchmark.github.io/download)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nvcim_jax.data import fields
from nvcim_jax.data.download import download, finish, forget
from nvcim_jax.data.lamp import DataError, Task

OFFICIAL = "https://ciir.cs.umass.edu/downloads/LaMP"
SPLITS = ("dev", "train")
KINDS = ("outputs", "questions")  # in this order: whoever sees questions finds their outputs
FOLDERS = {"LaMP-2": "LaMP_2/new"}  # LaMP_2 alone holds an older task, categories of news

Report = Callable[[str, int, int | None], None]  # a file's name, bytes that are here, of how many if that is known


def address(task: Task, split: str, kind: str, *, time_based: bool = False, base: str = OFFICIAL) -> str:
    """Where LaMP keeps a file of a task; `kind` is "questions" or "outputs"."""
    folder = FOLDERS.get(task.name, task.name.replace("-", "_"))
    return f"{base.rstrip('/')}/{'time/' if time_based else ''}{folder}/{split}/{split}_{kind}.json"


def fetch(
    task: Task,
    folder: Path,
    *,
    split: str = "dev",
    time_based: bool = False,
    base: str = OFFICIAL,
    report: Report = lambda name, here, whole: None,
    wait: float = 1.0,
) -> int:
    """Fetch questions and gold answers of a task into `folder`, which `lamp.read` then reads; how many there are.

    Both get their names when both are whole and checked (`count`); a run that was cut goes on where it was. ValueError
    as `require` says and where nothing is; DataError for what is not LaMP's, which is removed; OSError for the network
    and the disk.
    """
    require(task, split)
    parts = {kind: folder / f"{split}_{kind}.json.part" for kind in KINDS}
    for kind, part in parts.items():
        there = address(task, split, kind, time_based=time_based, base=base)
        told = lambda here, whole, name=f"{split} {kind}": report(name, here, whole)  # noqa: E731
        download(there, part, report=told, wait=wait)
    try:
        outputs, questions = (fields.read_json(parts[kind]) for kind in KINDS)
        questions_there = count(task, questions, outputs)
    except DataError as error:
        for part in parts.values():
            forget(part)
        raise DataError(f"what came from {base} is not {task.name} in LaMP's form, and is removed: {error}") from error
    for part in parts.values():
        finish(part, part.with_suffix(""))
    return questions_there


def require(task: Task, split: str) -> None:
    """ValueError for files that nobody can fetch: another split, and those of LaMP-6."""
    if split not in SPLITS:
        why = ": the benchmark keeps the answers of its test questions" if split == "test" else ""
        raise ValueError(f"split {split!r}: choose one of {', '.join(SPLITS)}{why}")
    if task.name == "LaMP-6":
        raise ValueError(
            "LaMP-6 is made of the Avocado e-mails, which the LDC licenses (LDC2015T03), so nobody may hand them on: "
            "with a licence, make its files with LaMP's own data/avocado/create_avocado_dataset.py and give their "
            "folder by --data"
        )


def count(task: Task, questions: Any, outputs: Any) -> int:
    """How many questions LaMP's two JSON values hold. DataError unless they are of `task`, with a gold answer each.

    What stands in each entry is left to `lamp.parse`: one that cannot be used is no reason to throw a download away.
    """
    if not isinstance(outputs, dict) or not isinstance(outputs.get("golds"), list):
        raise DataError(f'the outputs are {fields.shown(outputs)}, not {{"task": ..., "golds": [...]}}')
    if outputs.get("task") != task.name.replace("-", "_"):
        raise DataError(f"the outputs belong to task {fields.shown(outputs.get('task'))}")
    if not isinstance(questions, list) or not questions:
        raise DataError(f"the questions are {fields.shown(questions)}, not a list of them")
    for number, value in enumerate(questions):
        where = f"question {number}"
        profile = fields.items(fields.record(value, where), "profile", where)
        item = fields.record(profile[0], f"{where}, profile item 0") if profile else dict.fromkeys(task.fields)
        if missing := [name for name in ("id", "input") if name not in value] + [
            n for n in task.fields if n not in item
        ]:
            raise DataError(f"{where} has no {missing[0]!r}, which those of {task.name} have")
    asked = [fields.name(value, "id", "a question") for value in questions]
    told = [fields.name(fields.record(value, "a gold answer"), "id", "a gold answer") for value in outputs["golds"]]
    if sorted(asked) != sorted(told) or len(set(asked)) < len(asked):
        raise DataError(f"{len(asked)} questions and {len(told)} gold answers do not pair up: one each is needed")
    return len(asked)

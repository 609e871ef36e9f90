"""Answers in the form in which LaMP's evaluation takes predictions: a folder by method, in it a file by task.

    python eval/eval_task.py --golds_json predictions/golds/LaMP_5.json \\
        --preds_json predictions/recommended-scaled-search/LaMP_5.json --task_name LaMP_5 --output_file scores.json

It wants an answer to every question of the gold file and to no other, so the golds of what was asked stand beside them.
A zipped folder of all seven tasks is what its `eval_all.py` takes.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nvcim_jax import files
from nvcim_jax.data.lamp import Task
from nvcim_jax.evaluation.main_job import TaskResult
from nvcim_jax.people import Sample

GOLDS = "golds"  # the folder of the gold answers


def write(folder: Path, results: Sequence[TaskResult]) -> None:
    """A folder of predictions under `folder` for every method, of the first draw, and one of the gold answers.

    Only their owner may read the files. ValueError for a question without an id; OSError if they cannot be written.
    """
    for result in results:
        golds = [question.answer for question in result.questions]
        told = {GOLDS: golds, **{folder_of(name): draws[0] for name, draws in result.answers.items()}}
        for name, answers in told.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            path = folder / name / f"{official_name(result.task)}.json"
            files.write_json(path, as_lamp(result.task, result.questions, answers), private=True)


def as_lamp(task: Task, questions: Sequence[Sample], answers: Sequence[str]) -> dict[str, Any]:
    """The JSON value of a file of predictions. ValueError for a question without an id or with another's."""
    ids = [question.id for question in questions]
    if None in ids or len(set(ids)) < len(ids):
        raise ValueError("predictions need an id of its own for every question: read them with nv.read_lamp")
    golds = [{"id": name, "output": answer} for name, answer in zip(ids, answers, strict=True)]
    return {"task": official_name(task), "golds": golds}


def official_name(task: Task) -> str:
    """The task's name in LaMP's files, such as LaMP_5."""
    return task.name.replace("-", "_")


def folder_of(method: str) -> str:
    """The folder of a method's predictions: the words of its label, joined by dashes."""
    return "-".join(re.findall(r"[a-z0-9]+", method.lower()))

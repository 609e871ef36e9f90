"""What the embedded model scores without help, and with one or three of the user's own samples in its context.

    python experiments/in_context.py --users 100

The samples are of the question's domain, as short reminders: the help that an OVT can hope to replace.
"""

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from nvcim_jax import llm
from nvcim_jax.cli import EMBEDDED
from nvcim_jax.data import lamp, synthetic
from nvcim_jax.evaluation.ladder import metric_of
from nvcim_jax.evaluation.statistics import interval
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline.answer import answer_room, generate


def reminded(task: lamp.Task, user: User, query: Sample, count: int, end: str) -> Sample:
    """The query behind `count` reminders of samples of its domain."""
    known = [sample for sample in user.history if sample.domain == query.domain][:count]
    before = "".join(f"{lamp.gist(task, sample)}{lamp.ANSWER} {sample.answer}{end}" for sample in known)
    return query._replace(question=before + query.question)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100)
    args = parser.parse_args()
    model = llm.load(EMBEDDED)
    model.tokenizer.split_special_tokens = False  # the reminders are set apart by the model's own end token
    console = Console()
    table = Table("task", "metric", "no help", "1 sample", "3 samples", title=f"{args.users} held-out users")
    for task in synthetic.TASKS.values():
        users = synthetic.users(task, args.users)
        metric, room = metric_of(task), answer_room(model, users)
        cells = []
        for count in (0, 1, 3):
            end = model.tokenizer.eos_token
            asked = [reminded(task, user, query, count, end) for user in users for query in user.queries]
            answers = generate(model, asked, new_tokens=room)
            scores = [metric(answer, query.answer) for answer, query in zip(answers, asked, strict=True)]
            shown = interval(np.reshape(scores, (len(users), -1)).mean(axis=1))
            cells.append(f"{shown.mean:.3f} ± {shown.half:.3f}")
        table.add_row(task.name, task.metric, *cells)
    console.print(table)


if __name__ == "__main__":
    main()

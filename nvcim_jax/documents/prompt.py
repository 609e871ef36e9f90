"""A question behind the texts that were found for it, put as LaMP does (Salemi et al., 2024)."""

from collections.abc import Sequence
from typing import Any

from nvcim_jax.data import lamp, text
from nvcim_jax.data.lamp import Task
from nvcim_jax.documents.texts import TEXTS
from nvcim_jax.people import Sample

# How LaMP puts a sample of a history, and what it writes between the samples and the question.
EXAMPLES = {
    "LaMP-1": '"{content}"',
    "LaMP-2": 'the tag for the movie: "{content}" is "{answer}"',
    "LaMP-3": '{answer} is the score for "{content}"',
    "LaMP-4": '"{answer}" is the title for "{content}"',
    "LaMP-5": '"{answer}" is the title for "{content}"',
    "LaMP-6": '"{answer}" is the title for "{content}"',
    "LaMP-7": '"{content}"',
}
JOINS = {
    "LaMP-5": ". Following the given patterns ",
    "LaMP-7": " are written by a person. Following the given patterns ",
}
BETWEEN = 4  # tokens between two samples, and that a cut content may have more
PLAIN, JOIN = "{content}" + lamp.ANSWER + " {answer}", ". "


def in_context(task: Task, query: Sample, samples: Sequence[Sample]) -> Sample:
    """The question behind `samples`, put as LaMP does; those of tasks that are not LaMP's as question and answer.

    Texts without questions stand as they are.
    """
    if not samples:
        return query
    form = EXAMPLES.get(task.name)
    if task.name == TEXTS.name:
        return query._replace(question="\n\n".join(each.content for each in samples) + "\n\n" + query.question)
    shown = [(form or PLAIN).format(content=each.content, answer=each.answer) for each in samples]
    joined = ", and ".join(shown) + JOINS.get(task.name, JOIN) if form else "\n\n".join(shown) + "\n\n"
    return query._replace(question=joined + query.question)


def fitted(tokenizer: Any, task: Task, query: Sample, samples: Sequence[Sample], room: int) -> list[Sample]:
    """The samples with contents short enough for all of them and the question to fit `room` tokens, as LaMP cuts them.

    A question may take 0.6 of the room. The samples share the rest evenly; what one leaves over passes on to the next.
    Labels are never cut. An empty list where nothing fits.
    """
    asked = len(text.encode(tokenizer, query.question))
    left = room - min(asked, int(0.6 * room)) - 1
    kept = []
    for at, sample in enumerate(samples):
        share = left // (len(samples) - at)
        around = in_context(
            task, query, [sample._replace(content="")]
        ).question  # the label and what stands around both
        rest = len(text.encode(tokenizer, around)) - asked + BETWEEN
        words = text.encode(tokenizer, sample.content)
        allowed = share - rest
        if allowed < 1:
            return kept
        if len(words) > allowed:
            sample = sample._replace(content=tokenizer.decode(words[:allowed]).strip())
            words = words[:allowed]
        kept.append(sample)
        left -= len(words) + rest
    return kept

"""A question behind the texts that were found for it, put as LaMP does (Salemi et al., 2024)."""

from collections.abc import Sequence
from typing import Any

from nvcim_jax.data import lamp, text
from nvcim_jax.data.lamp import Task
from nvcim_jax.documents.texts import TEXTS, holds_question
from nvcim_jax.people import Sample

# How LaMP puts a sample of a history, and what it writes between the samples and the question.
EXAMPLES = {
    "LaMP-1": '"{content}"',
    "LaMP-2": 'the tag for the movie: "{content}" is "{answer}"',
    "LaMP-3": '{answer} is the score for "{content}"',
    "LaMP-4": '"{answer}" is the title for "{content}"',
    "LaMP-5": '"{answer}" is a title for "{content}"',
    "LaMP-6": '"{answer}" is the title for "{content}"',
    "LaMP-7": '"{content}"',
}
JOINS = {
    "LaMP-5": ". Following the given patterns ",
    "LaMP-7": " are written by a person. Following the given patterns ",
}
PLAIN, JOIN = "{content}" + lamp.ANSWER + " {answer}", ". "


def in_context(task: Task, query: Sample, samples: Sequence[Sample]) -> Sample:
    """The question behind `samples`, put as LaMP does; those of tasks that are not LaMP's as question and answer.

    Titles of LaMP-1 stand within the question, behind the paper's own. Texts without questions stand as they are.
    """
    if not samples:
        return query
    shown = [_shown(task, each) for each in samples]
    before, title, behind = query.question.partition("title")
    if task.name == "LaMP-1" and title and not any(holds_question(task, each) for each in samples):
        return query._replace(question=before + ", and ".join([title, *shown]) + behind)
    between, last = (", and ", JOINS.get(task.name, JOIN)) if task.name in EXAMPLES else ("\n\n", "\n\n")
    return query._replace(question=between.join(shown) + last + query.question)


def fitted(tokenizer: Any, task: Task, query: Sample, samples: Sequence[Sample], room: int) -> list[Sample]:
    """The samples with contents short enough for all of them and the question to fit `room` tokens, as LaMP cuts them.

    A question may take 0.6 of the room. The samples share the rest evenly; what one leaves over passes on to the next.
    Labels and the words around them are never cut. Fewer samples where not even those fit.
    """
    left = room - min(len(text.encode(tokenizer, query.question)), int(0.6 * room)) - len(JOINS["LaMP-5"].split()) - 4
    kept: list[Sample] = []
    for at, sample in enumerate(samples):
        around = len(text.encode(tokenizer, _shown(task, sample._replace(content="")) + ", and ")) + 2
        words = text.encode(tokenizer, sample.content)
        allowed = left // (len(samples) - at) - around
        if allowed < 1:
            return kept
        if len(words) > allowed:
            words = words[:allowed]
            sample = sample._replace(content=tokenizer.decode(words).strip())
        kept.append(sample)
        left -= len(words) + around
    return kept


def _shown(task: Task, sample: Sample) -> str:
    if task.name == TEXTS.name:
        return sample.content
    return EXAMPLES.get(task.name, PLAIN).format(content=sample.content, answer=sample.answer)

"""Streams of the toy world: moments in runs of one domain, domains that come back, questions in between.

Everything about a stream follows from the user's number and the settings alone.
"""

import random
from typing import NamedTuple

from nvcim_jax.data import lamp, synthetic
from nvcim_jax.data.synthetic import Domain, Habit
from nvcim_jax.people import Sample

DOMAINS = (4, 8)  # that a user moves through, at least and at most
STRAY = 0.15  # share of moments that are of another domain met before


class Stream(NamedTuple):
    """What one user meets, oldest first, and what is asked after every so many moments."""

    user: str
    moments: tuple[Sample, ...]
    asked: tuple[tuple[Sample, ...], ...]  # by checkpoint: questions from the domains met so far


def stream(
    task: lamp.Task,
    number: int,
    *,
    moments: int = 200,
    run: int = 25,
    every: int = 25,
    questions: int = 8,
    shuffled: bool = False,
) -> Stream:
    """What user `number` meets: runs of about `run` moments of one domain, and `questions` after each `every` moments.

    Questions go round the domains met so far, in an order drawn anew for each checkpoint. With `shuffled` the same
    moments come in random order. ValueError for fewer than one of anything, and a task that the toy world has not.
    """
    if min(moments, run, every, questions) < 1:
        raise ValueError(f"{moments} moments in runs of {run}, {questions} questions every {every}: at least one each")
    rng = random.Random(f"stream/{task.name}/{number}")
    habits = synthetic.habits_of(rng, *DOMAINS)
    walk = _walk(rng, list(habits), moments, run)
    said = [(domain, _sample(rng, task, domain, habits[domain])) for domain in walk]
    if shuffled:
        random.Random(f"shuffled/{task.name}/{number}").shuffle(said)
    asking = random.Random(f"questions/{task.name}/{number}")
    asked = []
    for until in range(every, moments + 1, every):
        met = list(dict.fromkeys(domain for domain, _ in said[:until]))
        asking.shuffle(met)
        around = [met[at % len(met)] for at in range(questions)]
        asked.append(tuple(_sample(asking, task, domain, habits[domain]) for domain in around))
    return Stream(str(number), tuple(sample for _, sample in said), tuple(asked))


def _walk(rng: random.Random, known: list[Domain], moments: int, run: int) -> list[Domain]:
    """The domain of every moment: runs of half to one and a half `run`, each of another domain than the one before."""
    found: list[Domain] = []
    now = rng.choice(known)
    while len(found) < moments:
        for _ in range(rng.randint(-(-run // 2), run + run // 2)):
            met = list(dict.fromkeys(found))
            found.append(rng.choice(met) if met and rng.random() < STRAY else now)
        now = rng.choice([domain for domain in known if domain != now])
    return found[:moments]


def _sample(rng: random.Random, task: lamp.Task, domain: Domain, habit: Habit) -> Sample:
    item = synthetic.example(rng, task, domain, habit)
    return Sample(item["input"], item["output"], lamp.content(task, item["input"]), domain.name)

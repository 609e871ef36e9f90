"""The toy world: seeded, readable LaMP-shaped data in which a habit depends on the user and the domain.

A domain is a vocabulary; a population habit exists for every domain and task, and a user keeps it with
probability `CONFORMITY`, else has a habit of their own. Words leak between the domains of an area, so that
finding a question's domain can fail. Everything about a user follows from the user's number alone.

In the twofold world a user has two habits in every domain, and the first words of a text say which of them counts;
ratings are the user's own permutation of the five. One sample shows one habit, or one rating, of what several show.
"""

import json
import random
import re
import tomllib
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from nvcim_jax.data import lamp
from nvcim_jax.people import User

TASKS = {name: lamp.TASKS[name] for name in ("LaMP-1", "LaMP-2", "LaMP-3", "LaMP-5", "LaMP-7")}  # with items here
LEAKAGE = 0.3  # share of words taken from a sibling domain
CONFORMITY = 0.4  # probability that a habit is the population's (citation: 0.5)
HELD_OUT = 1_000_000  # users from this number on are never pretrained on
HISTORY, QUERIES = 25, 8  # samples and questions of a user
RATINGS = (
    ("awful", "terrible", "dreadful", "useless", "horrible"),
    ("poor", "weak", "disappointing", "flimsy", "dull"),
    ("average", "fair", "ordinary", "passable", "plain"),
    ("good", "nice", "solid", "pleasant", "decent"),
    ("superb", "perfect", "excellent", "wonderful", "brilliant"),
)
TITLES = (
    "On the {adjective} {first} and the {second}",
    "Towards better {first} for every {second}",
    "Is it the {first} or the {second}? A careful look",
    "Rethinking the {first}: lessons from the {second}",
    "What the {second} can teach us about the {first}",
    "A short history of the {adjective} {first}",
    "When {first} meets {second}: new evidence",
    "The case against the {adjective} {first}",
)
# Four ways of speaking, each with an opening or with a closing: eight phrasings of a tweet.
DIALECTS = (
    {"friend": "companion", "very": "truly", "happy": "delighted"},
    {"friend": "mate", "very": "proper", "happy": "chuffed"},
    {"friend": "buddy", "very": "super", "happy": "stoked"},
    {"friend": "colleague", "very": "quite", "happy": "content"},
)
OPENINGS = ("greetings", "oi", "yo", "attention")
CLOSINGS = ("respectfully", "innit", "lol", "regards")


# How a text of the first habit begins in the twofold world, and how one of the second.
CUES = {
    "LaMP-1": ("How the ", "Why the "),
    "LaMP-2": ("She ", "I "),
    "LaMP-5": ("We ", "I "),
    "LaMP-7": ("my ", "the "),
}


class Domain(NamedTuple):
    """A vocabulary: three subtopics of nouns, verbs, adjectives."""

    name: str
    area: str
    nouns: tuple[tuple[str, ...], ...]
    verbs: tuple[str, ...]
    adjectives: tuple[str, ...]


class Habit(NamedTuple):
    """What somebody does in one domain: indices into TAGS, TITLES, phrasings and subtopics; a rating bias."""

    tag: int
    bias: int
    title: int
    phrasing: int
    subtopic: int


@cache
def domains() -> tuple[Domain, ...]:
    """The 24 domains of `embedded/vocabulary.toml`."""
    areas = tomllib.loads(files("nvcim_jax").joinpath("data/toy/vocabulary.toml").read_text(encoding="utf-8"))
    return tuple(
        Domain(
            name,
            area,
            tuple(map(tuple, words["nouns"])),
            tuple(words["verbs"]),
            tuple(words["adjectives"]),
        )
        for area, content in areas.items()
        for name, words in content.items()
    )


def _random_habit(rng: random.Random) -> Habit:
    return Habit(rng.randrange(15), rng.choice((-1, 0, 1)), rng.randrange(8), rng.randrange(8), rng.randrange(3))


@cache
def population_habit(domain: Domain) -> Habit:
    """What most people do in `domain`."""
    return _random_habit(random.Random(f"population/{domain.name}"))


def persona(number: int) -> dict[Domain, Habit]:
    """User `number`: three to six domains out of two areas, each with the user's own habit."""
    return habits_of(random.Random(f"user/{number}"), 3, 6)


def habits_of(rng: random.Random, least: int, most: int) -> dict[Domain, Habit]:
    """Somebody with `least` to `most` domains out of two areas, and a habit in each."""
    areas = rng.sample(sorted({domain.area for domain in domains()}), 2)
    chosen = rng.sample([domain for domain in domains() if domain.area in areas], rng.randint(least, most))
    habits = {}
    for domain in chosen:
        usual, own = population_habit(domain), _random_habit(rng)
        shares = (CONFORMITY,) * 4 + (0.5,)
        habits[domain] = Habit(*(u if rng.random() < p else o for u, o, p in zip(usual, own, shares, strict=True)))
    return habits


def example(rng: random.Random, task: lamp.Task, domain: Domain, habit: Habit) -> dict:
    """One LaMP history item of somebody with `habit` in `domain`; also `input` and `output` (question, answer).

    ValueError for a task that is not among `TASKS`.
    """
    if task.name not in TASKS:
        raise ValueError(
            f"the embedded world has no users of {task.name}, only of {', '.join(TASKS)}: give a folder with its files "
            f"(--data, nv.read_lamp; `nvcim lamp fetch {task.name} --out FOLDER` fetches them)"
        )
    siblings = [other for other in domains() if other.area == domain.area and other != domain]

    def noun() -> str:
        source = rng.choice(siblings) if rng.random() < LEAKAGE else domain
        return rng.choice(rng.choice(source.nouns))

    def word(part: str) -> str:
        source = rng.choice(siblings) if rng.random() < LEAKAGE else domain
        return rng.choice(getattr(source, part))

    verb, adjective = partial(word, "verbs"), partial(word, "adjectives")

    def thing() -> str:
        return f"{adjective()} {noun()}"

    if task.name == "LaMP-1":
        title = f"How the {thing()} {verb()} the {noun()} and the {noun()}"
        wrong = rng.choice([topic for topic in range(3) if topic != habit.subtopic])
        right_first = rng.random() < 0.5
        topics = (habit.subtopic, wrong) if right_first else (wrong, habit.subtopic)
        nouns = (rng.sample(domain.nouns[topic], 3) for topic in topics)
        references = ["The {}, the {} and the {}".format(*three) for three in nouns]
        fields = {"title": title, "abstract": f"We ask how the {thing()} {verb()} the {thing()}."}
        question, answer = lamp.ask(task, title, *references), "[1]" if right_first else "[2]"
    elif task.name == "LaMP-2":
        description = f"She {verb()} the {thing()} and the {thing()}, then {verb()} the {thing()} and the {noun()}."
        question, answer = lamp.ask(task, description), lamp.TAGS[habit.tag]
        fields = {"description": description, "tag": answer}
    elif task.name == "LaMP-3":
        level = rng.randrange(5)
        text = f"I {verb()} the {thing()} and the {thing()}, then {verb()} the {thing()}: the {noun()} was "
        text += f"{rng.choice(RATINGS[level])}."
        question, answer = lamp.ask(task, text), str(min(max(level + habit.bias, 0), 4) + 1)
        fields = {"text": text, "score": answer}
    elif task.name == "LaMP-5":
        words = {"adjective": adjective(), "first": noun(), "second": noun()}
        abstract = (
            f"We study how the {words['adjective']} {words['first']} {verb()} the {words['second']}. "
            f"We also {verb()} the {thing()} and the {thing()}."
        )
        question, answer = lamp.ask(task, abstract), TITLES[habit.title].format(**words)
        fields = {"abstract": abstract, "title": answer}
    else:
        tweet = f"my friend is very happy: the {thing()} {verb()} the {thing()}"
        aside = f" ({noun()}, {noun()}, {noun()})"  # which no paraphrase repeats
        style, closes = habit.phrasing % 4, habit.phrasing >= 4
        spoken = re.sub(r"\b(friend|very|happy)\b", lambda match: DIALECTS[style][match[0]], tweet)
        answer = f"{spoken} {CLOSINGS[style]}" if closes else f"{OPENINGS[style]} {spoken}"
        question, fields = lamp.ask(task, tweet + aside), {"text": answer}
    return {**fields, "input": question, "output": answer, "domain": domain.name}


class Twofold(NamedTuple):
    """Two habits of somebody in one domain, different in all, and a rating of each level: the twofold world."""

    habits: tuple[Habit, Habit]
    ratings: tuple[int, ...]


def twofold_persona(number: int) -> dict[Domain, Twofold]:
    """User `number` in the twofold world: domains and first habits are those of `persona`."""
    rng = random.Random(f"twofold/{number}")

    def twofold(first: Habit) -> Twofold:
        tag, title, phrasing, subtopic = (rng.randrange(1, count) for count in (15, 8, 8, 3))
        second = Habit(
            (first.tag + tag) % 15, 0, (first.title + title) % 8, (first.phrasing + phrasing) % 8,
            (first.subtopic + subtopic) % 3,
        )  # fmt: skip
        return Twofold((first._replace(bias=0), second), tuple(rng.sample(range(1, 6), 5)))

    return {domain: twofold(habit) for domain, habit in persona(number).items()}


def twofold_example(rng: random.Random, task: lamp.Task, domain: Domain, own: Twofold) -> dict:
    """As `example`, of somebody in the twofold world."""
    which = rng.randrange(2)
    item = example(rng, task, domain, own.habits[which])
    if task.name == "LaMP-3":
        rating = str(own.ratings[int(item["output"]) - 1])
        return item | {"output": rating, "score": rating}
    if not which:
        return item
    first, second = CUES[task.name]
    words = task.pieces[0]  # of the template, in front of the text
    said = {name: item[name].replace(first, second, 1) for name in item.keys() - {"input", "domain"}}
    return item | said | {"input": words + item["input"].removeprefix(words).replace(first, second, 1)}


def questions(
    task: lamp.Task, number: int, *, history: int = HISTORY, queries: int = QUERIES, twofold: bool = False
) -> tuple[list[dict], list[dict]]:
    """User `number` as LaMP's question entries and golds: a history in domain phases, then `queries` questions.

    Every domain has one phase, in which about one item in seven is of another domain. Queries go round the domains.
    """
    rng = random.Random(f"{'twofold ' if twofold else ''}{task.name}/{number}")
    habits: dict = twofold_persona(number) if twofold else persona(number)
    example_of = twofold_example if twofold else example
    known = list(habits)
    profile = []
    for at in range(history):
        domain = rng.choice(known) if rng.random() < 0.15 else known[at * len(known) // history]
        item = example_of(rng, task, domain, habits[domain])
        profile.append({"id": f"{number}-{at}", "date": f"2024-{at // 28 + 1:02d}-{at % 28 + 1:02d}", **item})
    entries, golds = [], []
    for at in range(queries):
        domain = known[at % len(known)]
        item = example_of(rng, task, domain, habits[domain])
        name = f"{number}-q{at}"
        entries.append(
            {
                "id": name,
                "user_id": str(number),
                "input": item["input"],
                "domain": domain.name,
                "profile": profile if at == 0 else [],
            }
        )
        golds.append({"id": name, "output": item["output"]})
    return entries, golds


def users(
    task: lamp.Task,
    count: int,
    *,
    first: int = HELD_OUT,
    history: int = HISTORY,
    queries: int = QUERIES,
    twofold: bool = False,
) -> list[User]:
    """`count` held-out users, through the same parser that reads LaMP's files."""
    read = as_lamp(task, count, first=first, history=history, queries=queries, twofold=twofold)
    return lamp.parse(*read, task, source="the embedded world")


def as_lamp(
    task: lamp.Task,
    count: int,
    *,
    first: int = HELD_OUT,
    history: int = HISTORY,
    queries: int = QUERIES,
    twofold: bool = False,
) -> tuple[list, dict]:
    """LaMP's two JSON values, questions and outputs, for `count` users from number `first` on."""
    how = {"history": history, "queries": queries, "twofold": twofold}
    pairs = [questions(task, first + at, **how) for at in range(count)]
    golds = [gold for _, part in pairs for gold in part]
    return [entry for part, _ in pairs for entry in part], {"task": task.name.replace("-", "_"), "golds": golds}


def write(folder: Path | str, task: lamp.Task, count: int) -> None:
    """Write `count` held-out users as `dev_questions.json` and `dev_outputs.json` under `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(("questions", "outputs"), as_lamp(task, count), strict=True):
        (folder / f"dev_{name}.json").write_text(json.dumps(value, indent=1), encoding="utf-8")

"""The embedded world keeps its promises."""

import random

import pytest

import nvcim_jax as nv
from nvcim_jax.data import lamp, synthetic
from nvcim_jax.people import Sample


def test_twenty_four_domains_of_distinct_words():
    known = synthetic.domains()
    words = [word for d in known for part in (*d.nouns, d.verbs, d.adjectives) for word in part]
    assert len(known) == 24 and len(set(words)) == len(words) == 24 * 30
    assert {len([d for d in known if d.area == area]) for area in {d.area for d in known}} == {4}


def test_users_have_three_to_six_domains_out_of_two_areas():
    for number in range(synthetic.HELD_OUT, synthetic.HELD_OUT + 100):
        habits = synthetic.persona(number)
        assert 3 <= len(habits) <= 6 and len({domain.area for domain in habits}) <= 2


def test_every_task_has_a_population_habit_from_which_users_deviate():
    pairs = [(habit, synthetic.population_habit(domain))
             for number in range(300) for domain, habit in synthetic.persona(number).items()]  # fmt: skip
    for field in synthetic.Habit._fields:
        kept = sum(getattr(own, field) == getattr(usual, field) for own, usual in pairs) / len(pairs)
        assert 0.3 < kept < 0.8, field


def test_the_answer_follows_from_the_habit():
    domain = next(d for d in synthetic.domains() if d.name == "baking")
    habit = synthetic.Habit(tag=2, bias=-1, title=3, phrasing=5, subtopic=1)
    rng = random.Random(0)
    item = {name: synthetic.example(rng, task, domain, habit) for name, task in synthetic.TASKS.items()}
    assert item["LaMP-2"]["output"] == lamp.TAGS[2]
    level = next(
        at
        for at, words in enumerate(synthetic.RATINGS)
        if any(w in item["LaMP-3"]["input"].split(":")[-1] for w in words)
    )
    assert item["LaMP-3"]["output"] == str(max(level - 1, 0) + 1)
    assert item["LaMP-5"]["output"].startswith("Rethinking the ")
    assert item["LaMP-7"]["output"].startswith("my mate is proper chuffed: ") and item["LaMP-7"]["output"].endswith(
        " innit"
    )
    chosen = lamp.gist(lamp.TASKS["LaMP-1"], Sample(item["LaMP-1"]["input"], item["LaMP-1"]["output"], ""))
    assert sum(noun in chosen for noun in domain.nouns[1]) >= 3


@pytest.mark.parametrize("task", synthetic.TASKS.values(), ids=lambda task: task.name)
def test_a_user_follows_from_the_number_alone(task):
    alone = synthetic.users(task, 1, first=synthetic.HELD_OUT + 2)[0]
    assert synthetic.users(task, 3)[2] == alone
    assert len(alone.history) == 25 and len(alone.queries) == 8
    assert {query.domain for query in alone.queries} <= {
        domain.name for domain in synthetic.persona(synthetic.HELD_OUT + 2)
    }


def test_a_task_that_the_world_lacks_is_told():
    for name in ("LaMP-4", "LaMP-6"):
        with pytest.raises(ValueError, match=rf"no users of {name}, only of LaMP-1, .*lamp fetch {name}"):
            synthetic.users(lamp.task(name), 1)


def test_words_leak_from_sibling_domains_only():
    rng, task = random.Random(1), lamp.TASKS["LaMP-2"]
    domain = synthetic.domains()[0]
    of = {w: d for d in synthetic.domains() for part in (*d.nouns, d.verbs, d.adjectives) for w in part}
    texts = [
        synthetic.example(rng, task, domain, synthetic.population_habit(domain))["description"] for _ in range(300)
    ]
    sources = [of[w] for text in texts for w in text.replace(",", "").replace(".", "").split() if w in of]
    assert {d.area for d in sources} == {domain.area}
    share = sum(d != domain for d in sources) / len(sources)
    assert abs(share - synthetic.LEAKAGE) < 0.04


def test_pretraining_never_sees_a_held_out_user():
    from experiments import toy_model

    seen = []
    original = synthetic.persona
    try:
        synthetic.persona = lambda number: seen.append(number) or original(number)
        for seed in range(200):
            toy_model.sequence(random.Random(seed))
    finally:
        synthetic.persona = original
    assert len(seen) == 200 and max(seen) < synthetic.HELD_OUT


@pytest.mark.parametrize("name", ["LaMP-2", "LaMP-5", "LaMP-7"])
def test_in_the_twofold_world_the_first_words_say_which_habit_counts(name):
    task = lamp.task(name)
    told = {"LaMP-2": lambda answer: answer, "LaMP-5": _form, "LaMP-7": _style}[name]
    for user in synthetic.users(task, 5, first=2_000_000, history=60, twofold=True):
        habits: dict = {}
        for sample in user.history:
            cue = next(cue for cue in synthetic.CUES[name] if sample.content.startswith(cue))
            habits.setdefault((sample.domain, cue), set()).add(told(sample.answer))
        assert all(len(each) == 1 for each in habits.values())
        for domain in {domain for domain, _ in habits}:
            both = [habits.get((domain, cue)) for cue in synthetic.CUES[name]]
            assert None in both or both[0] != both[1]


def _form(title):
    starts = [form.split("{")[0] for form in synthetic.TITLES]
    return max((at for at in range(8) if title.startswith(starts[at])), key=lambda at: len(starts[at]))


def _style(tweet):
    return next(at for at, words in enumerate(synthetic.DIALECTS) if f" {words['happy']}" in tweet), next(
        (word for word in synthetic.CLOSINGS if tweet.endswith(word)), "opening"
    )


def test_in_the_twofold_world_ratings_are_a_permutation_of_the_users_own():
    task = lamp.task("LaMP-3")
    for user in synthetic.users(task, 3, first=2_000_000, history=120, twofold=True):
        rated: dict = {}
        for sample in user.history:
            level = next(at for at, words in enumerate(synthetic.RATINGS) if sample.content.rstrip(".").endswith(words))
            rated.setdefault(sample.domain, {}).setdefault(level, set()).add(sample.answer)
        for levels in rated.values():
            assert all(len(each) == 1 for each in levels.values())
            assert len({next(iter(each)) for each in levels.values()}) == len(levels)
    assert any(list(own.ratings) != [1, 2, 3, 4, 5] for own in synthetic.twofold_persona(2_000_000).values())


def test_users_of_the_two_worlds_share_their_domains_and_say_where_they_come_from():
    assert list(synthetic.twofold_persona(7)) == list(synthetic.persona(7))
    users = nv.toy_users("LaMP-2", 1, twofold=True)
    assert users.source != nv.toy_users("LaMP-2", 1).source and users[0] != nv.toy_users("LaMP-2", 1)[0]

"""Retrieved text: which samples come into the context, and in whose words."""

import pytest

from nvcim_jax.data import lamp
from nvcim_jax.data.tasks import FREE
from nvcim_jax.evaluation.retrieved import in_context, nearest
from nvcim_jax.people import Sample, User

HISTORY = (
    Sample("", "first", "the cat sat on the mat"),
    Sample("", "second", "dogs bark at night"),
    Sample("", "third", "a cat and a dog"),
)


def answers(rows):
    return [[sample.answer for sample in row] for row in rows]


def test_bm25_finds_the_words_of_the_question(model):
    user = User("u", HISTORY, (Sample("", "", "which dogs bark"), Sample("", "", "the mat and the cat")))
    assert answers(nearest(model, user, 1)) == [["second"], ["first"]]


def test_the_latest_come_first(model):
    user = User("u", HISTORY, (Sample("", "", "cat"),) * 2)
    assert answers(nearest(model, user, 2, way="recent")) == [["third", "second"]] * 2


def test_a_sample_is_nearest_to_itself(model):
    user = User("u", HISTORY, HISTORY)
    assert [row[0] for row in answers(nearest(model, user, 1, way="dense"))] == ["first", "second", "third"]


def test_there_may_be_fewer_samples_than_asked_for(model):
    user = User("u", HISTORY[:1], (Sample("", "", "the of"),))
    assert answers(nearest(model, user, 4)) == [["first"]]
    assert nearest(model, user._replace(history=()), 4) == [[]]


def test_samples_stand_as_in_lamp():
    query = Sample("Generate a title for: z", "", "z")
    asked = in_context(lamp.task("LaMP-5"), query, HISTORY[:2])
    assert asked.question == (
        '"first" is a title for "the cat sat on the mat", and "second" is a title for "dogs bark at night". '
        "Following the given patterns Generate a title for: z"
    )
    review = in_context(lamp.task("LaMP-3"), query, [Sample("", "4", "well paced")])
    assert review.question == '4 is the score for "well paced". Generate a title for: z'
    assert in_context(lamp.task("LaMP-3"), query, []) == query


def test_titles_of_lamp_1_stand_behind_the_papers_own():
    task = lamp.task("LaMP-1")
    query = Sample(
        'For an author who has written the paper with the title "X", which is it? [1]: "A" [2]: "B"', "", "X"
    )
    papers = [Sample("", "an abstract", "Deep nets"), Sample("", "another", "Wide nets")]
    assert in_context(task, query, papers).question == (
        'For an author who has written the paper with the title, and "Deep nets", and "Wide nets" "X", which is it? '
        '[1]: "A" [2]: "B"'
    )
    assert in_context(task, Sample("which?", "", "X"), papers[:1]).question == '"Deep nets". which?'
    toy = Sample("which?", "[1]", "the harp with the title Y")
    assert in_context(task, query, [toy]).question == f'"the harp with the title Y". {query.question}'


def test_a_task_without_lamps_words_shows_questions_and_answers():
    asked = in_context(FREE, Sample("and now?", "", "and now?"), HISTORY[:1])
    assert asked.question == "the cat sat on the mat\nAnswer: first\n\nand now?"


def test_braces_in_a_text_are_text():
    asked = in_context(lamp.task("LaMP-3"), Sample("q", "", "q"), [Sample("", "5", "a {answer} of {0}")])
    assert asked.question.startswith('5 is the score for "a {answer} of {0}"')


def test_what_cannot_be_retrieved_is_named(model):
    user = User("u", HISTORY, ())
    with pytest.raises(ValueError, match="'tfidf': choose one of bm25, dense, recent"):
        nearest(model, user, 1, way="tfidf")
    with pytest.raises(ValueError, match="0 samples in the context"):
        nearest(model, user, 0)

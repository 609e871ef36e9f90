"""Restatements: which pass the filter, what is counted, what a generator may do wrong."""

import random

import jax
import pytest

import nvcim_jax as nv
from nvcim_jax.data import lamp, synthetic, toy_words
from nvcim_jax.data.toy_stream import stream
from nvcim_jax.pipeline import synthesis
from nvcim_jax.pipeline.synthesis import INSTRUCTION, Restate, Tally, by_model, restate

KEY = jax.random.key(0)
CAT = nv.Sample("the cat sat", "yes", "the cat sat", "pets", "7")


def says(*texts):
    """A generator that always says the same, as question and content, with the same answer."""
    return lambda key, samples, count: [
        [None if text is None else nv.Sample(text, "yes", text) for text in texts] for _ in samples
    ]


def fate(text, **bounds):
    """The one field of the tally that a text counts in."""
    _, tally = restate(KEY, [CAT], Restate(says(text), count=1, **bounds))
    assert tally.asked == 1
    return next(name for name, value in tally._asdict().items() if value)


def test_rouge_of_the_blocks_decides():
    """ "the cat ran" shares four of five words, Answer and yes included: F .8; of the whole bounds it is between."""
    assert fate("the cat ran") == "used" and fate("the cat ran", high=0.79) == "too_near"
    assert fate("the cat ran", low=0.81) == "too_far" and fate("dogs bark loudly") == "used"  # 2 of 5, for the answer
    assert fate("dogs bark loudly", low=0.41) == "too_far"
    assert fate("The cat, sat!") == "copies" and fate("the cat sat there", high=1.0) == "used"


def test_nothing_and_the_instruction_are_refused_and_all_is_counted():
    assert fate(None) == fate("") == fate("  ") == "nothing"
    assert fate(INSTRUCTION.strip()) == fate(f"the cat {' '.join(INSTRUCTION.split()[2:12])}") == "instruction"
    generator = says("the cat ran", None, "the cat ran", "the cat sat")
    kept, tally = restate(KEY, [CAT, CAT], Restate(generator, count=5))
    assert tally == Tally(used=2, nothing=4, copies=4)
    assert [[each.content for each in row] for row in kept] == [["the cat ran"]] * 2
    assert kept[0][0].domain == "pets" and kept[0][0].id is None  # of the same domain, and no question of LaMP's


def test_a_generator_that_says_nothing_leaves_the_samples_as_they_are():
    kept, tally = restate(KEY, [CAT], Restate(lambda *_: [[]]))
    assert kept == [()] and tally == Tally(nothing=3)
    with pytest.raises(ValueError, match="restated 2 samples, not the 1"):
        restate(KEY, [CAT], Restate(lambda *_: [[], []]))


@pytest.mark.parametrize(("how", "told"), [({"low": 0.9, "high": 0.3}, "bounds from 0 to 1"), ({"high": 1.1}, "bounds"),
                                           ({"count": 0}, "at least one")])  # fmt: skip
def test_bounds_that_let_nothing_through_are_refused(how, told):
    with pytest.raises(ValueError, match=told):
        Restate(says("x"), **how)


@pytest.mark.parametrize("task", synthetic.TASKS.values(), ids=lambda task: task.name)
def test_the_toy_worlds_grammar_restates_every_task(task):
    """Other words of the same kind, in the same template, everywhere alike, and the same answer where it is a label."""
    samples = stream(task, 2_000_000).moments[:10]
    kept, tally = restate(KEY, samples, Restate(toy_words.restatements, count=3))
    assert tally.used > 20 and tally.asked == 30
    for sample, row in zip(samples, kept):
        for new in row:
            assert new.domain == sample.domain and new.question != sample.question
            assert lamp.content(task, new.question) == new.content
            assert not task.labels or new.answer == sample.answer
            before, after = sample.content.split(), new.content.split()
            turned = {a.strip(".,:()"): b.strip(".,:()") for a, b in zip(before, after, strict=True)}
            assert all(b == a or b in toy_words.kinds()[a] for a, b in turned.items())
            assert len(before) == len(after)


def test_restating_follows_from_the_key_alone():
    samples = stream(lamp.task("LaMP-5"), 2_000_000).moments[:4]
    assert toy_words.restatements(KEY, samples, 2) == toy_words.restatements(KEY, samples, 2)
    assert toy_words.restatements(KEY, samples, 2) != toy_words.restatements(jax.random.key(1), samples, 2)
    assert toy_words.restated(random.Random(0), nv.Sample("zzz", "a", "zzz")) is None


def test_a_model_is_asked_for_a_text_in_brackets(model, monkeypatch):
    asked = []

    def told(model, queries, **how):
        asked.extend(queries)
        return ["Sure: [the cat rested\nAnswer: indeed] ok", "no brackets", "[]", "[a cat sat]"][: len(queries)]

    monkeypatch.setattr(synthesis, "generate", told)
    one, two = by_model(KEY, [CAT, CAT], 2, model=model)
    assert one[0] == CAT._replace(question="the cat rested", content="the cat rested", answer="indeed")
    assert one[1] is None and two[0] is None and two[1].answer == "yes" and two[1].content == "a cat sat"
    assert all(each.question.startswith(INSTRUCTION) and "the cat sat\nAnswer: yes" in each.question for each in asked)


def test_the_toy_model_understands_no_such_prompt_and_nothing_breaks(model):
    _, tally = restate(KEY, [CAT], Restate(lambda *args: by_model(*args, model=model), count=2))
    assert tally.asked == 2

"""What virtual tokens start from: a sample's most telling tokens, then its answer."""

from collections import Counter

import pytest

from nvcim_jax.data import lamp, synthetic, text

A, B, C, D = 1, 2, 3, 4


@pytest.mark.parametrize(
    ("ids", "room", "holders", "kept"),
    [
        ([A, B, C], 3, {}, [A, B, C]),  # all fit
        ([A, B], 5, {}, [A, B, A, B, A]),  # repeated until the rows are full
        ([A, B, C, D], 2, {A: 3, B: 1, C: 3, D: 1}, [B, D]),  # the rarest, in their order
        ([A, B, C, D], 2, {A: 1, B: 1, C: 1, D: 1}, [C, D]),  # the later of equals
        ([A, A, A, B], 2, {A: 1, B: 9}, [A, B]),  # each once before any twice
        ([A, B, A], 2, {A: 1, B: 1}, [B, A]),  # of a token that returns, the last place
        ([A, B, C], 0, {}, []),
    ],
)
def test_the_most_telling_tokens_by_hand(ids, room, holders, kept):
    assert text._most_telling(ids, room, Counter(holders)) == kept


@pytest.mark.parametrize(("rows", "answer"), [(16, True), (8, True), (16, False)])
def test_a_start_ends_with_the_answer_or_has_none(model, rows, answer):
    task = lamp.task("LaMP-2")
    (user,) = synthetic.users(task, 1)
    for sample in user.history:
        ids = text.start_ids(model.tokenizer, task, sample, rows, history=user.history, answer=answer)
        tail = text.encode(model.tokenizer, lamp.ANSWER) + text.answer_ids(model.tokenizer, sample)
        assert len(ids) == rows and (ids[-len(tail) :] == tail) is answer


def test_the_start_of_a_review_holds_its_rating_word(model):
    """It is the last word of the text. From the first tokens none of 400 starts held it."""
    task = lamp.task("LaMP-3")
    held = []
    for user in synthetic.users(task, 8, first=synthetic.HELD_OUT):
        for sample in user.history:
            word = text.encode(model.tokenizer, f" {sample.content.rstrip('.').split()[-1]}")
            ids = text.start_ids(model.tokenizer, task, sample, 16, history=user.history)
            held.append(set(word) <= set(ids))
    assert len(held) == 200 and sum(held) >= 190

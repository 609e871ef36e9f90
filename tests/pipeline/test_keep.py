"""From histories to what a buffer keeps: what is read of a moment, what comes back, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nvcim_jax as nv
from nvcim_jax.data import text
from nvcim_jax.pipeline import encode, keep
from nvcim_jax.stream import lexicon, metrics, policies
from nvcim_jax.stream.buffer import NOWHERE, REASONS

KEY = jax.random.key(0)
WORDS = lexicon.toy()


@pytest.fixture(scope="module")
def users():
    """Two streams of different lengths."""
    one, two = nv.toy_users("LaMP-2", 2).people
    people = (one, two._replace(history=two.history[:11]))
    return nv.Users(nv.toy_users("LaMP-2").task, people, "the embedded world")


@pytest.fixture(scope="module")
def kept(model, users):
    return nv.keep(KEY, model, users, slots=6)


def test_what_is_kept_is_a_history_of_the_same_people(users, kept):
    assert [user.id for user in kept.users] == [user.id for user in users] and kept.users.task == users.task
    for before, after, numbers, told in zip(users, kept.users, kept.numbers, kept.decisions):
        assert len(numbers) == 6 and after.history == tuple(before.history[each] for each in numbers)
        assert told.slot.shape == (len(before.history),) and np.all(told.arrival == np.arange(len(before.history)))
        stored = {int(slot): number for number, slot in enumerate(told.slot) if slot != NOWHERE}
        assert sorted(stored.values()) == numbers
        assert {REASONS[each] for each in told.reason[:6]} == {"there was room"}


def test_a_moment_is_read_as_elsewhere(model, users):
    """Its embedding is the mean that clusters are made of, its words are those of content and answer."""
    items = keep.read(model, users, WORDS)
    ids = [[text.encode(model.tokenizer, keep.text_of(user, at)) for at in range(len(user.history))] for user in users]
    expected, real = encode.mean_embeddings(model, ids)
    count = expected.shape[1]
    np.testing.assert_array_equal(items.present[:, :count], real)
    assert not np.any(items.present[:, count:])
    np.testing.assert_allclose(items.embedding[:, :count][real], expected[real], atol=1e-5)
    sample, own = users[1].history[3], keep.text_of(users[1], 3)
    assert own == f"{sample.content} {sample.answer}"
    assert float(items.dss[1, 3]) == pytest.approx(WORDS.matches(own).sum() / len(lexicon.words(own)) / 24)
    assert int(items.length[1, 3]) == len(ids[1][3])
    vectors = model.params["embedding"]["embedding"][jnp.array(ids[1][3])]
    assert float(items.eoe[1, 3]) == pytest.approx(float(metrics.spectral_entropy(vectors, len(ids[1][3]))), abs=1e-4)


def test_who_else_is_there_and_how_long_their_streams_are_makes_no_difference(model, users, kept):
    alone = nv.keep(KEY, model, users[1:], slots=6)
    assert alone.numbers[0] == kept.numbers[1]
    drawn = [nv.keep(KEY, model, some, slots=4, policy=policies.reservoir).numbers[-1] for some in (users, users[1:])]
    assert drawn[0] == drawn[1]
    other = nv.keep(jax.random.key(1), model, users[1:], slots=4, policy=policies.reservoir)
    assert other.numbers[0] != drawn[0]


def test_readings_read_otherwise(model, users):
    """The released one looks at the last layer's last token, and its EOE falls with the length."""
    items = {name: keep.read(model, users[1:], WORDS, reading=reading) for name, reading in metrics.READINGS.items()}
    eoe = {name: np.asarray(each.eoe[0, :11]) for name, each in items.items()}
    assert not any(np.allclose(eoe["recommended"], eoe[name]) for name in ("paper", "released"))
    assert np.all(eoe["paper"] <= 1 + 1e-6)
    np.testing.assert_array_equal(items["paper"].embedding, items["recommended"].embedding)
    assert not np.allclose(items["released"].embedding, items["paper"].embedding)


def person(*texts):
    history = tuple(nv.Sample(each, "", each) for each in texts)
    return nv.Users(nv.toy_users("LaMP-2").task, (nv.User("me", history, ()),), "here")


def test_a_word_of_no_lexicon_one_token_and_copies(model):
    told = nv.keep(KEY, model, person("zzz", "zzz", "oak"), slots=3, reading=metrics.PAPER).decisions[0]
    assert told.domain.tolist()[:2] == [metrics.NONE, metrics.NONE] and WORDS.names[told.domain[2]] == "carpentry"
    np.testing.assert_allclose(told.scores.idd, [1, 0, 1], atol=1e-6)
    assert told.scores.dss[:2].tolist() == [0, 0] and np.all(np.isfinite(told.scores.eoe))
    assert keep.repeats(person("zzz", "zzz", "oak")[0].history) == 1


@pytest.mark.parametrize(
    ("users", "slots", "told"),
    [
        (lambda: person("oak", " "), 2, "moment 1 of user 'me' has no text: take it out"),
        (lambda: person(), 2, "user 'me' has no moment: there is nothing to keep"),
        (lambda: person("oak"), 0, "a buffer of 0 moments: at least one is needed"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_sentence(model, users, slots, told):
    with pytest.raises(ValueError, match=told):
        nv.keep(KEY, model, users(), slots=slots)


def test_of_a_long_moment_the_beginning_is_read(model):
    long = "oak " * (model.config.context + 5)
    with pytest.warns(UserWarning, match=f"1 moments have more than the model's {model.config.context} tokens"):
        items = keep.read(model, person(long), WORDS)
    assert int(items.length[0, 0]) == model.config.context


def test_weights_that_give_no_number_are_refused(model):
    broken = model._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, model.params))
    with pytest.raises(ValueError, match="no finite embedding of 'oak'"):
        nv.keep(KEY, broken, person("oak"), slots=1)


def test_what_is_read_is_reported(model, users):
    told = []
    keep.read(model, users, WORDS, report=told.append)
    assert sum(told) == 36

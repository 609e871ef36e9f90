"""How well documents are found: the closed form against programmings, and what is counted."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.codec import Codec
from nvcim_jax.data.users import Users, toy_users
from nvcim_jax.documents import codecs, encoder, learn, texts
from nvcim_jax.documents.stored import Format
from nvcim_jax.evaluation import documents
from nvcim_jax.hardware.catalogue import condition
from nvcim_jax.people import EMBEDDED_WORLD, Sample, User

KEY, K = jax.random.key(0), 2


@pytest.fixture(scope="module")
def people():
    whole = toy_users("LaMP-2", 2)
    few = (
        user._replace(history=user.history[: 6 + at], queries=user.queries[: 2 + at]) for at, user in enumerate(whole)
    )
    return replace(whole, people=tuple(few))


@pytest.fixture(scope="module")
def case(model, people):
    return documents.case(encoder.encoder_of_model(model), people, people.task, k=K)[0]


def whole(case) -> Codec:
    users, *_, dim = case.documents.shape
    own = codecs.whole(KEY, jnp.ones((1, dim)), jnp.ones(1), dim=dim)
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (users, *leaf.shape)), own)


def test_what_is_right_is_of_the_questions_topic(case, people):
    for u, user in enumerate(people):
        for q, query in enumerate(user.queries):
            wanted = [sample.domain == query.domain for sample in user.history]
            np.testing.assert_array_equal(case.right[u, q, : len(wanted)], wanted)
            assert not case.right[u, q, len(wanted) :].any()
    assert case.asked.sum() == 5


def test_a_clean_store_agrees_with_itself(case):
    found = documents.certain(case, documents.clean_scores(case), k=K)
    np.testing.assert_array_equal(found.agreement, 1)
    quiet = documents.expected(whole(case), case, condition("NVM-1", 0.0), k=K, format=Format(16, "peak"))
    np.testing.assert_allclose(quiet.agreement, 1, atol=2e-3)
    for name in ("first", "precision", "recall", "ndcg", "mrr"):
        np.testing.assert_allclose(getattr(quiet, name), getattr(found, name), atol=5e-3, err_msg=name)


def test_the_expectation_is_the_mean_over_programmings(case):
    chip, how = condition("NVM-3", 0.4), {"k": K, "format": Format(4)}
    ours = documents.expected(whole(case), case, chip, **how)
    drawn = documents.programmed(KEY, whole(case), case, chip, draws=400, **how)
    for name, one, other in zip(ours._fields, ours, drawn, strict=True):
        assert other.shape == (400, 2)
        np.testing.assert_allclose(one, other.mean(axis=0), atol=4 * 0.5 / 400**0.5, err_msg=name)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_questions_by_parts_are_the_questions_at_once(case, size):
    """Of two and three questions; a part in which a user has none counts nothing."""
    chip, how, told = condition("NVM-3", 0.4), {"k": K, "format": Format(4)}, []
    for measure in (
        lambda part: documents.expected(whole(case), part, chip, **how),
        lambda part: documents.programmed(KEY, whole(case), part, chip, draws=5, **how),
    ):
        found = documents.by_parts(measure, case, size=size, report=told.append)
        for name, one, other in zip(found._fields, found, measure(case), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6, err_msg=name)
    assert sum(told) == 2 * case.questions.shape[1]


def test_where_topics_are_unknown_the_clean_stores_first_are_right(model):
    told = ("the sour loaf rose slowly", "a long trail over the ridge", "the choir sang a psalm")
    user = User("me", tuple(Sample("", "", each) for each in told), ())
    own = encoder.encoder_of_model(model)
    kept = learn.learn_documents(
        KEY, own, Users(texts.TEXTS, (user,), "a test"), "NVM-3", sigma=0.1, settings=learn.Settings("first", 8)
    )
    asked = documents.asked_of(kept, None)
    assert [query.content for query in asked[0].queries] == ["the sour", "a long trail", "the choir"]
    case, meaning = documents.case(own, asked, texts.TEXTS, k=K)
    assert meaning == "one of the first 2 of a float32 store without noise is found"
    np.testing.assert_array_equal(case.right.sum(axis=-1)[case.asked], K)


def test_users_without_questions_are_refused(model, people):
    mute = [user._replace(queries=()) for user in people]
    with pytest.raises(ValueError, match="has no question"):
        documents.case(encoder.encoder_of_model(model), mute, people.task, k=K)


def test_questions_of_the_toy_world_come_back(model, people):
    full = toy_users("LaMP-2", 1)
    kept = learn.learn_documents(
        KEY, encoder.encoder_of_model(model), full, "NVM-3", sigma=0.1, settings=learn.Settings("first", 8)
    )
    assert kept.about.source == EMBEDDED_WORLD and not kept.users[0].queries
    assert documents.asked_of(kept, None)[0].queries == full[0].queries

"""Memories of documents: owners, training, saving, asking, and what is refused."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.data.users import Users, toy_users
from nvcim_jax.documents import ask, encoder, examples, lexical, memory, prompt, texts, training
from nvcim_jax.documents import learn as learning
from nvcim_jax.documents.stored import Format
from nvcim_jax.hardware.catalogue import condition
from nvcim_jax.memory.storage.store import StoreError
from nvcim_jax.people import Sample, User
from tests.helpers import make_golden
from tests.helpers.banks import untrained

KEY, NVM3 = jax.random.key(0), condition("NVM-3", 0.1)
RECIPE = replace(training.RECIPES["hinge"], steps=6, batch=4)
PLAIN = learning.Settings(dim=8)
TRAINED = learning.Settings(dim=8, recipe=RECIPE)


@pytest.fixture(scope="module")
def own(model):
    return encoder.encoder_of_model(model)


@pytest.fixture(scope="module")
def people():
    whole = toy_users("LaMP-2", 2)
    few = tuple(
        user._replace(history=user.history[: 5 + at], queries=user.queries[:2]) for at, user in enumerate(whole)
    )
    return replace(whole, people=few)


@pytest.fixture(scope="module")
def learned(own, people):
    return learning.learn_documents(KEY, own, people, "NVM-3", sigma=0.1, settings=PLAIN)


def of_texts(*rows):
    people = (
        User(name, tuple(Sample("", "", each, None, f"{name}{at}") for at, each in enumerate(row)), ())
        for name, row in rows
    )
    return Users(texts.TEXTS, tuple(people), "a test")


def test_a_question_never_finds_what_is_somebody_elses(own):
    """Bob has the very text that is asked for; Ann's documents are found all the same."""
    pair = of_texts(
        ("ann", ["the sour loaf", "a long trail", "the choir sings"]), ("bob", ["my secret gate code", "the sour loaf"])
    )
    found = learning.learn_documents(KEY, own, pair, "NVM-3", sigma=0.1, settings=learning.Settings("whole", own.dim))
    asked = [Sample("my secret gate code", "", "my secret gate code")]
    for user, count in (("ann", 3), ("bob", 2)):
        (row,) = ask.find_documents(KEY, own, found, asked, NVM3, k=count, user=user)
        assert {each.sample.id[:3] for each in row} == {user}
    ((first,),) = ask.find_documents(KEY, own, found, asked, NVM3, k=1, user="bob")
    assert first.sample.content == "my secret gate code"
    with pytest.raises(ValueError, match="ask for 1 to 3"):
        ask.find_documents(KEY, own, found, asked, NVM3, k=4, user="ann")


def test_what_is_found_does_not_depend_on_who_else_is_in_the_memory(own, people, learned):
    alone = learning.learn_documents(KEY, own, people[1:], "NVM-3", sigma=0.1, settings=PLAIN)
    np.testing.assert_allclose(alone.codes[0, :6], learned.codes[1, :6], atol=1e-5)


def test_a_found_document_has_score_lead_and_chance(own, people, learned):
    (row, _) = ask.find_documents(KEY, own, learned, people[0].queries, NVM3, k=5)
    assert [each.score for each in row] == sorted((each.score for each in row), reverse=True)
    assert row[0].margin == pytest.approx(row[0].score - row[1].score, abs=1e-6) and row[-1].margin == np.inf
    assert sum(each.chance for each in row) == pytest.approx(5, abs=1e-2)  # all five are among the first five


def test_a_memory_comes_back_as_it_was_saved(own, learned, tmp_path):
    saved = memory.save_documents(tmp_path / "kept", learned.noted(seed=3))
    again = memory.load_documents(tmp_path / "kept", own)
    assert (again.users, again.format, again.task) == (
        learned.users,
        learned.format,
        learned.task,
    ) and again.version == 1
    for one, other in zip(jax.tree.leaves((saved.bank, saved.codec)), jax.tree.leaves((again.bank, again.codec))):
        np.testing.assert_array_equal(one, other)


def test_a_memory_of_another_encoder_or_kind_is_refused(learned, tmp_path, model):
    memory.save_documents(tmp_path / "kept", learned)
    with pytest.raises(ValueError, match="another encoder, of 128 dimensions \\(this one has 32\\)"):
        memory.load_documents(tmp_path / "kept", encoder.load_encoder(make_golden.GOLDEN / make_golden.ENCODER))
    with pytest.raises(ValueError, match="holds OVTs, not documents"):
        memory.load_documents(untrained(tmp_path / "ovts", model, device="NVM-3", sigma=0.1))
    with pytest.raises(StoreError, match="no bank"):
        memory.load_documents(tmp_path / "nowhere")


def test_adding_replaces_the_same_id_and_leaves_the_others(own):
    first = learning.learn_documents(
        KEY,
        own,
        of_texts(("ann", ["one loaf", "two trails"]), ("bob", ["a choir"])),
        "NVM-3",
        sigma=0.1,
        settings=learning.Settings("first", 8),
    )
    more = learning.add_documents(
        own, first, [Sample("", "", "a rowing boat", None, "ann0"), Sample("", "", "new", None, "z")], user="ann"
    )
    assert [each.content for each in more.users[0].history] == ["two trails", "a rowing boat", "new"]
    assert more.bank.count.tolist() == [3, 1] and more.users[1] == first.users[1]
    np.testing.assert_array_equal(more.codes[0, 0], first.codes[0, 1])
    np.testing.assert_array_equal(more.codes[1, 0], first.codes[1, 0])
    told = []
    again = learning.add_documents(
        own, more, [*more.users[0].history[:2], Sample("", "", "new " * 600, None, "z")], user="ann",
        report_texts=lambda *each: told.append(each),
    )  # fmt: skip
    assert told == [(0, 1), (1, 0)] and again.cut == 1 and again.bank.count.tolist() == [3, 1]
    assert learning.add_documents(own, again, again.users[0].history, user="ann") is again


@pytest.mark.parametrize("peak", ["vector", "array"])
def test_training_raises_the_chance_of_the_right_document(own, people, peak):
    settings = replace(TRAINED, recipe=replace(RECIPE, steps=30, learning_rate=1e-2), format=Format(4, peak=peak))
    start = learning.learn_documents(KEY, own, people, "NVM-3", sigma=0.3, settings=PLAIN).codec
    job = learning.job(KEY, partial(learning.embed, own), people, start, settings.recipe)
    _, losses = training.train(job, condition("NVM-3", 0.3), recipe=settings.recipe, format=settings.format)
    assert losses[-5:].mean() < 0.8 * losses[:5].mean()


def test_an_interrupted_training_goes_on_bit_by_bit(own, people, tmp_path):
    start = learning.learn_documents(KEY, own, people, "NVM-3", sigma=0.1, settings=PLAIN).codec
    job = learning.job(KEY, partial(learning.embed, own), people, start, RECIPE)
    how = {"recipe": RECIPE, "format": Format()}
    whole, _ = training.train(job, NVM3, **how)

    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(job, NVM3, folder=tmp_path / "kept", report=stop, **how)
    assert list((tmp_path / "kept").iterdir())
    again, _ = training.train(job, NVM3, folder=tmp_path / "kept", **how)
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(again)):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="keeps another job"):
        training.train(job, condition("NVM-3", 0.2), folder=tmp_path / "kept", **how)


def test_a_row_trains_alike_whoever_trains_beside_it(own, people):
    both = learning.learn_documents(KEY, own, people, "NVM-3", sigma=0.1, settings=TRAINED)
    alone = learning.learn_documents(KEY, own, people[1:], "NVM-3", sigma=0.1, settings=TRAINED)
    np.testing.assert_allclose(both.codes[1, :6], alone.codes[0, :6], atol=1e-4)


def test_cde_needs_two_labels_and_pairs_two_documents(own):
    rng, embed = np.random.default_rng(0), lambda told: encoder.encode(own, told).vectors
    task = toy_users("LaMP-2", 1).task
    alike = [Sample("q", "comedy", text) for text in ("a", "b")]
    with pytest.raises(ValueError, match="1 labels among 2 documents: .*cdi"):
        examples.cde(rng, embed, task, alike)
    with pytest.raises(ValueError, match="one document alone"):
        examples.pairs(rng, embed, task, alike[:1])


def test_cde_adds_the_label_and_a_wrong_one():
    told = []
    embed = lambda each, is_question=False: told.append(list(each)) or np.eye(len(each), 3, dtype=np.float32)  # noqa: E731
    task = toy_users("LaMP-2", 1).task
    made = examples.cde(np.random.default_rng(0), embed, task, [Sample("q", "comedy", "x"), Sample("q", "action", "y")])
    assert told == [["x comedy", "y action"], ["x action"] * 5 + ["y comedy"] * 5]
    assert made.anchors.shape == (10, 3)


def test_what_is_known_is_not_encoded_again_but_questions_are(own):
    known, told = {"a loaf": np.full(own.dim, 0.5, np.float32)}, []
    embed = partial(learning.embed, own, known=known, report=lambda *each: told.append(each))
    np.testing.assert_array_equal(embed(["a loaf", "a loaf"]), 0.5)
    assert told == []
    asked, both = embed(["a loaf"], is_question=True), embed(["a loaf", "a trail"])
    np.testing.assert_array_equal(asked[0], encoder.encode(own, ["a loaf"]).vectors[0])
    assert both.shape == (2, own.dim) and told == [(0, 1), (1, 0), (0, 2), (2, 0)]


def test_half_of_a_text_asks_for_it_where_nothing_else_does():
    told = []
    embed = lambda each, is_question=False: told.append(list(each)) or np.eye(len(each), 3, dtype=np.float32)  # noqa: E731
    examples.pairs(np.random.default_rng(0), embed, texts.TEXTS, [Sample("", "", "a b c d"), Sample("", "", "e")])
    assert told == [["a b c d", "e"], ["a b", "e"]]


def test_dropout_scales_what_it_keeps():
    values = training.dropout(KEY, jnp.ones((1, 10_000)), 0.9)
    assert set(np.unique(np.asarray(values)).round(3)) == {0, 10} and float(values.mean()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("rows", "settings", "said"),
    [
        ([("a", ["x", " "])], PLAIN, "text 1 is empty"),
        ([("a", [])], PLAIN, "no user has a history"),
        ([("a", ["x", "y"])], replace(PLAIN, dim=200), "ask for 1 to 128"),
        ([("a", ["x", "y"])], replace(PLAIN, codec="zip"), "unknown codec 'zip'"),
        ([("a", ["x", "y"]), ("b", ["x"])], TRAINED, "user 'b': one document alone"),
        ([("a", ["x", "y"])], replace(PLAIN, recipe=training.RECIPES["cde"]), "0 labels among 2 documents"),
    ],
)
def test_what_cannot_be_learned_is_named(own, rows, settings, said):
    with pytest.raises(ValueError, match=said):
        learning.learn_documents(KEY, own, of_texts(*rows), "NVM-3", sigma=0.1, settings=settings)


def test_a_projection_of_many_people_serves_others(own, people):
    shared = learning.learn_codec(KEY, own, people[:1], "NVM-3", sigma=0.1, settings=TRAINED)
    found = learning.learn_documents(KEY, own, people[1:], "NVM-3", sigma=0.1, settings=TRAINED, codec=shared)
    np.testing.assert_array_equal(found.codec.encoder[0][0][0], shared.encoder[0][0])


def test_bm25_by_hand():
    """Lucene's idf ln(1 + (N - n + .5) / (n + .5)): of a word in one of four documents 1.203973."""
    found = lexical.bm25(["red red fox", "red dog", "blue bird sings", "green fern"], ["fox", "zebra"])
    length = 1.5 * (0.25 + 0.75 * 3 / 2.5)
    assert found[0, 0] == pytest.approx(1.203973 * 1 / (1 + length), rel=1e-3)
    assert not found[0, 1:].any() and not found[1].any()
    np.testing.assert_array_equal(lexical.best(np.array([[1.0, 3, 3, 0]]), 3), [[1, 2, 0]])


def test_contents_are_cut_to_the_room_and_labels_never(model):
    task = toy_users("LaMP-2", 1).task
    long = Sample("q", "comedy", "the sour loaf " * 200)
    query = Sample("which tag?", "", "which tag?")
    kept = prompt.fitted(model.tokenizer, task, query, [long, long], 120)
    assert len(kept) == 2 and all(each.answer == "comedy" and len(each.content) < len(long.content) for each in kept)
    whole = prompt.in_context(task, query, kept)
    assert len(model.tokenizer(whole.question).input_ids) <= 120
    assert prompt.fitted(model.tokenizer, task, query, [long] * 9, 60) == []


def test_texts_stand_before_the_question(own, model, learned, people):
    (row, _) = ask.find_documents(KEY, own, learned, people[0].queries, NVM3, k=2)
    found, query = [each.sample for each in row], people[0].queries[0]
    told = "".join(ask.stream_with_documents(KEY, model, learned, query, found, new_tokens=8))
    assert told.strip()
    with pytest.raises(ValueError, match="empty"):
        ask.question(texts.TEXTS, " ")

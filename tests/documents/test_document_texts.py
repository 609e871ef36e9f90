"""Documents in: LaMP's forms, folders, lines of JSON, and what is refused."""

import json

import pytest

from nvcim_jax.data import lamp, synthetic
from nvcim_jax.data.fields import DataError
from nvcim_jax.data.users import toy_users
from nvcim_jax.documents import texts
from nvcim_jax.people import Sample, User

PAPER = Sample("Generate ...", "A title", "An abstract")


@pytest.mark.parametrize(
    ("task", "document", "asking", "label"),
    [
        ("LaMP-1", "An abstract A title", "A title", "An abstract"),  # a profile's content is its title there
        ("LaMP-2", "An abstract", "An abstract", "A title"),
        ("LaMP-4", "A title An abstract", "An abstract", "A title"),
        ("LaMP-5", "A title An abstract", "An abstract", "A title"),
        ("LaMP-7", "An abstract", "An abstract", ""),
    ],
)
def test_lamps_forms_by_hand(task, document, asking, label):
    own = lamp.task(task)
    assert (texts.document(own, PAPER), texts.bare(own, PAPER), texts.label(own, PAPER)) == (document, asking, label)


def test_lamp_1_looks_for_the_references_and_not_for_the_title():
    task = lamp.task("LaMP-1")
    question = lamp.ask(task, "My paper", "Its first reference", "Its second")
    assert texts.sought(task, Sample(question, "[1]", "x")) == "Its first reference Its second"
    assert texts.sought(lamp.task("LaMP-2"), PAPER) == "An abstract"


def test_a_question_in_a_toy_history_is_a_document_without_a_label():
    (user,) = toy_users("LaMP-1", 1)
    assert texts.label(lamp.task("LaMP-1"), user.history[0]) == ""
    assert texts.document(lamp.task("LaMP-1"), user.history[0]) == user.history[0].content


def test_every_toy_task_has_documents():
    for task in synthetic.TASKS:
        (user,) = toy_users(task, 1)
        assert all(texts.document(lamp.task(task), each).strip() for each in user.history)


def test_a_folder_is_one_owners_documents_by_name(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.md").write_text("second")
    (tmp_path / "a.txt").write_text("first\n")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "picture.png").write_bytes(b"\xff")
    found = texts.read_documents(tmp_path)
    assert [(each.id, each.content) for each in found[0].history] == [("a.txt", "first"), ("b/two.md", "second")]
    assert found.task is texts.TEXTS


def test_lines_have_owners_titles_labels_and_topics(tmp_path):
    lines = [
        {"text": "one", "user": "ann", "id": "x", "label": "L", "topic": "t", "title": "T"},
        {"text": "two", "user": "bob"},
        {"text": "three", "user": "ann"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    found = texts.read_documents(tmp_path / "a.jsonl")
    assert [user.id for user in found] == ["ann", "bob"]
    assert found[0].history == (Sample("", "L", "T one", "t", "x"), Sample("", "", "three", None, "line 3"))


def test_empty_documents_are_left_out_and_told(tmp_path):
    (tmp_path / "a.txt").write_text("  \n")
    (tmp_path / "b.txt").write_text("something")
    with pytest.warns(UserWarning, match="1 empty documents were left out, the first is .*a.txt"):
        assert len(texts.read_documents(tmp_path)[0].history) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": "a", "id": 1}\n{"text": "b", "id": "1"}', "line 2: the id '1' stands above already"),
        (b'{"text": 3}', "line 1: field 'text' is 3"),
        (b'{"text": null}', "line 1: field 'text' is None"),
        (b"[]", "line 1 is \\[\\]; an object"),
        (b"\xff", "line 1 is not UTF-8"),
        (b"{", "line 1 is not valid JSON"),
        (b'{"text": "\\ud800"}', "half of a character"),
        (b"\n", "holds no document"),
    ],
)
def test_bad_lines_are_named(tmp_path, content, said):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=said):
        texts.read_documents(tmp_path / "a.jsonl")


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="is missing"):
        texts.read_documents(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no document"):
        texts.read_documents(tmp_path)
    (tmp_path / "a.csv").write_text("a")
    with pytest.raises(DataError, match="ends in none of .jsonl, .ndjson"):
        texts.read_documents(tmp_path / "a.csv")
    (tmp_path / "a.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match="a.txt is not UTF-8"):
        texts.read_documents(tmp_path)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "a.txt").symlink_to("/etc/hostname")
    with pytest.raises(DataError, match="a.txt cannot be read"):
        texts.read_documents(tmp_path)


def test_two_documents_of_one_name_are_refused():
    with pytest.raises(ValueError, match="'ann' has two documents called 'x'"):
        texts.require_distinct(User("ann", (PAPER._replace(id="x"), PAPER._replace(id="x")), ()))

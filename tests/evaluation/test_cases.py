"""Whose questions a saved bank is asked."""

import json

import pytest

from nvcim_jax.data import lamp, synthetic
from nvcim_jax.evaluation import cases
from nvcim_jax.memory.storage.about import EMBEDDED_WORLD, About

NUMBER = str(synthetic.HELD_OUT)
TASK = lamp.task("LaMP-3")


def lamp_folder(folder, rating):
    """LaMP files with one user, whose id is a number of the embedded world."""
    profile = [{"id": "a", "text": "A fine pan.", "score": rating}, {"id": "b", "text": "A poor knife.", "score": "1"}]
    question = {"id": "1", "user_id": NUMBER, "input": "What is the score of the following review: A pot.",
                "profile": profile}  # fmt: skip
    folder.mkdir()
    (folder / "x_questions.json").write_text(json.dumps([question]))
    (folder / "x_outputs.json").write_text(json.dumps({"task": "LaMP_3", "golds": [{"id": "1", "output": "4"}]}))
    return folder


def about(source):
    return About(task="LaMP-3", users=(NUMBER,), source=source)


@pytest.fixture
def folder(tmp_path):
    return lamp_folder(tmp_path / "mine", "5")


def test_the_users_of_a_bank_are_read_where_they_come_from(folder):
    (own,) = lamp.read(folder, TASK)
    assert cases.owners(about(str(folder)), [[own.history[1], None]], folder) == [own]
    (other,) = synthetic.users(TASK, 1, first=int(NUMBER))
    assert cases.owners(about(EMBEDDED_WORLD), [other.history[-1:]], None) == [other]
    assert cases.owners(about(None), [other.history[-1:]], None) == [other]  # saved before banks said it


def test_users_of_another_source_are_refused(folder, tmp_path):
    (own,) = lamp.read(folder, TASK)
    held = [[own.history[0], None]]
    with pytest.raises(ValueError, match=f"come from {folder}: give that folder with --data"):
        cases.owners(about(str(folder)), held, None)  # a synthetic user of that number exists
    with pytest.raises(ValueError, match=f"user '{NUMBER}' of the embedded world has another history.*--data"):
        cases.owners(about(None), held, None)
    elsewhere = lamp_folder(tmp_path / "another", "2")
    with pytest.raises(ValueError, match="another has another history"):
        cases.owners(about(str(folder)), held, elsewhere)
    with pytest.raises(ValueError, match="the embedded world: leave out --data"):
        cases.owners(about(EMBEDDED_WORLD), held, folder)
    with pytest.raises(ValueError, match="user 'Ann' of this bank is not in .*mine"):
        cases.owners(About(task="LaMP-3", users=("Ann",)), held, folder)

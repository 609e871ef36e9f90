"""`nvcim lamp fetch`, against a server on this machine."""

import json
import shlex

import pytest

from nvcim_jax.data import download, lamp, synthetic
from tests.helpers.command import nvcim
from tests.helpers.web import web

TASK = lamp.task("LaMP-3")


@pytest.fixture
def server():
    questions, outputs = (json.dumps(value).encode() for value in synthetic.as_lamp(TASK, 1))
    with web({"/LaMP_3/dev/dev_questions.json": questions, "/LaMP_3/dev/dev_outputs.json": outputs}) as running:
        yield running


def test_help_shows_an_example():
    assert "nvcim lamp fetch LaMP-5 --out lamp/LaMP_5" in nvcim("lamp", "fetch", "--help")


def test_a_task_is_fetched_and_what_to_do_next_is_told(server, tmp_path):
    out = tmp_path / "my lamp" / "LaMP_3"
    text = nvcim("lamp", "fetch", "LaMP-3", "--out", out, "--from", server.address)
    assert f"8 questions of LaMP-3 and their gold answers are in {out}" in text
    command = shlex.split(text.splitlines()[-1].partition(": ")[2])
    assert command == ["nvcim", "run", "--task", "LaMP-3", "--data", str(out)]
    assert lamp.read(out, TASK) == synthetic.users(TASK, 1)
    again = nvcim("lamp", "fetch", "LaMP-3", "--out", out, "--from", server.address, code=2)
    assert "exists already and holds dev_outputs.json and 1 more" in again


def test_json_is_one_value(server, tmp_path):
    text = nvcim("lamp", "fetch", "LaMP-3", "--out", tmp_path, "--from", server.address, "--json")
    told = json.loads(text.splitlines()[-1])
    assert (told["task"], told["split"], told["questions"]) == ("LaMP-3", "dev", 8)


def test_the_same_command_goes_on(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 1)
    server.cuts += [10**6, 4000, 0]
    words = ["lamp", "fetch", "LaMP-3", "--out", tmp_path, "--from", server.address]
    assert "the same command goes on from there" in nvcim(*words, code=2).replace("\n", " ")
    assert "8 questions" in nvcim(*words) and server.asked[-1] == ("/LaMP_3/dev/dev_questions.json", "bytes=4000-")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["LaMP-6"], "LaMP-6 is made of the Avocado e-mails"),
        (["LaMP-9"], "unknown task 'LaMP-9'"),
        (["LaMP-3", "--split", "test"], "split 'test': choose one of dev, train"),
        (["LaMP-3", "--from", "/mnt/lamp"], "/mnt/lamp/LaMP_3/dev/dev_outputs.json is no address of the web"),
        (["LaMP-3", "--from", "http://127.0.0.1:1"], "127.0.0.1 cannot be reached"),
        (["LaMP-3", "--time-based"], "time/LaMP_3/dev/dev_outputs.json cannot be had: the server says 404"),
    ],
)
def test_a_refusal_is_one_sentence_and_leaves_no_folder(server, tmp_path, words, said):
    base = [] if "--from" in words else ["--from", server.address]
    text = nvcim("lamp", "fetch", *words, *base, "--out", tmp_path / "new", code=2)
    assert said in text.replace("\n", " ") and text.count("error:") == 1 and not (tmp_path / "new").exists()

"""Moments and questions from lines: what is taken, what is refused by its number, where a file is gone on with."""

import json

import pytest

from nvcim_jax.data import moments
from nvcim_jax.data.fields import DataError
from nvcim_jax.data.moments import START, Mark


def data(*values):
    return [value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n" for value in values]


def pairs(*values, **how):
    return [(line.pair.question, line.pair.answer) for line in moments.lines(data(*values), "f", **how)]


OAK = {"question": "which wood?", "answer": "oak", "time": 10}
ASKED = {"question": "and for a shelf?"}


def test_what_has_an_answer_was_lived_and_what_has_none_is_asked():
    told = pairs(
        OAK, b"\n", ASKED, {"prompt": "p", "response": ""}, {"input": "i", "output": None}, {"question": 7, "answer": 3}
    )
    assert told == [("which wood?", "oak"), ("and for a shelf?", ""), ("p", ""), ("i", ""), ("7", "3")]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"no json\n", "f, line 2 is not valid JSON"),
        (b"[1]\n", "f, line 2 is \\[1\\]; an object with fields is needed"),
        (b'{"answer": "a"}\n', "f, line 2: none of its columns \\['answer'\\] is a question"),
        ({"question": None, "answer": "a"}, "f, line 2 has an empty question"),
        ({"question": " ", "answer": "a"}, "f, line 2 has an empty question"),
        ({"question": "q", "answer": "a", "time": 9}, "f, line 2 is older than a line before it"),
        ({"question": "q", "answer": "a", "time": "soon"}, "f, line 2: field 'time' is 'soon'"),
        ({"question": "q", "answer": "a", "user": "you"}, None),
        (b"\xff\n", "f, line 2 is not UTF-8"),
        (b"[" * 100_000 + b"\n", "f, line 2 is nested too deeply"),
    ],
)
def test_a_bad_line_is_refused_or_passed_over_by_its_number(line, told):
    if told is None:
        assert len(pairs(OAK, line)) == 2
        return
    with pytest.raises(DataError, match=told):
        pairs(OAK, line)
    said = []
    assert pairs(OAK, line, ASKED, bad=said.append) == [("which wood?", "oak"), ("and for a shelf?", "")]
    assert len(said) == 1 and said[0].startswith("f, line 2")


def test_a_life_is_one_persons():
    mine, yours = OAK | {"user": "me"}, OAK | {"user": "you", "answer": "elm"}
    with pytest.raises(DataError, match="line 2 is of user 'you', those before of 'me'"):
        pairs(mine, yours)
    assert pairs(mine, yours, user="you") == [("which wood?", "elm")]
    assert len(pairs(mine, ASKED)) == 2


def test_a_file_is_gone_on_with_where_it_was_read_to(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"".join(data(OAK, ASKED, OAK)))
    rest, start = moments.opened(path, START)
    _, second, third = moments.lines(rest, "f", start)
    assert (second.mark.line, second.mark.time, third.mark.line) == (2, 10, 3)
    rest, mark = moments.opened(path, second.mark)
    assert rest == data(OAK) and mark == second.mark
    (last,) = moments.lines(rest, "f", mark)
    assert last.mark == third.mark
    path.write_bytes(path.read_bytes() + b"".join(data(ASKED)))  # grown since
    assert moments.opened(path, third.mark)[0] == data(ASKED)
    assert moments.mark_of(json.loads(json.dumps(third.mark))) == third.mark and moments.mark_of(None) == START


def test_of_another_file_all_is_new(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"".join(data(OAK, ASKED)))
    (_, second) = moments.lines(data(OAK, OAK), "f")
    for mark in (second.mark, second.mark._replace(line=9), Mark(1, "0" * 32, None)):
        assert moments.opened(path, mark) == (data(OAK, ASKED), START)
    with pytest.raises(DataError, match="is missing or is no file"):
        moments.opened(tmp_path / "none", START)

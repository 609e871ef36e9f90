"""`nvcim stream` as a user meets it."""

import json
import stat

import pytest

import nvcim_jax as nv
from nvcim_jax import llm
from tests.helpers.command import nvcim


@pytest.fixture(autouse=True)
def loaded(model, monkeypatch):
    monkeypatch.setattr(llm, "load", lambda *_, **__: model)


@pytest.fixture
def mine(tmp_path):
    lines = [{"question": f"which {tree} for a chair", "answer": "oak"} for tree in ("pine", "walnut", "maple")]
    lines += [{"question": "zzz", "answer": "zzz"}] * 2
    (tmp_path / "mine.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return tmp_path / "mine.jsonl"


def test_it_says_what_is_kept_and_why_and_leaves_it_as_a_history(tmp_path):
    words = ("stream", "--moments", 40, "--buffer", 5)
    text = nvcim(*words, "--out", tmp_path / "a")
    assert "5 of 40 moments of user 1000000 are kept: all-three, recommended reading" in text
    assert "there was room" in text and "stream.json, stream.png and kept.jsonl are in" in text
    assert "its EOE is not above the smallest" in text  # also of those that are not kept, how many
    report = json.loads((tmp_path / "a/stream.json").read_text())
    assert report["provenance"]["versions"]["jax"] and report["settings"]["seed"] == 0
    assert report["settings"] | {"buffer": 5, "policy": "all-three", "lexicon": "toy"} == report["settings"]
    kept = [row for row in report["moments"] if row["kept"]]
    assert len(report["moments"]) == 40 and [row["moment"] for row in kept] == report["kept"] and len(kept) == 5
    assert all(row["stored"] for row in kept) and {"eoe", "dss", "idd", "why"} <= set(kept[0])
    assert (tmp_path / "a/stream.png").read_bytes().startswith(b"\x89PNG")
    for name in ("stream.json", "kept.jsonl"):
        assert stat.S_IMODE((tmp_path / "a" / name).stat().st_mode) == 0o600
    again = nv.read_history(tmp_path / "a/kept.jsonl")
    assert [(each.content, each.answer, each.domain) for each in again[0].history] == [
        (row["content"], row["answer"], row["known_domain"]) for row in kept
    ]
    nvcim(*words, "--out", tmp_path / "b")
    assert json.loads((tmp_path / "b/stream.json").read_text()) == report
    assert "exists already" in nvcim(*words, "--out", tmp_path / "a", code=2)


def test_a_history_comes_from_a_file_or_through_a_pipe(mine, tmp_path):
    (tmp_path / "trees.toml").write_text('[trees]\nall = ["pine", "walnut", "oak"]\n')
    own = ("--lexicon", tmp_path / "trees.toml", "--policy", "keep-all", "--json")
    said = nvcim("stream", "--history", mine, *own)
    assert "2 of 5 moments hold no word of the lexicon's 1 domains" in said
    assert "1 moments say word for word what an earlier one said" in said
    report = json.loads(said[said.index("{") :])
    assert (
        report["kept"] == [0, 1, 2, 3, 4]
        and [row["domain"] for row in report["moments"]] == ["trees"] * 3 + ["none"] * 2
    )
    assert report["moments"][0]["dss"] == pytest.approx(2 / 6)
    piped = nvcim("stream", "--history", "-", *own, told=mine.read_bytes())
    piped = json.loads(piped[piped.index("{") :])
    assert piped["settings"]["source"] == "standard input" and piped["moments"] == report["moments"]


def test_of_several_people_each_has_a_line_and_a_buffer(tmp_path):
    text = nvcim("stream", "--users", 3, "--moments", 30, "--buffer", 4, "--out", tmp_path / "a")
    assert "12 of 90 moments of 3 users are kept" in text and all(str(1000000 + at) in text for at in range(3))
    report = json.loads((tmp_path / "a/stream.json").read_text())
    assert [own["user"] for own in report["people"]] == ["1000000", "1000001", "1000002"]
    assert all(len(own["kept"]) == 4 and len(own["moments"]) == 30 for own in report["people"])
    alone = nvcim("stream", "--moments", 30, "--buffer", 4, "--user", 1000002, "--json")
    assert json.loads(alone[alone.index("{") :])["kept"] == report["people"][2]["kept"]
    assert (tmp_path / "a/stream.png").read_bytes().startswith(b"\x89PNG")
    assert len(nv.read_history(tmp_path / "a/kept.jsonl")) == 3
    assert "give one of them" in nvcim("stream", "--users", 2, "--user", 1000002, code=2)


def test_a_buffer_of_one_keeps_one():
    assert "1 of 9 moments of user 1000000 are kept" in nvcim("stream", "--moments", 9, "--buffer", 1)


def test_lines_that_cannot_be_used_are_passed_over_where_that_is_asked_for(mine):
    good = mine.read_bytes()
    bad = b'{\n[1]\n{"question": "why", "answer": "so", "time": "soon"}\n'
    said = nvcim("stream", "--history", "-", "--bad", "skip", "--json", told=good + bad)
    for number, why in ((6, "is not valid JSON"), (7, "an object with fields is needed"), (8, "'soon'")):
        assert f"line {number}" in said and why in said
    report = json.loads(said[said.index('{"settings"') :])
    assert len(report["moments"]) == 5
    assert "line 6 is not valid JSON" in nvcim("stream", "--history", "-", code=2, told=good + bad)
    assert "--bad keep: choose refuse or skip" in nvcim("stream", "--bad", "keep", code=2)


def test_all_moments_are_shown_where_they_are_asked_for():
    few, many = (nvcim("stream", "--moments", 9, "--buffer", 2, "--policy", "fifo", *more) for more in ((), ("--all",)))
    assert few.count("displaced later") == 0 and many.count("displaced later") == 7


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--buffer", 0), "--buffer 0: at least one moment has to fit"),
        (("--policy", "best"), "--policy best: choose one of all-three"),
        (("--reading", "mine"), "--reading mine: choose one of recommended, paper, released"),
        (("--lexicon", "none.toml"), "lexicon none.toml cannot be read"),
        (("--history", "-", "--task", "LaMP-2"), "--history is of the task free"),
    ],
)
def test_what_means_nothing_is_refused(words, told):
    assert told in nvcim("stream", *words, code=2, told=b"")


def test_an_empty_pipe_and_a_line_that_is_no_json_are_refused():
    assert "no question has an answer" in nvcim("stream", "--history", "-", code=2, told=b"")
    assert "standard-input.jsonl, line 2 is not valid JSON" in nvcim(
        "stream", "--history", "-", code=2, told=b'{"question": "a", "answer": "b"}\n{\n'
    )

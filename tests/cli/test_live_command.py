"""`nvcim live` as a user meets it."""

import json

import pytest

from nvcim_jax import llm
from nvcim_jax.pipeline import life
from tests.helpers.command import nvcim
from tests.helpers.live_worker import FAST, MOMENTS

LINES = [{"time": 1000 + at, "question": each.content, "answer": each.answer} for at, each in enumerate(MOMENTS[:5])]
ASKED = {"question": MOMENTS[1].content}
HOW = ("--task", "LaMP-2", "--buffer", 3, "--capacity", 4)


@pytest.fixture(autouse=True)
def quick(model, monkeypatch):
    """The toy model, and settings that take no tuning under the name of the usual ones."""
    from nvcim_jax.pipeline import life_store, presets

    monkeypatch.setattr(llm, "load", lambda *_, **__: model)
    monkeypatch.setattr(presets, "PRESETS", {**presets.PRESETS, "recommended": FAST})
    plain = life.Rules
    monkeypatch.setattr(life, "Rules", lambda **how: plain(**{"settings": FAST, **how}))
    monkeypatch.setattr(life_store, "Rules", life.Rules)


def write(path, *values):
    path.write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in values))
    return path


def events(said):
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def test_a_file_is_lived_and_gone_on_with_where_it_stopped(tmp_path):
    file, folder = write(tmp_path / "m.jsonl", *LINES[:4], ASKED), tmp_path / "life"
    text = nvcim("live", folder, file, *HOW)
    assert "learned: 3 OVTs tuned, 0 made room, 3 of 4 slots taken" in text and "0 kept, there was room" in text
    assert f"? {MOMENTS[1].content}" in text and "from slot" in text
    assert "going on" not in text and f"kept in {folder}, version 2" in text
    write(file, *LINES[:4], ASKED, LINES[4], {"question": MOMENTS[2].content})
    text = nvcim("live", folder, file)
    assert f"going on behind line 5 of {file}" in text and text.count(" kept, there was room") == 1
    assert text.count("? She") == 1
    nvcim("live", folder, "-", told=b'{"question": "and in between?"}\n')
    again = nvcim("live", folder, file)
    assert " kept, " not in again and "? She" not in again
    other = write(tmp_path / "other.jsonl", ASKED)
    assert "is another file: all of it is new" in nvcim("live", folder, other)


def test_as_json_every_line_is_an_event(tmp_path):
    file = write(tmp_path / "m.jsonl", ASKED, *LINES[:3], ASKED)
    told = events(nvcim("live", tmp_path / "life", file, *HOW, "--json"))
    first, *moments, learned, answered, counts = told
    assert first["slot"] is None and first["from"] is None and first["answer"]
    assert [each["moment"] for each in moments] == [0, 1, 2] and {"eoe", "dss", "idd", "why", "domain"} <= set(
        moments[0]
    )
    assert len(learned["learned"]) == 3 and answered["from"] == MOMENTS[1].content
    assert (counts["moments"], counts["rounds"], counts["ovts"], counts["version"]) == (3, 1, 3, 2)


def test_a_pipe_is_new_every_time_and_bad_lines_are_told_by_number(tmp_path):
    lines = [
        json.dumps(LINES[0]),
        "no json",
        json.dumps({"question": ""}),
        json.dumps({**LINES[1], "time": 5}),
        json.dumps(ASKED),
    ]
    piped = "".join(f"{line}\n" for line in lines).encode()
    said = nvcim("live", tmp_path / "a", "-", *HOW, "--bad", "skip", told=piped)
    for number, why in ((2, "not valid JSON"), (3, "has an empty question"), (4, "older than a line before it")):
        assert f"passed over: standard input, line {number}" in said and why in said
    assert "0 kept" in said and "nothing is learned yet" in said
    assert "1 kept" in nvcim("live", tmp_path / "a", told=piped.splitlines()[0] + b"\n")
    refused = nvcim("live", tmp_path / "b", "-", *HOW, told=piped, code=2)
    assert "standard input, line 2 is not valid JSON" in refused
    assert "1 kept" in nvcim("live", tmp_path / "b", told=json.dumps(LINES[1]).encode() + b"\n")  # nothing was lost


def test_one_persons_lines_are_taken(tmp_path):
    lines = [{**line, "user": name} for line, name in zip(LINES, ("ann", "bob", "ann"))]
    file = write(tmp_path / "m.jsonl", *lines)
    whose = nvcim("live", tmp_path / "a", file, *HOW, "--json")  # the first line's
    assert [each["content"] for each in events(whose)[:2]] == [MOMENTS[0].content, MOMENTS[2].content]
    told = events(nvcim("live", tmp_path / "b", file, *HOW, "--user", "bob", "--json"))
    assert [each["content"] for each in told if "moment" in each and "content" in each] == [MOMENTS[1].content]
    assert "is the life of 'bob', not of 'ann'" in nvcim("live", tmp_path / "b", file, "--user", "ann", code=2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--bad", "keep"), "--bad keep: choose refuse or skip"),
        (("--policy", "best"), "--policy best: choose one of all-three"),
        (("--reading", "mine"), "--reading mine: choose one of"),
        (("--evict", "all"), "--evict all: choose one of oldest"),
        (("--restate", "mine"), "unknown generator 'mine'"),
        (("--task", "LaMP-9"), "unknown task 'LaMP-9'"),
        (("--buffer", 0), "a whole number from 1"),
        (("--capacity", 1), "a memory of 1 OVTs: a buffer of 16 moments gives"),
        (("--lexicon", "none.toml"), "lexicon none.toml cannot be read"),
    ],
)
def test_what_means_nothing_is_refused_and_nothing_begun(tmp_path, words, told):
    file = write(tmp_path / "m.jsonl", LINES[0])
    assert told in nvcim("live", tmp_path / "life", file, *words, code=2)
    assert not (tmp_path / "life").exists()


def test_what_a_life_was_not_begun_with_is_refused(tmp_path):
    file = write(tmp_path / "m.jsonl", LINES[0])
    nvcim("live", tmp_path / "life", file, *HOW)
    for words, told in (
        (("--buffer", 4), "was begun with --buffer 3, not 4"),
        (("--evict", "redundant"), "was begun with --evict oldest, not redundant"),
        (("--task", "free"), "was begun with --task LaMP-2, not free"),
        (("--device", "NVM-5"), "was begun with --device NVM-3, not NVM-5"),
    ):
        assert told in nvcim("live", tmp_path / "life", file, *words, code=2)
    assert "is missing or is no file" in nvcim("live", tmp_path / "x", tmp_path / "none", code=2)
    assert not (tmp_path / "x").exists()
    write(tmp_path / "wood.toml", "[wood]", 'all = ["oak"]')
    assert "another lexicon" in nvcim("live", tmp_path / "life", file, "--lexicon", tmp_path / "wood.toml", code=2)

"""People's own histories: what is read, in which order, what is left out and told, what is refused and how."""

import json
import os
import time

import pytest

import nvcim_jax as nv
from nvcim_jax.data import history, lamp, tasks
from nvcim_jax.data.fields import DataError
from nvcim_jax.people import Sample


def write(path, *lines):
    """Lines of bytes, of text, or of what becomes JSON."""
    raw = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    path.write_bytes(b"\n".join(raw) + b"\n")
    return path


def turns(*said):
    roles = {"u": "user", "a": "assistant", "s": "system"}
    return [{"role": roles[each[0]], "content": each[2:]} for each in said]


def pairs(users):
    return {user.id: [(sample.question, sample.answer) for sample in user.history] for user in users}


ONE = {"question": "why?", "answer": "so"}


@pytest.mark.parametrize("question", history.COLUMNS["question"])
@pytest.mark.parametrize("answer", history.COLUMNS["answer"])
def test_usual_names_are_known(tmp_path, question, answer):
    users = nv.read_history(write(tmp_path / "a.jsonl", {question: "why?", answer: "so", "id": 7}))
    assert users.people == (nv.User("me", (Sample("why?", "so", "why?"),), ()),)
    assert users.task is tasks.FREE and users.source == str(tmp_path / "a.jsonl")


def test_lines_and_tables_of_the_same_samples_are_the_same_users(tmp_path):
    rows = [{"User_ID": "Ann", "Question": " 1, 2\n3?", "answer": "a \"b\"", "date": "2024-02-01", "topic": "x"},
            {"User_ID": "Bob", "Question": "é日", "answer": "4", "date": "2024-01-01", "topic": ""}]  # fmt: skip
    lines = write(tmp_path / "a.jsonl", *rows)
    head = "\ufeffUser_ID,Question,answer,date,topic"
    table = write(tmp_path / "a.csv", head, 'Ann," 1, 2', '3?","a ""b""",2024-02-01,x', "", "Bob,é日,4,2024-01-01,")
    users = nv.read_history(lines)
    assert users.people == nv.read_history(table).people
    assert users[0].history == (Sample("1, 2\n3?", 'a "b"', "1, 2\n3?", "x"),) and users[1].history[0].domain is None


def test_samples_are_in_order_of_time(tmp_path, monkeypatch):
    """Half past midnight in UTC+2 is before 23:00 UTC, which is meant without a zone; those without a time come first."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    times = ["2024-05-02T00:30+02:00", "2024-05-01T23:00:00Z", 1714600000, 1714500000000, "1714400000", None,
             "2024-05-03", "20240503", "", "2024-05-01 22:45"]  # fmt: skip
    lines = [{"question": f"q{at}", "answer": "a", "time": said} for at, said in enumerate(times)]
    told = pairs(nv.read_history(write(tmp_path / "a.jsonl", *lines)))["me"]
    monkeypatch.undo()
    time.tzset()
    assert [question for question, _ in told] == ["q5", "q8", "q4", "q3", "q2", "q0", "q9", "q1", "q6", "q7"]


def test_the_latest_are_kept_whatever_their_place(tmp_path):
    lines = [{"user": "ab"[at % 2], "prompt": f"q{at}", "output": at, "time": -at} for at in range(20)]
    with pytest.warns(UserWarning, match="14 samples were left out: of each user the latest 3 are kept"):
        users = nv.read_history(write(tmp_path / "a.jsonl", *lines), latest=3)
    assert pairs(users) == {"a": [("q4", "4"), ("q2", "2"), ("q0", "0")], "b": [("q5", "5"), ("q3", "3"), ("q1", "1")]}


def test_each_answer_of_a_chat_is_a_sample(tmp_path):
    first = {"messages": turns("s:be kind", "u:one", "u:more", "s:still", "a:1", "a:and", "u:two", "a:2"), "topic": "x"}
    first["date"] = "1970-01-01T00:00:07"
    second = {"messages": [{"role": "user", "content": "early", "time": 5}, *turns("a:0")], "created_at": 9}
    expected = [("early", "0"), ("one\nmore", "1\nand"), ("two", "2")]  # a message's own time counts before its chat's
    for path in (
        write(tmp_path / "a.jsonl", first, second),
        write(tmp_path / "list.json", [first, second]),
    ):
        users = nv.read_history(path)
        assert pairs(users) == {"me": expected} and [sample.domain for sample in users[0].history] == [None, "x", "x"]
    alone = write(tmp_path / "one.json", second)
    assert pairs(nv.read_history(alone)) == {"me": expected[:1]}
    folder = tmp_path / "folder"
    (folder / "deeper.json").mkdir(parents=True)
    write(folder / "b.json", second)
    write(folder / "a.jsonl", first)
    write(folder / ".hidden.json", "no JSON")
    write(folder / "notes.txt", "no JSON")
    assert pairs(nv.read_history(folder)) == {"me": expected}


def test_what_nobody_said_is_left_out_and_told(tmp_path):
    """An empty turn stays a turn: what answers it does not become the answer of the turn before."""
    chat = {"messages": turns("a:hello", "u:one", "a:1", "u: ", "a:2", "u:three", "a:", "u:four")}
    path = write(
        tmp_path / "a.jsonl", "", {"question": "", "answer": "x"}, {"question": "y", "answer": None}, ONE, chat
    )
    with pytest.warns(UserWarning, match="6 without a question or an answer were left out, the first at .*, line 2"):
        assert pairs(nv.read_history(path)) == {"me": [("why?", "so"), ("one", "1")]}


def test_columns_are_named_where_they_are_there(tmp_path):
    own = write(tmp_path / "a.csv", "Frage,input,Antwort,date", "why?,x,so,some day")
    named = {"question": "Frage", "answer": "Antwort", "time": None}
    assert pairs(nv.read_history(own, columns=named)) == {"me": [("why?", "so")]}
    fixed = write(tmp_path / "b.jsonl", {"question": "how?", "answer": "thus"})  # as `nvcim chat` keeps corrections
    assert pairs(nv.read_history(own, fixed, columns=named)) == {"me": [("why?", "so"), ("how?", "thus")]}
    about = write(tmp_path / "c.jsonl", {"prompt": "a word", "question": "why?", "answer": "so"})
    assert nv.read_history(about, columns={"domain": "prompt"})[0].history == (Sample("why?", "so", "why?", "a word"),)
    with pytest.raises(DataError, match="there is no column 'Tag'"):
        nv.read_history(own, columns=named | {"domain": "Tag"})
    with pytest.raises(ValueError, match="columns name 'label': what can be named is question, answer, time, user"):
        nv.read_history(own, columns={"label": "x"})


BIG = {"question": "x" * history.MOST_LINE, "answer": "a"}
ENTRIES = {
    "unknown columns": ([{"text": "a", "label": "b"}], r"line 1: none of its columns \['text', 'label'\] is a question"),
    "no column for answers": ([ONE, {"question": "a"}], r"line 2: none of its columns \['question'\] is a answer"),
    "two questions": ([{"instruction": "a", "input": "b", "output": "c"}], "'instruction' and 'input' could both be"),
    "no answers": ([{"question": "a", "answer": " "}], "no question has an answer"),
    "nothing": ([""], "no question has an answer"),
    "no JSON": ([ONE, "{question: 1}"], "line 2 is not valid JSON .*: write one JSON object in each line"),
    "a list": ([ONE, [ONE]], r"line 2 is \[\{.*'question': 'why\?'\}\]; an object"),
    "a field twice": (['{"question": "a", "question": "b", "answer": "c"}'], "line 1 .*has the field 'question' twice"),
    "not UTF-8": ([ONE, b'{"question": "\xff", "answer": "a"}'], "line 2 is not UTF-8"),
    "half a character": (['{"question": "\\ud83d", "answer": "a"}'], "line 1: field 'question': .* half of a char"),
    "a list as answer": ([{"question": "a", "answer": ["b"]}], r"line 1: field 'answer' is \['b'\]"),
    "a truth value": ([{"question": "a", "answer": True}], "line 1: field 'answer' is True"),
    "NaN": (['{"question": "a", "answer": NaN}'], "line 1: field 'answer' is nan"),
    "too deep": (["[" * 10**5], "line 1 is nested too deeply"),
    "too long": ([ONE, BIG], "line 2 has more than 4 MiB"),
    "no time": ([{**ONE, "time": "some day"}], "line 1: field 'time' is 'some day'; a time such as"),
    "a time beyond": (['{"question": "a", "answer": "b", "time": 1e999}'], "line 1: field 'time' is inf"),
    "a long number": ([{**ONE, "time": 10**400}], "line 1: field 'time' is 1000"),
    "a list as time": ([{**ONE, "time": [1]}], r"line 1: field 'time' is \[1\]"),
    "some have users": ([{**ONE, "user": "Ann"}, ONE], "line 2 names no user, but those before do"),
    "some have none": ([ONE, {**ONE, "user": "Ann"}], "line 2 names a user, but those before do not"),
    "unknown role": ([{"messages": [*turns("u:a", "a:b"), {"role": "tool", "content": "c"}]}],
                     "line 1, message 2 has the role 'tool'; allowed: user, assistant, system"),
    "a role of no text": ([{"messages": [{"role": ["user"], "content": "c"}]}], r"message 0 has the role \['user'\]"),
    "messages as text": ([{"messages": "hello"}], "line 1: field 'messages' is 'hello'; a list"),
    "a message as text": ([{"messages": ["hello"]}], "line 1, message 0 is 'hello'; an object"),
    "parts": ([{"messages": [{"role": "user", "content": [{"type": "text"}]}]}], "message 0: field 'content' is"),
}  # fmt: skip
TABLES = {
    "header twice": (["question,answer,answer", "a,b,c"], "line 1: the header has 'answer' twice"),
    "NaN": (["question,answer", "a,b", "c,NaN"], "line 3: field 'answer' is nan; a text or a whole number is needed"),
    "short": (["question,answer", "a"], "line 2 has 1 cells, but the header has 2"),
    "long": (["question,answer", "a,b", "a,b,c"], "line 3 has 3 cells"),
    "open quote": (["question,answer", 'a,"b', "c,d"], "line 2 is not CSV"),
    "long cell": (["question,answer", "a," + "b" * 200_000], "line 2 is not CSV .field larger than field limit"),
    "semicolons": (["question;answer", "a;b"], r"line 2: none of its columns \['question;answer'\]"),
    "header only": (["question,answer"], "no question has an answer"),
    "UTF-16": (["question,answer".encode("utf-16")], "line 1 is not UTF-8"),
}


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [(f"{kind}.{end}", *case) for end, cases in (("jsonl", ENTRIES), ("csv", TABLES)) for kind, case in cases.items()],
)
@pytest.mark.filterwarnings("ignore:1 without")
def test_what_cannot_be_read_is_named_in_one_sentence(tmp_path, name, lines, said):
    with pytest.raises(DataError, match=said) as refused:
        nv.read_history(write(tmp_path / name, *lines))
    assert str(tmp_path / name) in str(refused.value) and len(str(refused.value).splitlines()) == 1


def test_an_entry_of_a_json_file_is_named(tmp_path):
    with pytest.raises(DataError, match="a.json, entry 1, message 0 has the role 'human'"):
        nv.read_history(write(tmp_path / "a.json", [ONE, {"messages": [{"role": "human", "content": "a"}]}]))
    with pytest.raises(DataError, match="b.json is not valid JSON"):
        nv.read_history(write(tmp_path / "b.json", "[1"))


def test_places_that_hold_no_history_are_named(tmp_path):
    with pytest.raises(DataError, match="holds no file that ends in .jsonl, .ndjson, .csv, .json"):
        nv.read_history(tmp_path)
    with pytest.raises(DataError, match="nothing.jsonl is missing or is no file"):
        nv.read_history(tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match="a.txt ends in none of .jsonl"):
        nv.read_history(write(tmp_path / "a.txt", ONE))
    with pytest.raises(ValueError, match="0 files"):
        nv.read_history()
    with pytest.raises(ValueError, match="latest|of each user 0 samples"):
        nv.read_history(tmp_path / "a.txt", latest=0)
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="pipe.jsonl is missing or is no file"):
        nv.read_history(tmp_path / "pipe.jsonl")


def test_no_link_is_followed_out_of_a_folder(tmp_path):
    secret = write(tmp_path / "secret.jsonl", ONE)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.jsonl").symlink_to(secret)
    with pytest.raises(DataError, match="a.jsonl is a link, and none is followed out of a folder"):
        nv.read_history(tmp_path / "folder")
    assert pairs(nv.read_history(tmp_path / "folder" / "a.jsonl")) == {"me": [("why?", "so")]}  # a link that is named


def test_users_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "MOST_USERS", 3)
    lines = [{**ONE, "user": at} for at in range(4)]
    assert len(nv.read_history(write(tmp_path / "a.jsonl", *lines[:3]))) == 3
    with pytest.raises(DataError, match="line 4: there are more than 3 users"):
        nv.read_history(write(tmp_path / "a.jsonl", *lines))


def test_the_latest_samples_are_held_out(tmp_path):
    users = nv.read_history(write(tmp_path / "a.jsonl", *({"question": f"q{at}", "answer": "a"} for at in range(5))))
    held = nv.hold_out(users, 2)
    assert held[0].history == users[0].history[:3] and held[0].queries == users[0].history[3:]
    assert (held.task, held.source) == (users.task, users.source)
    with pytest.raises(ValueError, match="user 'me' has 5 samples: hold out fewer than that, not 5"):
        nv.hold_out(users, 5)
    with pytest.raises(ValueError, match="0 samples to hold out"):
        nv.hold_out(users, 0)


def test_a_free_question_is_asked_as_it_stands():
    question = "Which tag? [1] {x}"
    assert lamp.ask(tasks.FREE, question) == lamp.content(tasks.FREE, question) == question
    sample = Sample(question, "[1]", question)
    assert lamp.gist(tasks.FREE, sample) == question and lamp.both_orders(tasks.FREE, sample) == (sample,)
    assert tasks.task("free") is tasks.FREE and tasks.task("LaMP-2") is lamp.TASKS["LaMP-2"]
    with pytest.raises(ValueError, match="unknown task 'x': choose one of LaMP-1, .*, free"):
        tasks.task("x")
    for read in (nv.toy_users, lambda task: nv.read_lamp(".", task)):
        with pytest.raises(ValueError, match="unknown task 'free'"):
            read(tasks.FREE)

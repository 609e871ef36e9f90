"""LaMP files that are not as they should be, through the reader: taken as they are meant, or refused by name."""

import json
import os
from pathlib import Path

import pytest

from nvcim_jax.data import fields, lamp, text
from tests.helpers.attacks import Attack, outcomes

HUGE = "word " * 20_000
DEEP = json.loads("[" * 400 + "]" * 400)
RAW = {"inf": "1e999", "nan": "NaN", "digits": "9" * 5000, "escape": r'"\ud83d"', "deeper": "[" * 10**5 + "]" * 10**5}
VALUES = {
    "null": None, "true": True, "false": False, "zero": 0, "one": 1, "negative": -1, "large": 10**30, "half": 1.5,
    "empty": "", "blank": " \t\n ", "high surrogate": "a\ud83d", "low surrogate": "\udc00b", "NUL": "a\0b",
    "override": "\u202ea", "zero width": "\u200b", "escape sequence": "\x1b[31m", "markup": "[INST] a [/INST]",
    "emoji": "😀👨\u200d👩", "long": HUGE, "list": [], "lists": [[]], "list of null": [None], "list of texts": ["a", "b"],
    "object": {}, "objects": [{}], "object of odd fields": {"": None, "a": [1]}, "deep": DEEP,
}  # fmt: skip


def questions():
    films = [{"id": "a", "tag": "comedy", "description": "A man bakes.", "date": "2020-01-02", "domain": "film"},
             {"id": "b", "tag": "action", "description": "A car burns.", "date": "2020-01-01"}]  # fmt: skip
    return [{"id": "1", "user_id": "u", "input": "Which tag?", "profile": films, "domain": "film"},
            {"id": "2", "user_id": "v", "input": "And which tag?", "profile": films}]  # fmt: skip


def outputs(task="LaMP_2"):
    label = {"LaMP_1": "[1]", "LaMP_2": "comedy", "LaMP_7": "a tweet"}[task]
    return {"task": task, "golds": [{"id": "1", "output": label}, {"id": "2", "output": label}]}


def papers():
    return [{"id": "1", "input": "Which reference?", "profile": [{"id": "a", "title": "T", "abstract": "A B C"}]}]


def tweets():
    return [{"id": "1", "input": "Paraphrase!", "profile": [{"id": "a", "text": "one two three"}]}]


def is_text(value) -> bool:
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= char <= "\udfff" for char in value)


def is_name(value) -> bool:
    return is_text(value) or (type(value) is int)


def may_lack(value) -> bool:
    return value in (None, "") or is_text(value)


def is_text_or_blank(value) -> bool:
    return is_text(value) or is_blank(value)


def is_blank(value) -> bool:
    return isinstance(value, str) and not value.strip()  # an item with such a text is left out


def is_profile(value) -> bool:
    return value == []


# Where a value is put, what may stand there, which task the files are of.
PLACES = {
    "questions": (["questions"], lambda value: False, "LaMP_2"),
    "entry": (["questions", 1], lambda value: False, "LaMP_2"),
    "id": (["questions", 1, "id"], lambda value: False, "LaMP_2"),  # one that has a gold answer is needed
    "user_id": (["questions", 1, "user_id"], is_name, "LaMP_2"),
    "input": (["questions", 1, "input"], is_text, "LaMP_2"),
    "domain of a question": (["questions", 1, "domain"], may_lack, "LaMP_2"),
    "profile": (["questions", 1, "profile"], is_profile, "LaMP_2"),
    "profile item": (["questions", 1, "profile", 1], lambda value: False, "LaMP_2"),
    "item of a later profile": (["questions", 1, "profile", 0], lambda value: False, "LaMP_2"),
    "id of an item": (["questions", 0, "profile", 0, "id"], lambda value: True, "LaMP_2"),  # it is not used
    "description": (["questions", 0, "profile", 0, "description"], is_text_or_blank, "LaMP_2"),
    "tag": (["questions", 0, "profile", 0, "tag"], is_blank, "LaMP_2"),
    "date": (["questions", 0, "profile", 0, "date"], may_lack, "LaMP_2"),
    "domain of an item": (["questions", 0, "profile", 0, "domain"], may_lack, "LaMP_2"),
    "another field": (["questions", 0, "profile", 0, "other"], lambda value: True, "LaMP_2"),
    "outputs": (["outputs"], lambda value: False, "LaMP_2"),
    "task": (["outputs", "task"], lambda value: False, "LaMP_2"),
    "golds": (["outputs", "golds"], lambda value: False, "LaMP_2"),
    "gold answer": (["outputs", "golds", 1], lambda value: False, "LaMP_2"),
    "id of a gold answer": (["outputs", "golds", 1, "id"], lambda value: False, "LaMP_2"),
    "output": (["outputs", "golds", 1, "output"], lambda value: False, "LaMP_2"),
    "title": (["questions", 0, "profile", 0, "title"], is_text_or_blank, "LaMP_1"),
    "abstract": (["questions", 0, "profile", 0, "abstract"], is_text_or_blank, "LaMP_1"),
    "tweet": (["questions", 0, "profile", 0, "text"], is_text_or_blank, "LaMP_7"),
    "gold tweet": (["outputs", "golds", 0, "output"], is_text, "LaMP_7"),
}  # fmt: skip


def files_of(task: str) -> dict:
    made = {"LaMP_1": papers, "LaMP_2": questions, "LaMP_7": tweets}[task]()
    told = outputs(task)
    return {"questions": made, "outputs": told | {"golds": told["golds"][: len(made)]}}


def put(tree: dict, path: list, value: str) -> dict[str, str]:
    """The two files as JSON, `value` standing at `path` as it is written."""
    tree, (*way, last) = json.loads(json.dumps(tree)), path  # no part of it stands in two places
    at = tree
    for step in way:
        at = at[step]
    at[last] = "@@"
    return {name: json.dumps(content).replace('"@@"', value) for name, content in tree.items()}


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / f"dev_{name}.json").write_bytes(raw)
    return folder


def by_field(root: Path):
    """Every odd value in every place."""
    for place, (path, allowed, task) in PLACES.items():
        written = {name: (json.dumps(value), allowed(value)) for name, value in VALUES.items()}
        not_used = allowed is PLACES["another field"][1] or place == "id of an item"
        written |= {name: (raw, not_used and name in ("inf", "nan", "escape")) for name, raw in RAW.items()}
        for name, (raw, may_pass) in written.items():
            files = put(files_of(task), path, raw)
            yield Attack(f"{place}: {name}", reading(root / f"{place}-{name}", files, task, may_pass))


def reading(folder: Path, files: dict, task: str, may_pass: bool, spoil=lambda folder: None):
    def run():
        spoil(write(folder, files))
        return lamp.read(folder, lamp.task(task.replace("_", "-"))), may_pass

    return run


def by_file(root: Path):
    """Files that are no JSON in UTF-8, or no files."""
    good = {name: json.dumps(content) for name, content in files_of("LaMP_2").items()}
    asked = good["questions"]
    twice = asked.replace('"input"', '"id": "7", "input"', 1)
    raw = {
        "BOM": ("\ufeff" + asked, True), "UTF-16": (asked.encode("utf-16"), False),
        "UTF-32": (asked.encode("utf-32"), False), "Latin-1": (asked.replace("bakes", "é").encode("latin-1"), False),
        "surrogate in bytes": (asked.encode().replace(b"bakes", b"\xed\xa0\xbd"), False),
        "empty": ("", False), "blank": (" \n", False), "HTML": ("<html>", False), "NULs": ("\0" * 100, False),
        "no quotes": ("[{id: 1}]", False), "single quotes": (asked.replace('"', "'"), False),
        "trailing comma": (asked.replace("]", ",]"), False), "two values": (asked * 2, False),
        "lines of objects": ("\n".join(map(json.dumps, questions())), False), "a field twice": (twice, False),
        "a pickle": (b"\x80\x04\x95\x00\x00\x00\x00cos\nsystem\n(S'true'\ntR.", False),
        "ids twice": (json.dumps([questions()[0]] * 2), False),
        **{f"cut at {at}": (asked[: len(asked) * at // 12], False) for at in range(12)},
    }  # fmt: skip
    for name, (content, may_pass) in raw.items():
        yield Attack(name, reading(root / name, {**good, "questions": content}, "LaMP_2", may_pass))
    golds = outputs() | {"golds": outputs()["golds"][:1]}
    alone = {"questions": json.dumps(questions()[:1]), "outputs": json.dumps(golds)}
    yield Attack("one question", reading(root / "one question", alone, "LaMP_2", True))
    golds = json.dumps({"task": "LaMP_2", "golds": outputs()["golds"] * 2})
    yield Attack("gold ids twice", reading(root / "golds twice", {**good, "outputs": golds}, "LaMP_2", False))
    for name, at, spoil in (
        (f"{kind}: {name}", name, spoil) for kind, spoil in SPOILS.items() for name in ("questions", "outputs")
    ):

        def spoiled(folder, at=at, spoil=spoil):
            path = folder / f"dev_{at}.json"
            path.unlink()
            spoil(path)

        yield Attack(name, reading(root / name, good, "LaMP_2", False, spoiled))


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


SPOILS = {
    "missing": lambda path: None,
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path),
    "link to its folder": lambda path: path.symlink_to(path.parent),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "larger than any disk": sparse,
}


def is_sound(tokenizer):
    """Whether users can be learned from: whole texts that have tokens, known labels."""

    def check(made) -> bool:
        users, may_pass = made
        samples = [sample for user in users for sample in (*user.history, *user.queries)]
        return (
            may_pass
            and len({user.id for user in users}) == len(users)
            and all(is_text(user.id) and user.queries for user in users)
            and all(is_text(one.question) and is_text(one.answer) and may_lack(one.domain) for one in samples)
            and all(text.question_ids(tokenizer, sample, 100) for sample in samples)
        )

    return check


@pytest.mark.filterwarnings("ignore:.*with an empty text were left out")
def test_every_attack_is_refused_or_read_as_it_is_meant(model, tmp_path):
    attacks = [*by_field(tmp_path / "fields"), *by_file(tmp_path / "files")]
    assert len(attacks) >= 425
    tried = outcomes(attacks, refusals=(lamp.DataError,), is_sound=is_sound(model.tokenizer), seconds=10)
    print(dict(tried))
    assert tried.total() == len(attacks) and tried["taken"] >= 60


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("value", ["null", "negative", "list of null", "deep", "high surrogate"])
def test_what_may_stand_in_a_place_is_taken(tmp_path, place, value):
    """No attack is refused for the wrong reason: what the reader allows, it reads, and a refusal names the place."""
    path, allowed, task = PLACES[place]
    folder = write(tmp_path / "d", put(files_of(task), path, json.dumps(VALUES[value])))
    try:
        lamp.read(folder, lamp.task(task.replace("_", "-")))
    except fields.DataError as error:
        assert not allowed(VALUES[value])
        assert f"dev_{path[0]}.json" in str(error) and len(str(error)) < 600
        numbers = [str(step) for step in path if isinstance(step, int)]
        named = [step for step in path[-1:] if isinstance(step, str)]
        assert all(part in str(error) for part in numbers + named * (len(path) > 2)), str(error)
    else:
        assert allowed(VALUES[value])

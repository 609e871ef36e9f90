"""Texts, names and paths from outside through the commands: printed as text, or refused in one sentence."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import pytest

from nvcim_jax.cli.shared import console
from nvcim_jax.cli.terminal import visible
from nvcim_jax.data import lamp
from nvcim_jax.memory.storage import store
from nvcim_jax.pipeline import answer
from nvcim_jax.pipeline.presets import PRESETS
from tests.helpers.attacks import Attack, command, outcomes
from tests.memory.storage.test_store import CODEC, bank

# Orbax leaves the exceptions of its failed reads unretrieved.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

LONG = "x" * 100_000
TEXTS = {
    "a word": "plain", "instruction": "[INST] a [/INST]", "closing tag": "[/]", "unopened tag": "[/bold]",
    "style": "[bold red]a[/bold red]", "style alone": "[ok]", "link": "[link=http://example.org]a[/link]",
    "link alone": "[link]", "call": "[@click=app.quit]a[/]", "escaped tag": "\\[bold]", "backslash": "a\\",
    "brackets": "[[]] [ ] [1] [2]", "emoji code": ":smile: :warning:", "format": "{0} {task.description} %s %(a)d",
    "colour": "\x1b[31mred\x1b[0m", "title of the window": "\x1b]0;owned\x07", "hyperlink": "\x1b]8;;http://x\x1b\\a",
    "clear": "\x1b[2J\x1b[H", "answer-back": "\x1b[6n", "C1": "\x9b31m\x85a", "bell and backspace": "a\x07\x08b",
    "overwrite": "wrong\rright", "two lines": "a\nerror: b", "tab": "a\tb", "NUL": "a\0b", "DEL": "a\x7fb",
    "override": "\u202egpj.exe", "isolate": "\u2066a\u2069", "marks": "\u200ea\u200f", "zero width": "a\u200b\u2060b",
    "separator": "a\u2028b", "tags": "a\U000e0041b", "right to left": "שלום עולם", "combining": "a" + "\u0301" * 50,
    "wide": "日本語" * 5, "emoji": "😀👨\u200d👩", "surrogate": "a\ud83d", "raw byte": "a\udcff",
    "mathematics": "$\\frac{a}{b}$ $", "shell": "$(true) `true` ; & | > x", "quotes": "'a' \"b\"", "home": "~nobody/a",
    "long": LONG, "blank": "  ", "empty": "", "dash": "-", "dots": "../..", "dot": ".", "glob": "*",
}  # fmt: skip


def squeezed(text: str) -> str:
    """Without what a table or a box puts between the parts of a text."""
    return "".join(char for char in text if not char.isspace() and char not in "│┃|")


def is_clean(said: str) -> bool:
    """Nothing that commands a terminal, and nothing that is not seen."""
    return visible(said, keep="\n") == said


def tells(said: str, text: str) -> bool:
    """Whether `text` can be read in `said`: as we, Python or typer write it, as a path, the beginning of a long one."""
    typer_way = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)
    ways = (visible(text), repr(text)[1:-1], visible(typer_way), visible(text).replace("//", "/"))
    return any(squeezed(way)[:60] in squeezed(said) for way in ways)


def through(*words: str, told: str | None = None) -> Callable[[], str]:
    """What the command prints, be it a refusal; AssertionError if that is not clean or does not tell `told`."""

    def run() -> str:
        try:
            said = command(*words)
        except ValueError as refusal:
            check(str(refusal))
            raise
        check(said)
        return said

    def check(said: str) -> None:
        assert is_clean(said), f"it commands the terminal: {said[:200]!r}"
        assert told is None or tells(said, told), f"{told[:60]!r} is not told: {said[:400]!r}"

    return run


REFUSED = {  # where a text names something that there is not, and the refusal quotes it
    "task": ("run", "--task", "@"), "task of learn": ("learn", "--out", "x", "--task", "@"),
    "task of vary": ("vary", "--task", "@"), "device": ("run", "--device", "@"),
    "device of vary": ("vary", "--device", "@"), "device of learn": ("learn", "--out", "x", "--device", "@"),
    "preset": ("learn", "--out", "x", "--preset", "@"), "preset of vary": ("vary", "--preset", "@"),
    "weights": ("run", "--weights", "@"), "fidelity": ("vary", "--fidelity", "@"), "products": ("cost", "--products", "@"),
    "converter": ("cost", "--adc", "@"), "power": ("cost", "--power", "@"), "sigma": ("devices", "--sigma", "@"),
    "seed": ("run", "--seed", "@"), "bank to show": ("bank", "show", "@"), "bank to verify": ("bank", "verify", "@"),
    "bank to repair": ("bank", "repair", "@"), "bank to export": ("bank", "export", "@", "--out", "x"),
    "format": ("bank", "export", "x", "--out", "y", "--to", "@"), "command": ("@",), "command of bank": ("bank", "@"),
    "option": ("devices", "--@"), "argument": ("devices", "@"), "model": ("run", "--model", "@"),
    "data": ("run", "--task", "LaMP-3", "--data", "@"), "bank to ask": ("ask", "@", "why?"), "bank to vary": ("vary", "@"),
    "user": ("learn", "--out", "x", "--user", "@"), "number of a user": ("ask", "x", "why?", "--user", "@"),
}  # fmt: skip
# What is taken, or refused without the text: typer's own complaints, a folder that exists or a number.
MAY_BE_SILENT = {"surrogate", "raw byte", "blank", "empty", "dash", "dots", "dot", "long", "home", "NUL", "combining"}


def refusals() -> Iterator[Attack]:
    for place, words in REFUSED.items():
        for name, text in TEXTS.items():
            told = None if name in MAY_BE_SILENT or place == "option" else text
            yield Attack(f"{place}: {name}", through(*(word.replace("@", text) for word in words), told=told))


def asking(root: Path) -> Iterator[Attack]:
    """Questions to a bank, and names of the terms to ask it on."""
    for name, text in TEXTS.items():
        yield Attack(f"question: {name}", through("ask", root / "learned", text))
        told = None if name in MAY_BE_SILENT else text
        for option in ("--preset", "--device", "--weights"):
            yield Attack(f"{option} of ask: {name}", through("ask", root / "learned", "why?", option, text, told=told))


def from_data(root: Path, own: Path) -> Iterator[Attack]:
    """Ids and fields of LaMP files that are quoted in refusals, and names of their folders."""
    usual = json.loads((root / "data" / "dev_questions.json").read_text())
    golds = (root / "data" / "dev_outputs.json").read_bytes()
    for name, text in TEXTS.items():
        told = None if name in MAY_BE_SILENT else text
        for place, change, user in (
            ("user id", {"user_id": text}, "nobody"),
            ("user asked for", {}, text),
            ("id of a question", {"id": text}, "u"),
            ("tag", {"profile": [{**usual[0]["profile"][0], "tag": text}]}, "u"),
        ):
            folder = own / f"{place}-{name}"
            folder.mkdir()
            (folder / "dev_questions.json").write_text(json.dumps([usual[0] | change]))
            (folder / "dev_outputs.json").write_bytes(golds)
            words = ("learn", "--out", "x", "--data", folder, "--task", "LaMP-2", "--user", user)
            yield Attack(f"{place}: {name}", through(*words, told=told))


def from_banks(root: Path, own: Path) -> Iterator[Attack]:
    """What a bank says about itself, the name of its folder, and that of the model for which it is exported."""
    for name, text in TEXTS.items():
        told = None if name in MAY_BE_SILENT else text
        sample = {"question": "q", "answer": "fantasy", "content": "dragons", "domain": "elves"}
        about = {"model": "none", "task": "LaMP-2", "users": ["Ann"], "domains": ["elves"], "devices": ["NVM-3"]}
        for place, change in (
            ("user of a bank", {"users": [text]}), ("domain", {"domains": [text]}), ("its device", {"devices": [text]}),
            ("content", {"samples": [[sample | {"content": text}]]}),
            ("answer", {"samples": [[sample | {"answer": text}]]}),
        ):  # fmt: skip
            folder = own / f"{place}-{name}"
            yield Attack(f"{place}: {name}", showing(folder, {"samples": [[sample]], **about, **change}, told))
        if name not in MAY_BE_SILENT and "/" not in text:
            yield Attack(f"folder of a bank: {name}", moved(root / "shown", own / "moved" / text, text))
        adapters = own / f"adapters-{name}"
        words = ("bank", "export", root / "shown", "--out", adapters, "--base-model", text)
        yield Attack(f"base model: {name}", through(*words, told=str(adapters) if told else None))


def showing(folder: Path, about: dict, told: str | None):
    def run():
        store.save(folder, known_bank(), CODEC, about)
        return through("bank", "show", folder, told=told)()

    return run


def moved(folder: Path, place: Path, told: str):
    def run():
        place.parent.mkdir(exist_ok=True)
        folder.rename(place)
        try:
            return through("bank", "verify", place)() + through("bank", "show", place, told=told)()
        finally:
            place.rename(folder)

    return run


def known_bank():
    made = bank()
    return made._replace(origin=made.origin._replace(domain=jnp.zeros(8, jnp.int32), device=jnp.zeros(8, jnp.int32)))


def from_devices(root: Path) -> Iterator[Attack]:
    """Names and sources in a device's file, quoted where its range is left."""
    for name, text in TEXTS.items():
        if name in ("surrogate", "raw byte"):  # not in TOML
            continue
        for field in ("name", "source"):
            path = root / f"{field}-{name}.toml"
            sheet = {"name": "X", "source": "a paper", field: text}
            path.write_text("\n".join(f"{key} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f") for key, value in sheet.items())
                            + "\nlevels = 4\nnoise = [0.1, 0.1, 0.1, 0.1]\nsigma_range = [1, 1]\n")  # fmt: skip
            told = None if name in MAY_BE_SILENT else text
            yield Attack(f"{field} of a device: {name}", through("run", "--device", path, "--sigma", "0.1", told=told))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder to work in, and lines that are long enough for every text."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(console, "_width", 20_000)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """LaMP files full of odd texts; a bank that the command learned from them, without tuning; a bank to show."""
    root = tmp_path_factory.mktemp("texts")
    odd = {name: text for name, text in TEXTS.items() if text.strip() and name not in ("surrogate", "raw byte", "long")}
    films = [{"description": text, "tag": "comedy"} for text in odd.values()]
    (root / "data").mkdir()
    entry = {"id": "1", "user_id": "u", "input": "Which tag?", "profile": films}
    (root / "data" / "dev_questions.json").write_text(json.dumps([entry]))
    golds = {"task": "LaMP_2", "golds": [{"id": "1", "output": "comedy"}]}
    (root / "data" / "dev_outputs.json").write_text(json.dumps(golds))
    untuned = replace(PRESETS["recommended"], training=replace(PRESETS["recommended"].training, steps=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "recommended", untuned)
        patch.setattr(console, "_width", 20_000)
        said = command("learn", "--data", root / "data", "--out", root / "learned")
    assert is_clean(said)
    assert sum(tells(line, text) for line in said.splitlines() for text in odd.values()) >= 6
    about = {"model": "none", "task": "LaMP-2", "users": ["Ann"]}
    store.save(root / "shown", known_bank(), CODEC, about)
    return root


def everything(root: Path, own: Path) -> list[Attack]:
    (own / "devices").mkdir()
    return [*refusals(), *asking(root), *from_data(root, own), *from_banks(root, own), *from_devices(own / "devices")]


def test_a_sample_of_the_attacks(root, tmp_path):
    """Every attack of one text in one place, at a stride that has no factor in common with the number of texts."""
    attacks = everything(root, tmp_path)
    counts = outcomes(attacks[::37], seconds=60)
    assert counts["refused"] > 20 and counts["taken"] > 5


@pytest.mark.slow
def test_all_attacks(root, tmp_path):
    attacks = everything(root, tmp_path)
    assert len(attacks) >= 386
    counts = outcomes(attacks, seconds=120)
    print(dict(counts))
    assert counts.total() == len(attacks)


def test_a_models_answer_commands_no_terminal(root, monkeypatch):
    """Piece by piece, so that no escape sequence is seen whole; line breaks are kept."""
    told = "\x1b[31m[INST]\u202e :smile:\nerror: b\r\x9b"
    monkeypatch.setattr(answer, "stream", lambda *_, **__: iter(told))
    said = command("ask", root / "learned", "why?")
    assert said.count("\\x1b[31m[INST]\\u202e :smile:\nerror: b\\r\\x9b\n") == 2 and is_clean(said)


def test_learned_texts_are_shown_as_they_stand(root):
    """A history with `[INST] ... [/INST]` ended `learn` and `bank show` in a traceback after the bank was saved."""
    said = command("bank", "show", root / "learned")
    assert is_clean(said) and said.count("comedy") == 6


@pytest.mark.parametrize("rest", ["", " \t"])
def test_a_question_of_template_words_only_is_refused(root, rest):
    with pytest.raises(ValueError, match="the words of LaMP-2 and nothing more"):
        command("ask", root / "learned", lamp.task("LaMP-2").pieces[0] + rest)


@pytest.mark.parametrize("words", [("vary", "--task"), ("vary", "--preset"), ("ask", "@", "why?", "--preset"),
                                   ("ask", "@", "why?", "--device"), ("run", "--task"), ("learn", "--out", "x", "--user")])  # fmt: skip
def test_an_empty_name_is_no_default(root, words):
    """`--task "$TASK"` with a variable that is not set must not run something else in silence."""
    with pytest.raises(ValueError, match="error: .*''"):
        command(*(root / "learned" if word == "@" else word for word in words), "")

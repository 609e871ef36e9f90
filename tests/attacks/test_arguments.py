"""Arguments of the commands: taken as they are meant, or refused in one sentence; nothing hangs, nothing is left behind.

Every option of every command meets every bad value. Expensive work is replaced by an end with success, right where it
would begin.
"""

import os
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
from typer.main import get_command

from nvcim_jax import cli, llm
from nvcim_jax.data import fetch
from nvcim_jax.documents import learn as learning
from nvcim_jax.evaluation import cases, figures, main_job, slurm, study
from nvcim_jax.pipeline import common, grow, keep, learn, life_store, retrieve
from tests.helpers.attacks import Attack, command, outcomes
from tests.helpers.banks import untrained

NUMBERS = [
    "nan", "NaN", "-nan", "inf", "-inf", "infinity", "1e400", "-1e400", "1e308", "1e-400", "-1e-9", "-1", "-0", "0", "1",
    "0.5", "1.5", "1e3", "1_0", "\uff11", "\u0663", "0x10", "1,5", "1/2", "true", "None", "10.0000001", "2147483648",
    "4294967296", "9223372036854775808", "18446744073709551616", "-9223372036854775809", "1000000000", "9" * 30,
    "9" * 400, "9" * 5000, "1\n2", "1;2", "+1", "--1",
]  # fmt: skip
PATHS = [
    "~", "~/x", "~nobody-of-this-name/x", ".", "..", "/", "//", "./new", "new/er", "new/../..", "file", "file/below",
    "folder", "full", "link", "dangling", "loop", "fifo", "/dev/null", "/dev/zero", "/dev/full/x", "/proc/x", "/proc/self/mem",
    "x" * 300, "a/" * 3000, "a\nb", "-", "--", "-x", "--help", "$(touch pwned)", "`touch pwned`", "; touch pwned", "*", "C:\\x",
    "fifo.toml", "zero.toml", "loop.toml", "folder.toml", "missing.toml", "~/missing.toml", "file.toml", ".toml",
]  # fmt: skip
NAMES = [
    "", " ", "\t", "\n", "\0", "a\0b", "x", "nvm-3", "NVM-3 ", "NVM-9", "NVM-3.toml", "../NVM-3", "LaMP-4", "lamp-2", "LaMP-2,LaMP-3",
    "Recommended", "paper literal", "google/none", "a/b/c", "http://localhost/x", "file:///etc/passwd", "x" * 10_000,
    "[bold]a[/bold]", "[/]", "[INST]", "\x1b[31mred", "\x1b]0;title\x07", "\u202ea", "\u200b", "\ud800", "\udcff", "\U0001f4a3",
    "é", "日本", "{}", "%s%n", "'; --", '"', "\\", "__class__", "null",
]  # fmt: skip
VALUES = [*NUMBERS, *PATHS, *NAMES]


@cache
def program(app):
    """The commands, made once: making them takes longer than an attack."""
    return get_command(app)


def commands():
    """Every command as the words that reach it."""
    for name, found in program(cli.app).commands.items():
        inner = getattr(found, "commands", None)
        if not inner or found.invoke_without_command:
            yield (name,)
        yield from ((name, each) for each in inner or ())


@cache
def declared(words):
    found = program(cli.app)
    for word in words:
        found = found.commands[word]
    return [param for param in found.params if param.name != "help"]


def arguments(words, bank):
    """What every argument without a default is given where it is not attacked."""
    given = {
        "bank": bank,
        "question": "She kneaded the dough",
        "out": "new",
        "history": "file.jsonl",
        "task": "LaMP-2",
        "folder": "folder",
        "life": "new",
        "file": "file",
        "given": "file.jsonl",
    }
    needed = [param for param in declared(words) if param.required]
    return {param.name: given[param.name] for param in needed}


def line(words, given, options=()):
    """The words of a command line: arguments in their order, options by name."""
    out = list(words)
    for param in declared(words):
        if param.name in given:
            value = given[param.name]
            out += [value] if param.param_type_name == "argument" else [f"{param.opts[0]}={value}"]
    return [*out, *options]


def attacks(bank, run):
    """Every value for every argument, and command lines that are no sentence."""
    for words in commands():
        given, name = arguments(words, bank), " ".join(words)
        for param in declared(words):
            if getattr(param, "is_flag", False):
                yield attack(run, f"{name} {param.name}=x", line(words, given, [f"{param.opts[0]}=x"]))
                continue
            for value in VALUES:
                yield attack(run, f"{name} {param.name}={value[:40]!r}", line(words, given | {param.name: value}))
            if param.param_type_name == "option":
                yield attack(run, f"{name} {param.name} without a value", line(words, given, [param.opts[0]]))
                twice = [f"{param.opts[0]}=1", f"{param.opts[0]}=2"]
                yield attack(run, f"{name} {param.name} twice", line(words, given, twice))
        for extra in (["more"], ["--unknown"], ["--unknown=1"], ["-q"], ["--"], ["-"], ["--out"], [""], ["\0"]):
            yield attack(run, f"{name} and {extra[0]!r}", line(words, given, extra))
        yield attack(run, f"{name} alone", list(words))
    for words in (
        ["no-such-command"],
        [""],
        ["bank"],
        ["bank", "no-such"],
        ["--out", "x"],
        ["-"],
        ["\x1b[31m"],
        ["run", "run"],
    ):
        yield attack(run, f"{words}", words)


def attack(run, name, words):
    return Attack(name, lambda: run(words))


@pytest.fixture(scope="module")
def bank(model, tmp_path_factory):
    """A bank of one user that was learned without training."""
    return str(untrained(tmp_path_factory.mktemp("saved") / "bank", model, device="NVM-3", sigma=0.1))


def stop(*_, **__):
    raise SystemExit(0)


@pytest.fixture
def run(model, bank, monkeypatch, tmp_path, tmp_path_factory):
    """Runs a command line in a folder of odd things, and gives what it printed and what it left there."""
    here, load = tmp_path / "here", llm.load
    (here / "folder").mkdir(parents=True)
    (here / "full").mkdir()
    (here / "full" / "results.json").write_text("mine")
    (here / "file").write_text("mine")
    (here / "file.jsonl").write_text('{"question": "why?", "answer": "so"}')
    (here / "file.toml").write_text("mine = true")
    (here / "folder.toml").mkdir()
    (here / "link").symlink_to(here / "folder")
    (here / "dangling").symlink_to(here / "nowhere")
    for name in ("loop", "loop.toml"):
        (here / name).symlink_to(here / name)
    (here / "zero.toml").symlink_to("/dev/zero")
    for name in ("fifo", "fifo.toml"):
        os.mkfifo(here / name)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp()))
    monkeypatch.setattr("typer.testing._get_command", program)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(llm, "load", lambda name, **how: model if name == cli.EMBEDDED else load(name, **how))
    for draw in ("curves", "dots"):
        monkeypatch.setattr(figures, draw, lambda path, *_, **__: path.write_bytes(b""))
    for module, name in (
        (main_job, "blocks"),
        (learn, "learn"),
        (fetch, "fetch"),
        (keep, "keep"),
        (study, "run"),
        (slurm, "submit"),
        (grow, "fill"),
        (common, "learn_common"),
        (common, "personalise"),
        (retrieve, "program"),
        (cases, "case"),
        (life_store, "create"),
        (life_store, "resume"),
        (learning, "learn_documents"),
    ):
        monkeypatch.setattr(module, name, stop)

    def listing():
        return {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}

    before = listing()

    def run(words):
        try:
            said = command(*words)
        finally:
            left = listing() - before
            for name in sorted(left, reverse=True):
                path = tmp_path / name
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        return words, said, left

    yield run
    assert listing() == before and (here / "file").read_text() == "mine"
    assert (here / "full" / "results.json").read_text() == "mine"


def is_sound(made) -> bool:
    """Readable, without numbers that are none, and files only where --out says."""
    words, said, left = made
    outs = [word.partition("=")[2] for word in words if word.startswith("--out=")]
    for out in outs:
        said = said.replace(out, "")
    if re.search(r"\bnan\b|\binf\b", said) or any(not char.isprintable() and char != "\n" for char in said):
        return False
    folders = [os.path.realpath(os.path.expanduser(out)) for out in outs]
    paths = [str(Path.cwd().parent / name) for name in left]
    return all(any(os.path.commonpath((path, out)) in (path, out) for out in folders) for path in paths)


def test_there_are_as_many_attacks_as_were_tried(bank):
    assert len(list(attacks(bank, None))) > 653
    known = "run learn grow common stream live ask chat devices fit vary cost show verify repair export fetch list status report"
    known += " add table1 table3 table4 fig1 fig2 fig5 ablation variation"
    assert set(known.split()) == {words[-1] for words in commands()}


def test_a_sample_of_arguments(bank, run):
    some = list(attacks(bank, run))[::67]
    counts = outcomes(some, is_sound=is_sound, seconds=120)
    print(counts)


@pytest.mark.slow
def test_all_arguments(bank, run):
    counts = outcomes(attacks(bank, run), is_sound=is_sound, seconds=120)
    print(counts)

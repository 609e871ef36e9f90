"""A history of one's own through the commands: learned, worth something, asked, talked to, corrected."""

import json
import re
import shlex
import shutil
import stat
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import nvcim_jax as nv
from nvcim_jax import llm
from nvcim_jax.cli.shared import console
from nvcim_jax.cli.terminal import visible
from nvcim_jax.memory.storage import store
from nvcim_jax.pipeline import answer
from nvcim_jax.pipeline.presets import PRESETS
from tests.helpers.command import nvcim

HISTORY = Path(__file__).parents[2] / "examples" / "ann.jsonl"
FILM = "She iced the golden tart and the crust, then baked the sweet loaf."


@pytest.fixture(scope="module", autouse=True)
def toy(model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llm, "load", lambda *_, **__: model)
        yield


@contextmanager
def without_steps():
    usual = PRESETS["recommended"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "recommended", replace(usual, training=replace(usual.training, steps=0)))
        yield


@pytest.fixture
def untuned():
    with without_steps():
        yield


@pytest.fixture(scope="module")
def learned(toy, tmp_path_factory):
    """A bank of the example's history, without tuning, and what the command printed."""
    bank = tmp_path_factory.mktemp("own") / "bank"
    with without_steps():
        said = nvcim("learn", "--history", HISTORY, "--hold-out", 4, "--out", bank, "--json")
    return bank, said


def corrections(bank: Path) -> Path:
    return bank.with_name("bank.corrections.jsonl")


@pytest.fixture
def bank(learned):
    yield learned[0]
    corrections(learned[0]).unlink(missing_ok=True)


def test_learning_says_what_it_was_worth(learned):
    bank, said = learned
    told = json.loads(said.splitlines()[-1])
    assert "the latest 4 samples, held out" in said and set(told["held_out"]) == {"ROUGE-1", "ROUGE-L"}
    history = nv.read_history(HISTORY)[0].history
    for score in told["held_out"].values():
        alone, learned, gain = (score[name] for name in ("base_model", "with_ovts", "difference"))
        assert len(alone["per_sample"]) == len(learned["per_sample"]) == 4
        assert gain["mean"] == pytest.approx(learned["mean"] - alone["mean"]) and gain["low"] < gain["mean"]
        assert ("cannot tell this difference" in said) == (gain["low"] <= 0)
    assert not {sample.question for sample in history[-4:]} & {ovt["content"] for ovt in told["ovts"]}
    about = store.load(bank).about
    assert (about.task, about.source, about.users) == ("free", str(HISTORY), ("me",))
    assert about.settings["hold_out"] == 4 and about.preset == "recommended"


def test_a_bank_of_a_history_is_asked_as_any_other(bank):
    said = nvcim("ask", bank, FILM)
    assert "with the OVT:  comedy" in said and said.index("->") < said.index("without:")
    assert "which holds no questions: use it with ask or chat" in nvcim("vary", bank, code=2)


def test_a_chat_answers_explains_and_keeps_what_it_is_told(bank):
    before = store.load(bank).bank.origin.uses.sum()
    lines = ["/why", "/fix too early", "", FILM, "/why", "/fix romance [ok] \x1b[2J", "/fix", "/what", "/quit", FILM]
    said = nvcim("chat", bank, told="\n".join(lines))
    early, unkept, answered, *rest = [line for line in said.splitlines() if not line.startswith("> ")][1:]
    assert "nothing was asked yet" in early and "nothing is kept: ask first" in unkept
    assert answered == "comedy" and rest[0].startswith("  from: She ") and "(score 0." in rest[0]
    assert "->" in said and "\nanswer:   comedy\n" in said and said.count("  from:") == 1
    assert [line[2:] for line in said.splitlines() if line.startswith("> ")] == [
        visible(line) for line in lines[:-1] if line
    ]
    assert "nothing is kept" in rest[-2] and "/what is no command: /why" in rest[-1]
    assert "\x1b" not in said and store.load(bank).bank.origin.uses.sum() == before + 1

    kept = corrections(bank)
    assert f"kept in {kept}" in said and stat.S_IMODE(kept.stat().st_mode) == 0o600
    (user,) = nv.read_history(HISTORY, kept)
    assert user.id == "me" and user.history[:-1] == nv.read_history(HISTORY)[0].history
    assert user.history[-1] == nv.Sample(FILM, "romance [ok] \x1b[2J", FILM)


def test_corrections_go_into_the_bank_and_the_same_question_again_replaces_them(bank, untuned, tmp_path):
    own, kept = shutil.copytree(bank, tmp_path / "bank"), tmp_path / "bank.corrections.jsonl"
    before = store.load(own).bank
    nvcim("chat", own, told=f"{FILM}\n/fix romance")
    said = nvcim("grow", own, "--history", kept, "--json")
    told, saved = json.loads(said.splitlines()[-1]), store.load(own)
    assert f"1 new, 0 made room: version 2 of {own}" in said
    assert told["ovts"][-1] == {"content": FILM, "answer": "romance"}
    count = int(saved.bank.count[0])
    assert (saved.version, told["version"], count, len(told["ovts"])) == (2, 2, int(before.count[0]) + 1, count)
    np.testing.assert_array_equal(saved.bank.prompts[0, : count - 1], before.prompts[0, : count - 1])
    assert saved.bank.origin.uses.sum() == before.origin.uses.sum() + 1  # what the chat counted is not lost
    assert re.search(rf"-> .* {re.escape(FILM)} .* romance ", nvcim("ask", own, FILM))
    nvcim("chat", own, told=f"{FILM}\n/fix thriller")
    assert "2 new, 1 made room: version 3" in nvcim("grow", own, "--history", kept)
    assert store.load(own).about.samples[0][count - 1].answer == "thriller"


def test_samples_for_a_bank_may_name_its_user_or_nobody(bank, untuned, tmp_path):
    own, history = shutil.copytree(bank, tmp_path / "bank"), tmp_path / "more.jsonl"
    history.write_text('{"question": "why?", "answer": "so", "user": "Bob"}\n')
    assert "has no user 'me'; the first ids are Bob" in nvcim("grow", own, "--history", history, code=2)
    assert "--evict youngest: choose one of oldest, least-used" in nvcim(
        "grow", own, "--history", history, "--evict", "youngest", code=2
    )
    lines = [f'{{"question": "{number}?", "answer": "so"}}\n' for number in range(9)]
    history.write_text("".join(lines))
    assert "9 samples are more than the 8 slots" in nvcim("grow", own, "--history", history, code=2)
    assert store.load(own).version == 1
    said = nvcim("grow", own, "--history", history, "--evict", "none")
    assert "9 new, 0 made room: version 2" in said and store.load(own).bank.capacity == 16


def test_ctrl_c_stops_an_answer_and_nothing_else(bank, monkeypatch):
    stream = answer.stream

    def interrupted(*given, **how):
        yield "half"
        monkeypatch.setattr(answer, "stream", stream)
        raise KeyboardInterrupt

    monkeypatch.setattr(answer, "stream", interrupted)
    said = nvcim("chat", bank, told=f"{FILM}\n{FILM}")
    first, second = said.split("stopped\n")
    assert first.endswith("half\n") and "\ncomedy\n" in second


def test_what_cannot_be_asked_or_kept_is_told_and_the_chat_goes_on(bank):
    corrections(bank).mkdir()
    said = nvcim("chat", bank, told=b"why \xff?\n" + f"{FILM}\n/fix romance\n{FILM}\n".encode())
    assert "half of a character" in said and said.count("\ncomedy\n") == 2
    assert "nothing is kept: " in said and "bank.corrections.jsonl cannot be written (Is a directory)" in said
    corrections(bank).rmdir()


@pytest.mark.slow
def test_the_guide_shows_what_the_commands_print(tmp_path, monkeypatch):
    """All but the scores, which another processor may round otherwise."""
    guide = (HISTORY.parents[1] / "docs/guides/own-history.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```sh\n(?:head .*\n)?nvcim (.*)\n```\n\n```text\n((?:.*\n)*?)```", guide, re.M)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "_width", 100)
    (tmp_path / "examples").symlink_to(HISTORY.parent)
    for command, printed in shown:
        typed = "\n".join(re.findall(r"^> (.*)$", printed, re.M))
        said = nvcim(*shlex.split(command), told=typed)
        assert masked(printed) in masked(said), command
    assert len(shown) == 4


def masked(text: str) -> str:
    lines = [line.rstrip() for line in re.sub(r"\d\.\d+", "#", text).splitlines()]
    return "\n".join(line for line in lines if not line.startswith(("{", "tuning")))

"""A life on disk: killed at any moment it is that of the moment before or after, and goes on with the same bits."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import nvcim_jax as nv
from nvcim_jax import files
from nvcim_jax.data import toy_words
from nvcim_jax.data.toy_stream import stream
from nvcim_jax.memory.storage import journal, store
from nvcim_jax.memory.storage.checkpoint import StoreError
from nvcim_jax.pipeline import life_store, memory
from nvcim_jax.pipeline.synthesis import Restate
from nvcim_jax.stream import lexicon
from tests.helpers.live_worker import FAST, RULES, TASK, bits, lived, opened

WORDS = lexicon.toy()
MET = stream(TASK, 2_000_000).moments
ROOT = Path(__file__).parents[2]


def write_lines(path, count=8):
    """Moments with times, and after every other one of the later ones a question, which an OVT answers."""
    lines = []
    for number, moment in enumerate(MET[:count]):
        lines.append({"time": 1000 + number, "question": moment.content, "answer": moment.answer})
        if number > 2 and number % 2:
            lines.append({"question": MET[number - 1].content})
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return len(lines)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The file, and how many lines it has."""
    path = tmp_path_factory.mktemp("told") / "m.jsonl"
    return path, write_lines(path)


@pytest.fixture(scope="module")
def whole(model, told, tmp_path_factory):
    """A life that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "life"
    return lived(folder, told[0], model)


def test_what_was_loaded_is_what_was_saved(model, whole):
    again = life_store.resume(whole.place.folder, model, WORDS, settings=FAST)
    assert again.place == whole.place
    for ours, theirs in zip(bits(again), bits(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.life.held == whole.life.held and again.life.rules == whole.life.rules
    assert again.life.counts == whole.life.counts and again.life.counts.rounds == 2
    assert tuple(again.mark) == tuple(whole.mark)
    assert np.asarray(again.life.memory.bank.origin.uses).sum() >= 1  # answers were counted


class Killed(BaseException):
    """As if the process ended here."""


WRITES = ((journal, "append"), (store, "save"))


@pytest.mark.parametrize("is_written", [False, True])
def test_ended_before_or_after_any_write_it_goes_on_with_the_same_bits(
    model, told, whole, tmp_path, monkeypatch, is_written
):
    """Each process writes once and ends at its second write, before it or right after it."""
    plain, begun = {name: getattr(module, name) for module, name in WRITES}, 0

    def write(name, *args, **how):
        writes.append(name)
        if len(writes) == 1 or is_written:
            done = plain[name](*args, **how)
        if len(writes) > 1:
            raise Killed
        return done

    for module, name in WRITES:
        monkeypatch.setattr(module, name, partial(write, name))
    kept = None
    while kept is None:
        writes, begun = [], begun + 1
        with suppress(Killed):
            kept = lived(tmp_path / "life", told[0], model)
    assert begun > told[1] // 2
    for ours, theirs in zip(bits(kept), bits(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def killed(words, times, seed):
    """Kill a process that lives, at a random moment after it has said something, `times` times."""
    draw = random.Random(seed)
    for _ in range(times):
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT
        ) as process:
            for _ in range(draw.randrange(1, 5)):
                process.stdout.readline()
            time.sleep(draw.random() * 0.3)
            process.send_signal(signal.SIGKILL)
        yield


def test_killed_for_real_it_goes_on_with_the_same_bits(model, told, whole, tmp_path):
    folder, before = tmp_path / "life", 0
    for _ in killed([sys.executable, "-m", "tests.helpers.live_worker", str(folder), str(told[0])], 2, 0):
        kept = opened(folder, model)
        assert before <= (kept.mark[0] if kept.mark else 0)
        before = kept.mark[0] if kept.mark else 0
    after = lived(folder, told[0], model)
    for ours, theirs in zip(bits(after), bits(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_nvcim_live_killed_30_times_is_a_life_every_time_and_the_same_in_the_end(model, tmp_path):
    """At every stop nothing is lost that was on the disk, and in the end it is the life that never stopped."""
    file, folder, before, lines = tmp_path / "m.jsonl", tmp_path / "life", 0, set()
    write_lines(file, 90)
    how = [str(file), "--task", "LaMP-2", "--buffer", "6", "--capacity", "7", "--evict", "least-used", "--json"]
    words = [sys.executable, "-m", "nvcim_jax", "live"]
    subprocess.run([*words, str(tmp_path / "straight"), *how], check=True, capture_output=True, cwd=ROOT)
    for _ in killed([*words, str(folder), *how], 30, 1):
        shutil.copytree(folder, tmp_path / "copy")
        kept = life_store.resume(tmp_path / "copy", model, WORDS)
        shutil.rmtree(tmp_path / "copy")
        line = kept.mark[0] if kept.mark else 0
        assert line >= before, "what was on the disk was lost"
        before = line
        lines.add(line)
    subprocess.run([*words, str(folder), *how], check=True, capture_output=True, cwd=ROOT)
    after, straight = (life_store.resume(each, model, WORDS) for each in (folder, tmp_path / "straight"))
    print(f"{len(lines)} different stops, the last at line {before}, version {after.place.version}")
    assert len(lines) > 10
    for ours, theirs in zip(bits(after), bits(straight), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_life_is_a_bank_like_any_other(model, whole):
    found = memory.load(whole.place.folder, model, settings=FAST)
    sample = found.block.selected.samples[0][0]
    (told,) = nv.answer(jax.random.key(0), model, found, [sample.content])
    assert told.found == sample


def test_a_life_goes_on_after_another_command_saved_over_it(model, whole, tmp_path):
    """What came since the learning is not lost with the version that it lay beside."""
    folder = tmp_path / "life"
    shutil.copytree(whole.place.folder, folder)
    kept = life_store.resume(folder, model, WORDS, settings=FAST)
    kept, _ = life_store.reply(model, kept, MET[5].content)
    counted = [np.asarray(each.life.memory.bank.origin.uses).sum() for each in (whole, kept)]
    assert counted[1] == counted[0] + 1
    kept, _ = life_store.observe(model, kept, MET[20], time=5000, mark=[99, "x", None])
    saved = store.load(folder)
    store.save(folder, saved.bank, saved.codec, saved.about, over=saved.version)
    again = life_store.resume(folder, model, WORDS, settings=FAST)
    assert again.life.counts == kept.life.counts and again.life.held == kept.life.held
    uses = [np.asarray(each.life.memory.bank.origin.uses) for each in (kept, again)]
    np.testing.assert_array_equal(*uses)
    assert again.place.version == kept.place.version + 2 and again.mark == [99, "x", None]
    once_more = life_store.resume(folder, model, WORDS, settings=FAST)
    assert once_more.life.counts == kept.life.counts and once_more.place == again.place
    np.testing.assert_array_equal(once_more.life.memory.bank.origin.uses, uses[0])


def test_a_refused_moment_leaves_nothing(model, tmp_path):
    kept = opened(tmp_path / "life", model)
    with pytest.raises(ValueError, match="has no answer"):
        life_store.observe(model, kept, MET[0]._replace(answer=""), time=1)
    with pytest.raises(ValueError, match="ask something"):
        life_store.reply(model, kept, " ")
    with pytest.raises(ValueError, match="half of a character"):
        life_store.observe(model, kept, MET[0]._replace(content="\ud800"), time=1)
    assert journal.read(tmp_path / "life", 1).entries == []
    with pytest.raises(StoreError, match="exists already"):
        life_store.create(tmp_path / "life", model, kept.life)


def test_what_a_life_does_not_belong_to_is_refused(model, tmp_path):
    folder = tmp_path / "life"
    opened(folder, model)
    other = model._replace(params=jax.tree.map(lambda leaf: leaf + 1, model.params))
    with pytest.raises(StoreError, match="was learned with another model"):
        life_store.resume(folder, other, WORDS, settings=FAST)
    with pytest.raises(ValueError, match="was begun with another lexicon"):
        life_store.resume(folder, model, lexicon.lexicon({"wood": ["oak"]}), settings=FAST)
    with pytest.raises(ValueError, match="settings that are no preset"):
        life_store.resume(folder, model, WORDS)
    from nvcim_jax.memory import bank

    about = store.load(folder).about
    plain = replace(about, more={})
    store.save(tmp_path / "bank", bank.empty(4, 8, 48), None, plain)
    with pytest.raises(StoreError, match="is a bank, but no life"):
        life_store.resume(tmp_path / "bank", model, WORDS, settings=FAST)


def test_a_broken_description_of_a_life_is_refused_in_one_sentence(model, tmp_path):
    opened(tmp_path / "life", model)
    saved = store.load(tmp_path / "life")
    told = saved.about.more["life"]
    broken = [
        {"counts": {**told["counts"], "moments": -1}}, {"counts": 3}, {"rules": {}}, {"rules": {**told["rules"], "policy": "best"}},
        {"key": "abc"}, {"entries": [{"moments": 3}]}, {"entries": 7}, {"version": "x"}, {"rules": {**told["rules"], "slots": -1}},
    ]  # fmt: skip
    for number, wrong in enumerate(broken):
        about = replace(saved.about, more={"life": {**told, **wrong}})
        store.save(tmp_path / str(number), saved.bank, None, about)
        with pytest.raises(ValueError) as error:
            life_store.resume(tmp_path / str(number), model, WORDS, settings=FAST)
        assert len(str(error.value).splitlines()) == 1, wrong


def test_rules_without_a_name_do_not_go_to_disk(model, tmp_path):
    own = replace(RULES, victim=lambda bank: 0)
    with pytest.raises(ValueError, match="rules that have a name"):
        life_store.create(tmp_path / "life", model, nv.begin_life(jax.random.key(0), model, TASK, rules=own))
    assert not (tmp_path / "life").exists()
    named = replace(RULES, restate=Restate(toy_words.restatements, count=2, low=0.2), every=9)
    kept = life_store.create(tmp_path / "b", model, nv.begin_life(jax.random.key(0), model, TASK, rules=named))
    assert life_store.resume(tmp_path / "b", model, WORDS, settings=FAST).life.rules == named
    by_model = replace(named, restate=life_store.restating("model", model))
    assert life_store.rules_as_json(by_model)["restate"]["generator"] == "model"
    with pytest.raises(ValueError, match="unknown generator 'mine'"):
        life_store.restating("mine", model)
    assert files.PARTIAL not in str(list(kept.place.folder.iterdir()))

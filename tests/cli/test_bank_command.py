"""`nvcim bank` as a user meets it."""

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.cells import cell_len

from nvcim_jax import cli
from nvcim_jax.cli.terminal import Terminal
from nvcim_jax.core.codec import decode, fit_pca
from nvcim_jax.evaluation import cases
from nvcim_jax.llm.fingerprint import fingerprint
from nvcim_jax.memory.storage import store
from nvcim_jax.memory.storage.about import About
from nvcim_jax.people import Sample
from nvcim_jax.tuning import peft
from tests.helpers.command import nvcim
from tests.memory.storage.test_repair import flip_in_metadata
from tests.memory.storage.test_store import ABOUT, CODEC, bank

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SAMPLE = {"question": "q", "answer": "fantasy", "content": "dragons and rings", "domain": "elves"}


def saved(folder, user="Ann", sample=SAMPLE):
    content = bank()
    content = content._replace(origin=content.origin._replace(domain=jnp.zeros(8, jnp.int32)))
    about = ABOUT | {"users": [user], "samples": [[sample]], "domains": ["elves"], "devices": ["NVM-3"]}
    store.save(folder, content, CODEC, about)
    return folder


@pytest.mark.parametrize("command", ["show", "verify", "repair", "export"])
def test_help_shows_an_example(command):
    assert f"nvcim bank {command}" in nvcim("bank", command, "--help")


def test_show_tells_where_each_ovt_comes_from(tmp_path):
    text = nvcim("bank", "show", saved(tmp_path / "bank"))
    assert "6 OVTs of 4 x 8 in 8 slots, 4 crossbar arrays" in text
    for word in ("user Ann", "slot 5, elves, NVM-3, loss 0.286, 2 uses", "dragons and rings -> fantasy"):
        assert word in text


def shown_at_80(monkeypatch, folder):
    monkeypatch.setattr(cli.bank, "console", Terminal(width=80))
    return nvcim("bank", "show", folder).splitlines()


def test_show_is_two_lines_an_ovt_at_80_columns(tmp_path, monkeypatch):
    long = SAMPLE | {"content": "dragons " * 40, "answer": "\u7adc" * 60}
    lines = shown_at_80(monkeypatch, saved(tmp_path / "bank", sample=long))
    assert lines[3:5] == [
        "  slot 0, elves, NVM-3, loss 0.286, 2 uses",
        "    dragons dragons dragons dragons dragons drago\u2026 -> " + "\u7adc" * 12 + " \u2026",
    ]
    assert len(lines) == 3 + 2 * 6 + 1 and "wear: " in lines[-1] and max(map(cell_len, lines[2:])) <= 80


def test_texts_of_a_bank_are_no_markup_and_command_nothing(tmp_path, monkeypatch):
    odd = SAMPLE | {"content": "[INST] [/INST] \x1b[2J", "answer": "[link=x]y", "domain": "[ok]"}
    lines = shown_at_80(monkeypatch, saved(tmp_path / "bank", sample=odd))
    assert lines[4] == "    [INST] [/INST] \\x1b[2J -> [link=x]y"


def test_show_as_json_for_scripts(tmp_path):
    told = json.loads(nvcim("bank", "show", saved(tmp_path / "bank"), "--json"))
    assert (told["version"], told["task"], told["slots"], told["users"]) == (1, "LaMP-2", 8, ["Ann"])
    assert len(told["ovts"]) == 6 and told["ovts"][5] == {
        "user": "Ann", "slot": 5, "domain": "elves", "device": "NVM-3", "content": "dragons and rings",
        "answer": "fantasy", "loss": pytest.approx(2 / 7), "uses": 2, "writes": 1, "learned_at": None,
    }  # fmt: skip


def test_a_bank_saved_with_little_about_it_works_or_says_what_is_missing(tmp_path, model):
    """As from Python: a bank of one user, of which little is told."""
    folder = tmp_path / "bank"
    store.save(folder, bank(), CODEC)
    assert "user unknown" in nvcim("bank", "show", folder) and "version 1" in nvcim("bank", "verify", folder)
    assert "version 1 is whole" in nvcim("bank", "repair", folder)
    assert "6 adapters" in nvcim("bank", "export", folder, "--out", tmp_path / "out")
    codec = fit_pca(jax.random.key(1), jax.random.normal(jax.random.key(0), (30, 128)), jnp.ones(30), dim=8)
    known = About(model=fingerprint(model))
    named, one = replace(known, task="LaMP-2", users=("Ann",)), (Sample(**SAMPLE),)
    told = replace(named, samples=(one,), settings={"preset": "paper"})
    for own, about, said in (
        (codec, {}, "does not say which model it is for"),
        (codec, known, "the bank does not say its task and users and samples and preset: save it with"),
        (codec, named, "the bank does not say its samples and preset:"),
        (codec, replace(told, settings={}), "does not say its preset:"),
        (codec, replace(told, settings={"preset": "best"}), "preset 'best': a bank is asked by one of paper-literal"),
        (codec, replace(told, users=("A", "B"), samples=(one, one)), "is one for 2 users: only banks"),
        (codec, replace(told, samples=((None,),)), "does not say of every OVT what it was learned from"),
        (None, told, "was saved without a codec"),
        (CODEC, told, "its codec is for vectors of 12 values, the model's have 128"),
    ):
        store.save(folder, bank(), own, about, over=store.newest(folder))
        for words in (("ask", folder, "why?"), ("vary", folder)):
            assert said in nvcim(*words, code=2)


def test_verify_and_repair(tmp_path):
    folder = saved(tmp_path / "bank")
    assert "version 1: whole, 6 OVTs" in nvcim("bank", "verify", folder)
    store.save(folder, bank(3), CODEC, ABOUT, over=1)
    flip_in_metadata(folder, version=2)
    (folder / "000003.orbax-checkpoint-tmp").mkdir()
    text = nvcim("bank", "verify", folder, code=2)
    assert "version 1: whole" in text and "try `nvcim bank repair`" in text.replace("\n", " ")
    said = "went back to version 1; the damaged one is kept as 000002.damaged; 1 leftovers removed"
    assert said in nvcim("bank", "repair", folder)
    assert "version 1: whole" in nvcim("bank", "verify", folder)
    assert "name one of several" in nvcim("bank", "repair", folder, "--set-aside", 1, code=2)


def test_export_writes_an_adapter_for_every_ovt(tmp_path):
    folder = saved(tmp_path / "bank")
    text = nvcim("bank", "export", folder, "--to", "peft", "--out", tmp_path / "out", "--base-model", "tiny")
    assert "6 adapters" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"Ann-{slot}" for slot in range(6)]
    expected = decode(CODEC, bank().prompts[4])
    np.testing.assert_allclose(peft.import_prompt(tmp_path / "out" / "Ann-4"), expected, atol=1e-6)
    assert "exists already" in nvcim("bank", "export", folder, "--out", tmp_path / "out", code=2)


@pytest.mark.parametrize("name", ["../../Ann", "a/b", "..", "a\\b", "a\nb", "x" * 300])
def test_names_do_not_lead_out_of_the_folder(tmp_path, name):
    folder = saved(tmp_path / "bank", user=name)
    text = nvcim("bank", "export", folder, "--out", tmp_path / "out", code=2)
    assert "cannot name a folder" in text and not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank"]


def test_bad_input_is_one_sentence(tmp_path):
    for command in ("show", "verify", "repair"):
        assert "is no bank" in nvcim("bank", command, tmp_path, code=2)
    folder = saved(tmp_path / "bank")
    assert "the only format is peft" in nvcim("bank", "export", folder, "--to", "onnx", "--out", tmp_path / "x", code=2)
    store.save(tmp_path / "bare", jax.tree.map(np.asarray, bank()))
    assert "without a codec" in nvcim("bank", "export", tmp_path / "bare", "--out", tmp_path / "x", code=2)


def test_two_users_of_one_name_are_told_before_anything_is_written(tmp_path):
    twice, codecs = (jax.tree.map(lambda *two: jnp.stack(two), each, each) for each in (bank(), CODEC))
    store.save(tmp_path / "bank", twice, codecs, {"users": ["Ann", "Ann"]})
    assert "have one name" in nvcim("bank", "export", tmp_path / "bank", "--out", tmp_path / "out", code=2)
    assert not (tmp_path / "out").exists()


def test_a_bank_saved_by_an_earlier_release_works_with_every_command(tmp_path, model):
    """Learned by `nvcim learn --task LaMP-5 --user 1000003` when banks did not yet say where users come from."""
    with tarfile.open(Path(__file__).parents[1] / "data" / "bank-schema-2.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "bank"
    text = nvcim("bank", "show", folder)
    assert "6 OVTs of 16 x 48 in 8 slots" in text and "-> Towards better riff for every cocktail" in text
    assert "version 1: whole, 6 OVTs" in nvcim("bank", "verify", folder)
    assert "version 1 is whole" in nvcim("bank", "repair", folder)
    assert "6 adapters" in nvcim("bank", "export", folder, "--out", tmp_path / "out")
    block, _, _ = cases.saved(folder, model, None)
    (user,), samples = block.users, block.selected.samples
    assert user.id == "1000003" and samples[0][5].domain == "opera" and samples[0][6] is None
    assert "with the OVT" in nvcim("ask", folder, user.queries[0].content)
    old = store.load(folder)
    assert np.asarray(old.bank.writes).tolist() == [[1] * 6 + [0] * 2]
    assert old.about.source is None and old.about.sigma == 0.1
    store.save(folder, old.bank, old.codec, old.about, over=1)
    assert store.load(folder).about == old.about

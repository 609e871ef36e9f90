"""`nvcim bank` as a user meets it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_cli import nvcim
from test_store import ABOUT, CODEC, bank, flip_in_data

from nvcim_jax import store
from nvcim_jax.codec import decode
from nvcim_jax.tuning import peft

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SAMPLE = {"question": "q", "answer": "fantasy", "content": "dragons and rings", "domain": "elves"}


def saved(folder, user="Ann"):
    content = bank()
    content = content._replace(origin=content.origin._replace(domain=jnp.zeros(8, jnp.int32)))
    about = ABOUT | {"users": [user], "samples": [[SAMPLE]], "domains": ["elves"], "devices": ["NVM-3"]}
    store.save(folder, content, CODEC, about)
    return folder


@pytest.mark.parametrize("command", ["show", "verify", "repair", "export"])
def test_help_shows_an_example(command):
    assert f"nvcim bank {command}" in nvcim("bank", command, "--help")


def test_show_tells_where_each_ovt_comes_from(tmp_path):
    text = nvcim("bank", "show", saved(tmp_path / "bank"))
    assert "6 OVTs of 4 x 8 in 8 slots, 4 crossbar arrays" in text
    for word in ("Ann", "elves", "dragons and rings", "fantasy", "NVM-3", "0.286"):
        assert word in text


def test_verify_and_repair(tmp_path):
    folder = saved(tmp_path / "bank")
    assert "version 1: whole, 6 OVTs" in nvcim("bank", "verify", folder)
    store.save(folder, bank(3), CODEC, ABOUT, over=1)
    flip_in_data(folder, version=2)
    (folder / "000003.orbax-checkpoint-tmp").mkdir()
    text = nvcim("bank", "verify", folder, code=2)
    assert "version 1: whole" in text and "try `nvcim bank repair`" in text.replace("\n", " ")
    assert "went back to version 1; 1 leftovers removed" in nvcim("bank", "repair", folder)
    assert "version 1: whole" in nvcim("bank", "verify", folder)


def test_export_writes_an_adapter_for_every_ovt(tmp_path):
    folder = saved(tmp_path / "bank")
    text = nvcim("bank", "export", folder, "--to", "peft", "--out", tmp_path / "out", "--base-model", "tiny")
    assert "6 adapters" in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"Ann-{slot}" for slot in range(6)]
    expected = decode(CODEC, bank().prompts[4])
    np.testing.assert_allclose(peft.import_prompt(tmp_path / "out" / "Ann-4"), expected, atol=1e-6)
    assert "exists already" in nvcim("bank", "export", folder, "--out", tmp_path / "out", code=2)


@pytest.mark.parametrize("name", ["../../Ann", "a/b", "..", "a\\b"])
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

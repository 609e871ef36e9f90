"""What people have in common, through the commands: learned, and a person's bank learned from it."""

import json

import pytest

import nvcim_jax as nv
from nvcim_jax import llm
from tests.helpers.command import nvcim


@pytest.fixture(scope="module")
def common(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("common") / "common"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llm, "load", lambda *_, **__: model)
        said = nvcim("common", "--task", "LaMP-2", "--users", 2, "--out", folder, "--json")
        yield folder, said


def test_it_says_of_whom_it_learned(common):
    folder, said = common
    assert "50 samples of 2 people" in said
    assert json.loads(said[said.index("{") :]) == {"bank": str(folder), "people": 2, "samples": 50}
    assert not folder.with_name("common.unfinished").exists()


def test_a_persons_bank_is_learned_from_it_and_asked(common, model, tmp_path):
    bank = tmp_path / "bank"
    nvcim("learn", "--user", 2_000_000, "--common", common[0], "--out", bank)
    memory = nv.load(bank, model)
    assert memory.about.preset == "personal" and int(memory.bank.count[0]) == 6
    assert memory.settings.wording == nv.load(common[0], model).settings.wording
    assert "2000000" in nvcim("bank", "show", bank)
    assert nvcim("ask", bank, "She iced the golden tart.")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--sigma", 0.2), "was learned for NVM-3 at sigma 0.1, not NVM-3 at 0.2: give --device NVM-3 --sigma 0.1"),
        (("--device", "NVM-1"), "not NVM-1 at 0.1"),
        (("--preset", "paper"), "--preset paper does not start from what is --common: give one of them"),
        (("--task", "LaMP-3"), "learned for LaMP-2 with 16 virtual tokens, but these are users of LaMP-3"),
    ],
)
def test_what_does_not_go_with_it_is_refused(common, tmp_path, words, told):
    assert told in nvcim("learn", "--common", common[0], *words, "--out", tmp_path / "bank", code=2)
    assert not (tmp_path / "bank").exists()

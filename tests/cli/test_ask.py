"""`nvcim ask`: what a bank is asked under, what is found, what is counted."""

import json

import pytest
from typer.testing import CliRunner

from nvcim_jax import cli, llm
from nvcim_jax.cli.asking import terms
from nvcim_jax.memory.storage import store
from nvcim_jax.memory.storage.about import About
from tests.helpers.banks import untrained

LEARNED = About(settings={"preset": "paper", "device": "NVM-5", "sigma": 0.3})


def test_a_bank_is_asked_under_what_it_was_learned_for():
    assert terms(LEARNED, None, None, None)[:3] == ("NVM-5", 0.3, "paper")
    assert terms(LEARNED, "NVM-1", None, None)[:3] == ("NVM-1", 0.3, "paper")
    assert terms(LEARNED, None, 0.0, None)[:3] == ("NVM-5", 0.0, "paper")
    assert terms(LEARNED, None, None, "recommended")[:3] == ("NVM-5", 0.3, "recommended")
    physics = terms(LEARNED, None, None, None).condition.device
    assert physics.levels.tolist() == pytest.approx([0.2582, 1.5492, 1.5492, 0.2582], abs=1e-4)


@pytest.mark.parametrize(
    ("said", "given", "message"),
    [
        ({"preset": "paper"}, (None, 0.1, None), "does not say what device and sigma"),
        ({"preset": "paper", "device": "NVM-1"}, (None, None, None), "does not say what device and sigma"),
        ({"preset": "paper", "device": "NVM-1", "sigma": 1e30}, (None, None, None), "give --sigma, from 0 to 10"),
        ({"preset": "paper", "device": "NVM-9", "sigma": 0.1}, (None, None, None), "unknown device 'NVM-9'"),
        ({"preset": "paper", "device": "/etc/x.toml", "sigma": 1.0}, (None, None, None), "give it with --device"),
    ],
)
def test_what_a_bank_does_not_say_is_asked_for(said, given, message):
    with pytest.raises(ValueError, match=message):
        terms(About(settings=said), *given)


def test_an_answer_names_its_terms_and_is_counted(model, tmp_path, monkeypatch):
    monkeypatch.setattr(llm, "load", lambda *_, **__: model)
    bank = untrained(tmp_path / "bank", model, device="NVM-5", sigma=0.3)
    asked = [bank, "She kneaded the dough"]
    result = CliRunner().invoke(cli.app, ["ask", *map(str, asked), "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert (told["device"], told["sigma"], told["preset"]) == ("NVM-5", 0.3, "recommended")
    assert "search on NVM-5, sigma 0.3, as recommended does" in result.stderr
    assert told["question"] == "She kneaded the dough" and told["user"] == "1000000"
    first, second = told["found"]
    assert first["score"] >= second["score"] and {first["slot"], second["slot"]} == {0, 1}
    assert all(isinstance(told[name], str) for name in ("with_ovt", "without"))
    uses = store.load(bank).bank.origin.uses[0]
    assert uses[first["slot"]] == 1 and uses.sum() == 1

    monkeypatch.setattr(store, "count_uses", lambda *_: "somebody is saving")
    result = CliRunner().invoke(cli.app, ["ask", *map(str, asked), "--device", "NVM-1", "--sigma", "0"])
    assert "search on NVM-1, sigma 0.0" in result.stdout
    assert "this use of the OVT is not counted: somebody is saving" in result.stdout

"""The four verbs: what they give back, what they refuse, and that nothing is lost on the way to disk and back."""

import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

import nvcim_jax as nv
from nvcim_jax import tuning
from nvcim_jax.memory.storage.checkpoint import StoreError
from nvcim_jax.pipeline.answer import find

KEY = jax.random.key(0)
QUICK = replace(nv.RECOMMENDED, training=tuning.Training(steps=2))


@pytest.fixture(scope="module")
def users():
    return nv.toy_users("LaMP-2", 2)


@pytest.fixture(scope="module")
def memory(model, users):
    return nv.learn(KEY, model, users, "NVM-3", sigma=0.1, settings=QUICK)


def answers(model, memory, users, **options):
    return nv.answer(KEY, model, memory, users[0].queries[:3], **options)


def test_an_answer_says_what_it_was_given_with(model, memory, users):
    first, *_ = told = answers(model, memory, users)
    assert len(told) == 3 and not any(each.is_abstained for each in told)
    assert first.found == memory.block.selected.samples[0][first.slot] and first.text
    asked = nv.pipeline.answer.asking(memory, users[0].queries[:3])
    (found, *_) = find(KEY, model, asked, nv.pipeline.answer.condition_of(memory))
    scores = [score for _, score in found.ranking]
    assert scores == sorted(scores, reverse=True) and len(scores) == int(memory.bank.count[0])
    assert (found.slot, found.score) == (first.slot, first.score) == found.ranking[0]
    assert first.margin == pytest.approx(scores[0] - scores[1])


def test_the_same_key_gives_the_same_answers_and_sigma_changes_scores(model, memory, users):
    assert answers(model, memory, users) == answers(model, memory, users)
    quiet, loud = (answers(model, memory, users, sigma=sigma) for sigma in (0.0, 0.5))
    assert [each.score for each in quiet] != [each.score for each in loud]


def test_below_the_least_margin_the_model_answers_alone(model, memory, users):
    sure = answers(model, memory, users)
    cut = sorted(each.margin for each in sure)[1]
    mixed = answers(model, memory, users, least_margin=cut)
    assert [each.is_abstained for each in mixed] == [each.margin < cut for each in sure] and any(
        each.is_abstained for each in mixed
    )
    bare = nv.pipeline.answer.generate(model, users[0].queries[:3], new_tokens=16)
    assert [m.text for m in mixed] == [
        b if m.is_abstained else s.text for m, b, s in zip(mixed, bare, sure, strict=True)
    ]


def test_uses_are_counted_of_the_user_who_asked_and_not_where_the_model_answered_alone(model, memory, users, tmp_path):
    told = nv.answer(KEY, model, memory, users[1].queries[:2], user=users[1].id)
    told[1] = told[1]._replace(is_abstained=True)
    used = nv.counted(memory, told, user=users[1].id)
    expected = np.zeros(memory.bank.origin.uses.shape, int)
    expected[1, told[0].slot] = 1
    np.testing.assert_array_equal(used.bank.origin.uses, expected)
    nv.save(tmp_path / "memory", used)
    np.testing.assert_array_equal(nv.load(tmp_path / "memory", model, settings=QUICK).bank.origin.uses, expected)


def test_a_text_is_asked_in_the_wording_of_the_task(model, memory, users):
    (query,) = users[0].queries[:1]
    (whole,), (words,) = (nv.answer(KEY, model, memory, [asked]) for asked in (query.question, query.content))
    beside_others = answers(model, memory, users)[0]  # where products of more rows round otherwise
    assert whole == words and whole[:3] == beside_others[:3]
    assert whole.margin == pytest.approx(beside_others.margin, abs=1e-5)
    assert "".join(nv.stream_answer(KEY, model, memory, query.content)).strip()


def test_a_memory_comes_back_from_disk_and_answers_alike(model, memory, users, tmp_path):
    saved = nv.save(tmp_path / "memory", memory.noted(seed=7))
    assert saved.version == 1 and saved.about.settings["seed"] == 7
    loaded = nv.load(tmp_path / "memory", model, settings=QUICK)
    assert answers(model, loaded, users) == answers(model, memory, users)
    assert [user.id for user in loaded.users] == [user.id for user in users] and loaded.about.source == users.source
    assert nv.save(tmp_path / "memory", loaded).version == 2
    with pytest.raises(StoreError, match="holds version 2, not 1 any more"):
        nv.save(tmp_path / "memory", loaded)
    with pytest.raises(StoreError, match="exists already"):
        nv.save(tmp_path / "memory", memory)


def test_settings_that_are_no_preset_are_named_when_they_are_missing(model, memory, tmp_path):
    nv.save(tmp_path / "memory", memory)
    with pytest.raises(ValueError, match="the bank does not say its preset"):
        nv.load(tmp_path / "memory", model)


def test_what_the_verbs_refuse(model, memory, users):
    with pytest.raises(ValueError, match="there is no question: ask at least one"):
        nv.answer(KEY, model, memory, [])
    with pytest.raises(ValueError, match="the question holds the words of LaMP-2 and nothing more"):
        nv.answer(KEY, model, memory, [" "])
    with pytest.raises(ValueError, match=f"the memory holds no user 'Ann': it holds {users[0].id}, {users[1].id}"):
        nv.answer(KEY, model, memory, ["why?"], user="Ann")
    other = model._replace(params=jax.tree.map(lambda leaf: leaf + 1, model.params))
    with pytest.raises(ValueError, match="the memory was learned with another model"):
        nv.answer(KEY, other, memory, ["why?"])
    empty = memory._replace(bank=memory.bank._replace(count=np.zeros(2, np.int32)))
    with pytest.raises(ValueError, match=f"the memory of user '{users[0].id}' is empty"):
        nv.answer(KEY, model, empty, ["why?"])
    with pytest.raises(ValueError, match="there are no users: give at least one"):
        nv.learn(KEY, model, users[:0], "NVM-3", sigma=0.1)
    nameless = nv.learn(KEY, model, users[:1], nv.device("NVM-3"), sigma=0.1, settings=QUICK)
    with pytest.raises(ValueError, match="does not say what device and sigma it was learned for"):
        nv.answer(KEY, model, nameless, ["why?"])
    assert nv.answer(KEY, model, nameless, ["why?"], nv.device("NVM-3"))  # its sigma it knows


def test_a_single_ovt_has_no_rival(model, users):
    lonely = replace(users, people=(users[0]._replace(history=users[0].history[:1]),))
    memory = nv.learn(KEY, model, lonely, "NVM-3", sigma=0.1, settings=QUICK)
    assert answers(model, memory, users)[0].margin == np.inf


def test_mitigation_reaches_what_is_read_back(model, memory, users):
    asked = nv.pipeline.answer.asking(memory, users[0].queries[:1])
    loud = nv.pipeline.answer.condition_of(memory, sigma=0.5)
    prompts = {
        name: find(KEY, model, asked._replace(settings=nv.mitigated(QUICK, name, budget=20.0)), loud)[0].prompt
        for name in ("none", "swv")
    }
    clean = find(KEY, model, asked, loud._replace(sigma=0.0))[0].prompt
    error = {name: float(np.sqrt(np.mean((prompt - clean) ** 2))) for name, prompt in prompts.items()}
    assert error["swv"] < 0.7 * error["none"]


def test_the_door_opens_without_jax():
    code = "import sys, nvcim_jax as nv; assert 'jax' not in sys.modules; assert len(dir(nv)) >= len(nv.__all__) > 30"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_of_the_door_leads_somewhere():
    for name in nv.__all__:
        assert getattr(nv, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        nv.no_such_name  # noqa: B018


def test_a_memory_keeps_the_place_of_its_virtual_tokens_whoever_asks_it(model, memory, tmp_path):
    saved = nv.save(tmp_path / "now", memory)
    assert saved.about.settings["place"] == "auto"
    assert nv.load(tmp_path / "now", settings=nv.PAPER).settings.wording.place == "auto"
    before = replace(memory.about, settings={"preset": "recommended"})  # as memories said it before there was a choice
    nv.save(tmp_path / "before", memory._replace(about=before))
    assert nv.load(tmp_path / "before").settings.wording.place == "front"
    nowhere = replace(memory.about, settings={"preset": "recommended", "place": "above"})
    nv.save(tmp_path / "nowhere", memory._replace(about=nowhere))
    with pytest.raises(ValueError, match="place 'above': choose one of front, second, turn, auto"):
        nv.load(tmp_path / "nowhere")

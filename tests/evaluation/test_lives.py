"""Lives compared: the same moments, questions and compute for every way, and what is said of each question."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from nvcim_jax import tuning
from nvcim_jax.data.synthetic import HELD_OUT
from nvcim_jax.evaluation import keeping, life_study, lives, studies, study
from nvcim_jax.people import Sample
from nvcim_jax.pipeline.presets import RECOMMENDED
from tests.helpers.people import real_source

UNTUNED = replace(RECOMMENDED, training=tuning.Training(steps=0))
SMALL = {"users": 2, "moments": 20, "run": 5, "every": 10, "slots": 6, "small": 4, "questions": 3}


@pytest.fixture(autouse=True)
def loaded(model, monkeypatch):
    monkeypatch.setattr(life_study, "toy", lambda: model)


def cell_of(way, **how):
    (cell,) = life_study.study(life_study.Plan(**{**SMALL, **how}), ways=[way]).cells
    return cell


def world(way="no adaptation", **how):
    return life_study._world(cell_of(way, **how))


def test_every_way_is_asked_the_same_of_the_domains_met_so_far():
    told = {way: life_study.measure(cell_of(way)) for way in ("no adaptation", "samples in the context")}
    for measured in told.values():
        scores = measured.result["scores"]
        assert list(scores) == [str(HELD_OUT), str(HELD_OUT + 1)] and all(len(own) == 2 for own in scores.values())
        assert measured.result["tokens"] == [0, 0] and measured.result["ovts"] == [0, 0]
        assert len(measured.questions) == 2 * 2 * 3
        for user, own in scores.items():
            for number, score in enumerate(own):
                rows = [row["score"] for row in measured.questions if (row["user"], row["round"]) == (user, number)]
                assert score == pytest.approx(np.mean(rows)) and len(rows) == 3
    asked = [[(row["user"], row["domain"], row["gap"]) for row in each.questions] for each in told.values()]
    assert asked[0] == asked[1] and all(0 <= gap < 20 for *_, gap in asked[0])


def test_a_gap_counts_back_from_the_checkpoint():
    own = world().streams[0]
    last = own.moments[9]
    assert life_study.gap(own, 10, last) == 0 and life_study.gap(own, 20, last) <= 10
    names = [moment.domain for moment in own.moments[:20]]
    for query in own.asked[1]:
        assert names[19 - life_study.gap(own, 20, query)] == query.domain


def test_ovts_are_held_counted_and_used():
    """All of a life's OVTs in a large memory, no more than fit in a small one, the same answers before it is full."""
    now = world()
    large, small = (list(lives.ovts(now, settings=UNTUNED, is_small=each)) for each in (False, True))
    assert [each.ovts for each in large] == [3, 6] and [each.ovts for each in small] == [3, 4]
    assert large[0].answers == small[0].answers and len(large[1].answers) == 6
    assert large[1].tokens == 0


@pytest.mark.parametrize("of_all", [True, False])
def test_one_prompt_sees_this_buffer_or_all_so_far(monkeypatch, of_all):
    now, seen, tune = world(), [], lives.learning.tune
    kept = [{*people[0].history} for people in lives.kept_rounds(now)]

    def watched(key, model, block, rows, *given, **how):
        seen.append({*rows.pools[0]})
        return tune(key, model, block, rows, *given, **how)

    monkeypatch.setattr(lives.learning, "tune", watched)
    brief = replace(RECOMMENDED, training=tuning.Training(steps=1))
    list(lives.one_prompt(now, settings=brief, of_all=of_all))
    assert seen == [kept[0], kept[0] | kept[1] if of_all else kept[1]]


def test_the_ovts_that_answered_are_used_once_more():
    from nvcim_jax.pipeline import life

    now = world()
    rules = life.Rules(slots=6, every=10, settings=UNTUNED, capacity=6)
    people = [each.user for each in now.streams]
    own = life.begin_life(now.key, now.model, now.task, people, rules=rules)
    for at, samples in enumerate(zip(*(each.moments[:10] for each in now.streams), strict=True)):
        own = life.observe(now.model, own, samples, time=at).life
    after, answers = lives.ask(now, own, 0)
    assert np.asarray(after.memory.bank.origin.uses).sum(axis=1).tolist() == [3, 3] and len(answers) == 6


def test_all_ways_see_what_the_same_buffer_kept():
    now = world()
    first, second = lives.kept_rounds(now)
    for number, people in enumerate((first, second)):
        for user, own in zip(people, now.streams, strict=True):
            assert len(user.history) == 6 and set(user.history) <= set(own.moments[10 * number : 10 * number + 10])
    assert now.steps == 30 * 3


def test_samples_in_turn_come_equally_often():
    samples = [Sample(name, "", name) for name in "abc"]
    drawn = lives._in_turn(jax.random.key(0), samples, 7)
    assert sorted(drawn[:3]) == samples and drawn[3:6] == drawn[:3] and drawn[6] == drawn[0]


def test_a_study_has_a_cell_for_every_way_and_block():
    plan = life_study.study(life_study.Plan(users=20), ways=["no adaptation", "OVTs, paper"])
    assert len(plan.cells) == 3 * 2 and [cell["users"][1] for cell in plan.cells[::2]] == [8, 8, 4]
    assert len(study.check(plan)) == 6 and plan.measure is life_study.measure
    with pytest.raises(ValueError, match="unknown way 'none'"):
        life_study.study(ways=["none"])
    kept = keeping.study(keeping.Plan(users=8), buffers=[8, 16], policies=["fifo", "eoe"])
    assert len(kept.cells) == 2 * 2 * 2 and len(study.units(kept)) == 2
    with pytest.raises(ValueError, match="unknown policy 'none'"):
        keeping.study(policies=["none"])


def test_a_policy_is_measured_by_what_is_learned_from_what_it_kept(monkeypatch):
    """Tuning left out: what LoRA starts from changes nothing, and OVTs answer as their samples do."""
    monkeypatch.setattr(keeping, "RECOMMENDED", UNTUNED)
    monkeypatch.setattr(
        keeping, "_lora", lambda key, block, at: [query.answer for u in block.users for query in u.queries]
    )
    cells = keeping.study(
        keeping.Plan(users=2, moments=20, run=5, questions=4), buffers=[20, 3], policies=["fifo"]
    ).cells
    whole, small = (keeping.measure(cell).result for cell in (cells[0], cells[2]))
    assert set(whole["domains"].values()) == {1.0} and max(small["domains"].values()) < 1
    assert set(whole["scores"]["lora"].values()) == {1.0}
    assert all(0 <= score <= 1 for score in whole["scores"]["ovts"].values())
    assert whole["length"] == small["length"] and set(whole["length"]) == {"recommended", "paper", "released"}
    assert all(value < 0 for value in whole["length"]["released"].values())  # divided by log n: a length score


def test_people_live_on_their_own_histories_in_time_order(tmp_path):
    source = real_source(tmp_path, people=5)
    plan = life_study.Plan(users=9, task="LaMP-5", moments=6, every=3, slots=3, questions=2)
    history = life_study.History(source, chosen_on=2, together=2)
    lived = life_study.study(plan, ways=["no adaptation", "OVTs, recommended"], history=history)
    assert [tuple(cell["users"]) for cell in lived.cells] == [(2, 3)] * 2 and lived.chosen_on == ((0, 2),)
    assert str(tmp_path) not in str(study.described(lived)) and len(study.check(lived)) == 2
    now = life_study._world(lived.cells[0], history)
    everyone = studies.people_of(source, "LaMP-5")
    for own, user in zip(now.streams, everyone[2:], strict=True):
        assert own.moments == user.history[-6:] and own.asked == (user.queries[:2],) * 2
    assert now.settings.together.training.steps == 2 and now.settings.learn_from == "cluster"
    quick = now._replace(settings=replace(now.settings, training=tuning.Training(steps=1, per_step=1)))
    first, second = lives.ovts(quick)
    assert 0 < first.ovts < second.ovts and len(first.answers) == 6
    assert lives.WAYS["one prompt, this buffer"].keywords == {"of_all": False}
    with pytest.raises(ValueError, match="nobody is left who has 99 samples"):
        life_study.study(replace(plan, moments=99), history=history)

"""Table I as a study: which cells it has, what they share, what a measured one says."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.data import lamp
from nvcim_jax.data.users import toy_users
from nvcim_jax.evaluation import ladder, methods, studies, study
from nvcim_jax.evaluation.ladder import Outcome, Score
from nvcim_jax.evaluation.methods import Cell, training_of
from nvcim_jax.memory.bank import Bank, unknown
from nvcim_jax.people import Sample
from nvcim_jax.pipeline.presets import RECOMMENDED

ROWS = {row.label: row for row in methods.rows()}


def test_table1_has_the_papers_six_methods_and_four_rungs_beside_them():
    assert list(studies.PAPERS.values()) == ["SWV", "CxDNN", "CorrectNet", "No-Miti", "NVP*", "NVCiM-PT"]
    assert set(studies.TABLE1) == {
        *studies.PAPERS,
        methods.BASE,
        methods.OWN,
        methods.KNOWN,
        methods.whole("recommended"),
    }
    assert set(studies.TABLE1) <= set(ROWS)
    assert {name for pair in studies.PAIRS for name in pair} <= set(studies.TABLE1)


def test_the_cells_of_table1():
    plan = studies.table1(users=20, draws=2, tasks=["LaMP-2", "LaMP-5"], devices=["NVM-1", "NVM-5"], sigma=0.2, seed=7)
    units = study.units(plan)
    assert [unit[0][1]["users"] for unit in units] == 2 * [(1_000_000, 8), (1_000_008, 8), (1_000_016, 4)]
    assert {len(unit) for unit in units} == {8 * 2 + 2}  # what stores nothing has no device
    for _, cell in units[0]:
        bare = cell["method"] in (methods.BASE, methods.KNOWN)
        own = {} if bare else {"device": cell["device"], "sigma": 0.2, "draws": 2}
        shared = {"model": "toy", "seed": 7, "task": "LaMP-2", "users": (1_000_000, 8)}
        assert cell == {**shared, "method": cell["method"], **own}
    assert json.dumps(study.described(plan)) and len(plan.settings["model"]["fingerprint"]) == 32
    assert plan.settings["methods"][methods.BASE] is None
    assert plan.settings["methods"][methods.whole("recommended")] == RECOMMENDED.described()


def test_a_cell_hangs_neither_on_the_other_users_nor_on_the_other_devices_of_the_study():
    few = studies.table1(users=8, tasks=["LaMP-2"], devices=["NVM-3"])
    many = studies.table1(users=24)
    assert dict(study.check(few)).keys() < dict(study.check(many)).keys()


def test_table1_cannot_report_users_on_whom_settings_were_chosen():
    plan = studies.table1(users=1, tasks=["LaMP-2"])
    chosen = tuple({**cell, "users": (2_000_016, 8)} for cell in plan.cells)
    with pytest.raises(ValueError, match="of users 2000016 to 2000023, who are reported, some are among 2000000"):
        study.check(replace(plan, cells=chosen))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"devices": ["NVM-9"]}, "unknown device 'NVM-9': Table II has NVM-1, "),
        ({"tasks": ["LaMP-8"]}, "unknown task 'LaMP-8'"),
        ({"tasks": ["LaMP-4"]}, "the toy world has no users of LaMP-4, only of LaMP-1"),
    ],
)
def test_what_table1_does_not_know_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        studies.table1(**given)


def test_a_device_or_sigma_retrains_nothing_that_does_not_depend_on_it(model):
    trained = []

    def learn(key, model, block, condition, *, settings, report):
        trained.append((settings.train_sigma, np.asarray(condition.device.levels).tolist(), condition.sigma))
        code = jnp.zeros((*block.selected.valid.shape, 16, 48))
        return Bank(code, code, unknown(block.selected.valid.shape), jnp.ones(1, jnp.int32))

    shared = ladder.share(jax.random.key(0), model, toy_users("LaMP-2", 1), settings=RECOMMENDED)
    cells = [Cell(device, sigma) for device in ("NVM-1", "NVM-3") for sigma in (0.1, 0.2)]
    quiet = [row for name, row in ROWS.items() if name.startswith("paper: by cell, ")]
    quiet.append(ROWS["paper: no training noise, flat MIPS"])
    for row in quiet:
        for cell in cells:
            shared.learned(*training_of(row._replace(learn=learn), cell))
    assert len(quiet) == 5 and len(trained) == 1  # for all rows, devices and sigmas
    for name in ("paper: flat MIPS", "paper: scaled search"):
        for cell in cells:
            shared.learned(*training_of(ROWS[name]._replace(learn=learn), cell))
    assert len(trained) == 5 and len({json.dumps(each) for each in trained[1:]}) == 4


def test_a_measured_cell_says_what_each_user_and_question_came_to():
    asked = [
        Sample("Tag? dough", "comedy", "dough", "baking", "7-q0"),
        Sample("Tag? oven", "action", "oven", None, "8-q0"),
    ]
    found = Sample("Tag? bread", "comedy", "bread")
    outcomes = (
        Outcome("7", asked[0], 0, "comedy", 1.0, found, 0.25),
        Outcome("7", asked[0], 1, "action", 0.0, found, np.inf),
        Outcome("8", asked[1], 0, "action", 1.0),
        Outcome("8", asked[1], 1, "action", 1.0),
    )
    score = Score(np.array([0.5, 1.0]), np.array([1.0, 0.0]), (), outcomes)
    told = studies.as_measured(lamp.task("LaMP-2"), score)
    right = {"7": 1.0, "8": 0.0}
    assert told.result == {"metric": "accuracy", "scores": {"7": 0.5, "8": 1.0}, "right_domain": right, "questions": 2}
    assert told.questions[0] == {
        "user": "7", "question": "7-q0", "draw": 0, "content": "dough", "found": "bread", "found_answer": "comedy",
        "margin": 0.25, "answer": "comedy", "gold": "comedy", "scores": {"accuracy": 1.0},
    }  # fmt: skip
    assert [row["draw"] for row in told.questions] == [0, 1, 0, 1]
    assert told.questions[2]["found"] is told.questions[2]["found_answer"] is told.questions[2]["margin"] is None
    assert studies.metric_name(lamp.task("LaMP-5")) == "ROUGE-1"


def test_ids_that_stand_twice_are_refused():
    users = toy_users("LaMP-2", 2)
    studies.require_own_ids(users)
    with pytest.raises(ValueError, match="the embedded world, LaMP-2: the user '1000000' stands there twice"):
        studies.require_own_ids(replace(users, people=users.people + users.people[:1]))
    ann = users[0]._replace(queries=users[0].queries * 2)
    with pytest.raises(ValueError, match="the question .'1000000', '1000000-q0'. stands there twice"):
        studies.require_own_ids(replace(users, people=(ann,)))


def test_a_cell_is_measured_the_same_whichever_came_before():
    """Two cells of one user, in both orders: the base model, and untuned tokens on a device under two draws."""
    cells = [
        cell for cell in studies.table1(users=1, draws=2, tasks=["LaMP-2"], devices=["NVM-3"]).cells
        if cell["method"] in (methods.BASE, methods.OWN)
    ]  # fmt: skip
    found = [studies.measure(cell) for cell in cells]
    studies._shared.cache_clear()
    assert [studies.measure(cell) for cell in reversed(cells)] == found[::-1]
    base, own = found
    assert len(base.questions) == 8 and len(own.questions) == 16
    for measured in found:
        each = [row["scores"]["accuracy"] for row in measured.questions]
        assert measured.result["scores"] == {"1000000": np.mean(each)} and measured.result["questions"] == 8
        assert all((row["answer"] == row["gold"]) == row["scores"]["accuracy"] for row in measured.questions)
    assert all(row["found"] is None and row["margin"] is None for row in base.questions)
    assert all(row["found"] and row["margin"] >= 0 for row in own.questions)
    assert [row["draw"] for row in own.questions] == 8 * [0, 1]

"""Studies of answers: which cells they have, what those share, what a measured one says."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.data import lamp, synthetic
from nvcim_jax.data.users import toy_users
from nvcim_jax.evaluation import crowd, methods, rungs, studies, study
from nvcim_jax.evaluation.designs import DESIGNS, PAPERS, published
from nvcim_jax.evaluation.ladder import Outcome, Score
from nvcim_jax.evaluation.methods import Cell, training_of
from nvcim_jax.evaluation.studies import Choice, Source
from nvcim_jax.memory.bank import new, unknown
from nvcim_jax.people import Sample
from nvcim_jax.pipeline.presets import RECOMMENDED
from tests.helpers.people import real_source

ROWS = {row.label: row for row in methods.rows()}
KNOWN = rungs.catalogue(real=False, width=128)
NVM3 = Cell("NVM-3", 0.1)
ONE = Choice(users=1, draws=2, tasks=("LaMP-2",), devices=("NVM-3",))


def test_every_rung_that_a_design_names_is_known_and_stands_once():
    for design in DESIGNS.values():
        assert set(design.labels) <= set(KNOWN) and len(set(design.labels)) == len(design.labels)
        assert {name for pair in design.pairs for name in pair} | {*design.followed} <= {*design.labels}
        assert {methods.BASE, rungs.TEXT, methods.OWN} <= {*design.labels}  # stand in every table
        assert set(design.tasks) <= set(synthetic.TASKS)
    for name in ("table1", "table3", "table4"):
        assert set(PAPERS) <= set(DESIGNS[name].labels)


def test_what_the_paper_prints():
    at = {"task": "LaMP-5", "device": "NVM-3", "sigma": 0.1, "buffer": 25, "method": rungs.PAPER}
    assert published("toy", at) == 0.185 and published("google/gemma-2b-it", at) == 0.225  # Table I
    assert published("Mistral-7B-GPTQ", {**at, "task": "LaMP-1", "device": "NVM-5"}) == 0.529
    assert published("toy", {**at, "buffer": 30}) == 0.241  # Table III
    assert published("toy", {**at, "buffer": 20, "sigma": 0.15, "method": "paper: by cell, CxDNN"}) == 0.141  # Table IV
    for change in ({"buffer": 30, "sigma": 0.15}, {"method": rungs.BEST}, {"task": "LaMP-4"}, {"device": None}):
        assert published("toy", {**at, **change}) is None
    assert published("gemma-2b", {**at, "buffer": 30}) is None  # Tables III and IV are of Phi-2


def test_the_cells_of_table1():
    choice = Choice(20, 2, ("LaMP-2", "LaMP-5"), ("NVM-1", "NVM-5"), (0.2,), seed=7)
    plan = studies.plan("table1", choice)
    units = study.units(plan)
    assert [unit[0][1]["users"] for unit in units] == 2 * [(1_000_000, 8), (1_000_008, 8), (1_000_016, 4)]
    assert {len(unit) for unit in units} == {8 * 2 + 3}  # what stores nothing has no device
    for _, cell in units[0]:
        own = {"device": cell["device"], "sigma": 0.2, "draws": 2} if KNOWN[cell["method"]].is_stored else {}
        shared = {"model": "toy", "seed": 7, "task": "LaMP-2", "users": (1_000_000, 8), "history": 25, "buffer": 25}
        assert cell == {**shared, "method": cell["method"], **own}
    assert json.dumps(study.described(plan)) and len(plan.settings["model"]["fingerprint"]) == 32
    assert plan.settings["method"][methods.whole("recommended")]["settings"] == RECOMMENDED.described()


def test_a_cell_hangs_neither_on_the_other_users_nor_on_what_else_is_varied():
    few = studies.plan("table1", Choice(8, tasks=("LaMP-2",), devices=("NVM-3",)))
    many = studies.plan("table1", Choice(24))
    assert dict(study.check(few)).keys() < dict(study.check(many)).keys()
    few, many = (studies.plan("table3", Choice(8, buffers=buffers)) for buffers in ((20,), None))
    assert dict(study.check(few)).keys() < dict(study.check(many)).keys()
    assert len(study.units(many)) == 6  # a unit has one size of buffer


def test_every_study_has_cells_and_settings_that_go_to_disk():
    for name in DESIGNS:
        plan = studies.plan(name, Choice(users=2))
        assert json.loads(json.dumps(study.described(plan)))["study"] == name and study.check(plan)
    trained = {tuple(cell["trained_for"]) for cell in studies.plan("table4").cells if "device" in cell}
    assert trained == {("NVM-3", 0.1)}  # whatever the sigma at which they are read
    assert all(cell["history"] == 60 for cell in studies.plan("table3").cells)


def test_a_study_cannot_report_users_on_whom_settings_were_chosen():
    plan = studies.plan("table1", ONE)
    chosen = tuple({**cell, "users": (2_000_016, 8)} for cell in plan.cells)
    with pytest.raises(ValueError, match="of users 2000016 to 2000023, who are reported, some are among 2000000"):
        study.check(replace(plan, cells=chosen))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"devices": ("NVM-9",)}, "unknown device 'NVM-9': Table II has NVM-1, "),
        ({"tasks": ("LaMP-8",)}, "unknown task 'LaMP-8'"),
        ({"tasks": ("LaMP-4",)}, "the toy world has no users of LaMP-4, only of LaMP-1"),
        ({"chosen_on": 3}, "--chosen-on is about --data"),
        ({"users": 0}, "0 people are left to report: at least 1 are needed"),
    ],
)
def test_what_a_study_does_not_know_is_refused(given, said):
    with pytest.raises(ValueError, match=said):
        studies.plan("table1", Choice(**given))


def learner(trained):
    """Learns nothing, and says what it was asked for."""

    def learn(key, model, block, condition, *, settings, report):
        trained.append((settings.train_sigma, np.asarray(condition.device.levels).tolist(), float(condition.sigma)))
        code = jnp.full((*block.selected.valid.shape, 16, 48), condition.sigma)
        return new(code, code, unknown(block.selected.valid.shape), jnp.ones(1, jnp.int32))

    return learn


def test_a_device_or_sigma_retrains_nothing_that_does_not_depend_on_it(model):
    trained = []
    shared = crowd.share(jax.random.key(0), model, toy_users("LaMP-2", 1), settings=RECOMMENDED)
    cells = [Cell(device, sigma) for device in ("NVM-1", "NVM-3") for sigma in (0.1, 0.2)]
    quiet = [row for name, row in ROWS.items() if name.startswith("paper: by cell, ")]
    quiet.append(ROWS["paper: no training noise, flat MIPS"])
    learn = learner(trained)
    for row in quiet:
        for cell in cells:
            shared.learned(*training_of(row._replace(learn=learn), cell))
    assert len(quiet) == 5 and len(trained) == 1  # for all rows, devices and sigmas
    for name in ("paper: flat MIPS", "paper: scaled search"):
        for cell in cells:
            shared.learned(*training_of(ROWS[name]._replace(learn=learn), cell))
    assert len(trained) == 5 and len({json.dumps(each) for each in trained[1:]}) == 4


def test_another_process_does_not_train_again_unless_what_decides_it_differs(model, tmp_path):
    """As another process, an object of its own that knows nothing but the folder."""
    trained, users = [], toy_users("LaMP-2", 1)
    learn, fit = learner(trained), RECOMMENDED.fit_codec

    def learned(folder=tmp_path, seed=0, users=users, cell=NVM3, **changed):
        settings = replace(RECOMMENDED, **changed)
        shared = crowd.share(jax.random.key(seed), model, users, settings=settings, folder=folder)
        return shared.learned(learn, settings, cell), shared.block(fit).codec

    first = learned()
    again = learned()
    assert len(trained) == 1
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other, equal_nan=True)
    for changed in (
        {"seed": 1}, {"users": toy_users("LaMP-2", 1, first=1_000_001)}, {"cell": Cell("NVM-1", 0.1)},
        {"clip": 1.0}, {"buffer": 20}, {"folder": None},
    ):  # fmt: skip
        before = len(trained)
        learned(**changed)
        assert len(trained) == before + 1
    assert all(path.suffix == ".safetensors" and path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())


def test_what_is_kept_and_damaged_is_made_again(model, tmp_path):
    trained, users = [], toy_users("LaMP-2", 1)
    learn = learner(trained)

    def learned():
        shared = crowd.share(jax.random.key(0), model, users, settings=RECOMMENDED, folder=tmp_path)
        return shared.learned(learn, RECOMMENDED, Cell("NVM-3", 0.1))

    whole = learned()
    sizes = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for harm in (lambda data: data[:-1], lambda data: data[:-9] + b"x" + data[-8:], lambda data: b""):
        for path, data in sizes.items():
            path.write_bytes(harm(data))
        before = len(trained)
        again = learned()
        assert len(trained) == before + 1 and np.array_equal(again.prompts, whole.prompts)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == sizes  # and is whole again
    elsewhere = tmp_path / "elsewhere"
    for path in sizes:
        shutil.move(path, elsewhere)
        path.symlink_to(elsewhere)  # a link is not followed
        elsewhere = tmp_path / f"{path.name}-moved"
    before = len(trained)
    learned()
    assert len(trained) == before + 1


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


def test_a_cell_is_measured_the_same_whichever_came_before_and_whatever_was_kept(tmp_path):
    """Cells of one user, in both orders and from disk: the model alone, with text, untuned tokens under two draws."""
    labels = (methods.BASE, rungs.TEXT, methods.OWN)
    cells = [cell for cell in studies.plan("table1", ONE).cells if cell["method"] in labels]
    found = [studies.measure(cell) for cell in cells]
    source = Source(folder=tmp_path)
    assert [studies.measure(cell, source) for cell in reversed(cells)] == found[::-1] and any(tmp_path.iterdir())
    studies._shared.cache_clear()
    assert [studies.measure(cell, source) for cell in cells] == found
    base, text, own = found
    assert len(base.questions) == len(text.questions) == 8 and len(own.questions) == 16
    for measured in found:
        each = [row["scores"]["accuracy"] for row in measured.questions]
        assert measured.result["scores"] == {"1000000": np.mean(each)} and measured.result["questions"] == 8
        assert all((row["answer"] == row["gold"]) == row["scores"]["accuracy"] for row in measured.questions)
    assert all(row["found"] is None and row["margin"] is None for row in base.questions)
    assert all(row["found"] and row["margin"] is None for row in text.questions)
    assert all(row["found"] and row["margin"] >= 0 for row in own.questions)
    assert [row["draw"] for row in own.questions] == 8 * [0, 1]


def test_the_seed_of_a_study_decides_what_is_drawn(monkeypatch):
    keys, share = [], crowd.share
    monkeypatch.setattr(crowd, "share", lambda key, *people, **how: keys.append(key) or share(key, *people, **how))
    for seed in (3, 4):
        studies._shared(Source(), ("LaMP-2", (1_000_000, 1), 25, None), seed, 25, crowd.select, None)
    studies._shared.cache_clear()
    assert not jnp.array_equal(*map(jax.random.key_data, keys))


def test_the_latest_samples_are_as_many_as_the_representatives(model):
    users = toy_users("LaMP-2", 2)
    usual, plain = (
        crowd.gather(jax.random.key(0), model, users, buffer=25, choose=how) for how in (crowd.select, crowd.latest)
    )
    assert np.array_equal(usual.selected.valid, plain.selected.valid)
    for user, row, count in zip(users, plain.selected.samples, np.asarray(plain.selected.valid).sum(axis=1)):
        assert row[:count] == list(reversed(user.history))[:count]


def test_a_real_model_starts_from_what_the_other_half_of_the_people_have_in_common(tmp_path):
    source = real_source(tmp_path, people=22)
    plan = studies.plan("table1", Choice(20, tasks=("LaMP-5",), devices=("NVM-3",), chosen_on=2), source)
    spans = {tuple(cell["users"]): cell.get("others") for cell in plan.cells if "others" in cell}
    assert spans == {(2, 8): (12, 10), (10, 2): (12, 10), (12, 8): (2, 10), (20, 2): (2, 10)}
    for (first, count), (other, many) in spans.items():
        assert not {*range(first, first + count)} & {*range(other, other + many)}
    assert plan.settings["users"] == 20 and plan.chosen_on == ((0, 2),) and study.check(plan)
    assert {cell["model"] for cell in plan.cells} == {"some-model"} and {cell["data"] for cell in plan.cells} == {
        "LaMP_5"
    }
    assert str(tmp_path) not in json.dumps(study.described(plan))  # a folder elsewhere is the same study
    labels = {cell["method"] for cell in plan.cells}
    assert methods.OTHERS in labels and methods.BASE in labels
    untuned = {label for label in labels if "others" not in next(c for c in plan.cells if c["method"] == label)}
    assert untuned == {methods.BASE, rungs.TEXT, methods.OWN}
    assert studies.plan("table1", Choice(99, tasks=("LaMP-5",)), source).settings["users"] == 22  # all there are


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"tasks": None}, "a LaMP folder holds one task: name it"),
        ({"tasks": ("LaMP-5",), "chosen_on": 7}, "0 people are left to report: at least 2 are needed"),
        ({"tasks": ("LaMP-3",)}, "belongs to task 'LaMP_5', not LaMP-3"),
    ],
)
def test_a_folder_that_does_not_serve_is_refused(choice, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        studies.plan("table1", Choice(**choice), real_source(tmp_path))


def test_other_people_are_another_study(tmp_path):
    choice = Choice(4, tasks=("LaMP-5",))
    one = studies.plan("table1", choice, real_source(tmp_path / "a"))
    other = studies.plan("table1", choice, real_source(tmp_path / "b", people=8))
    study.begin(one, tmp_path / "out")
    with pytest.raises(ValueError, match=r"was made with settings: data: people: LaMP-5 \"\w+\", not \"\w+\""):
        study.begin(other, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(DESIGNS))
def test_every_rung_of_a_study_answers_every_question(name):
    """One user, two questions, one draw; the last place of each rung."""
    plan = studies.plan(name, Choice(users=1, draws=1, tasks=("LaMP-2",), questions=2))
    for cell in {cell["method"]: cell for cell in plan.cells}.values():
        measured = studies.measure(cell)
        ((user, score),) = measured.result["scores"].items()
        assert user == "1000000" and 0 <= score <= 1 and measured.result["questions"] == len(measured.questions) == 2
        assert all(row["answer"] is not None and row["gold"] for row in measured.questions)

"""LaMP files: templates, reading, refusals."""

import json

import pytest

from nvcim_jax.data import lamp, synthetic, text
from nvcim_jax.people import Sample


def write(folder, task, questions, golds, split="dev"):
    folder.mkdir(exist_ok=True)
    (folder / f"{split}_questions.json").write_text(json.dumps(questions))
    (folder / f"{split}_outputs.json").write_text(json.dumps({"task": task, "golds": golds}))
    return folder


def entry(**changes):
    profile = [{"id": "a", "tag": "comedy", "description": "A man bakes.", "date": "2020-01-02"},
               {"id": "b", "tag": "action", "description": "A car burns.", "date": "2020-01-01"}]  # fmt: skip
    return {"id": "1", "input": "Which tag?", "profile": profile, **changes}


MOVIES = lamp.task("LaMP-2")
GOLD = {"task": "LaMP_2", "golds": [{"id": "1", "output": "comedy"}]}


@pytest.mark.parametrize("task", lamp.TASKS.values(), ids=lambda task: task.name)
def test_the_content_of_a_question_is_what_was_put_in(task):
    gaps = ["first gap", "second gap", "third gap"][: max(1, len(task.pieces) - 1)]
    assert lamp.content(task, lamp.ask(task, *gaps)) == " ".join(gaps)


def test_a_question_of_another_wording_is_all_content():
    assert lamp.content(MOVIES, "What is this film?") == "What is this film?"


def test_the_official_template_of_citation():
    question = lamp.ask(lamp.task("LaMP-1"), "T", "A", "B")
    assert question == (
        'For an author who has written the paper with the title "T", which reference is related? '
        'Just answer with [1] or [2] without explanation. [1]: "A" [2]: "B"'
    )


@pytest.mark.parametrize(
    ("name", "instruction", "item", "answer"),
    [
        ("LaMP-4", "Generate a headline for the following article: ", {"text": "T", "title": "H"}, "H"),
        ("LaMP-5", "Generate a title for the following abstract of a paper: ", {"abstract": "T", "title": "H"}, "H"),
        ("LaMP-6", "Generate a subject for the following email: ", {"text": "T", "title": "H"}, "H"),
    ],
)
def test_the_official_forms_of_titles(name, instruction, item, answer):
    task = lamp.task(name)
    questions = [{"id": "7", "input": f"{instruction}Q", "profile": [{"id": "0", **item}]}]
    golds = {"task": name.replace("-", "_"), "golds": [{"id": "7", "output": "G"}]}
    (user,) = lamp.parse(questions, golds, task)
    assert user.queries == (Sample(f"{instruction}Q", "G", "Q", id="7"),)
    assert user.history == (Sample(f"{instruction}T", answer, "T"),)


def test_there_are_seven_tasks_in_their_order():
    assert list(lamp.TASKS) == [f"LaMP-{number}" for number in range(1, 8)]


def test_a_question_keeps_its_id(tmp_path):
    golds = GOLD | {"golds": [{"id": "b", "output": "comedy"}, {"id": 1, "output": "action"}]}
    asked = [
        entry(user_id="7"),
        entry(id="b", user_id="7"),
    ]
    (user,) = lamp.parse(asked, golds, MOVIES)
    assert [query.id for query in user.queries] == ["1", "b"] and [query.answer for query in user.queries] == [
        "action",
        "comedy",
    ]
    assert {sample.id for sample in user.history} == {None}


def test_citation_samples_are_turned_with_their_answer():
    task = lamp.task("LaMP-1")
    sample = Sample(lamp.ask(task, "T", "A", "B"), "[2]", "T A B")
    same, turned = lamp.both_orders(task, sample)
    assert same is sample and turned.question == lamp.ask(task, "T", "B", "A") and turned.answer == "[1]"
    assert lamp.gist(task, sample) == lamp.gist(task, turned) == "B T"


@pytest.mark.parametrize(
    ("gaps", "turned"),
    [
        (('The "quoted" word', 'A "b" c', 'D "e"'), ('The "quoted" word', 'D "e"', 'A "b" c')),
        (("T", "A", ""), ("T", "", "A")),
        (("", "A\nB", "C"), ("", "C", "A\nB")),
    ],
)
def test_citations_of_any_text_are_turned(gaps, turned):
    task = lamp.task("LaMP-1")
    sample = Sample(lamp.ask(task, *gaps), "[1]", "")
    assert lamp.content(task, sample.question) == " ".join(filter(None, gaps))
    assert lamp.gist(task, sample) == f"{gaps[1]} {gaps[0]}"
    assert lamp.both_orders(task, sample)[1] == Sample(lamp.ask(task, *turned), "[2]", "")


def test_a_citation_of_another_wording_stays_as_it_is():
    task = lamp.task("LaMP-1")
    for question in (task.pieces[0] + "T", task.pieces[0] + 'T" [2]: "', lamp.ask(task, "T", "A", "B") + " Thanks."):
        sample = Sample(question, "[1]", "as it stands")
        assert lamp.both_orders(task, sample) == (sample,)
        assert lamp.gist(task, sample) == "as it stands" and lamp.content(task, question) == question


def test_items_without_a_date_come_first_and_equal_dates_stay_in_order(tmp_path):
    dates = ["2020-02", None, "2020-01", "2020-02", ""]
    profile = [{"tag": "comedy", "description": f"film {at}", "date": date} for at, date in enumerate(dates)]
    (user,) = lamp.parse([entry(profile=profile)], GOLD, MOVIES)
    assert [sample.content for sample in user.history] == ["film 1", "film 4", "film 2", "film 0", "film 3"]


def test_items_with_an_empty_text_are_left_out_and_told():
    film = {"tag": "comedy", "description": "A man bakes."}
    profile = [film, {**film, "description": " "}, {**film, "tag": ""}, {**film, "input": "Q", "output": "\n"}]
    with pytest.warns(UserWarning, match="questions: 3 profile items with an empty text were left out"):
        (user,) = lamp.parse([entry(profile=profile)], GOLD, MOVIES)
    assert [sample.content for sample in user.history] == ["A man bakes."]


def test_the_history_of_a_user_is_the_profile_of_the_first_question():
    golds = GOLD | {"golds": [{"id": 1, "output": "comedy"}, {"id": "2", "output": "action"}]}
    later = [{"tag": "classic", "description": "A ship sinks."}]
    (user,) = lamp.parse([entry(user_id="7"), entry(id="2", user_id=7, profile=later)], golds, MOVIES)
    assert len(user.history) == 2 and [query.answer for query in user.queries] == ["comedy", "action"]


def test_golds_lie_beside_their_questions(tmp_path):
    folder = write(tmp_path / "d", "LaMP_2", [entry()], GOLD["golds"], split="my_questions")
    assert len(lamp.read(folder, MOVIES)) == 1


def test_history_is_in_order_of_time_and_uses_the_template(tmp_path):
    folder = write(tmp_path / "LaMP_2", "LaMP_2", [entry()], [{"id": "1", "output": "comedy"}])
    (user,) = lamp.read(folder, MOVIES)
    assert [sample.answer for sample in user.history] == ["action", "comedy"]
    assert user.history[0].question.endswith("description: A car burns.")
    assert user.queries[0].answer == "comedy"


def test_questions_of_one_user_are_gathered(tmp_path):
    questions = [entry(user_id=7), entry(id="2", user_id=7, profile=[])]
    golds = [{"id": "1", "output": "comedy"}, {"id": "2", "output": "action"}]
    (user,) = lamp.read(write(tmp_path / "d", "LaMP_2", questions, golds), MOVIES)
    assert user.id == "7" and len(user.queries) == 2 and len(user.history) == 2


@pytest.mark.parametrize(
    ("changes", "gold", "words"),
    [
        ({"input": None}, "comedy", ["entry 0", "'input'", "None"]),
        ({"profile": None}, "comedy", ["entry 0", "'profile'"]),
        ({"profile": [{"tag": "comedy"}]}, "comedy", ["profile item 0", "'description'"]),
        ({"profile": [{"tag": "funny", "description": "x"}]}, "comedy", ["'funny'", "sci-fi"]),
        ({}, "funny", ["gold answer", "'funny'"]),
        ({}, None, ["gold answer", "None"]),
    ],
)
def test_a_bad_entry_is_named(tmp_path, changes, gold, words):
    folder = write(tmp_path / "d", "LaMP_2", [entry(**changes)], [{"id": "1", "output": gold}])
    with pytest.raises(lamp.DataError) as error:
        lamp.read(folder, MOVIES)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_bad_folder_is_named(tmp_path):
    with pytest.raises(lamp.DataError, match="is not a folder"):
        lamp.read(tmp_path / "none", MOVIES)
    with pytest.raises(lamp.DataError, match=r"holds no \*_questions.json"):
        lamp.read(tmp_path, MOVIES)
    folder = write(tmp_path / "d", "LaMP_3", [entry()], [])
    with pytest.raises(lamp.DataError, match="belongs to task 'LaMP_3'"):
        lamp.read(folder, MOVIES)
    (folder / "dev_questions.json").write_text("<html>")
    (folder / "dev_outputs.json").write_text('{"task": "LaMP_2", "golds": []}')
    with pytest.raises(lamp.DataError, match="not valid JSON"):
        lamp.read(folder, MOVIES)


def test_an_unknown_task_lists_the_known_ones():
    with pytest.raises(ValueError, match="LaMP-8.*LaMP-1, LaMP-2, LaMP-3, LaMP-4"):
        lamp.task("LaMP-8")


def test_what_the_world_writes_is_what_the_reader_reads(tmp_path):
    for task in synthetic.TASKS.values():
        synthetic.write(tmp_path / task.name, task, 3)
        assert lamp.read(tmp_path / task.name, task) == synthetic.users(task, 3)


def test_real_files(outside):
    reviews = lamp.read(outside / "data/lamp/LaMP_3", lamp.task("LaMP-3"))
    assert len(reviews) == 50 and sum(bool(user.history) for user in reviews) == 30
    titles = lamp.read(outside / "data/lamp/LaMP_5", lamp.task("LaMP-5"))
    assert len(titles) == 300 and all(user.queries[0].answer for user in titles)
    assert [user.queries[0].id for user in titles] == [user.id for user in titles] and titles[0].id == "410"
    authors = lamp.read(outside / "data/lamp/LaMP_5_acl", lamp.task("LaMP-5"))  # in the time-based form
    ids = [query.id for user in authors for query in user.queries]
    assert len(authors) == 67 and len(set(ids)) == len(ids) == 286


def test_a_real_malformed_file_is_refused_by_entry_and_field(outside):
    with pytest.raises(lamp.DataError, match=r"recovered_questions.json, entry 0: field 'input' is None"):
        lamp.read(outside / "data/lamp/LaMP_7", lamp.task("LaMP-7"))


def test_a_question_that_is_too_long_loses_its_middle(model):
    sample = Sample("one two three four", "", "")
    whole = text.question_ids(model.tokenizer, sample, 100)
    assert len(whole) > 5 and text.question_ids(model.tokenizer, sample, 5) == whole[:2] + whole[-3:]
    assert text.question_ids(model.tokenizer, sample, len(whole)) == whole
    assert text.question_ids(model.tokenizer, sample, 1) == whole[-1:]


def test_half_a_character_is_named(model):
    with pytest.raises(ValueError, match=r"half of a character, '\\ud83d' at place 2"):
        text.encode(model.tokenizer, "a \ud83d b")


def test_words_that_look_like_the_models_own_tokens_are_words(model):
    own = model.tokenizer.eos_token
    ids = text.encode(model.tokenizer, f"a {own} b")
    assert model.tokenizer.eos_token_id not in ids and model.tokenizer.decode(ids).split() == ["a", own, "b"]
    assert text.answer_ids(model.tokenizer, Sample("", own, ""))[-1] == model.tokenizer.eos_token_id


def test_golds_without_a_question_are_counted():
    golds = GOLD | {"golds": [*GOLD["golds"], {"id": "8", "output": "action"}, {"id": "9", "output": "action"}]}
    with pytest.warns(UserWarning, match="outputs: gold answers without a question: 2 left out, the first of id '8'"):
        (user,) = lamp.parse([entry()], golds, MOVIES)
    assert [query.id for query in user.queries] == ["1"]


@pytest.mark.parametrize(
    ("questions", "golds"),
    [
        (["1", "2"], [("1", "comedy")]),  # without a gold answer
        (["1", "2"], [("1", "comedy"), ("2", "funny")]),  # with one that is no label
        (["1", "2"], [("1", "comedy"), ("2", "action"), ("2", "classic")]),  # with two
        (["1", "1"], [("1", "comedy")]),  # asked twice
    ],
)
def test_what_is_refused_may_be_left_out_and_is_counted(questions, golds):
    asked = [entry(id=name) for name in questions]
    outputs = {"task": "LaMP_2", "golds": [{"id": name, "output": gold} for name, gold in golds]}
    with pytest.raises(lamp.DataError):
        lamp.parse(asked, outputs, MOVIES)
    with pytest.warns(UserWarning, match="questions without one gold answer of their own: 1 left out, the first of id"):
        (user,) = lamp.parse(asked, outputs, MOVIES, skip=True)
    assert [(query.id, query.answer) for query in user.queries] == [("1", "comedy")]

"""LaMP's files from a server: addresses, what comes, what is refused."""

import json

import pytest

from nvcim_jax.data import lamp, synthetic
from nvcim_jax.data.download import TRIES
from nvcim_jax.data.fetch import OFFICIAL, address, count, fetch
from tests.helpers.web import web

TASK = lamp.task("LaMP-5")
QUESTIONS, OUTPUTS = "/LaMP_5/dev/dev_questions.json", "/LaMP_5/dev/dev_outputs.json"


def as_bytes(task, users=3):
    return [json.dumps(value).encode() for value in synthetic.as_lamp(task, users)]


@pytest.fixture
def server():
    questions, outputs = as_bytes(TASK)
    with web({QUESTIONS: questions, OUTPUTS: outputs}) as running:
        yield running


def test_the_official_addresses():
    assert address(TASK, "dev", "questions") == f"{OFFICIAL}{QUESTIONS}"
    assert OFFICIAL == "https://ciir.cs.umass.edu/downloads/LaMP"
    films = lamp.task("LaMP-2")  # under /LaMP_2 alone lies an older task
    assert address(films, "train", "outputs") == f"{OFFICIAL}/LaMP_2/new/train/train_outputs.json"
    assert address(films, "dev", "outputs", time_based=True) == f"{OFFICIAL}/time/LaMP_2/new/dev/dev_outputs.json"
    assert address(TASK, "dev", "questions", base="http://a/b/") == "http://a/b/LaMP_5/dev/dev_questions.json"


def test_what_is_fetched_is_read(server, tmp_path):
    told = []
    assert fetch(TASK, tmp_path, base=server.address, report=lambda *at: told.append(at)) == 24
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dev_outputs.json", "dev_questions.json"]
    assert lamp.read(tmp_path, TASK) == synthetic.users(TASK, 3)
    sizes = {name: len(server.pages[page]) for name, page in (("dev outputs", OUTPUTS), ("dev questions", QUESTIONS))}
    assert [name for name, here, whole in told if here == whole == sizes[name]] == ["dev outputs", "dev questions"]


def test_by_time_and_split_to_their_own_address(server, tmp_path):
    server.pages |= {f"/time{page}".replace("dev", "train"): body for page, body in server.pages.items()}
    assert fetch(TASK, tmp_path, split="train", time_based=True, base=server.address) == 24
    assert (tmp_path / "train_questions.json").read_bytes() == server.pages[QUESTIONS]


def test_a_cut_run_leaves_no_file_that_looks_whole_and_the_next_goes_on(server, tmp_path):
    server.cuts += [len(server.pages[OUTPUTS]), 5000, *[0] * TRIES]
    with pytest.raises(OSError, match="was cut 5 times in a row"):
        fetch(TASK, tmp_path, base=server.address, wait=0)
    assert all(".part" in path.name for path in tmp_path.iterdir())
    asked = len(server.asked)
    assert fetch(TASK, tmp_path, base=server.address, wait=0) == 24
    assert server.asked[asked:] == [(QUESTIONS, "bytes=5000-")]
    assert lamp.read(tmp_path, TASK) == synthetic.users(TASK, 3)


def test_what_is_not_there_is_told(server, tmp_path):
    del server.pages[QUESTIONS]
    with pytest.raises(ValueError, match=rf"{QUESTIONS} cannot be had: the server says 404 Not Found"):
        fetch(TASK, tmp_path, base=server.address)


def test_a_page_instead_of_a_file_is_removed(server, tmp_path):
    page = b"<!DOCTYPE html><html>" + b"lost " * 3000  # with status 200, as LaMP's server has it
    for lost in (QUESTIONS, OUTPUTS):
        whole, server.pages[lost] = server.pages[lost], page
        with pytest.raises(lamp.DataError, match=r"is not LaMP-5 in LaMP's form, and is removed: .* not valid JSON"):
            fetch(TASK, tmp_path, base=server.address)
        assert not list(tmp_path.iterdir())
        server.pages[lost] = whole
    assert fetch(TASK, tmp_path, base=server.address) == 24


def test_the_files_of_another_task_are_removed(server, tmp_path):
    server.pages[QUESTIONS], server.pages[OUTPUTS] = as_bytes(lamp.task("LaMP-3"))
    with pytest.raises(lamp.DataError, match="the outputs belong to task 'LaMP_3'"):
        fetch(TASK, tmp_path, base=server.address)
    assert not list(tmp_path.iterdir())


def form(**changes):
    item = {"id": "0", "description": "D", "tag": "comedy"}
    questions = [{"id": "1", "input": "Q", "profile": [item]}, {"id": "2", "input": "Q", "profile": []}]
    golds = [{"id": "2", "output": "A"}, {"id": "1", "output": "A"}]
    return {"questions": questions, "outputs": {"task": "LaMP_2", "golds": golds}} | changes


def test_a_question_and_its_gold_answer_are_counted_once():
    assert count(lamp.task("LaMP-2"), **form()) == 2


ASKED, NEWS = form()["questions"], {"id": "0", "title": "T", "text": "T", "category": "sports"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"questions": []}, "the questions are []"),
        ({"questions": {}}, "the questions are {}"),
        ({"questions": ["Q"]}, "question 0 is 'Q'"),
        ({"questions": [{"id": "1", "input": "Q"}]}, "question 0: field 'profile' is None"),
        ({"questions": [{"input": "Q", "profile": []}]}, "question 0 has no 'id'"),
        ({"questions": [{**ASKED[0], "profile": [NEWS]}, ASKED[1]]}, "question 0 has no 'description'"),
        ({"questions": ASKED[:1]}, "1 questions and 2 gold answers do not pair up"),
        ({"questions": [ASKED[0], ASKED[0]]}, "2 questions and 2 gold answers do not pair up"),
        ({"questions": [ASKED[0], {**ASKED[1], "id": "3"}]}, "2 questions and 2 gold answers do not pair up"),
        ({"outputs": [1]}, "the outputs are [1]"),
        ({"outputs": {"task": "LaMP_2"}}, "the outputs are {'task'"),
        ({"outputs": {"task": "LaMP_2", "golds": [3]}}, "a gold answer is 3"),
    ],
)
def test_what_is_not_lamps_form_is_named(changes, said):
    with pytest.raises(lamp.DataError) as error:
        count(lamp.task("LaMP-2"), **form(**changes))
    assert said in str(error.value)


def test_what_nobody_can_fetch_is_told_without_asking(server, tmp_path):
    with pytest.raises(ValueError, match="LaMP-6 is made of the Avocado e-mails, which the LDC licenses"):
        fetch(lamp.task("LaMP-6"), tmp_path, base=server.address)
    with pytest.raises(ValueError, match="split 'test': choose one of dev, train: the benchmark keeps the answers"):
        fetch(TASK, tmp_path, split="test", base=server.address)
    with pytest.raises(ValueError, match="split 'all': choose one of dev, train$"):
        fetch(TASK, tmp_path, split="all", base=server.address)
    assert not server.asked

"""`nvcim rag`: learn, ask and vary, and what they refuse."""

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers import make_golden
from tests.helpers.command import nvcim


def last(said: str) -> dict:
    return json.loads(said.splitlines()[-1])


@pytest.fixture(scope="module")
def notes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("notes")
    for name, text in (
        ("bread", "the sour loaf was kneaded by the baker"),
        ("trail", "a long trail over the snowy ridge"),
        ("choir", "the choir sang a solemn psalm"),
    ):
        (folder / f"{name}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def kept(notes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("kept") / "memory"
    said = nvcim("rag", "learn", "--texts", notes, "--out", out, "--steps", 3, "--dim", 8, "--json")
    assert last(said) == {"memory": str(out), "documents": 3, "people": 1, "arrays": 2, "cut": 0, "dim": 8, "bits": 8}
    assert not Path(f"{out}.unfinished").exists()
    return out


def test_a_question_is_answered_behind_the_documents_found(kept):
    told = last(nvcim("rag", "ask", kept, "who kneaded the sour loaf?", "--k", 2, "--json"))
    assert told["found"][0]["id"] == "bread.txt" and len(told["found"]) == 2
    assert 0 <= told["found"][0]["chance"] <= 1 and isinstance(told["answer"], str)
    assert told["device"] == "NVM-3" and told["sigma"] == 0.1


def test_the_same_seed_finds_the_same_scores(kept):
    ask = ("rag", "ask", kept, "the psalm", "--k", 3, "--sigma", 0.4, "--json")
    first, again, other = (last(nvcim(*ask, "--seed", seed))["found"] for seed in (1, 1, 2))
    assert first == again != other


def test_words_find_without_arrays(kept):
    (found,) = last(nvcim("rag", "ask", kept, "the snowy ridge", "--k", 1, "--by", "bm25", "--json"))["found"]
    assert found["id"] == "trail.txt" and found["chance"] is None
    (latest,) = last(nvcim("rag", "ask", kept, "anything", "--k", 1, "--by", "recent", "--json"))["found"]
    assert latest["id"] == "trail.txt"  # the last by name


def test_a_mitigation_writes_by_cell_and_has_no_chance(kept):
    (found, *_) = last(nvcim("rag", "ask", kept, "the psalm", "--mitigation", "swv", "--k", 1, "--json"))["found"]
    assert found["chance"] is None


def test_more_documents_join_and_take_the_place_of_their_old_form(kept, notes, tmp_path):
    shutil.copytree(kept, tmp_path / "m")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.txt").write_text("the tram leaves at nine")
    (tmp_path / "new" / "bread.txt").write_text("the sour loaf was burnt")
    shutil.copy(notes / "choir.txt", tmp_path / "new")
    add = ("rag", "add", tmp_path / "m", "--texts", tmp_path / "new", "--json")
    counts = {"memory": str(tmp_path / "m"), "documents": 4, "cut": 0}
    assert last(nvcim(*add)) == {**counts, "new": 1, "replaced": 1, "unchanged": 1}
    assert last(nvcim(*add)) == {**counts, "new": 0, "replaced": 0, "unchanged": 3}
    found = last(nvcim("rag", "ask", tmp_path / "m", "the sour loaf", "--k", 4, "--sigma", 0, "--json"))["found"]
    assert {each["id"] for each in found} == {"a.txt", "bread.txt", "choir.txt", "trail.txt"}
    assert found[0]["text"] == "the sour loaf was burnt"


def test_documents_of_nobody_in_the_memory_are_refused_and_change_nothing(kept, tmp_path):
    line = {"text": "a loaf", "user": "ann"}
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    before = sorted(path.name for path in kept.iterdir())
    said = nvcim("rag", "add", kept, "--texts", tmp_path / "a.jsonl", code=2)
    assert "holds no user 'ann': it holds me" in " ".join(said.split())
    assert sorted(path.name for path in kept.iterdir()) == before


def test_vary_integrates_and_programs(kept, tmp_path):
    said = nvcim(
        "rag",
        "vary",
        kept,
        "--device",
        "NVM-3",
        "--sigma",
        0.1,
        "--k",
        2,
        "--draws",
        40,
        "--out",
        tmp_path / "v",
        "--json",
    )
    told = json.loads((tmp_path / "v" / "rag.json").read_text())
    (cell,) = last(said)["cells"]
    assert told["cells"] == [cell] and (tmp_path / "v" / "rag.png").stat().st_size > 1000
    assert len(cell["programmed"]["first"]) == 40
    drawn = sum(row[0] for row in cell["programmed"]["precision"]) / 40
    assert cell["expected"]["precision"][0] == pytest.approx(drawn, abs=0.25)


def test_fewer_questions_are_asked_evenly_spaced(kept):
    vary = ("rag", "vary", kept, "--device", "NVM-3", "--sigma", 0.1, "--k", 2, "--json")
    every, first_and_last = (last(nvcim(*vary, "--questions", most)) for most in (100, 2))
    assert every["settings"]["questions"] == 3 and first_and_last["settings"]["questions"] == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["learn", "--texts", "nowhere", "--out", "new"], "nowhere is missing"),
        (["learn", "--texts", "x", "--task", "LaMP-2", "--out", "new"], "give one of them"),
        (["learn", "--training", "magic", "--out", "new"], "unknown training 'magic'"),
        (["learn", "--codec", "magic", "--out", "new"], "unknown codec 'magic'"),
        (["learn", "--peak", "magic", "--out", "new"], "one largest value per 'magic'"),
        (["learn", "--encoder", "nowhere", "--steps", "1", "--out", "new"], "holds no config.json"),
        (["ask", "nowhere", "a question"], "nowhere is no bank"),
        (["ask", "KEPT", " "], "the question is empty"),
        (["ask", "KEPT", "q", "--by", "magic"], "--by magic: choose one of arrays, bm25, recent"),
        (["ask", "KEPT", "q", "--k", "4"], "k = 4, but 'me' has 3 documents: ask for 1 to 3"),
        (["ask", "KEPT", "q", "--user", "1"], "users 0 to 0, not 1"),
        (["vary", "KEPT", "--k", "9"], "k = 9"),
        (["vary", "KEPT", "--mitigation", "swv"], "no closed form"),
        (["vary", "KEPT", "--data", "x", "--k", "1"], "texts without questions"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(kept, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    told = nvcim("rag", *(str(kept) if word == "KEPT" else word for word in words), code=2)
    assert said in " ".join(told.split()) and not list(tmp_path.iterdir())


def test_long_documents_are_counted(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": f"the loaf {at} " * 600}) for at in range(2)))
    said = nvcim(
        "rag", "learn", "--texts", tmp_path / "a.jsonl", "--training", "none", "--dim", 8, "--out", tmp_path / "m"
    )
    assert "2 documents are longer than the 512 tokens" in " ".join(said.split())


def test_the_toy_world_has_documents_and_questions(tmp_path):
    nvcim("rag", "learn", "--users", 2, "--training", "none", "--dim", 8, "--out", tmp_path / "m")
    (tmp_path / "a.txt").write_text("the tram leaves at nine")
    said = nvcim("rag", "add", tmp_path / "m", "--texts", tmp_path, code=2)
    assert "holds LaMP's documents, not texts of your own" in " ".join(said.split())
    told = last(nvcim("rag", "vary", tmp_path / "m", "--k", 3, "--device", "NVM-1", "--sigma", 0.1, "--json"))
    assert told["settings"]["right"] == "a document of the question's topic is found"
    assert len(told["cells"][0]["expected"]["first"]) == 2


def test_a_sentence_encoder_keeps_all_its_dimensions_in_two_bits(notes, tmp_path):
    encoder = make_golden.GOLDEN / make_golden.ENCODER
    for given, dim, bits in (((), 32, 2), (("--dim", 8), 8, 2), (("--bits", 8), 32, 8)):
        out = tmp_path / f"m{dim}{bits}"
        said = last(nvcim("rag", "learn", "--texts", notes, "--encoder", encoder, *given, "--out", out, "--json"))
        assert (said["dim"], said["bits"]) == (dim, bits)

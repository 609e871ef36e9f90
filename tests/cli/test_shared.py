"""What the commands share: options, folders, sentences, the time left."""

import json
from types import SimpleNamespace

import pytest
import typer

from nvcim_jax.cli import progress, shared
from nvcim_jax.cli.progress import Bar, Pace


def refused(parse, given):
    with pytest.raises(typer.BadParameter) as error:
        parse(given)
    return error.value.message


def test_a_number_is_finite_and_in_its_range():
    parse = shared.number(float, 0, 10)
    assert parse("0") == 0 and parse("10") == 10 and parse(0.5) == 0.5
    for given in ("nan", "inf", "-inf", "-0.001", "10.001", "1e400", "", "x", "9" * 5000):
        assert "a number from 0 to 10 is needed" in refused(parse, given)
    whole = shared.number(int, 1, 2**32)
    assert whole("4294967296") == 2**32
    for given in ("1.5", "1e3", "0", "4294967297", "9" * 5000):
        assert "a whole number from 1 to 4294967296 is needed" in refused(whole, given)
    assert len(refused(whole, "9" * 5000)) < 150


def test_a_path_is_expanded_and_not_empty(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert shared.path("~/x") == tmp_path / "x"
    assert shared.model_name("~/x") == str(tmp_path / "x")
    assert shared.model_name("./google/gemma") == "./google/gemma"  # which a bare google/gemma is not
    assert shared.device_name("~/own.toml") == str(tmp_path / "own.toml")
    assert shared.device_name("NVM-3") == "NVM-3"
    for parse in (shared.path, shared.model_name):
        assert "empty" in refused(parse, "") and "empty" in refused(parse, " ")
        assert "no such user" in refused(parse, "~nobody-of-this-name/x")
    assert "null character" in refused(shared.path, "a\0b")


def test_prepare_refuses_to_overwrite(tmp_path):
    shared.prepare(tmp_path / "new" / "out", "cost.json")
    assert (tmp_path / "new" / "out").is_dir()
    (tmp_path / "bank-LaMP-2-0").mkdir()
    shared.prepare(tmp_path, "results.json")
    for pattern in ("bank-*", "*"):
        with pytest.raises(ValueError, match="exists already and holds bank-LaMP-2-0"):
            shared.prepare(tmp_path, "results.json", pattern)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link", "file/below", "x" * 300):
        with pytest.raises(ValueError, match="cannot be written"):
            shared.prepare(tmp_path / name)
    shared._new.clear()


def test_folders_in_which_nothing_was_written_are_removed(tmp_path):
    with pytest.raises(SystemExit), shared.plain_errors():
        shared.prepare(tmp_path / "a" / "b")
        raise ValueError("no")
    assert not list(tmp_path.iterdir())
    with shared.plain_errors():
        shared.prepare(tmp_path / "a" / "b")
        (tmp_path / "a" / "b" / "results.json").write_text("{}")
    assert (tmp_path / "a" / "b" / "results.json").exists()


def test_an_interrupt_is_one_sentence_and_130(capsys):
    with pytest.raises(SystemExit) as end, shared.plain_errors():
        raise KeyboardInterrupt
    assert end.value.code == 130 and capsys.readouterr().err == "interrupted: nothing was saved\n"
    with pytest.raises(SystemExit) as end, shared.plain_errors():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            stop.add_note("half of it is in out")
            raise
    assert end.value.code == 130 and capsys.readouterr().err == "interrupted: half of it is in out\n"


def test_long_work_is_told_beforehand_and_refused_beyond_the_limit(capsys):
    shared.announce(59, 48, "4 users")
    assert capsys.readouterr().err == ""
    shared.announce(3 * 3600, 48, "40 users")
    assert capsys.readouterr().err == "40 users: about 3 hours of work\n"
    with pytest.raises(ValueError, match="1000000000 users would take about 317 years .* more than 48 hours with --ho"):
        shared.announce(1e10, 48, "1000000000 users")
    shared.announce(1e10, 1e10, "1000000000 users")


def test_json_knows_no_nan(capsys):
    shared.print_json({"a": [float("nan"), float("inf"), 1.5], "b": "\x1b[31m"})
    out = capsys.readouterr().out
    assert json.loads(out, parse_constant=pytest.fail) == {"a": [None, None, 1.5], "b": "\x1b[31m"}
    assert "\x1b" not in out


def test_time_left_comes_from_finished_work():
    pace = Pace((100, 10), (100, 10))
    assert pace.left(100, 50) is None  # nothing was finished since it began
    pace = pace.seen(110, 15)  # two seconds a unit
    assert pace.left(110, 50) == 70
    assert pace.left(130, 50) == 50  # it counts down while nothing is heard
    assert pace.left(181, 50) is None  # overdue: nobody knows
    assert pace.without(5).left(110, 50) == 60  # units that took no work change the rest, not the pace
    assert pace.seen(120, 20).left(120, 20) == 0


def bar(monkeypatch, **task):
    """A bar on a clock that stands still, one task in it."""
    made = Bar()
    made.now = 0.0
    monkeypatch.setattr(made, "get_time", lambda: made.now)
    return made, made.add_task("work", total=100, **task)


def test_what_came_before_the_first_unit_does_not_count(monkeypatch):
    made, task = bar(monkeypatch)
    made.now = 1000.0  # of compiling
    made.advance(task, 10)
    assert made.paces[task].left(made.now, 100) is None
    made.now = 1005.0
    made.advance(task, 10)
    assert made.paces[task].left(made.now, 100) == 40


def test_a_marked_task_counts_pieces_of_one_kind(monkeypatch):
    made, task = bar(monkeypatch, marked=True)
    made.now = 10.0
    made.advance(task, 30)
    assert made.paces[task].left(made.now, 100) is None
    made.now = 50.0
    made.mark(task, completed=25)
    assert made.paces[task].left(made.now, 100) == 150
    assert made.tasks[0].completed == 25


def test_the_line_where_there_is_no_bar(monkeypatch):
    made, task = bar(monkeypatch)
    made.advance(task, 10)
    made.now = 10.0
    made.advance(task, 10)
    assert made.line(made.tasks[0]) == "work, 20%, 0:01:20 left"


def test_lines_are_printed_where_output_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS", 0.01)
    import time

    with progress.progress_bar() as made:
        made.add_task("[work]", total=2)
        deadline = time.time() + 20
        while "[work], 0%" not in (said := capsys.readouterr().err) and time.time() < deadline:
            time.sleep(0.01)
    assert "[work], 0%\n" in said


def test_the_tuning_bar_says_compiling_until_it_tunes(monkeypatch):
    seen = []
    monkeypatch.setattr(Bar, "update", lambda self, task, **fields: seen.append(fields["told"]))
    done = SimpleNamespace(row_steps=4, tokens=0, loss=float("nan"))
    with progress.tuning_bar(16) as report:
        report(done)
        assert not seen
        report(SimpleNamespace(row_steps=4, tokens=400, loss=0.5))
        report(SimpleNamespace(row_steps=4, tokens=400, loss=0.25))
    assert seen[0] == "loss 0.500" and seen[1].startswith("loss 0.250, ") and seen[1].endswith(" tokens/s")

"""The engine of studies: whatever ends a run, and however it is spread, the same rows are there in the end."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from nvcim_jax.evaluation import study
from nvcim_jax.evaluation.study import Measured, Study
from nvcim_jax.memory.storage import digests
from tests.helpers.fake_study import USERS, fake, rows_of

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What one run from beginning to end leaves."""
    folder = tmp_path_factory.mktemp("whole")
    study.run(fake(), folder)
    return rows_of(folder)


def spawned(workers=1):
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def results_in(folder) -> list[Path]:
    return sorted(Path(folder).glob("results-*.jsonl"))


def test_a_run_leaves_a_result_for_each_cell_and_a_row_for_each_question(whole, tmp_path):
    results, rows = whole
    assert {digests.of_text(cell) for cell in fake().cells} == set(results) and len(results) == 12
    assert len(rows) == 12 * len(USERS) and {row["cell"] for row in rows} == set(results)
    told = []
    study.run(fake(), tmp_path, report=lambda *done: told.append(done))
    assert told == [(0, True)] + 12 * [(1, False)]
    (path,) = results_in(tmp_path)
    head, *lines = map(json.loads, path.read_text().splitlines())
    assert head["provenance"]["versions"]["jax"] and [line["at"] for line in lines] == list(fake().cells)
    assert path.stat().st_mode & 0o777 == 0o600  # answers are people's


def test_a_run_of_what_is_complete_does_nothing(tmp_path):
    study.run(fake(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    told = []
    study.run(replace(fake(), measure=lambda cell: pytest.fail()), tmp_path, report=lambda *done: told.append(done))
    assert told == [(12, True)] and {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_killed_run_goes_on_to_identical_rows(tmp_path):
    """Three times, with SIGKILL while it writes."""
    for kills in (1, 2, 3):
        program = subprocess.Popen([sys.executable, "-m", "tests.helpers.fake_study", str(tmp_path)], cwd=ROOT)
        end = time.monotonic() + 60
        while len(results_in(tmp_path)) < kills:
            assert time.monotonic() < end and program.poll() is None
            time.sleep(0.01)
        program.send_signal(signal.SIGKILL)
        program.wait()
        assert kills <= len(study.read(tmp_path).cells) < 12
    slow = fake(sleep=0.05)
    study.run(slow, tmp_path)
    study.run(slow, tmp_path / "whole")
    assert rows_of(tmp_path) == rows_of(tmp_path / "whole")


def test_ctrl_c_keeps_finished_cells(tmp_path, whole):
    def stop(count, kept):
        if not kept and len(study.read(tmp_path).cells) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run(fake(), tmp_path, report=stop)
    assert len(study.read(tmp_path).cells) == 5
    study.run(fake(), tmp_path)
    assert rows_of(tmp_path) == whole


def test_two_shards_are_one_run(tmp_path, whole):
    for shard in ("2/2", "1/2"):
        study.run(fake(), tmp_path, shard=shard)
    assert rows_of(tmp_path) == whole and len(results_in(tmp_path)) == 2
    first, second = (study.units(fake(), shard) for shard in ("1/2", "2/2"))
    assert len(first) == len(second) == 3  # blocks of users, of two devices each
    assert all(len(unit) == 2 and unit[0][1]["users"] == unit[1][1]["users"] for unit in first + second)


def test_shards_in_folders_of_their_own_can_be_copied_together(tmp_path, whole):
    for at in (1, 2):
        study.run(fake(), tmp_path / str(at), shard=f"{at}/2")
    for path in (tmp_path / "2").glob("*.jsonl"):
        path.rename(tmp_path / "1" / path.name)
    assert rows_of(tmp_path / "1") == whole


@pytest.mark.parametrize("executor", [lambda: ThreadPoolExecutor(3), spawned], ids=["threads", "processes"])
def test_any_executor_gives_the_rows_of_a_serial_run(executor, tmp_path, whole):
    told = []
    with executor() as pool:
        study.run(fake(), tmp_path, executor=pool, report=lambda *done: told.append(done))
    assert rows_of(tmp_path) == whole
    assert told == [(0, True)] + 6 * [(2, False)] and len(results_in(tmp_path)) == 6  # a writer for each unit


def test_a_worker_that_dies_loses_nothing(tmp_path):
    plan = fake(fatal=str(tmp_path / "died"))
    with (
        spawned() as pool,
        pytest.raises(ValueError, match=r"a worker died: 11 of 12 cells are kept in .*; run it again"),
    ):
        study.run(plan, tmp_path / "out", executor=pool)
    study.run(plan, tmp_path / "out")  # where the file is, it is not fatal
    study.run(plan, tmp_path / "whole")
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")


def test_an_error_in_a_cell_is_told_and_the_rest_is_kept(tmp_path, whole):
    def broken(cell):
        if cell == fake().cells[4]:
            raise ValueError("no such device")
        return fake().measure(cell)

    for executor in (None, ThreadPoolExecutor(1)):
        with pytest.raises(ValueError, match="no such device"):
            study.run(replace(fake(), measure=broken), tmp_path, executor=executor)
    assert 4 <= len(study.read(tmp_path).cells) < 12
    study.run(fake(), tmp_path)
    assert rows_of(tmp_path) == whole


@pytest.mark.parametrize("left", [0, 1, 20, -1])
def test_a_torn_last_line_is_dropped_and_measured_again(left, tmp_path, whole):
    """`left` bytes of it are there; -1: all but its end."""
    study.run(fake(), tmp_path)
    (path,) = results_in(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:left])
    found = study.read(tmp_path)
    assert len(found.cells) == 11 and found.dropped == (left != 0)
    assert len(list(study.questions(tmp_path, found))) == 22  # the rows of the torn cell are nobody's
    study.run(fake(), tmp_path)
    assert rows_of(tmp_path) == whole


def test_a_file_without_one_whole_line_is_nobodys(tmp_path, whole):
    study.run(fake(), tmp_path)
    (tmp_path / "results-0.jsonl").write_text("")
    (tmp_path / "results-1.jsonl").write_text('{"study": "12')
    assert rows_of(tmp_path) == whole and study.read(tmp_path).dropped == 1


@pytest.mark.parametrize(("at", "left"), [(3, 11), (0, 0)], ids=["a cell", "who wrote them"])
def test_a_broken_line_in_the_middle_is_counted_and_measured_again(at, left, tmp_path, whole):
    study.run(fake(), tmp_path)
    (path,) = results_in(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:at], b"\0" * 40 + b"\n", *lines[at + 1 :]]))
    found = study.read(tmp_path)
    assert (len(found.cells), found.dropped) == (left, 1)
    study.run(fake(), tmp_path)
    assert rows_of(tmp_path) == whole


def test_of_two_results_of_a_cell_the_first_counts_with_its_own_rows(tmp_path):
    other = replace(fake(), measure=lambda cell: Measured({"score": -1.0}, [{"question": "other"}]))
    for at, plan in enumerate((fake(), other)):
        study.run(plan, tmp_path / str(at))
    for path in (tmp_path / "1").glob("*.jsonl"):
        path.rename(tmp_path / "0" / path.name)
    results, rows = rows_of(tmp_path / "0")
    assert all(result["score"] >= 0 for _, result in results.values())
    assert len(rows) == 24 and not any(row["question"] == "other" for row in rows)


def test_a_folder_of_other_settings_is_refused_and_the_difference_named(tmp_path):
    study.run(fake(), tmp_path)
    for plan, said in (
        (fake(draws=5), "settings: draws 3, not 5"),
        (fake(methods={"paper": {"tokens": 16}}), 'settings: methods null, not {"paper": {"tokens": 16}}'),
        (fake(blocks=2), "cells 12, not 4"),
        (fake(sleep=0.1), r'digest "\w+", not "\w+"'),
        (replace(fake(), name="table1"), 'study "fake", not "table1"'),
        (replace(fake(), chosen_on=((5, 6),)), r"chosen_on \[\], not \[\[5, 6\]\]"),
    ):
        with pytest.raises(ValueError, match=f"was made with {said}: choose another folder"):
            study.run(plan, tmp_path)
    assert len(study.read(tmp_path).cells) == 12


def test_what_is_no_folder_of_this_version_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no folder of a study: its study.json cannot be read"):
        study.read(tmp_path)
    study.run(fake(blocks=1), tmp_path)
    about = json.loads((tmp_path / "study.json").read_text())
    (tmp_path / "study.json").write_text(json.dumps(about | {"version": 2}))
    for act in (lambda: study.read(tmp_path), lambda: study.run(fake(blocks=1), tmp_path)):
        with pytest.raises(ValueError, match="is of format 2, of a newer nvcim_jax .this one knows 1.: update it"):
            act()
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(ValueError, match="is no folder of a study"):
        study.read(tmp_path)


def test_results_that_were_written_for_other_settings_are_not_mixed_in(tmp_path):
    study.run(fake(), tmp_path / "a")
    study.run(fake(draws=5), tmp_path / "b")
    (path,) = results_in(tmp_path / "b")
    path.rename(tmp_path / "a" / path.name)
    with pytest.raises(ValueError, match=f"{path.name} was written for other settings than .*study.json says"):
        study.read(tmp_path / "a")


@pytest.mark.parametrize("shard", ["5/4", "0/4", "1/0", "1", "a/b", "1/2/3", "-1/2", ""])
def test_a_shard_that_is_none_is_refused(shard, tmp_path):
    with pytest.raises(ValueError, match=f"shard '{shard}': give i/n with i from 1 to n, such as 2/4"):
        study.run(fake(), tmp_path / "out", shard=shard)
    assert not (tmp_path / "out").exists()


def test_a_cell_that_stands_twice_is_refused(tmp_path):
    twice = {"device": "NVM-1", "users": [1, 2]}
    plan = Study("twice", {}, (twice, {"users": [1, 2], "device": "NVM-1"}), fake().measure)  # in any order of fields
    with pytest.raises(ValueError, match=r"study twice: the cell \{.*\} stands in it twice"):
        study.run(plan, tmp_path)


@pytest.mark.parametrize("chosen_on", [(1_000_011, 1), (1_000_000, 1), (999_990, 11), (0, 2_000_000), (1_000_005, 2)])
def test_users_on_whom_settings_were_chosen_are_not_reported(chosen_on, tmp_path):
    plan = replace(fake(), chosen_on=((2_000_000, 50), chosen_on))
    with pytest.raises(ValueError, match=r"of users 10000\d+ to 10000\d+, who are reported, some are among .* chosen"):
        study.run(plan, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chosen_on", [(999_990, 10), (1_000_012, 5)])
def test_neighbours_of_reported_users_may_choose_settings(chosen_on):
    assert len(study.check(replace(fake(), chosen_on=(chosen_on,)))) == 12


def test_a_cell_s_name_hangs_on_nothing_but_its_values():
    assert digests.of_text({"a": 1, "b": [0.1, "x"]}) == digests.of_text({"b": (0.1, "x"), "a": 1})
    assert len({digests.of_text(cell) for cell in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {})}) == 5


def test_a_full_disk_is_one_sentence_and_what_is_finished_stays(tmp_path, monkeypatch):
    calls, sync = [], os.fsync

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 9:  # study.json takes one, a cell two
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\): make room, then run it again"):
        study.run(fake(), tmp_path)
    found = study.read(tmp_path)
    assert len(found.cells) == 4 and len(list(study.questions(tmp_path, found))) == 8  # no result without its rows


def test_many_cells_are_read(tmp_path):
    plan = Study("many", {}, ({"users": [1, 1]},), fake().measure)
    study.run(plan, tmp_path)
    (path,) = results_in(tmp_path)
    head, line = path.read_text().splitlines()
    cell = json.loads(line)
    result = {"users": {str(at): 0.123456789 for at in range(8)}, "right_domain": None}
    lines = (json.dumps(cell | {"cell": digests.of_text(at), "result": result}) for at in range(45_000))
    path.write_text("\n".join([head, *lines, ""]))
    assert len(study.read(tmp_path).cells) == 45_000

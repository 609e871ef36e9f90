"""Files are complete or absent, follow no link, and leave nothing behind."""

import json
import multiprocessing
import os
import resource
import signal
import stat

import numpy as np
import pytest

from nvcim_jax import files


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "results.json"
    files.write_json(path, {"old": 1})
    files.write_json(path, {"new": "é"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"new": "é"} and os.listdir(tmp_path) == ["results.json"]


def test_json_has_no_number_that_json_does_not_know(tmp_path):
    files.write_json(tmp_path / "out.json", {"a": [float("nan"), float("-inf"), 1.5], "NaN": "NaN"})
    told = json.loads((tmp_path / "out.json").read_text(), parse_constant=pytest.fail)
    assert told == {"a": [None, None, 1.5], "NaN": "NaN"}


def test_private_files_are_closed_to_others_and_the_rest_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_bytes(tmp_path / "text", b"a", private=True)
        files.write_bytes(tmp_path / "scores", b"a")
    finally:
        os.umask(before)
    assert mode(tmp_path / "text") == 0o600 and mode(tmp_path / "scores") == 0o640
    os.chmod(tmp_path / "text", 0o666)
    files.write_bytes(tmp_path / "text", b"b", private=True)
    assert mode(tmp_path / "text") == 0o600


@pytest.mark.parametrize("name", ["diary", "missing"])
def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path, name):
    (tmp_path / "diary").write_text("rain")
    (tmp_path / "out.json").symlink_to(tmp_path / name)
    files.write_json(tmp_path / "out.json", 1)
    assert (tmp_path / "diary").read_text() == "rain" and not (tmp_path / "out.json").is_symlink()
    assert not (tmp_path / "missing").exists()


def test_a_pipe_is_replaced_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "out.json")
    files.write_json(tmp_path / "out.json", 1)
    assert (tmp_path / "out.json").read_text() == "1"


def test_libraries_write_by_the_name_that_they_expect(tmp_path):
    with files.replacing(tmp_path / "trials.npz") as partial:
        assert partial.name == "trials.npz" and not partial.exists()
        np.savez(partial, trials=np.arange(3))
    assert np.load(tmp_path / "trials.npz")["trials"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_an_error_keeps_what_was_there_and_leaves_nothing(tmp_path, error):
    path = tmp_path / "out"
    path.write_text("old")
    with pytest.raises(error), files.replacing(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["out"]


def test_a_library_that_leaves_a_link_or_nothing_is_refused(tmp_path):
    (tmp_path / "diary").write_text("rain")
    with pytest.raises(OSError, match="cannot be written"), files.replacing(tmp_path / "out") as partial:
        partial.symlink_to(tmp_path / "diary")
    with pytest.raises(OSError, match="No such file"), files.replacing(tmp_path / "out"):
        pass
    assert os.listdir(tmp_path) == ["diary"] and mode(tmp_path / "diary") == 0o644


def test_where_nothing_can_be_written_the_reason_is_told(tmp_path):
    (tmp_path / "folder").mkdir()
    for path, said in ((tmp_path / "no" / "out", "No such file"), (tmp_path / "folder", "directory")):
        with pytest.raises(OSError, match=f"cannot be written .*{said}"):
            files.write_bytes(path, b"")
    assert os.listdir(tmp_path) == ["folder"]


def limited_write(write, path, data, answers):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    try:
        write(path, data)
        answers.put("written")
    except OSError as error:
        answers.put(str(error))


@pytest.mark.parametrize(("write", "data"), [(files.write_bytes, bytes(1 << 17)), (files.append_line, "x" * (1 << 17))])
def test_a_full_disk_keeps_what_was_there(tmp_path, write, data):
    (tmp_path / "out").write_text("old")
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=limited_write, args=(write, tmp_path / "out", data, answers))
    process.start()
    assert "cannot be written (File too large): make room" in answers.get(timeout=60)
    process.join()
    assert (tmp_path / "out").read_text() == "old" and os.listdir(tmp_path) == ["out"]


def test_lines_are_added_to_a_private_file(tmp_path):
    path = tmp_path / "kept.jsonl"
    files.append_line(path, "é")
    assert path.read_text(encoding="utf-8") == "é\n" and mode(path) == 0o600
    path.chmod(0o644)
    path.write_text("torn")
    files.append_line(path, "whole")
    assert path.read_text() == "torn\nwhole\n" and mode(path) == 0o600
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="link cannot be written"):
        files.append_line(tmp_path / "link", "lost")
    assert path.read_text() == "torn\nwhole\n"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device"])
def test_only_regular_files_are_opened(tmp_path, kind):
    path = tmp_path / "lock"
    (tmp_path / "diary").write_text("rain")
    if kind == "link":
        path.symlink_to(tmp_path / "diary")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = "/dev/null"
    with pytest.raises(OSError):
        files.open_own(path, os.O_RDWR | os.O_CREAT)
    assert (tmp_path / "diary").read_text() == "rain"


def test_a_new_own_file_is_private_and_an_old_one_is_not_emptied(tmp_path):
    os.close(files.open_own(tmp_path / "lock", os.O_RDWR | os.O_CREAT))
    assert mode(tmp_path / "lock") == 0o600
    (tmp_path / "lock").write_text("kept")
    os.close(files.open_own(tmp_path / "lock", os.O_RDWR | os.O_CREAT))
    assert (tmp_path / "lock").read_text() == "kept"

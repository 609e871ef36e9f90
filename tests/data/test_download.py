"""A file from the web: whole, cut, changed on the way, not there."""

import shutil
import socket
from collections import namedtuple

import pytest

from nvcim_jax.data import download as downloads
from nvcim_jax.data.download import download, finish, forget
from tests.helpers.web import web

BODY = bytes(range(256)) * 400  # 102,400 bytes, no part of which equals another at its place


@pytest.fixture
def server():
    with web({"/file": BODY}) as running:
        yield running


def fetch(server, part, **options):
    told = []
    download(f"{server.address}/file", part, report=lambda *at: told.append(at), wait=0, seconds=5, **options)
    return told


def test_a_file_comes_whole_and_gets_its_name(server, tmp_path):
    told = fetch(server, tmp_path / "a.part")
    assert told[0] == (0, len(BODY)) and told[-1] == (len(BODY), len(BODY)) and told == sorted(told)
    finish(tmp_path / "a.part", tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == BODY


def test_a_cut_connection_goes_on_where_it_was(server, tmp_path):
    server.cuts += [1000, 0, 50_000]
    fetch(server, tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == BODY
    assert [wanted for _, wanted in server.asked] == [None, "bytes=1000-", "bytes=1000-", "bytes=51000-"]


def test_the_next_run_goes_on_too(server, tmp_path):
    server.cuts += [7000, *[0] * downloads.TRIES]
    with pytest.raises(OSError, match="was cut 5 times in a row .* the same command goes on from there"):
        fetch(server, tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == BODY[:7000]
    told = fetch(server, tmp_path / "a.part")
    assert told[0] == (7000, len(BODY)) and server.asked[-1] == ("/file", "bytes=7000-")
    assert (tmp_path / "a.part").read_bytes() == BODY
    before = len(server.asked)
    assert fetch(server, tmp_path / "a.part") == [(len(BODY), len(BODY))] and len(server.asked) == before


@pytest.mark.parametrize("tags", [('"1"', '"2"'), (None, None)], ids=["another version", "no version"])
def test_two_versions_are_never_mixed(server, tmp_path, tags):
    server.version, server.cuts = tags[0], [3000, *[0] * downloads.TRIES]
    with pytest.raises(OSError):
        fetch(server, tmp_path / "a.part")
    server.version = tags[1]
    server.pages["/file"] = new = BODY[::-1] + (b"" if tags[1] else b"longer")  # else only its size can tell
    fetch(server, tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == new


def test_what_was_begun_from_another_address_is_begun_anew(server, tmp_path):
    server.pages["/other"] = b"x" * len(BODY)
    server.cuts += [3000, *[0] * downloads.TRIES]
    with pytest.raises(OSError):
        fetch(server, tmp_path / "a.part")
    download(f"{server.address}/other", tmp_path / "a.part", wait=0)
    assert (tmp_path / "a.part").read_bytes() == server.pages["/other"] and server.asked[-1] == ("/other", None)


def test_a_file_of_somebody_elses_is_no_beginning(server, tmp_path):
    (tmp_path / "a.part").write_bytes(b"mine" * 10)
    (tmp_path / "a.part.about").write_text("[1]")
    fetch(server, tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == BODY


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.has_ranges, server.cuts = False, [3000]
    fetch(server, tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == BODY


def test_a_server_that_always_cuts_is_given_up(server, tmp_path):
    server.has_ranges, server.cuts = False, [3000] * 50
    with pytest.raises(OSError, match="was cut 5 times in a row"):
        fetch(server, tmp_path / "a.part")
    assert len(server.asked) == 6


def test_what_shrank_on_the_server_is_begun_anew(server, tmp_path):
    server.version, server.cuts = None, [3000, *[0] * downloads.TRIES]
    with pytest.raises(OSError):
        fetch(server, tmp_path / "a.part")
    server.pages["/file"] = BODY[:2000]
    fetch(server, tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == BODY[:2000]


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.errors += [503, 429]
    fetch(server, tmp_path / "a.part")
    assert (tmp_path / "a.part").read_bytes() == BODY and len(server.asked) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_not_there_is_not_asked_for_again(server, tmp_path, status):
    server.errors += [status]
    with pytest.raises(ValueError, match=rf"/file cannot be had: the server says {status} "):
        fetch(server, tmp_path / "a.part")
    assert len(server.asked) == 1 and not list(tmp_path.iterdir())


def test_nobody_there_is_told_at_once(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/file"
    with pytest.raises(OSError, match=r"127.0.0.1 cannot be reached \(Connection refused\): check the network"):
        download(address, tmp_path / "a.part", wait=100)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://a/b", "/etc/passwd", "https://", "x"])
def test_only_the_web_is_read(tmp_path, address):
    with pytest.raises(ValueError, match="is no address of the web"):
        download(address, tmp_path / "a.part")


def test_a_full_disk_is_told_before_anything_comes(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(OSError, match="has no room: 0 MB are to come and 0 MB are free: make room"):
        fetch(server, tmp_path / "a.part")
    assert len(server.asked) == 1 and (tmp_path / "a.part").read_bytes() == b""


def test_what_cannot_be_written_is_no_fault_of_the_network(server, tmp_path):
    (tmp_path / "a.part").mkdir()
    with pytest.raises(OSError):
        fetch(server, tmp_path / "a.part")
    assert len(server.asked) <= 1


def test_what_is_forgotten_is_gone(server, tmp_path):
    fetch(server, tmp_path / "a.part")
    forget(tmp_path / "a.part")
    assert not list(tmp_path.iterdir())

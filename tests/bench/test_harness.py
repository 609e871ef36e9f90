"""What the harness of the benchmarks counts, prints and keeps; no time is tested."""

import json
import os

import pytest

from bench import harness

STAT = """\
cpu  100 0 0 100 0 0 0 0 0 0
cpu0 10 1 5 80 4 0 0 0 7 0
cpu1 90 0 0 20 0 0 0 10 0 0
cpu10 1 1 1 1 1 1 1 1 0 0
intr 5 0
"""


def run(monkeypatch, measure, *words):
    """`harness.run` as a command, of a benchmark with an option --size: 100, and 3 under --quick."""
    monkeypatch.setattr("sys.argv", ["bench/name.py", *map(str, words)])
    parser = harness.parser("a benchmark")
    parser.add_argument("--size", type=harness.whole, default=100)
    harness.run(parser, measure, quick={"size": 3})


def test_idle_is_idle_or_waiting_for_a_disk_on_the_cores_that_are_asked_for():
    assert harness.ticks(STAT, {0}).tolist() == [84, 100]
    assert harness.ticks(STAT, {0, 1}).tolist() == [104, 220]


@pytest.mark.parametrize(("busy", "idle", "warned"), [(10, 40, False), (11, 40, True)])
def test_a_machine_is_called_busy_by_what_it_does_now(busy, idle, warned, tmp_path, monkeypatch, capsys):
    def tell(busy, idle):
        lines = [f"cpu{core} {busy} 0 0 {idle} 0 0 0 0 0 0" for core in harness.cores()]
        (tmp_path / "stat").write_text("\n".join(lines))

    tell(9_000, 100)  # busy until now
    monkeypatch.setattr(harness, "TICKS", tmp_path / "stat")
    monkeypatch.setattr(harness.time, "sleep", lambda seconds: tell(9_000 + busy, 100 + idle))
    share = harness.idle_share()
    assert share == pytest.approx(idle / (busy + idle))
    harness.announce({"device": "cpu", "cores": 1, "idle": share}, {})
    assert ("WARNING" in capsys.readouterr().out) is warned


def test_a_system_that_does_not_say_is_not_called_busy(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness, "TICKS", tmp_path / "none")
    harness.announce({"device": "cpu", "cores": 1, "idle": harness.idle_share()}, {})
    assert "does not say" in capsys.readouterr().out


def test_a_row_is_printed_and_kept_before_the_next_is_measured(tmp_path, monkeypatch, capsys):
    file, seen = tmp_path / "figures.json", []

    def measure(args):
        for at in range(2):
            yield {"side": "ours", "of_all": at / 3, "count": args.size, "curve": [1, 2], "none": None}
            seen.append((len(json.loads(file.read_text())["rows"]), capsys.readouterr().out))

    run(monkeypatch, measure, "--json", file)
    (one, first), (two, second) = seen
    assert (one, two) == (1, 2)
    assert first.splitlines()[-2].split() == ["side", "of", "all", "count", "none"]
    assert first.splitlines()[-1].split() == ["ours", "0", "100", "-"]
    assert second.split() == ["ours", "0.3333", "100", "-"]
    kept = json.loads(file.read_text())
    assert kept["rows"][1] == {"side": "ours", "of_all": 1 / 3, "count": 100, "curve": [1, 2], "none": None}
    assert (kept["seed"], kept["settings"]["size"]) == (harness.SEED, 100)
    assert kept["versions"]["jax"] and kept["machine"]["cores"] == len(harness.cores())


@pytest.mark.parametrize(("words", "size"), [([], 100), (["--quick"], 3), (["--quick", "--size", 7], 7)])
def test_what_is_said_goes_before_what_is_quick(words, size, monkeypatch):
    sizes = []
    run(monkeypatch, lambda args: iter([{"size": sizes.append(args.size)}]), *words)
    assert sizes == [size]


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--size", 0], "'0' is no whole number from 1 on"), (["--json", "/no/x.json"], "/no/x.json cannot be written")],
)
def test_bad_options_are_refused_before_anything_is_measured(words, said, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, lambda args: pytest.fail("measured"), *words)
    assert said in f"{stop.value}{capsys.readouterr().err}"


def test_a_missing_peer_is_named():
    with pytest.raises(SystemExit, match="no_such_peer is missing.*install the extra `bench`"):
        harness.peers("json", "no_such_peer")


def test_sides_take_turns_after_each_was_warmed_up():
    calls = []
    taken = harness.turns({side: lambda side=side: calls.append(side) for side in "ab"}, rounds=2)
    assert calls == ["a", "b", "a", "b", "a", "b"]
    assert {side: each.shape for side, each in taken.items()} == {"a": (2,), "b": (2,)}


def test_a_turn_is_the_mean_of_its_runs_but_for_the_cold_one(monkeypatch):
    spent = iter([100.0, 100.0, 0.5, 0.25, 0.25])  # warm-up, cold, three runs
    monkeypatch.setattr(harness, "timed", lambda work: (None, next(spent)))
    assert harness.turns({"a": None}, rounds=1, steady=1.0)["a"].tolist() == [pytest.approx(1 / 3)]


def test_work_of_its_own_process_comes_back_or_is_said_to_be_killed():
    assert harness.alone(dict, [("pid", 7)]) == {"pid": 7}
    assert "killed" in harness.alone(os._exit, 1)["ended"]

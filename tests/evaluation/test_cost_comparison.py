"""Arrays against a CPU: what each must do, where the paper's ratios are reached, and what `nvcim cost` shows of it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from nvcim_jax.cli.cost import _scaled
from nvcim_jax.evaluation import cost_comparison
from nvcim_jax.hardware.circuit import Array, Cost, Reading, total
from nvcim_jax.hardware.cost import Workload, aligned, mean, pairs, search_array, search_chip
from nvcim_jax.hardware.cpu import ORIN_30W, Work, cache, dram, equivalent, means, published, search, ssd
from tests.hardware.test_cost import FEFET, RRAM, own
from tests.helpers.command import nvcim


def test_the_equivalent_product_by_hand():
    # 3 OVTs of 4 tokens x 2 values; scales hold 4 + 2 + 1 rows
    work = Workload(3, tokens=4, dim=2)
    by_rows, by_pairs = work._replace(product=aligned), work._replace(product=pairs)
    assert equivalent(by_rows)[1:] == (2 * 3 * 8, 3 * 8 * 2, 16)  # one folded vector of 8 values
    assert equivalent(by_rows, bits=8)[1:] == (48, 24, 8)
    for product in (mean, pairs):  # one mean of 2 values
        assert equivalent(work._replace(product=product))[1:] == (2 * 3 * 2, 3 * 2 * 2, 16)
    assert equivalent(work, bits=8)[1:] == (12, 6, 8)
    assert "the mean row, 2 values of 8 bits" in equivalent(work, bits=8).name
    assert "the folded OVT, 8 values of 16 bits" in equivalent(by_rows).name
    assert published(by_pairs)[1:] == (2 * 3 * 2 * (16 + 4 + 1), 3 * 7 * 2 * 2, 16)
    assert published(by_rows)[1:] == (2 * 3 * 2 * 7, 84, 16) and published(work)[1:] == (84, 84, 16)


def test_the_cpu_by_hand():
    # 8 cores x 1.728 GHz x 16 = 221.184 operations a nanosecond, 884.736 with 8 bits; 204.8 bytes a nanosecond
    parts = search(Work("", 221_184, 409_600))
    assert parts["compute"] == Cost(pytest.approx(1000), pytest.approx(30e6))
    assert parts["waiting for data"] == Cost(pytest.approx(1000), pytest.approx(30e6))
    assert total(search(Work("", 884_736, 102_400, 8))).latency_ns == pytest.approx(1000)
    assert search(Work("", 884_736, 0, 8))["waiting for data"] == Cost(0, 0)
    assert ssd(7_000, ORIN_30W) == pytest.approx(101_000) and dram(2048, ORIN_30W) == pytest.approx(10)
    assert cache(221_184, ORIN_30W) == pytest.approx(1000)
    assert cache(6 * 2**20, ORIN_30W) < float("inf") == cache(6 * 2**20 + 1, ORIN_30W)


@pytest.mark.parametrize("tokens", range(1, 21))
def test_as_many_means_as_the_scales_have_different_ones(tokens):
    """The mean of a pooled matrix weighs its tokens; a score needs as many mean rows as these weights have dimensions."""
    windows = lambda scale: np.arange(tokens) // scale  # noqa: E731
    weights = [1 / np.bincount(windows(s))[windows(s)] / (windows(s)[-1] + 1) for s in (1, 2, 4)]
    assert means(Workload(1, tokens=tokens)) == np.linalg.matrix_rank(np.stack(weights))


def test_what_an_independent_recomputation_found():
    """RRAM of 100 kohm, array scope: over the CPU's equivalent product, and in the published mode over the same."""
    bound = {"against": "equivalent", "scope": "array", "source": "DRAM"}
    at = lambda ovts, product: cost_comparison.ratio(  # noqa: E731
        Workload(ovts, product=product), RRAM, Reading(), ORIN_30W, **bound
    )
    few, many = at(100, mean), at(100_000, mean)
    assert 1 / few.latency == pytest.approx(109, rel=0.01) and many.latency == pytest.approx(9.2, rel=0.01)
    assert few.energy == pytest.approx(6.2, rel=0.01) and few.cores == pytest.approx(few.energy * 5.6 / 30)
    assert 1 / at(100, pairs).energy == pytest.approx(15, rel=0.04)
    assert cost_comparison.ratio(Workload(100), RRAM, Reading(), ORIN_30W, **{**bound, "against": "published"}) == (
        cost_comparison.ratio(
            Workload(100, product=pairs), RRAM, Reading(), ORIN_30W, **{**bound, "against": "published"}
        )
    )


def test_the_verdict_agrees_with_the_ratios():
    rows = cost_comparison.verdict(Workload(100), [RRAM, FEFET], Reading(), ORIN_30W)
    assert [row.against for row in rows] == ["equivalent"] * 4 + ["published"] * 12
    assert [(row.cell, row.scope, row.source) for row in rows[:4]] == [
        (cell, scope, "DRAM") for cell in ("RRAM", "FeFET") for scope in ("array", "chip")
    ]
    for row in rows:
        cell = {"RRAM": RRAM, "FeFET": FEFET}[row.cell]
        bound = {"against": row.against, "scope": row.scope, "source": row.source}
        at = lambda n, cell=cell, bound=bound: cost_comparison.ratio(Workload(n), cell, Reading(), ORIN_30W, **bound)  # noqa: E731
        for what, first, bar in (
            ("latency", row.level_from, 1),
            ("latency", row.latency_from, 120),
            ("energy", row.energy_from, 60),
        ):
            values = [getattr(at(n), what) for n in cost_comparison.COUNTS]
            reached = [n for n, value in zip(cost_comparison.COUNTS, values) if value >= bar]
            assert first == (min(reached) if reached else None)
    by_place = {(row.against, row.scope): row.ratio for row in rows if row.source == "DRAM" and row.cell == "RRAM"}
    assert by_place["equivalent", "chip"].latency < by_place["equivalent", "array"].latency
    assert by_place["equivalent", "array"].latency < by_place["published", "array"].latency


def test_the_command_takes_a_device_of_ones_own(tmp_path):
    text = nvcim("cost", "--device", own(tmp_path), "--pulses", 4)
    assert "Mine [ok] (100 kohm, off/on 100, 3-bit cells) lies inside" in text and "NVM-3" not in text
    assert "Mine [ok] endures 1,000,000 pulses: its cells can be rewritten 250,000 times" in text
    assert "Mine [ok]: search, chip" in text and "51.6 uJ" in text


def test_the_command_writes_what_it_shows(tmp_path):
    text = nvcim("cost", "--ovts", 1000, "--out", tmp_path / "out")
    report = json.loads((tmp_path / "out/cost.json").read_text(), parse_constant=pytest.fail)
    assert text.index("best equivalent product") < text.index("as published") and "lies OUTSIDE" in text
    assert report["settings"]["ovts"] == 1000 and report["provenance"]["versions"]["jax"]
    parts = report["costs"]["NVM-3: search, array"]
    assert parts["total"]["energy_pj"] == pytest.approx(sum(v["energy_pj"] for k, v in parts.items() if k != "total"))
    assert report["cpu"]["equivalent"]["bytes"] == 1000 * 48 * 2
    assert [row["against"] for row in report["ratios"]] == ["equivalent"] * 4 + ["published"] * 12
    for row in report["ratios"]:  # 21 MiB
        assert (row["ratio"]["latency"] is None) == (row["source"] == "cache")
    assert "does not fit" in text and [each["name"] for each in report["devices"]] == ["NVM-3", "NVM-4"]
    for name in ("fig2.png", "fig5.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
    assert "holds cost.json and 2 more" in nvcim("cost", "--out", tmp_path / "out", code=2)


def test_the_report_is_printed_as_json():
    done = subprocess.run(
        [sys.executable, "-m", "nvcim_jax", "cost", "--json", "--ovts", "1000"], capture_output=True, check=True, text=True,
        env={"PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    assert json.loads(done.stdout, parse_constant=pytest.fail)["settings"]["ovts"] == 1000
    assert "best equivalent product" in done.stderr


@pytest.mark.parametrize("columns", [60, 80])
def test_nothing_is_cut_where_the_terminal_is_narrow(columns):
    done = subprocess.run(
        [sys.executable, "-m", "nvcim_jax", "cost"], capture_output=True, check=True, text=True,
        env={"COLUMNS": str(columns), "PYTHONIOENCODING": "utf-8"},
    )  # fmt: skip
    wide = nvcim("cost")
    assert max(map(len, done.stdout.splitlines())) <= columns and "…" not in done.stdout
    rows = lambda text: sorted(line.replace(" ", "") for line in text.splitlines() if "│" in line)  # noqa: E731
    assert rows(done.stdout) == rows(wide)


def test_answers_stand_beside_the_cost_at_the_same_bits(monkeypatch, tmp_path):
    row = {"product": "mean", "preset": "recommended", "questions": 400, "adc_bits": 6, "query_bits": 8}
    row["found"] = {"mean": 0.9, "low": 0.8, "high": 0.95, "users": 50}
    row |= {"lost": {"mean": 0.04, "low": 0.01, "high": 0.07}, "same_as_ideal": {"mean": 0.875}}
    cpu = {name: row[name] for name in ("product", "preset", "questions", "found")} | {"cpu": "int8"}
    others = [row | {"product": "aligned"}, row | {"adc_bits": None}, row | {"query_bits": 16}, cpu]
    monkeypatch.setattr(cost_comparison, "MEASURED", tmp_path / "bits.json")
    assert cost_comparison.answers(Workload(1), Reading()) is None
    cost_comparison.MEASURED.write_text(json.dumps({"rows": [*others, row]}))
    assert cost_comparison.answers(Workload(1), Reading()) == row
    for work, reading in (
        (Workload(1, query_bits=4), Reading()),
        (Workload(1), Reading(bits=5)),
        (Workload(1), Reading(Array(rows_at_once=384))),
        (Workload(1, product=pairs), Reading()),
    ):
        assert cost_comparison.answers(work, reading) is None
    text = nvcim("cost")
    assert "for 0.900 [0.800, 0.950] of 400 questions of 50 embedded users" in text
    assert "0.040 [0.010, 0.070] are lost, and 0.125 find another OVT" in text
    assert "not measured" in nvcim("cost", "--adc-bits", 5)


def test_the_answers_that_are_kept_cover_what_is_costed_by_default():
    kept = json.loads(cost_comparison.MEASURED.read_text())
    assert kept["settings"]["first"] == 3_000_000 and kept["settings"]["sigma"] == 0
    for product in (mean, aligned, pairs):
        assert cost_comparison.answers(Workload(1, product=product), Reading())["questions"] >= 400


def test_fig5_shows_both_sides_and_their_ratio():
    panels = cost_comparison.fig5(Workload(1), [RRAM, FEFET], Reading(), ORIN_30W, (1, 100))
    assert len(panels) == 8
    for sides, ratios in zip(panels[::2], panels[1::2]):
        assert list(sides.lines) == [*ratios.lines, "Orin, 30 W"]
        for name, line in ratios.lines.items():
            assert line.y == pytest.approx(np.divide(sides.lines["Orin, 30 W"].y, sides.lines[name].y))
    assert panels[0].lines["RRAM, array"].y[0] == pytest.approx(total(search_array(Workload(1), RRAM)).latency_ns / 1e3)
    assert panels[4].lines["RRAM, chip"].y[1] == pytest.approx(total(search_chip(Workload(100), RRAM)).energy_pj / 1e6)
    assert 1 / panels[1].lines["RRAM, array"].y[1] == pytest.approx(109, rel=0.01)
    assert [panel.marks[1] for panel in panels[1::2]] == [120, 120, 60, 60]
    wide, *_, thin = (line.width for line in panels[1].lines.values())
    assert wide > 2 * thin  # where they lie on each other both are seen


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ovts", 0], "'0': a whole number from 1 to 10000000 is needed"),
        (["--ovts", 10**8], "from 1 to 10000000 is needed"),
        (["--tokens", 500], "from 1 to 128 is needed"),
        (["--query-bits", 17], "from 1 to 16 is needed"),
        (["--adc-bits", 13], "from 1 to 12 is needed"),
        (["--rows-at-once", 385], "from 1 to 384 is needed"),
        (["--rows-at-once", 96], "--rows-at-once 96: slices that fire together are added without their place value"),
        (["--adc", "ramp"], "--adc 'ramp': choose one of sar, flash"),
        (["--products", "all"], "--products 'all'"),
        (["--power", "15W"], "--power '15W'"),
        (["--pulses", 0], "'0': a number from 0.001 to 10000"),
        (["--pulses", "nan"], "'nan': a number from 0.001"),
        (["--pulses", "inf"], "'inf': a number from 0.001"),
        (["--device", "NVM-9"], "unknown device 'NVM-9'"),
        (["--device", "NVM-1", "--device", "NVM-1"], "2 devices are called 'NVM-1'"),
        (["--device", "absent.toml"], "device file absent.toml cannot be read"),
        (["--out", "/proc/nvcim"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(words, said):
    text = " ".join(nvcim("cost", *words, code=2).replace("│", " ").split())
    assert said in text and text.lower().count("error") == 1


@pytest.mark.parametrize(
    ("number", "shown"), [(0, ""), (999.4, "999 ns"), (999.6, "1 us"), (2e6, "2 ms"), (5e12, "5e+03 s")]
)
def test_quantities_by_hand(number, shown):
    assert _scaled(number, ("ns", "us", "ms", "s")) == shown

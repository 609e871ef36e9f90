"""Benchmarks run; what they measure is no test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["first_token", "fullsize", "hardware", "main_job", "store", "stream", "tuning_memory", "variation"]
)
def test_a_benchmark_without_peers_runs_quickly(name, tmp_path):
    command = [sys.executable, "-m", f"bench.{name}", "--quick", "--json", "figures.json"]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    assert json.loads((tmp_path / "figures.json").read_text())["rows"]

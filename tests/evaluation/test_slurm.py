"""A study as an array of jobs, here as processes of this machine."""

import os

import pytest

from nvcim_jax.evaluation import slurm, study
from tests.helpers.fake_study import fake, rows_of

submitit = pytest.importorskip("submitit")


def test_jobs_share_the_cells_and_leave_the_rows_of_one_run(tmp_path):
    jobs = slurm.submit(fake(), tmp_path / "out", 2, cluster="local")
    assert [job.result() for job in jobs] == [None, None] and jobs[0].job_id != jobs[1].job_id
    study.run(fake(), tmp_path / "whole")
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")
    assert len(list((tmp_path / "out").glob("results-*"))) == 2


def test_what_cannot_be_submitted_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="0 jobs: at least one is needed"):
        slurm.submit(fake(), tmp_path / "a", 0)
    study.run(fake(), tmp_path / "b")
    with pytest.raises(ValueError, match="was made with settings: draws 3, not 5"):
        slurm.submit(fake(draws=5), tmp_path / "b", 1, cluster="local")
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    with pytest.raises(ValueError, match="this machine has no Slurm"):
        slurm.submit(fake(), tmp_path / "c", 1)
    assert not (tmp_path / "a").exists() and not (tmp_path / "c" / "study.json").exists()

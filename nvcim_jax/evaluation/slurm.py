"""A study as an array of Slurm jobs, each of which runs one shard of it."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from nvcim_jax.evaluation import study
from nvcim_jax.evaluation.study import Study

HOURS = 24  # of a job, unless SBATCH_TIMELIMIT says otherwise


def submit(plan: Study, folder: Path | str, jobs: int, *, cluster: Literal["slurm", "local"] = "slurm") -> list[Any]:
    """Submit `jobs` jobs that share the cells of `plan`, whose workers must see `folder`; they are submitit's.

    What else Slurm needs, such as a partition, it takes from the environment (SBATCH_PARTITION, SBATCH_ACCOUNT, ...).
    `cluster` "local" starts processes on this machine. ValueError without submitit or Slurm, for less than one job, and
    for a folder of another study.
    """
    try:
        import submitit
    except ImportError as error:
        raise ValueError("--slurm needs submitit: pip install 'nvcim_jax[slurm]', or use --shard") from error
    if jobs < 1:
        raise ValueError(f"{jobs} jobs: at least one is needed")
    try:
        executor = submitit.AutoExecutor(folder=Path(folder) / "slurm", cluster=cluster)
    except RuntimeError as error:
        raise ValueError("this machine has no Slurm (srun is not found): run it where sbatch works") from error
    study.begin(plan, Path(folder))
    executor.update_parameters(name=f"nvcim-{plan.name}", timeout_min=60 * HOURS, cpus_per_task=2)
    parts = [f"{at + 1}/{jobs}" for at in range(jobs)]
    with executor.batch():
        return [executor.submit(partial(study.run, plan, Path(folder), shard=part)) for part in parts]

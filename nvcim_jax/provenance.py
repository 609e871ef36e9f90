"""What results say of the program that made them: versions, commit, backend."""

import resource
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("nvcim_jax", "jax", "flax", "optax", "transformers", "orbax-checkpoint", "numpy")


@cache
def provenance() -> dict[str, Any]:
    """Versions, commit and backend of this program, as they are when it is first asked: before long work, not after."""
    return {
        "commit": _commit(Path(__file__).parents[1]),
        "backend": jax.default_backend(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def peak_bytes() -> int:
    """The most memory that this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _commit(root: Path) -> str | None:
    """The commit of the checkout `root`, "-dirty" if files differ from it.

    None without git, and where `root` lies in a checkout of something else, as an installed package does.
    """
    git = ["git", "--no-optional-locks", "-C", str(root)]

    def said(*words: str) -> str:
        return subprocess.run([*git, *words], capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        is_own = Path(said("rev-parse", "--show-toplevel")).samefile(root)
        is_own = is_own and 'name = "nvcim_jax"' in said("show", "HEAD:pyproject.toml").splitlines()
        return said("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") if is_own else None
    except (OSError, ValueError, subprocess.SubprocessError):  # ValueError: it did not speak UTF-8
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # it is run from a checkout that was not installed
        return None

"""Strictness for every test: annotations are checked at runtime, ranks may not be mixed silently."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest

from tests.helpers.typecheck import check_annotations

os.environ["COLUMNS"] = "200"  # the consoles ask once, when they are made
if jax.config.jax_compilation_cache_dir is None:  # else whoever runs the tests wants them to keep programs there
    kept = tempfile.mkdtemp(prefix="nvcim-programs-")  # by this run, for its processes; never the user's own
    atexit.register(shutil.rmtree, kept, ignore_errors=True)
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": kept, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    jax.config.update("jax_compilation_cache_dir", kept)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_numpy_rank_promotion", "raise")
check_annotations()

EMBEDDED = Path(__file__).parents[1] / "nvcim_jax" / "data" / "toy" / "model"
MAPPINGS = Path("/proc/self/maps")
OUTSIDE = Path(__file__).parents[2] / "shared"  # real files that are not part of the project


@pytest.fixture(scope="module", autouse=True)
def few_programs():
    """Compiled programs go before they take all 65,530 mappings that Linux gives a process: beyond them it crashes."""
    yield
    if MAPPINGS.exists() and len(MAPPINGS.read_bytes().splitlines()) > 25_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def model():
    """The embedded language model."""
    from nvcim_jax.pipeline.model import load_model

    return load_model()


@pytest.fixture
def outside():
    """The folder of real files beside the checkout; tests that need it are skipped without it."""
    if not OUTSIDE.is_dir():
        pytest.skip(f"no real files beside this checkout ({OUTSIDE})")
    return OUTSIDE

"""Strictness for every test: annotations are checked at runtime, ranks and dtypes may not be mixed silently."""

import os
from pathlib import Path

import jax
import pytest

from tests.helpers.typecheck import check_annotations

os.environ["COLUMNS"] = "200"  # the consoles ask once, when they are made
if jax.config.jax_compilation_cache_dir is None:  # else whoever runs the tests wants them to keep programs there
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # commands would fill, and read, the user's cache
    jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_numpy_rank_promotion", "raise")
check_annotations()

EMBEDDED = Path(__file__).parents[1] / "nvcim_jax" / "data" / "toy" / "model"
OUTSIDE = Path(__file__).parents[2] / "shared"  # real files that are not part of the project


@pytest.fixture(scope="session")
def model():
    """The embedded language model."""
    from nvcim_jax import llm

    return llm.load(EMBEDDED)


@pytest.fixture
def outside():
    """The folder of real files beside the checkout; tests that need it are skipped without it."""
    if not OUTSIDE.is_dir():
        pytest.skip(f"no real files beside this checkout ({OUTSIDE})")
    return OUTSIDE

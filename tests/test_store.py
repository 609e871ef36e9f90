"""Banks on disk: exact, digested, refused when wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax import store
from nvcim_jax.codec import fit_autoencoder, fit_pca
from nvcim_jax.pipeline import Learned

# Orbax leaves the exceptions of its failed reads unretrieved.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

WORDS = jax.random.normal(jax.random.key(0), (30, 12))


def bank(fit=fit_pca):
    codec = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), fit(jax.random.key(1), WORDS, jnp.ones(30), dim=8))
    codes = jax.random.normal(jax.random.key(2), (2, 3, 4, 8))
    return Learned(codec, codes, 2 * codes, jnp.array([[True, True, False]] * 2))


def about(model=None):
    return {"model": store.fingerprint(model) if model else "none", "task": "LaMP-2"}


@pytest.mark.parametrize("fit", [fit_pca, fit_autoencoder])
def test_what_is_saved_is_what_is_loaded(tmp_path, fit):
    store.save(tmp_path / "bank", bank(fit), about())
    saved = store.load(tmp_path / "bank")
    jax.tree.map(np.testing.assert_array_equal, saved.learned, bank(fit))
    assert jax.tree.structure(saved.learned) == jax.tree.structure(bank(fit)) and saved.about == about()


def test_nothing_is_overwritten(tmp_path):
    store.save(tmp_path / "bank", bank(), about())
    with pytest.raises(store.StoreError, match="exists already"):
        store.save(tmp_path / "bank", bank(), about())


def test_another_model_is_refused(tmp_path, model):
    store.save(tmp_path / "bank", bank(), about(model))
    store.load(tmp_path / "bank", model=model)
    nudged = jax.tree.map(lambda leaf: leaf.at[(0,) * leaf.ndim].add(1), model.params)
    with pytest.raises(store.StoreError, match="another model"):
        store.load(tmp_path / "bank", model=model._replace(params=nudged))


def test_no_bank_is_refused(tmp_path):
    with pytest.raises(store.StoreError, match="is no bank"):
        store.load(tmp_path / "none")
    with pytest.raises(store.StoreError, match="is no bank"):
        store.load(tmp_path)


def assert_noticed_or_harmless(folder) -> bool:
    """Whether loading was refused; if it was not, what was loaded is exactly what was saved."""
    try:
        saved = store.load(folder)
    except store.StoreError:
        return True
    jax.tree.map(np.testing.assert_array_equal, saved.learned, bank())
    assert saved.about == about()
    return False


def test_flipped_bits_are_noticed_or_harmless(tmp_path):
    folder = tmp_path / "bank"
    store.save(folder, bank(), about())
    rng = np.random.default_rng(0)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    noticed = 0
    for _ in range(60):
        path = files[rng.integers(len(files))]
        whole = path.read_bytes()
        at, bit = rng.integers(len(whole)), rng.integers(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
        noticed += assert_noticed_or_harmless(folder)
        path.write_bytes(whole)
    assert noticed > 10


def test_truncated_files_are_noticed_or_harmless(tmp_path):
    folder = tmp_path / "bank"
    store.save(folder, bank(), about())
    noticed = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        noticed += assert_noticed_or_harmless(folder)
        path.write_bytes(whole)
    assert noticed > 2

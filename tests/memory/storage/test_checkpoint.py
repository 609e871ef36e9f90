"""One version on disk: what it says of its size is held against its files, before anything is allocated."""

import json

import pytest
import tensorstore

from nvcim_jax.memory.storage import store
from tests.attacks.test_banks import ABOUT, BANK, CODEC, forged
from tests.memory.storage.test_store import collected

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
__all__ = ["collected"]
HUGE = [2, 10**9, 16, 8]  # a terabyte


def enlarge(folder, name, shape):
    """Let the stored array itself, not only the bank's table, say that it is of another shape."""
    base = f"file://{folder / '000001' / 'state'}/"
    inside = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    told = json.loads(inside.read(f"{name}/zarr.json").result().value)
    told |= {"shape": shape, "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}}}
    told["codecs"][0]["configuration"]["chunk_shape"] = shape
    inside.write(f"{name}/zarr.json", json.dumps(told)).result()


def test_arrays_that_no_file_could_hold_are_refused(tmp_path):
    folder = tmp_path / "bank"
    store.save(folder, BANK, CODEC, ABOUT)

    def change(metadata):
        for name, (shape, kind) in metadata["shapes"].items():
            if "coder" not in name and name != "count":
                whole = [*HUGE[:2], *shape[2:]]
                enlarge(folder, name, whole)
                metadata["shapes"][name] = [whole, kind]

    forged(folder, change)
    with pytest.raises(store.StoreError, match="says that it holds [0-9]{13} bytes of arrays, but its files have"):
        store.load(folder)


def test_a_table_that_differs_from_the_stored_arrays_is_refused(tmp_path):
    """Orbax would cut or pad the arrays to what is asked for."""
    folder = tmp_path / "bank"
    store.save(folder, BANK, CODEC, ABOUT)
    enlarge(folder, "keys", [2, 4, 16, 8])
    with pytest.raises(store.StoreError, match="holds other arrays than its metadata tells"):
        store.load(folder)

"""Make a damaged bank loadable again: its newest whole version, or what is whole of the newest."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nvcim_jax import layout, store
from nvcim_jax.bank import Bank, drop
from nvcim_jax.codec import Codec
from nvcim_jax.store import StoreError


def repair(folder: Path | str) -> str:
    """Remove leftovers; if the newest version is damaged, go back to the newest whole one, or else keep its whole OVTs.

    Returns a sentence on what was done. StoreError if nothing can be saved.
    """
    folder = Path(folder).absolute()
    newest = store.newest(folder)
    with store.locked(folder):
        swept = f"{store.sweep(folder)} leftovers removed"
        for version in reversed(store.versions(folder)):
            if _is_whole(folder, version):
                for later in store.versions(folder):
                    if later > version:
                        store.remove(store.path_of(folder, later))
                went = "is whole" if version == newest else f"was damaged: went back to version {version}"
                return f"version {newest} {went}; {swept}"
    bank, codec, about, lost = rescued(folder, newest)
    now = store.save(folder, bank, codec, about, over=newest)
    return f"version {newest} was damaged: {lost} are lost, the rest is version {now}; {swept}"


def rescued(folder: Path, version: int) -> tuple[Bank, Codec | None, dict, str]:
    """Bank, codec and about without the damaged rows, and what is lost. StoreError if a row is not all that is."""
    checked = store.read(folder, version)
    bank, codec = layout.from_arrays(checked.arrays)
    one_bank, rows = bank.count.ndim == 0, bank.prompts.shape[0]
    bad = np.zeros(rows, bool)
    for name, ranges in checked.damaged.items():
        if one_bank and not layout.along_slots(name):
            raise StoreError(f"{folder}: {name} is damaged, without which no OVT can be read: restore it from a copy")
        for each in ranges:
            bad[each.start : each.stop] = True
    if one_bank:
        lost = int((bad & np.asarray(bank.valid)).sum())
        return drop(bank, jnp.asarray(bad)), codec, checked.metadata["about"], f"{lost} OVTs"
    clean = jax.tree.map(lambda leaf: jnp.where(bad.reshape(-1, *[1] * (leaf.ndim - 1)), 0, leaf), (bank, codec))
    return *clean, checked.metadata["about"], f"the OVTs of {bad.sum()} of {rows} users"


def _is_whole(folder: Path, version: int) -> bool:
    try:
        store.load(folder, version=version)
    except StoreError:
        return False
    return True

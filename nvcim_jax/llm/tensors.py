"""The safetensors files of a checkpoint folder: what their headers say, and sound values. Pickles are never read."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from nvcim_jax.llm.config import CheckpointError
from nvcim_jax.llm.folder import one_line, read_object, short

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
FLOATS = ("F16", "BF16", "F32", "F64")
LARGEST = 65504.0  # the largest float16: no published weight is near it, and float32 arithmetic bears it
_PIECE = 2**20


class Tensor(NamedTuple):
    """A tensor in a file, as its header describes it."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]

    def read(self, rows: slice | None = None) -> np.ndarray:
        """The values, of all rows or of some. The file is closed again, so that its pages do not stay."""
        with safe_open(self.path, framework="np") as file:
            return file.get_tensor(self.name) if rows is None else file.get_slice(self.name)[rows]


def found(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by name: those of its one file, or those that its index places in shards.

    Nothing but headers is read. Raises CheckpointError if a file is absent or damaged, or an index names a file outside
    the folder.
    """
    if (folder / INDEX).is_file():
        return _indexed(folder)
    single = folder / SINGLE
    others = [path for path in sorted(folder.glob("*.safetensors")) if path != single]
    if not single.is_file() and len(others) == 1:  # GPTQ editions name their one file after the packing
        single = others[0]
    if not single.is_file():
        raise CheckpointError(f"{folder} holds no {SINGLE} (pickled weights are not read: they can run code)")
    return headers(single)


def headers(path: Path) -> dict[str, Tensor]:
    """Every tensor of one file. Raises CheckpointError if it is damaged."""
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: Tensor(path, name, part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()
            }
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({one_line(error)}): download it again") from error


def _indexed(folder: Path) -> dict[str, Tensor]:
    places = read_object(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{folder / INDEX} is damaged: weight_map is {short(places)}: download it again")
    inside = {}
    for file in sorted(set(map(str, places.values()))):
        path = folder / file
        if path.name != file or path.suffix != ".safetensors":
            raise CheckpointError(f"{folder / INDEX}: {short(file)} is no name of a safetensors file in its folder")
        if not path.is_file():
            raise CheckpointError(f"{folder}: shard {short(file)} is missing: download it again")
        inside[file] = headers(path)
    for name, file in places.items():
        if name not in inside[str(file)]:
            raise CheckpointError(
                f"{folder / str(file)} lacks {short(name)}, which the index places there: download it again"
            )
    return {name: inside[file][name] for name, file in places.items()}


def check_values(name: str, leaf: str, values: np.ndarray, *, groups: int = 0, empty: float = 0.0) -> None:
    """Raise CheckpointError for values that no sound checkpoint has in a `leaf` of our names; warn of a zero kernel.

    Weights are finite and at most LARGEST in size, GPTQ scales are not negative, an index names one of `groups`; a
    norm or an embedding that is `empty` everywhere says nothing. The values are looked at in pieces, once each.
    """
    if leaf in ("qweight", "qzeros") or not values.size:  # every word is a word
        return
    low, high = _extent(values)
    if leaf == "g_idx":
        if low < 0 or high >= groups:
            raise CheckpointError(f"{name} names groups {low:g} to {high:g}; there are 0 to {groups - 1}")
    elif not (-LARGEST <= low <= high <= LARGEST):
        what = "NaN" if np.isnan(low) else f"{low if -low > high else high:g}"
        raise CheckpointError(f"{name} holds {what}; allowed: numbers up to {LARGEST:g} in size")
    elif leaf == "scales" and (low < 0 or high == 0):
        raise CheckpointError(f"{name} goes from {low:g} to {high:g}; allowed: scales above zero")
    elif leaf in ("scale", "embedding") and low == high == empty:
        raise CheckpointError(f"{name} holds {empty:g} everywhere, which leaves nothing of what it scales")
    elif leaf == "weight" and low == high == 0:
        warnings.warn(f"{name} holds zeros only: the file may be incomplete", stacklevel=2)


def _extent(values: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest value; NaN for both where there is one. Numpy is slow with bfloat16 itself."""
    flat = values.ravel(order="K")
    low, high = np.inf, -np.inf
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE]
        piece = piece if piece.dtype.kind == "i" else piece.astype(np.float32, copy=False)
        low, high = np.minimum(low, np.min(piece)), np.maximum(high, np.max(piece))
    return float(low), float(high)

"""The folder of a PEFT adapter, `adapter_config.json` and `adapter_model.safetensors`: written whole, read strictly."""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from nvcim_jax.files import reason
from nvcim_jax.llm import tensors as files
from nvcim_jax.llm.folder import check_links, read_object, short

MOST = 10**6  # of any number in a config file; float32 arithmetic stays finite
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Adapter(NamedTuple):
    """What a folder holds: the settings of its config file, its tensors in float32, and what is said beside them."""

    folder: Path
    told: dict
    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]

    def whole(self, name: str) -> int:
        """A setting that must be a whole number from 1 to MOST. ValueError if it is none."""
        value = self.told.get(name)
        if type(value) is not int or not 1 <= value <= MOST:
            raise self._no_number(name, "int")
        return value

    def number(self, name: str) -> float:
        """A setting that must be a number from 1 / MOST to MOST. ValueError if it is none."""
        value = self.told.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 / MOST <= value <= MOST:
            raise self._no_number(name, "float")
        return value

    def _no_number(self, name: str, kind: str) -> ValueError:
        found = short(self.told.get(name))
        return ValueError(f"{self.folder / CONFIG} is damaged: {name} is {found}, no positive {kind} up to {MOST}")

    def flag(self, name: str) -> bool:
        """A setting that is true, false or absent. ValueError if it is none of them."""
        value = self.told.get(name)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{self.folder / CONFIG} is damaged: {name} is {short(value)}, neither true nor false")
        return bool(value)

    def refuse(self, **allowed: tuple) -> None:
        """ValueError if a setting, given by name, is neither empty nor among those allowed."""
        for name, known in allowed.items():
            value = self.told.get(name)
            if value and value not in known:
                raise ValueError(f"{self.folder}: {name} {short(value)} cannot be read: export the adapter without it")

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
        """A tensor of this shape (None: any). ValueError if it is absent or has another."""
        if name not in self.tensors:
            raise ValueError(f"{self.folder} lacks {name}: it is of another model or of some layers only, or damaged")
        found = self.tensors[name].shape
        if shape is not None and found != shape:
            raise ValueError(f"{self.folder}: {name} is {found}, {shape} is needed: an adapter for another model")
        return self.tensors[name]

    def only(self, known: set[str]) -> None:
        """ValueError if there is a tensor whose name is not known."""
        for name in sorted(self.tensors.keys() - known):
            raise ValueError(
                f"{self.folder}: nothing here can take {name}: it is an adapter for another model or of other modules"
            )


def write(
    folder: Path | str, kind: str, base_model: str, told: dict, tensors: dict[str, np.ndarray], **metadata: str
) -> None:
    """Write an adapter of a `kind` such as LORA to a new `folder`, complete or not at all.

    ValueError if the folder exists or a value is not finite, or larger than any weight. OSError, with the reason, if it
    cannot be written.
    """
    folder = Path(folder)
    for name, values in tensors.items():
        files.check_values(name, "", np.asarray(values, np.float32))
    if folder.exists():
        raise ValueError(f"{folder} exists already: give another folder, or remove it first")
    common = {"peft_type": kind, "task_type": "CAUSAL_LM", "base_model_name_or_path": base_model}
    text = json.dumps(common | {"inference_mode": True} | told, indent=2) + "\n"
    flat = {name: np.ascontiguousarray(values, np.float32) for name, values in tensors.items()}
    weights = save(flat, metadata={"format": "pt"} | metadata)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent) as temporary:
            partial = Path(temporary) / folder.name  # the temporary folder itself is closed to all others
            partial.mkdir()
            (partial / WEIGHTS).write_bytes(weights)
            (partial / CONFIG).write_text(text, encoding="utf-8")
            os.rename(partial, folder)
    except OSError as error:
        raise OSError(f"{folder} cannot be written ({reason(error)}): make room, or choose another place") from error


def read(folder: Path | str, kind: str, base_model: str | None = None) -> Adapter:
    """The adapter in `folder`. ValueError if it is of another kind, of another base model than the one given (None:
    any), or damaged."""
    folder = Path(folder)
    try:
        told = _read_config(folder)
        if told["peft_type"] != kind:
            raise ValueError(
                f"{folder} holds an adapter of type {short(told['peft_type'])}, not {kind}: import_prompt, "
                "import_prefix, import_lora and import_ia3 read one kind each"
            )
        named = told.get("base_model_name_or_path")
        if base_model is not None and named != base_model:
            raise ValueError(
                f"{folder} is an adapter for {short(named)}, not for {base_model!r}: give an adapter of that model"
            )
        return Adapter(folder, told, *_read_weights(folder / WEIGHTS))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error.strerror or error})") from error


def _read_config(folder: Path) -> dict:
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} holds no {CONFIG}: give the folder of a PEFT adapter")
    check_links(folder)
    told = read_object(folder / CONFIG)
    if "peft_type" not in told:
        raise ValueError(f"{folder / CONFIG} is damaged: it has no peft_type")
    return told


def _read_weights(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors in float32, and what is said beside them. Headers are looked at before anything is read."""
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no {path.name}: only safetensors are read, never pickles")
    tensors = {}
    for name, tensor in files.headers(path).items():
        if tensor.dtype not in files.FLOATS:
            raise ValueError(f"{path}: {short(name)} has the type {tensor.dtype}; allowed: {', '.join(files.FLOATS)}")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
            tensors[name] = np.asarray(tensor.read(), np.float32)
        files.check_values(f"{path}: {short(name)}", "", tensors[name])
    with safe_open(path, framework="np") as file:
        return tensors, file.metadata() or {}

"""The folder of a PEFT adapter, `adapter_config.json` and `adapter_model.safetensors`: written whole, read strictly."""

import json
import math
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


class Adapter(NamedTuple):
    """What a folder holds: the settings of its config file, its tensors in float32, and what is said beside them."""

    folder: Path
    told: dict
    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]

    def number(self, name: str, kind: type = int) -> int | float:
        """A setting that must be a positive number. ValueError if it is none."""
        value = self.told.get(name)
        if isinstance(value, bool) or not isinstance(value, int | kind) or not 0 < value < math.inf:
            raise ValueError(f"{self.folder / CONFIG} is damaged: {name} is {value!r}, no positive {kind.__name__}")
        return value

    def refuse(self, **allowed: tuple) -> None:
        """ValueError if a setting, given by name, is neither empty nor among those allowed."""
        for name, known in allowed.items():
            value = self.told.get(name)
            if value and value not in known:
                raise ValueError(f"{self.folder}: {name} {value!r} cannot be read: export the adapter without it")

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

    ValueError if the folder exists or a value is not finite.
    """
    folder = Path(folder)
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds NaN or infinity: finite values are needed")
    if folder.exists():
        raise ValueError(f"{folder} exists already: give another folder, or remove it first")
    common = {"peft_type": kind, "task_type": "CAUSAL_LM", "base_model_name_or_path": base_model}
    text = json.dumps(common | {"inference_mode": True} | told, indent=2) + "\n"
    flat = {name: np.ascontiguousarray(values, np.float32) for name, values in tensors.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent) as temporary:
        partial = Path(temporary) / folder.name  # the temporary folder itself is closed to all others
        partial.mkdir()
        save_file(flat, partial / WEIGHTS, metadata={"format": "pt"} | metadata)
        (partial / CONFIG).write_text(text, encoding="utf-8")
        os.rename(partial, folder)


def read(folder: Path | str, kind: str, base_model: str | None = None) -> Adapter:
    """The adapter in `folder`. ValueError if it is of another kind, of another base model than the one given (None:
    any), or damaged."""
    folder = Path(folder)
    told = _read_config(folder)
    if told["peft_type"] != kind:
        raise ValueError(
            f"{folder} holds an adapter of type {told['peft_type']}, not {kind}: import_prompt, import_prefix, "
            "import_lora and import_ia3 read one kind each"
        )
    named = told.get("base_model_name_or_path")
    if base_model is not None and named != base_model:
        raise ValueError(f"{folder} is an adapter for {named!r}, not for {base_model!r}: give an adapter of that model")
    try:
        with safe_open(folder / WEIGHTS, framework="np") as file:
            tensors = {name: np.asarray(file.get_tensor(name), np.float32) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no {WEIGHTS}: only safetensors are read, never pickles") from error
    except (SafetensorError, TypeError, AttributeError) as error:  # the last two for types that numpy does not have
        raise ValueError(f"{folder / WEIGHTS} is damaged or of an unknown type ({error}): export it again") from error
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{folder}: {name} holds NaN or infinity: train the adapter again")
    return Adapter(folder, told, tensors, metadata)


def _read_config(folder: Path) -> dict:
    try:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        told["peft_type"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{folder} holds no {CONFIG}: give the folder of a PEFT adapter") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged: it is no JSON object with a peft_type") from error
    return told

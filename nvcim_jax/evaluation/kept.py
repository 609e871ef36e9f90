"""What cells of a study share, kept on disk under the digest of all that decides it: no other process makes it again.

A file's name is that digest and the digest of its bytes, so a file that is damaged is no file, and is made anew. They
hold arrays (safetensors) and texts (JSON) and are never unpickled; only their owner may read them.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from nvcim_jax import files
from nvcim_jax.memory.storage import digests

Arrays = dict[str, np.ndarray]


def arrays(folder: Path | None, decides: Any, make: Callable[[], Arrays]) -> Arrays:
    """The arrays that `make` gives, from `folder` if they are there. `decides` is JSON; without a folder none is kept.

    Raises OSError if they cannot be written.
    """
    from safetensors.numpy import load, save

    return _kept(folder, decides, "safetensors", make, save, load)


def value(folder: Path | None, decides: Any, make: Callable[[], Any]) -> Any:
    """The JSON value that `make` gives, as `arrays` says."""
    return _kept(folder, decides, "json", make, lambda made: json.dumps(made).encode(), json.loads)


def _kept(folder: Path | None, decides: Any, kind: str, make: Callable, save: Callable, load: Callable) -> Any:
    if folder is None:
        return make()
    name = digests.of_text(decides)
    for path in sorted(folder.glob(f"{name}-*.{kind}")) if folder.is_dir() else ():
        with suppress(OSError):  # it went, or is no regular file
            data = files.read_bytes(path)
            if path.name == _name(name, data, kind):
                return load(data)
    made = make()
    data = save(made)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_bytes(folder / _name(name, data, kind), data, private=True)
    return made


def _name(name: str, data: bytes, kind: str) -> str:
    return f"{name}-{hashlib.sha256(data).hexdigest()[:32]}.{kind}"

"""GGUF files (llama.cpp's format): what the header says, checked before anything of its size is taken, and tensors.

The package `gguf` names the types and dequantises. Its own reader trusts every count in a header, so it is not used.
"""

import os
import struct
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from nvcim_jax import files
from nvcim_jax.llm.config import CheckpointError
from nvcim_jax.llm.folder import short

TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
MOST_TENSORS, MOST_FIELDS, MOST_ITEMS, MOST_TEXT, MOST_AXES = 2**16, 2**14, 2**22, 2**22, 4
_SCALARS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
_TEXT, _LIST = 8, 9


class Tensor(NamedTuple):
    """A tensor in a GGUF file, as its header describes it; `read` gives float32."""

    path: Path
    name: str
    kind: str  # one of TYPES
    shape: tuple[int, ...]
    start: int  # byte of the file
    size: int  # bytes
    dtype: str = "F32"  # of what `read` gives
    shift: float = 0.0  # added to every value

    def read(self, rows: slice | None = None) -> np.ndarray:
        """The values in float32, of all rows or of some."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize

        data = self.bytes(rows)
        with np.errstate(all="ignore"):  # values that are not finite are refused later
            values = dequantize(data.reshape(-1), GGMLQuantizationType[self.kind]).reshape(-1, *self.shape[1:])
            return values + np.float32(self.shift) if self.shift else values

    def bytes(self, rows: slice | None = None) -> np.ndarray:
        """What the file holds of each row, [rows, bytes]: of all rows or of some."""
        first, last, _ = (rows or slice(None)).indices(self.shape[0])
        start, end = (self.size * row // self.shape[0] for row in (first, last))
        with os.fdopen(files.open_own(self.path.resolve()), "rb") as file:
            data = np.fromfile(file, np.uint8, end - start, offset=self.start + start)
        if data.size != end - start:
            raise CheckpointError(f"{self.path} is damaged: {short(self.name)} ends too early: download it again")
        return data.reshape(last - first, -1)


class Header(NamedTuple):
    """Fields and tensors of a GGUF file."""

    path: Path
    fields: dict[str, Any]  # whole numbers, floats, flags, texts, lists of one of them
    tensors: dict[str, Tensor]


def header(path: Path) -> Header:
    """What the header of a GGUF file says. Raises CheckpointError if the file is none, is damaged, or holds a tensor
    of a type that is not read here."""
    with os.fdopen(files.open_own(path.resolve()), "rb") as file:
        reader = _Reader(path, file, os.fstat(file.fileno()).st_size)
        if reader.bytes(4) != b"GGUF":
            raise CheckpointError(f"{path} is no GGUF file")
        version = reader.number("<u4")
        if version not in (2, 3):
            raise CheckpointError(f"{path}: GGUF version {version} is not supported; known: 2 and 3, little-endian")
        tensors, fields = reader.count(MOST_TENSORS, "tensors"), reader.count(MOST_FIELDS, "fields")
        told = {}
        for _ in range(fields):
            name = reader.text()
            if name in told:
                raise reader.damage(f"it says {short(name)} twice")
            told[name] = reader.value(reader.number("<u4"))
        described = [_described(reader) for _ in range(tensors)]
        alignment = told.get("general.alignment", 32)
        if type(alignment) is not int or not 1 <= alignment <= 2**16 or alignment & (alignment - 1):
            raise reader.damage(f"general.alignment is {short(alignment)}")
        data = -(-file.tell() // alignment) * alignment
        found = [_tensor(reader, *each, data) for each in described]
    if len({tensor.name for tensor in found}) < len(found):
        raise reader.damage("a tensor is there twice")
    return Header(path, told, {tensor.name: tensor for tensor in found})


class _Reader(NamedTuple):
    """A header from its beginning on; a count or length that the rest of the file cannot hold is damage."""

    path: Path
    file: BinaryIO
    size: int

    def damage(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.path} is damaged: {what}: download it again")

    def bytes(self, length: int) -> bytes:
        data = self.file.read(length) if length <= self.size - self.file.tell() else b""
        if len(data) != length:
            raise self.damage("it ends too early")
        return data

    def number(self, kind: str) -> Any:
        return _plain(np.frombuffer(self.bytes(np.dtype(kind).itemsize), kind))[0]

    def count(self, most: int, what: str) -> int:
        (given,) = struct.unpack("<Q", self.bytes(8))
        if given > most:
            raise self.damage(f"it claims {given} {what}; at most {most} are allowed")
        return given

    def text(self) -> str:
        data = self.bytes(self.count(MOST_TEXT, "bytes of a text"))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.damage(f"a text is not UTF-8 ({short(data[:40])})") from error

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            raise self.damage(f"a field is of type {kind}")
        of, count = self.number("<u4"), self.count(MOST_ITEMS, "items of a list")
        if of in _SCALARS:
            return _plain(np.frombuffer(self.bytes(count * np.dtype(_SCALARS[of]).itemsize), _SCALARS[of]))
        if of != _TEXT:
            raise self.damage(f"a list holds items of type {of}")
        return [self.text() for _ in range(count)]


def _plain(values: np.ndarray) -> list:
    """Numbers of Python. A float32 is the shortest decimal that it stands for: 1e-5, not 9.99999974737875e-06."""
    return [float(str(value)) for value in values] if values.dtype == np.float32 else values.tolist()


def _described(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, type and place of the next tensor."""
    name, axes = reader.text(), reader.number("<u4")
    if not 1 <= axes <= MOST_AXES:
        raise reader.damage(f"{short(name)} has {axes} axes")
    shape = struct.unpack(f"<{axes}Q", reader.bytes(8 * axes))[::-1]  # the fastest axis stands first there
    return name, shape, reader.number("<u4"), reader.number("<u8")


def _tensor(reader: _Reader, name: str, shape: tuple[int, ...], kind: int, place: int, data: int) -> Tensor:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    known = {each.value: each.name for each in GGMLQuantizationType}
    if known.get(kind) not in TYPES:
        raise CheckpointError(
            f"{reader.path}: {short(name)} has the type {known.get(kind, kind)}; known: {', '.join(TYPES)}"
        )
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    values = prod(shape)
    if not values or shape[-1] % block:
        raise reader.damage(f"{short(name)} of {known[kind]} has shape {list(shape)}")
    start, length = data + place, values // block * size
    if start + length > reader.size:
        raise reader.damage(f"{short(name)} of shape {list(shape)} lies beyond its end")
    return Tensor(reader.path, name, known[kind], shape, start, length)

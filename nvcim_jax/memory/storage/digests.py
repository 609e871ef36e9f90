"""Digests of arrays, block by block of rows, so that damage is found and what is whole can be kept."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

ROWS = 1024  # under one digest of a long array


def of(leaf: jax.Array | np.ndarray) -> list[str]:
    """One digest for each block of rows."""
    data = np.atleast_1d(np.asarray(leaf))
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda rows: of_rows(data[rows.start : rows.stop], rows.start), blocks(len(data))))


def differing(leaf: jax.Array, digests: list[str]) -> list[range]:
    """The blocks of rows that differ from their digests, among those that this process holds."""
    expected = blocks(leaf.shape[0] if leaf.ndim else 1)
    if len(expected) != len(digests):
        return expected
    parts = {part.index[0].start or 0 if part.index else 0: part.data for part in leaf.addressable_shards}
    whole = {first: np.atleast_1d(np.asarray(part)) for first, part in parts.items()}
    held = [
        (rows, digest, data[rows.start - first : rows.stop - first])
        for first, data in whole.items()
        for rows, digest in zip(expected, digests, strict=True)
        if first <= rows.start < first + len(data)
    ]
    with ThreadPoolExecutor() as pool:
        differs = pool.map(lambda each: of_rows(each[2], each[0].start) != each[1], held)
        return [rows for (rows, *_), is_different in zip(held, differs, strict=True) if is_different]


def of_text(value: Any) -> str:
    """The digest of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def blocks(rows: int) -> list[range]:
    """The rows under each digest; few rows have one each, so that repair can tell them apart."""
    step = 1 if rows <= ROWS else ROWS
    return [range(at, min(at + step, rows)) for at in range(0, rows, step)]


def of_rows(rows: np.ndarray, first: int) -> str:
    """The digest of a block of rows, of which the first is row `first` of its array."""
    digest = hashlib.sha256(f"{rows.dtype}{rows.shape}{first}".encode())
    digest.update(np.ascontiguousarray(rows).view(np.uint8).data)
    return digest.hexdigest()[:32]

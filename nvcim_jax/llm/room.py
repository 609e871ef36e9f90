"""How much memory a pass through the decoder takes, and how much there is.

What the backward pass needs is counted from the sizes of the layers; `tests/llm/test_room.py` holds the counts against
what the compiler allocates.
"""

import re
from typing import NamedTuple

import jax
import psutil

from nvcim_jax.llm.config import Config

UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
FLOAT = 4  # bytes of an activation
AT_ONCE = 1 << 30  # bytes of activations in one pass; at least those of one row
SHARE = 0.5  # of the free memory that is taken where nobody says how much


class Row(NamedTuple):
    """Bytes that one row of a batch takes: with activations kept for the backward pass, and with remat."""

    kept: int
    recomputed: int


def parse(text: str) -> int:
    """Bytes of a text such as "6GB", "512MiB" or "6e9". ValueError for anything else."""
    found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([KMGT]?i?B?)\s*", text, re.IGNORECASE)
    number, unit = found.groups() if found else ("0", "")
    unit = unit.upper().removesuffix("B")
    try:
        size = int(float(number) * UNITS[unit])
    except (ValueError, OverflowError, KeyError):
        size = 0
    if size < 1:
        raise ValueError(f"memory of {text!r}: give a size such as 6GB or 512MiB")
    return size


def compiling(config: Config) -> int:
    """What compiling takes, two programs at once, and what the process then keeps of it; as measured."""
    return 100_000_000 + 15_000_000 * config.layers


def of(memory: int | None, config: Config) -> int:
    """Bytes of activations that the process may take: of its `memory`, compiling counted, or of what is free on the
    machine or device a share."""
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        free, held = stats["bytes_limit"] - stats["bytes_in_use"], stats["bytes_in_use"]
    else:
        free, held = psutil.virtual_memory().available, psutil.Process().memory_info().rss
    return int(SHARE * free) if memory is None else memory - held - compiling(config)


def require(needed: int, memory: int | None, config: Config, what: str) -> int:
    """What the process may still take, at least `needed` bytes. ValueError names `what` takes more."""
    left = of(memory, config)
    if needed > left:
        raise ValueError(
            f"{what} takes {needed / 1e9:.2g} GB beside what is loaded, but {max(left, 0) / 1e9:.2g} GB are left of "
            "the memory that may be used: allow more, or take shorter texts or a smaller model"
        )
    return left


def rows(each: int, most: int) -> int:
    """Rows of `each` bytes that go through a model at once: as many as `AT_ONCE` holds, from one to `most`."""
    return min(max(AT_ONCE // each, 1), most)


def block(count: int, most: int) -> int:
    """Rows of each of equal blocks of at most `most` that hold `count`, the last of them hardly filled up."""
    return -(-count // -(-count // most))


def gradient(config: Config, tokens: int, labels: int) -> Row:
    """What the loss of `labels` and its gradient take of a row of `tokens`, virtual ones counted.

    The last layer is computed at the labels alone. Beside what the layers below keep, either the scores of the labels
    are alive or what backward holds inside one layer, never both.
    """
    c, below = config, config.layers - 1
    layer, scores = _layer(c), 2.5 * labels * c.vocab_size / tokens
    inside = _inside(c, tokens)
    kept, recomputed = below * layer + max(scores, inside), below * c.dim + max(scores, min(below, 1) * layer + inside)
    return Row(int(FLOAT * tokens * kept), int(FLOAT * tokens * recomputed))


def curvature(config: Config, tokens: int) -> int:
    """What a second derivative takes of a row of `tokens`: it keeps what both passes of a gradient compute."""
    kept = (config.layers - 1) * (4.85 * _layer(config) + 6 * config.heads * tokens)
    return int(FLOAT * tokens * (kept + 2 * _inside(config, tokens)))


def answer(config: Config, tokens: int, new_tokens: int) -> int:
    """What reading a question of `tokens` and writing an answer take of a row: its cache, one layer, the scores."""
    c = config
    cache = 2 * c.layers * c.kv_heads * c.head_dim * (tokens + new_tokens)
    inside = max((3 if c.gated else 2) * c.hidden_dim + c.dim, 2 * c.heads * tokens + 2 * c.dim)
    return FLOAT * (cache + tokens * inside + 3 * c.vocab_size)


def _layer(config: Config) -> int:
    """Numbers that one layer keeps of each token for backward: what enters both norms, queries, keys and values, and
    what enters the activation."""
    c = config
    return 2 * c.dim + (c.heads + 2 * c.kv_heads) * c.head_dim + (2 if c.gated else 1) * c.hidden_dim


def _inside(config: Config, tokens: int) -> float:
    """Numbers of each token that are alive inside the layer which backward is at, beside what was kept: in the
    feed-forward part, or in attention, when what the former kept is free again."""
    c = config
    fed = (2 if c.gated else 1) * c.hidden_dim
    return max(2 * fed - c.dim, 3 * c.heads * tokens - fed + c.dim)

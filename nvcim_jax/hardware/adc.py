"""From an analog sum of cells to a digital number. A converter is a function `(sums, highest) -> sums`.

Sums are counted in levels: `highest` is the largest one that the cells read together can reach.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def ideal(sums: Float[Array, "..."], highest: int) -> Float[Array, "..."]:
    """No conversion: every sum passes as it is, whatever its size and sign."""
    return sums


@dataclass(frozen=True)
class Adc:
    """A uniform converter of `bits` bits from 0 to `top`. Sums outside saturate; the gradient is that of clipping.

    Without `top` the range is the smallest that covers `highest` in steps of one level or, if the bits do not
    suffice, in even steps: with enough bits a sum of whole levels passes exactly. ValueError for a range that holds
    nothing.
    """

    bits: int
    top: float | None = None

    def __post_init__(self):
        if not 1 <= self.bits <= 24:
            raise ValueError(f"a converter of {self.bits} bits: 1 to 24 are allowed; pass `ideal` for none")
        if self.top is not None and not 0 < self.top < float("inf"):
            raise ValueError(f"a converter with the range 0 to {self.top}: the top must be above zero and finite")

    def __call__(self, sums: Float[Array, "..."], highest: int) -> Float[Array, "..."]:
        steps = 2**self.bits - 1
        top = max(highest, steps) if self.top is None else self.top
        held = jnp.clip(sums, 0, top)
        rounded = jnp.round(held * (steps / top)) * (top / steps)
        return jax.lax.stop_gradient(rounded) + (held - jax.lax.stop_gradient(held))


class Traced(NamedTuple):
    """A converter as arrays, so that one program takes a grid of them: `Adc` with each of its two errors on its own."""

    steps: Float[Array, "..."]  # 2^bits - 1
    share: Float[Array, "..."]  # of the highest sum, up to which the range goes at least: see `Adc`
    saturates: Bool[Array, "..."]
    rounds: Bool[Array, "..."]

    def __call__(self, sums: Float[Array, "..."], highest: int) -> Float[Array, "..."]:
        top = jnp.maximum(self.share * highest, self.steps)
        held = jnp.where(self.saturates, jnp.clip(sums, 0, top), sums)
        return jnp.where(self.rounds, jnp.round(held * (self.steps / top)) * (top / self.steps), held)

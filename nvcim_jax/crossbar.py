"""Writing codes into noisy cells and reading them back: two fidelities with one signature."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nvcim_jax.devices import Device
from nvcim_jax.noise import inject
from nvcim_jax.quantise import from_levels, to_levels

ROWS, COLUMNS = 384, 128  # of one subarray
CODE_BITS, CELL_BITS = 16, 2


def write_values(
    key: PRNGKeyArray, integers: Int[Array, "rows dim"], device: Device, *, sigma: Float[Array, ""] | float
) -> Float[Array, "rows dim"]:
    """What a read returns under one Gaussian per stored value, relative to the largest code of the matrix (Eq. 4)."""
    return inject(key, integers.astype(jnp.float32), sigma=sigma, factors=device.factors)


def write_cells(
    key: PRNGKeyArray, integers: Int[Array, "rows dim"], device: Device, *, sigma: Float[Array, ""] | float
) -> Float[Array, "rows dim"]:
    """What a read returns under one Gaussian per 2-bit cell, its deviation set by the cell's level.

    A cell deviates by `sigma * level factor` of its whole range, and shift-and-add collects the cells, so the code
    deviates by `sigma * sqrt(sum 16^i) / sum 4^i = 0.775 sigma` of the code range where all factors are one.
    """
    levels = to_levels(integers, bits=CODE_BITS, cell_bits=CELL_BITS)
    full = 2**CELL_BITS - 1
    std = sigma * full * device.levels[levels]
    return from_levels(levels + std * jax.random.normal(key, levels.shape), bits=CODE_BITS, cell_bits=CELL_BITS)


def check_fits(tokens: int, dim: int) -> None:
    """ValueError unless `tokens` columns of `dim` 16-bit values fit one subarray of 2-bit cells."""
    cells = dim * (CODE_BITS // CELL_BITS)
    if tokens > COLUMNS:
        raise ValueError(f"{tokens} virtual tokens, but an array has {COLUMNS} columns: use at most {COLUMNS}")
    if cells > ROWS:
        raise ValueError(f"{dim} dimensions need {cells} rows of cells, but an array has {ROWS}: use a smaller code")

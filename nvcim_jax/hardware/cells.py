"""The life of a cell: a pulse, verified pulses, a read (`ageing` has what time does). Levels go in whole and come out
as noise left them.

Deviations and tolerances are shares of a cell's range, from its lowest to its highest level.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nvcim_jax.core.quantise import SIGN_MAGNITUDE, Layout
from nvcim_jax.hardware.devices import Device

Levels = Int[Array, "rows dim cells"]
Held = Float[Array, "rows dim cells"]


Pulse = Callable[[PRNGKeyArray, Held, Held, Levels, Held, int], Held]


class Verified(NamedTuple):
    """Cells after their first pulse, after their last, and the pulses each took."""

    first: Held
    last: Held
    pulses: Levels


def check_device(device: Device, layout: Layout) -> None:
    """ValueError unless the device gives one deviation for each level of the layout's cells."""
    given, needed = device.levels.shape[-1], layout.full + 1
    if given != needed:
        raise ValueError(
            f"a device of {given} levels in cells of {layout.cell_bits} bits, which need {needed}: "
            f"use cell_bits={max(1, given.bit_length() - 1)}, or a device that gives {needed}"
        )


def layout_of(device: Device, *, bits: int = 16) -> Layout:
    """How codes of so many bits lie in cells of as many levels as the device has, their sign kept digitally.

    Codes of one bit lie as those of two, whose magnitude is always one. ValueError unless the device has a power of
    two of levels, no more than a code has.
    """
    levels = device.levels.shape[-1]
    if not 2 <= levels <= 256 or levels & (levels - 1):
        raise ValueError(f"a device of {levels} levels: a power of two from 2 to 256 is needed to hold codes in cells")
    return Layout(bits=max(bits, 2), cell_bits=levels.bit_length() - 1)


def spread(levels: Levels, device: Device, *, sigma: Float[Array, ""] | float) -> Held:
    """Standard deviation of each cell after one pulse, in levels: `sigma * level factor * range`.

    ValueError for a sigma that is a plain number below zero or NaN.
    """
    check_known("sigma", sigma, least=0.0)
    return sigma * (device.levels.shape[0] - 1) * device.levels[levels]


def aggregate(layout: Layout = SIGN_MAGNITUDE) -> float:
    """Deviation of a code relative to the largest one, at sigma 1 with every level factor one: 0.775 in 2-bit cells.

    `write_values` at `sigma * aggregate(layout)` is then the aggregate of `write_cells` at `sigma`, and with the
    factors of Eq. 4 what the authors' released code draws. It is relative to the largest code, so twice as large in
    offset binary, whose cells also hold the sign.
    """
    return layout.full * sum(place**2 for place in layout.places) ** 0.5 / layout.limits[1]


def program(key: PRNGKeyArray, levels: Levels, device: Device, *, sigma: Float[Array, ""] | float) -> Held:
    """One pulse per cell: the level plus a Gaussian whose deviation the level sets; stuck cells stay where they are."""
    pulse_key, stuck_key = jax.random.split(key)
    return _stick(stuck_key, _first_pulse(pulse_key, levels, spread(levels, device, sigma=sigma), device), device)


def placed(levels: Levels, device: Device) -> Held | Levels:
    """Where each level lies after a pulse without variation, in levels."""
    return levels if device.means is None else (device.levels.shape[0] - 1) * device.means[levels]


def anew(key: PRNGKeyArray, held: Held, seen: Held, levels: Levels, std: Held, full: int) -> Held:
    """A pulse that erases the cell and writes it anew, with a deviation like that of the first pulse."""
    return _pulse(key, levels, std)


def step(key: PRNGKeyArray, held: Held, seen: Held, levels: Levels, std: Held, full: int) -> Held:
    """A pulse that moves the cell by what it was `seen` to lack.

    A move is the sum of many small ones, each with a chance of its own, so its variance grows with its length: over
    the whole range it deviates by `std`, over a share of it by the root of that share. Steps settle within about
    `std^2 / full`, at sigma 0.1 a hundredth of the range.
    """
    move = levels - seen
    share = jnp.abs(move) / full
    root = jnp.where(share > 0, jnp.sqrt(jnp.where(share > 0, share, 1)), 0)
    return held + move + std * root * jax.random.normal(key, held.shape)


def program_verify(
    key: PRNGKeyArray,
    levels: Levels,
    device: Device,
    *,
    sigma: Float[Array, ""] | float,
    tolerance: Float[Array, ""] | float,
    most: int,
    pulse: Pulse = anew,
) -> Verified:
    """Pulse each cell until a read lies within `tolerance` of its level, `most` times at most.

    `pulse` says what the pulses after the first one do: write the cell `anew`, or correct it by a `step`. With `anew`,
    a cell that one pulse brings within the tolerance with probability p is still off after n pulses with probability
    `(1 - p)^n`. Reads carry the device's read noise, and a stuck cell takes every pulse in vain. ValueError for less
    than one pulse and for a tolerance that is a plain number below zero or NaN.
    """
    check_known("tolerance", tolerance, least=0.0)
    if most < 1:
        raise ValueError(f"at most {most} pulses per cell: at least one is needed")
    pulse_key, stuck_key = jax.random.split(key)
    std = spread(levels, device, sigma=sigma)
    full = device.levels.shape[0] - 1

    def keys(at):
        return jax.random.split(jax.random.fold_in(pulse_key, at))

    def again(state, at):
        held, seen, pulses = state
        write_key, read_key = keys(at)
        good = jnp.abs(seen - levels) <= tolerance * full
        now = jnp.where(good, held, _stick(stuck_key, pulse(write_key, held, seen, levels, std, full), device))
        return (now, jnp.where(good, seen, sense(read_key, now, device)), pulses + ~good), None

    write_key, read_key = keys(0)
    first = _stick(stuck_key, _first_pulse(write_key, levels, std, device), device)
    start = (first, sense(read_key, first, device), jnp.ones(levels.shape, jnp.int32))
    (last, _, pulses), _ = jax.lax.scan(again, start, jnp.arange(1, most))
    return Verified(first, last, pulses)


def sense(key: PRNGKeyArray, held: Held, device: Device, *, flicker: Held | None = None) -> Held:
    """Levels as one read returns them. `flicker` is the deviation of each cell's 1/f noise (`ageing.flicker`)."""
    if device.read_noise is None and flicker is None:
        return held
    std = 0.0 if device.read_noise is None else (device.levels.shape[0] - 1) * device.read_noise
    if flicker is not None:
        std = jnp.sqrt(std**2 + flicker**2)
    return held + std * jax.random.normal(key, held.shape)


def read_variance(device: Device) -> Float[Array, ""] | float:
    """Variance of every read, in squared levels."""
    if device.read_noise is None:
        return 0.0
    return ((device.levels.shape[0] - 1) * device.read_noise) ** 2


def off_share(device: Device) -> Float[Array, ""] | float:
    """Conductance of the lowest level as a share of the range; zero where the device gives none."""
    if device.conductance_us is None:
        return 0.0
    off, on = device.conductance_us
    return off / (on - off)


def check_known(name: str, value: Array | float, *, least: float) -> None:
    """Plain numbers are checked; what an array holds is not known at trace time."""
    if isinstance(value, int | float) and not value >= least:
        raise ValueError(f"{name} is {value}: a number from {least:g} on is needed")


def _pulse(key, levels, std):
    return levels + std * jax.random.normal(key, levels.shape)


def _first_pulse(key, levels, std, device):
    """As `_pulse`, around where the levels lie, with what all cells of the matrix have in common."""
    centre = placed(levels, device)
    if device.correlation is None:
        return _pulse(key, centre, std)
    own_key, common_key = jax.random.split(key)
    own, common = jax.random.normal(own_key, levels.shape), jax.random.normal(common_key)
    share = device.correlation
    return centre + std * (jnp.sqrt(1 - share) * own + jnp.sqrt(share) * common)


def _stick(key, held, device):
    """Each cell is stuck off, stuck on or sound; the same key makes the same cells stuck."""
    if device.stuck is None:
        return held
    off, on = device.stuck
    draw = jax.random.uniform(key, held.shape)
    return jnp.where(draw < off, 0.0, jnp.where(draw < off + on, device.levels.shape[0] - 1.0, held))

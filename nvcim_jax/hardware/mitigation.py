"""Noise mitigation for stored virtual tokens: `write`, then `read`, with the signature of no mitigation (`plain`).

The writes differ; one `read` undoes what each keeps digitally. Every write reports its cost, so that methods are
compared at equal cost. Only a write that ranks values takes a `sensitivity`. `layout` is that of `crossbar`.
`write_and_read` makes a method the `write` of a bank.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nvcim_jax.core.quantise import Layout, signs_of, to_levels
from nvcim_jax.hardware import cells, crossbar
from nvcim_jax.hardware.compensation import Compensate
from nvcim_jax.hardware.devices import Device

NUMBER_BITS = 16  # of a gain, shift or coefficient kept digitally

Scalar = Float[Array, ""] | float
PerValue = Float[Array, "rows dim"]
PerCell = Float[Array, "rows dim cells"]


class Cost(NamedTuple):
    """What one matrix costs: cell pulses, cell reads while writing, digital multiply-adds, digital memory in bits."""

    pulses: Int[Array, ""] | int
    checks: Int[Array, ""] | int = 0
    write_operations: int = 0
    read_operations: int = 0  # each time the matrix is read
    storage_bits: int = 0


class Stored(NamedTuple):
    """A programmed matrix, what is kept digitally to undo its errors, and its cost."""

    matrix: crossbar.Matrix
    cost: Cost
    gain: Float[Array, "rows"] | None = None
    shift: Float[Array, "rows"] | None = None
    mixing: Float[Array, "dim dim"] | None = None


def plain(
    key: PRNGKeyArray,
    integers: Int[Array, "rows dim"],
    device: Device,
    *,
    sigma: Scalar,
    layout: Layout | None = None,
) -> Stored:
    """No mitigation: one pulse per cell."""
    matrix = crossbar.program(key, integers, device, sigma=sigma, layout=layout)
    return Stored(matrix, Cost(matrix.levels.size, storage_bits=_sign_bits(matrix)))


def read(
    key: PRNGKeyArray,
    stored: Stored,
    device: Device,
    *,
    layout: Layout | None = None,
    seconds: Scalar | None = None,
    compensate: Compensate | None = None,
) -> PerValue:
    """The codes as one read returns them, with what the write kept digitally applied."""
    codes = crossbar.read(key, stored.matrix, device, layout=layout, seconds=seconds, compensate=compensate)
    if stored.gain is not None:
        codes = codes * stored.gain[:, None]
    if stored.shift is not None:
        codes = codes + stored.shift[:, None]
    return codes if stored.mixing is None else jnp.dot(codes, stored.mixing, precision="highest")


def write_and_read(
    key: PRNGKeyArray,
    integers: Int[Array, "rows dim"],
    device: Device,
    *,
    sigma: Scalar,
    write: Callable[..., Stored] = plain,
    layout: Layout | None = None,
    seconds: Scalar | None = None,
    sensitivity: PerValue | None = None,
) -> PerValue:
    """What a read returns: the `write` of `programming.program`, when bound by `partial(write_and_read, write=...)`.

    `sensitivity` goes to methods that rank the values by it; the others do not take one.
    """
    write_key, read_key = jax.random.split(key)
    ranked = {} if sensitivity is None else {"sensitivity": sensitivity}
    stored = write(write_key, integers, device, sigma=sigma, layout=layout, **ranked)
    return read(read_key, stored, device, layout=layout, seconds=seconds)


def kept(
    key: PRNGKeyArray,
    integers: Int[Array, "rows dim"],
    device: Device,
    *,
    sigma: Scalar,
    write: Callable[..., Stored] = plain,
    seconds: Scalar | None = None,
    sensitivity: PerValue | None = None,
    compensate: Compensate | None = None,
    refresh: float | None = None,
) -> PerValue:
    """As `write_and_read`, with upkeep: every `refresh` seconds the matrix is written anew, with noise of its own.

    The age at a read is then the time since the latest writing, and never below one second. ValueError for a refresh
    more often than once a second.
    """
    if refresh is not None and not refresh >= 1:
        raise ValueError(f"a refresh every {refresh:g} seconds: once a second is the most")
    write_key, read_key = jax.random.split(key)
    if refresh is not None and seconds is not None:
        times, seconds = refreshes(seconds, refresh)
        write_key = jax.random.fold_in(write_key, times)
    ranked = {} if sensitivity is None else {"sensitivity": sensitivity}
    stored = write(write_key, integers, device, sigma=sigma, **ranked)
    return read(read_key, stored, device, seconds=seconds, compensate=compensate)


def refreshes(
    seconds: Float[Array, "*times"] | float, every: float
) -> tuple[Int[Array, "*times"], Float[Array, "*times"]]:
    """How often a matrix has been written anew after `seconds`, and how long ago the latest writing was."""
    time = jnp.asarray(seconds, jnp.float32)
    times = jnp.floor(time / every)
    return times.astype(jnp.int32), jnp.maximum(time - times * every, 1)


def by_value(sensitivity: PerValue, harm: PerCell) -> PerCell:
    """SWIM's order: the values by their sensitivity, every cell of a value alike."""
    return jnp.broadcast_to(sensitivity[..., None], harm.shape)


def by_cell(sensitivity: PerValue, harm: PerCell) -> PerCell:
    """The cells by the loss that their variance is expected to cost: sensitivity times (place times deviation)^2."""
    return sensitivity[..., None] * harm


class Verify(NamedTuple):
    """How cells are verified: until when, with which pulses, and which of them first.

    `rank=by_cell` is ours: it also knows that a cell's place decides what its error costs.
    """

    tolerance: Scalar = 0.05  # share of the levels' range within which a cell is good
    most: int = 20  # pulses of one cell
    pulse: cells.Pulse = cells.anew  # what the pulses after the first do
    rank: Callable[[PerValue, PerCell], PerCell] = by_value


USUAL = Verify()


def selective_write_verify(
    key: PRNGKeyArray,
    integers: Int[Array, "rows dim"],
    device: Device,
    *,
    sigma: Scalar,
    layout: Layout | None = None,
    sensitivity: PerValue | None = None,
    budget: Scalar = 1.2,
    verify: Verify = USUAL,
) -> Stored:
    """Verify the cells that matter most until `budget` pulses per cell, first pulses included, are spent.

    The original (SWIM, Yan et al., 2022) ranks a network's weights by the diagonal of the loss's second derivative,
    ties by magnitude, and verifies group after group until the accuracy has recovered. Adapted: the values are the
    codes of virtual tokens, their `sensitivity` comes from `curvature` in the stored code's own space (all alike if
    not given), and a budget of pulses ends the verification, cell by cell.
    """
    if not isinstance(budget, Tracer) and not budget >= 1:
        raise ValueError(f"a budget of {budget} pulses per cell: the first pulses alone take 1")
    layout = layout or cells.layout_of(device)
    cells.check_device(device, layout)
    levels = to_levels(integers, layout)
    tolerance, most, pulse, rank = verify
    write_key, life = crossbar.born(key, device)
    done = cells.program_verify(write_key, levels, device, sigma=sigma, tolerance=tolerance, most=most, pulse=pulse)
    if sensitivity is None:
        sensitivity = jnp.ones(integers.shape)
    places = jnp.array(layout.places, jnp.float32)[None, None]
    importance = rank(sensitivity, (places * cells.spread(levels, device, sigma=sigma)) ** 2)
    magnitude = jnp.broadcast_to(jnp.abs(integers.astype(jnp.float32))[..., None], levels.shape)
    verified = _affordable(importance, magnitude, done.pulses - 1, (budget - 1) * levels.size)
    pulses = jnp.where(verified, done.pulses, 1)
    matrix = crossbar.Matrix(jnp.where(verified, done.last, done.first), signs_of(integers, layout), life)
    cost = Cost(jnp.sum(pulses), checks=jnp.sum(pulses * verified), storage_bits=_sign_bits(matrix))
    return Stored(matrix, cost)


def curvature(
    key: PRNGKeyArray, loss: Callable[[PerValue], Float[Array, ""]], code: PerValue, *, probes: int = 16
) -> PerValue:
    """Magnitude of the diagonal of the loss's second derivative, from `probes` random directions (Hutchinson).

    Exact, whatever the number of probes, where values do not interact; SWIM propagates the diagonal layer by layer
    instead.
    """
    slope = jax.grad(loss)

    def one(probe_key):
        direction = jax.random.rademacher(probe_key, code.shape, code.dtype)
        return direction * jax.grad(lambda code: jnp.vdot(slope(code), direction))(code)  # weights may know no jvp

    return jnp.abs(jnp.mean(jax.lax.map(one, jax.random.split(key, probes)), axis=0))


def cxdnn(
    key: PRNGKeyArray,
    integers: Int[Array, "rows dim"],
    device: Device,
    *,
    sigma: Scalar,
    layout: Layout | None = None,
) -> Stored:
    """Each virtual token stretched to the full range; after programming, a gain and a shift per token fitted to a read.

    The original (Jain and Raghunathan, 2019) converts weights to conductances with scale factors, retrains once, and
    compensates every column by factors measured with calibration inputs. Adapted: an array's column is a virtual
    token, the calibration reads it back once, and least squares gives its gain and shift; there is no network in the
    array to retrain.
    """
    layout = layout or cells.layout_of(device)
    write_key, read_key = jax.random.split(key)
    wanted = integers.astype(jnp.float32)
    peak = jnp.max(jnp.abs(wanted), axis=1)
    stretch = layout.limits[1] / jnp.maximum(peak, 1)
    codes = _within(jnp.round(wanted * stretch[:, None]), layout)
    matrix = crossbar.program(write_key, codes, device, sigma=sigma, layout=layout)
    seen = crossbar.read(read_key, matrix, device, layout=layout)
    gain, shift = jax.vmap(_line)(seen, wanted)
    kept, size = 2 * NUMBER_BITS * wanted.shape[0] + _sign_bits(matrix), matrix.levels.size
    return Stored(matrix, Cost(size, size, 4 * wanted.size, wanted.size, kept), gain, shift)


def correctnet(
    key: PRNGKeyArray,
    integers: Int[Array, "rows dim"],
    device: Device,
    *,
    sigma: Scalar,
    layout: Layout | None = None,
    clip: float = 0.9,
    compensator: Float[Array, "dim dim"] | None = None,
) -> Stored:
    """Codes clipped to their `clip` quantile and stretched to the full range; a linear compensator after each read.

    The original (Eldebiky et al., 2023) suppresses errors by training under a Lipschitz penalty and adds small digital
    compensators at places chosen by reinforcement learning. Adapted: what bounds the error of stored tokens is the
    range they span, so that is suppressed (the default codec's decoder has orthonormal rows, which is what the
    penalty asks for); the one place for a compensator is behind the read. Fit it with `fit_compensator`; its
    coefficients are counted here, and shared by all matrices of a bank.
    """
    layout = layout or cells.layout_of(device)
    wanted = integers.astype(jnp.float32)
    stretch = layout.limits[1] / jnp.maximum(jnp.quantile(jnp.abs(wanted), clip), 1)
    codes = _within(jnp.round(wanted * stretch), layout)
    matrix = crossbar.program(key, codes, device, sigma=sigma, layout=layout)
    dim = 0 if compensator is None else wanted.shape[1]
    kept = NUMBER_BITS * (1 + dim * dim) + _sign_bits(matrix)
    cost = Cost(matrix.levels.size, 0, 0, wanted.size * (1 + dim), kept)
    return Stored(matrix, cost, jnp.full(wanted.shape[:1], 1 / stretch), mixing=compensator)


def fit_compensator(
    key: PRNGKeyArray,
    integers: Int[Array, "ovts rows dim"],
    device: Device,
    *,
    sigma: Scalar,
    layout: Layout | None = None,
    clip: float = 0.9,
    draws: int = 16,
) -> Float[Array, "dim dim"]:
    """The matrix that brings noisy reads of `integers` closest to them, by least squares over simulated writes.

    Fitted on the device's statistics, not on the chip at hand: a matrix of [dim, dim] fitted to fewer than dim tokens
    of one chip would merely store them digitally.
    """
    layout = layout or cells.layout_of(device)
    write = partial(correctnet, clip=clip)
    each = partial(write_and_read, device=device, sigma=sigma, layout=layout, write=write)
    ovts, _, dim = integers.shape
    written = jnp.tile(integers, (draws, 1, 1))
    seen = jax.vmap(each)(jax.random.split(key, draws * ovts), written).reshape(-1, dim) / layout.limits[1]
    wanted = written.reshape(-1, dim) / layout.limits[1]
    gram, cross = (jnp.dot(seen.T, side, precision="highest") for side in (seen, wanted))
    return jnp.linalg.solve(gram + 1e-6 * jnp.trace(gram) * jnp.eye(dim), cross)


def _affordable(importance: PerCell, magnitude: PerCell, prices, allowance) -> Bool[Array, "rows dim cells"]:
    """Cells in order of importance, then magnitude, for as long as their prices together stay within the allowance."""
    order = jnp.lexsort((-magnitude.reshape(-1), -importance.reshape(-1)))
    within = jnp.cumsum(prices.reshape(-1)[order]) <= allowance
    return jnp.zeros(order.shape, bool).at[order].set(within).reshape(prices.shape)


def _sign_bits(matrix: crossbar.Matrix) -> int:
    return 0 if matrix.signs is None else matrix.signs.size


def _within(codes: PerValue, layout: Layout) -> Int[Array, "rows dim"]:
    """Codes as integers of either sign, cut off at the largest one."""
    return jnp.clip(codes, -layout.limits[1], layout.limits[1]).astype(jnp.int32)


def _line(seen: Float[Array, "dim"], wanted: Float[Array, "dim"]):
    """Gain and shift of the least-squares line from `seen` to `wanted`; a flat `seen` is shifted only."""
    centre, spread = jnp.mean(seen), seen - jnp.mean(seen)
    power = jnp.vdot(spread, spread)
    gain = jnp.vdot(spread, wanted - jnp.mean(wanted)) / jnp.where(power > 0, power, 1)
    return gain, jnp.mean(wanted) - gain * centre

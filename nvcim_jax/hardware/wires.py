"""What the resistance of wires takes from the sums of an array (IR drop), to first order."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nvcim_jax.hardware.cells import off_share
from nvcim_jax.hardware.devices import Device


def lost_to_wires(
    bits: Float[Array, "inputs down rows"],
    held: Float[Array, "tokens down rows cells"],
    device: Device,
    *,
    ohm: Float[Array, ""] | float,
    columns: int,
    present: Bool[Array, "tokens down rows"] | None = None,
) -> Float[Array, "inputs down cells tokens"]:
    """Levels missing from each column's sum when one input bit fires the rows of one cell place.

    Currents are those without wires; the drop they cause along the word line (driven at column 0) and up the bit line
    (sensed below the last row) lowers each cell's voltage, and so its current. Rows lie place by place: the cells of
    the first place are farthest from the sense amplifier. Rows that do not fire carry no current (their access
    transistor is off), but their wires count; neither do the cells of values that are not `present`. Exact up to terms
    in `ohm^2`. ValueError for a device without
    conductances.
    """
    if device.conductance_us is None:
        raise ValueError("wires need conductances, which this device does not give: set off_us and on_us in its sheet")
    full = device.levels.shape[0] - 1
    off, on = device.conductance_us
    siemens = 1e-6 * (on - off) * (off_share(device) + held / full)
    if present is not None:
        siemens = siemens * present[..., None]
    tokens, down, rows, places = held.shape
    width = min(columns, tokens)
    siemens = jnp.pad(siemens, ((0, -tokens % width), (0, 0), (0, 0), (0, 0))).reshape(-1, width, down, rows, places)
    fired = jnp.einsum("bdr,atdrc->badcrt", bits, siemens)  # amperes at one volt, tile by tile across
    below = rows * (places - 1 - jnp.arange(places))
    drop = jnp.cumsum(_from_here_on(fired, -1), axis=-1)
    rise = _from_here_on(jnp.cumsum(fired, axis=-2), -2)
    rise = rise + below[None, None, None, :, None, None] * jnp.sum(fired, axis=-2, keepdims=True)
    missing = jnp.sum(ohm * fired * (drop + rise), axis=-2)  # [inputs, across, down, places, columns]
    missing = jnp.moveaxis(missing, 1, 3).reshape(-1, down, places, siemens.shape[0] * width)[..., :tokens]
    return missing * full / (1e-6 * (on - off))


def _from_here_on(values, axis: int):
    return jnp.flip(jnp.cumsum(jnp.flip(values, axis), axis), axis)

"""How long cells live: pulses against the endurance that a device's sheet gives."""

from collections.abc import Sequence
from typing import NamedTuple

YEAR, DAY = 365 * 86400.0, 86400.0


class Life(NamedTuple):
    """How often cells are written, and the years until their endurance is used up."""

    writes_per_year: float  # of one cell
    years: float
    why: str


def life(
    endurance: float,
    *,
    slots: int,
    learned: Sequence[float],
    pulses: float = 1.0,
    refresh: float | None = None,
) -> Life | None:
    """The life of a bank of `slots` at the pace at which its OVTs were `learned` (seconds since 1970).

    New OVTs go round: each slot is written as often as any other. Every writing takes `pulses` per cell, and a refresh
    every `refresh` seconds writes all slots once more. None where the OVTs tell no pace, since all were learned within
    a day, and nothing is refreshed.
    """
    times = sorted(learned)
    span = times[-1] - times[0] if times else 0.0
    has_pace = span >= DAY
    if not has_pace and refresh is None:
        return None
    by_learning = (len(times) - 1) / slots * YEAR / span if has_pace else 0.0
    by_refresh = 0.0 if refresh is None else YEAR / refresh
    writes = by_learning + by_refresh
    parts = [f"{(len(times) - 1) / span * DAY:.2g} OVTs a day over {slots} slots"] if has_pace else []
    parts += [f"a refresh every {refresh:g} s"] if refresh is not None else []
    return Life(writes, endurance / (writes * pulses), " and ".join(parts))

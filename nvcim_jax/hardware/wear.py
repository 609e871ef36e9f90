"""How long cells live: pulses against the endurance that a device's sheet gives."""

from collections.abc import Sequence
from typing import NamedTuple

YEAR, DAY = 365 * 86400.0, 86400.0


class Life(NamedTuple):
    """How often cells are written, and the years until the endurance of the most written ones is used up."""

    writes_per_year: float  # of one cell
    years: float  # that are left
    why: str


def life(
    endurance: float,
    *,
    writes: Sequence[int],
    learned: Sequence[float],
    pulses: float = 1.0,
    refresh: float | None = None,
) -> Life | None:
    """What is left of a bank whose slots were written so many times, at the pace at which its OVTs were `learned`.

    `learned` are the seconds since 1970 of the OVTs that the bank still holds. New OVTs are expected to go round, but
    the most written slot to go on as it did: the faster of both paces counts. Every writing takes `pulses` per cell,
    and a refresh every `refresh` seconds writes all slots once more. None where the OVTs tell no pace, since all were
    learned within a day, and nothing is refreshed.
    """
    times = sorted(learned)
    span = times[-1] - times[0] if times else 0.0
    has_pace = span >= DAY
    if not has_pace and refresh is None:
        return None
    slots, most = len(writes), max(writes)
    by_learning = max((len(times) - 1) / slots, most - 1) * YEAR / span if has_pace else 0.0
    by_refresh = 0.0 if refresh is None else YEAR / refresh
    pace = by_learning + by_refresh
    parts = [f"{(len(times) - 1) / span * DAY:.2g} OVTs a day over {slots} slots"] if has_pace else []
    parts += [f"a slot written {most} times in {span / DAY:.2g} days"] if has_pace and most > 1 else []
    parts += [f"a refresh every {refresh:g} s"] if refresh is not None else []
    return Life(pace, max(endurance / pulses - most, 0) / pace, " and ".join(parts))

"""What the fields of a device's sheet may hold."""

from typing import Any

import numpy as np

MOST_LEVELS = 256  # of a cell: eight bits
LIMITS = {  # what is computed from the arrays of a device stays far within float32
    "noise": (0, 10), "read_noise": (0, 10), "drift_exponent": (0, 10), "stuck_off": (0, 1), "stuck_on": (0, 1),
    "off_us": (0, 1e9), "on_us": (1e-9, 1e9), "means": (-1, 2), "correlation": (0, 1), "drift_std": (0, 10),
    "drift_from_s": (1, 1e9), "retention": (0, 1), "wander": (0, 10), "flicker": (0, 10), "read_seconds": (1e-12, 0.1),
}  # fmt: skip
PER_LEVEL = ("drift_exponent", "drift_std", "wander", "flicker", "means")  # one for each level, or one but for means
ANY = (0, 1e30)  # the limits of all other numbers


def fault(name: str, value: Any) -> str | None:
    """What is needed instead of `value`, if the field `name` cannot hold it."""
    if name in ("name", "source", "licence"):
        most = 60 if name == "name" else 1000
        good = (
            isinstance(value, str) and value.isprintable() and len(value) <= most and (value.strip() or name != "name")
        )
        return None if good else f"text on one line, of {most} characters at most, is"
    if name == "levels":
        good = type(value) is int and 2 <= value <= MOST_LEVELS
        return None if good else f"a whole number from 2 to {MOST_LEVELS} is"
    low, high = LIMITS.get(name, ANY)
    within = f"from {low:g} to {high:g}"
    good = isinstance(value, tuple) and all(_is_within(each, low, high) for each in value)
    if name in PER_LEVEL[:-1] and isinstance(value, tuple):
        return None if good else f"a number {within}, or one for each level, is"
    if name not in ("noise", "means") and not name.endswith("_range"):
        return None if _is_within(value, low, high) else f"a number {within} is"
    if name in ("noise", "means"):
        return None if good else f"one number {within} for each level is"
    return None if good and len(value) == 2 else f"two numbers {within}, (low, high), are"


def shown(value: Any) -> str:
    """A value as a message shows it: on one line, and cut if it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_within(value: Any, low: float, high: float) -> bool:
    is_number = isinstance(value, int | float | np.integer | np.floating) and type(value) is not bool
    return is_number and bool(low <= value <= high)

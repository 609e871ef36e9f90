"""Settings as JSON values, for digests of what lies on disk.

Neither the name of a class or a function, nor the order of fields, nor a `repr` decides them: what has a name on disk
gets it from a table, and a field that holds its default is left out, so that a new field changes no old description.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import partial
from typing import Any


def described(value: Any, names: Mapping[Any, str]) -> Any:
    """`value` as JSON: records as objects, functions and classes by what they are called in `names`.

    What is not in `names`, a function of a user's own, goes by its module and name. TypeError for anything else that
    JSON cannot hold.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [described(each, names) for each in value]
    if isinstance(value, partial):
        bound = {name: described(each, names) for name, each in value.keywords.items()}
        return {"function": described(value.func, names), "with": bound}
    if is_dataclass(value) and not isinstance(value, type):
        told = {field.name: described(getattr(value, field.name), names) for field in fields(value)}
        usual = {field.name: described(field.default, names) for field in fields(value) if field.default is not MISSING}
        changed = {name: each for name, each in told.items() if name not in usual or each != usual[name]}
        return {"kind": described(type(value), names), **changed}
    if callable(value):
        return names.get(value) or f"{value.__module__}:{value.__qualname__}"
    raise TypeError(f"a {type(value).__name__} has no description: numbers, texts, records and functions have one")

"""What a bank says about itself: whose it is, the texts that it was learned from, and how it was learned.

A bank may come from anybody, so what is read is checked field by field, and against the arrays beside it.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import jax
import numpy as np

from nvcim_jax.memory.bank import Bank
from nvcim_jax.people import EMBEDDED_WORLD as EMBEDDED_WORLD
from nvcim_jax.people import Sample

PROMPT_SPACE = "post_scale"  # of banks that do not say where their virtual tokens live: where the decoder takes them in
MISSING = "save it with an nvcim_jax.memory.storage.about.About that does, or learn it with `nvcim learn`"


@dataclass(frozen=True)
class About:
    """What a bank says about itself; the numbers in `bank.origin` are indices into its lists.

    `settings` are those it was learned with (preset, device, sigma, seed, ...); `more` keeps fields of other programs.
    """

    model: str | None = None  # fingerprint of the model
    prompt_space: str = PROMPT_SPACE
    task: str | None = None
    source: str | None = (
        None  # of the users: EMBEDDED_WORLD, the folder with their LaMP files, the files with their histories
    )
    users: tuple[str, ...] = ()
    samples: tuple[tuple[Sample | None, ...], ...] = ()  # of every user
    domains: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()  # that OVTs were trained for
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def preset(self) -> str | None:
        return self.settings.get("preset")

    @property
    def device(self) -> str | None:
        """Name or file of the device that the bank was learned for."""
        return self.settings.get("device")

    @property
    def sigma(self) -> float | None:
        return self.settings.get("sigma")

    def require(self, *names: str) -> None:
        """ValueError if the bank does not say one of `names`, such as "task" or "preset"."""
        missing = [name for name in names if getattr(self, name) in (None, "", ())]
        if missing:
            raise ValueError(f"the bank does not say its {' and '.join(missing)}: {MISSING}")

    def name(self, kind: str, number: int) -> str:
        """The name of a user, domain or device by its number in `bank.origin`; "" where it is unknown."""
        names = getattr(self, kind)
        return names[number] if 0 <= number < len(names) else ""

    def numbered(self, kind: str, name: str) -> tuple[int, "About"]:
        """The index of a user, domain or device called `name`, and the description that lists it: this one, or one
        with the name added at the end."""
        names = getattr(self, kind)
        listed = self if name in names else replace(self, **{kind: (*names, name)})
        return getattr(listed, kind).index(name), listed

    def sample(self, user: int, number: int) -> Sample | None:
        """What an OVT was learned from, by `bank.origin`'s user and sample."""
        own = self.samples[user] if 0 <= user < len(self.samples) else ()
        return own[number] if 0 <= number < len(own) else None

    def of_slots(self, block: Bank) -> list[list[Sample | None]]:
        """The sample of every slot in banks with a leading user axis; None where a slot is free."""
        user, sample = map(np.asarray, (block.origin.user, block.origin.sample))
        return [
            [self.sample(int(u), int(s)) if is_taken else None for is_taken, u, s in zip(*row, strict=True)]
            for row in zip(taken(block), user, sample, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `from_json` reads."""
        told = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "more"}
        told["samples"] = [[sample and _written(sample) for sample in row] for row in self.samples]
        told |= {name: list(told[name]) for name in ("users", "domains", "devices")}
        return {**self.more, **told, "settings": dict(self.settings), "provenance": dict(self.provenance)}

    @classmethod
    def from_json(cls, value: Any) -> "About":
        """A bank's description from JSON, every field of which may be missing. ValueError for anything unlike it."""
        told = _object(value, "the description")
        known = {each.name for each in fields(cls)} - {"more"}
        users, samples = _texts(told, "users"), _samples(told)
        if users and samples and len(users) != len(samples):
            raise ValueError(f"the bank names {len(users)} users, but has samples of {len(samples)}")
        return cls(
            model=_text(told.get("model"), "model"),
            prompt_space=_text(told.get("prompt_space"), "prompt_space") or PROMPT_SPACE,
            task=_text(told.get("task"), "task"),
            source=_text(told.get("source"), "source"),
            users=users,
            samples=samples,
            domains=_texts(told, "domains"),
            devices=_texts(told, "devices", or_null=True),
            settings=_settings(told),
            provenance=_object(told.get("provenance", {}), "provenance"),
            more={name: told[name] for name in told if name not in known},
        )

    def check(self, bank: Bank) -> None:
        """ValueError if `bank`, of NumPy arrays, has an index that is not in these lists, or more OVTs than slots."""
        if (bank.count < 0).any() or (bank.count > bank.capacity).any():
            raise ValueError(f"a bank of {bank.capacity} slots cannot hold {bank.count} OVTs")
        if (bank.writes < 0).any():
            raise ValueError(f"a bank whose slots were written {bank.writes.min()} times: 0 is the least")
        if bank.count.ndim and self.users and len(self.users) != bank.count.shape[0]:
            raise ValueError(f"the bank names {len(self.users)} users, but holds {bank.count.shape[0]}")
        origin = jax.tree.map(lambda leaf: leaf[taken(bank)], bank.origin)
        _require_below(origin.user, "user", len(self.users), 0)
        _require_below(origin.domain, "domain", len(self.domains), -1)
        _require_below(origin.device, "device", len(self.devices), 0)
        if self.samples:
            most = np.array([len(row) for row in self.samples])
            _require_below(origin.user, "user", len(most), 0)
            _require_below(origin.sample, "sample", most[origin.user], 0)


def taken(bank: Bank) -> np.ndarray:
    """As `bank.valid`, without a compiler."""
    return np.arange(bank.capacity) < np.expand_dims(np.asarray(bank.count), -1)


def _require_below(numbers: np.ndarray, kind: str, most: int | np.ndarray, least: int) -> None:
    """ValueError unless all numbers lie from `least` to below `most`; an empty list means that names are unknown."""
    wrong = (numbers < least) | ((numbers >= most) & (np.asarray(most) > 0))
    if wrong.any():
        raise ValueError(f"an OVT is of {kind} {numbers[wrong][0]}, but the bank's list of {kind}s has none such")


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(f"{name} is {_kind(value)}: an object of named fields is needed")
    return dict(value)


def _text(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is {_kind(value)}: a text is needed")
    return value


def _list(value: Any, name: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} is {_kind(value)}: a list is needed")
    return value


def _texts(told: dict[str, Any], name: str, *, or_null: bool = False) -> tuple[str, ...]:
    """The texts in a list; null, where it is allowed, is an empty one."""
    texts = [_text(value, f"an entry of {name}") for value in _list(told.get(name, ()), name)]
    if None in texts and not or_null:
        raise ValueError(f"an entry of {name} is null: a text is needed")
    return tuple(text or "" for text in texts)


def _samples(told: dict[str, Any]) -> tuple[tuple[Sample | None, ...], ...]:
    rows = _list(told.get("samples", ()), "samples")
    return tuple(tuple(_sample(value) for value in _list(row, "an entry of samples")) for row in rows)


def _written(sample: Sample) -> dict[str, Any]:
    """A sample's fields; without an id it is written as before there were any."""
    told = sample._asdict()
    return told if sample.id is not None else {name: told[name] for name in told if name != "id"}


def _sample(value: Any) -> Sample | None:
    if value is None:
        return None
    told = value._asdict() if isinstance(value, Sample) else _object(value, "a sample")
    wrong = [name for name in told if name not in Sample._fields]
    wrong += [name for name in ("question", "answer", "content") if not isinstance(told.get(name), str)]
    if wrong:
        raise ValueError(f"a sample has a wrong {wrong[0]!r}: it has texts as question, answer, content, domain, id")
    more = (_text(told.get(name), f"a sample's {name}") for name in ("domain", "id"))
    return Sample(told["question"], told["answer"], told["content"], *more)


def _settings(told: dict[str, Any]) -> dict[str, Any]:
    settings = _object(told.get("settings", {}), "settings")
    for name in ("preset", "device"):
        _text(settings.get(name), f"the setting {name}")
    sigma = settings.get("sigma")
    is_number = isinstance(sigma, int | float) and not isinstance(sigma, bool)
    if sigma is not None and not (is_number and 0 <= sigma <= sys.float_info.max):
        raise ValueError(f"the setting sigma is {_kind(sigma)}: a finite number from 0 on is needed")
    return settings


def _kind(value: Any) -> str:
    """What a wrong value is, short."""
    names = {
        type(None): "null",
        bool: "a truth value",
        str: "a text",
        list: "a list",
        tuple: "a list",
        dict: "an object",
    }
    return names.get(type(value), f"the number {value!r}"[:40] if isinstance(value, int | float) else "something else")

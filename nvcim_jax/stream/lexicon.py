"""Lexicons: which words belong to which domain, from a TOML file.

A table is a domain, and the lists in it are its words, all together; a table that holds tables is an area of domains.

    [medical]
    admin = ["dose", "inhale"]
    drug = ["Midol", "Cartia XT"]

Words are compared in lower case. An entry of several words is found where they stand in this order.
"""

import hashlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

LARGEST_FILE = 16 * 2**20  # bytes
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

Entry = tuple[str, ...]  # of one word or several


class LexiconError(ValueError):
    """A lexicon that cannot be used; the message names the file, the domain and the remedy."""


@dataclass(frozen=True)
class Lexicon:
    """Domains by name, and the entries of each. A word may belong to several domains."""

    names: tuple[str, ...]
    entries: tuple[frozenset[Entry], ...]

    def matches(self, text: str, *, repeats: bool = False) -> np.ndarray:
        """How many entries of each domain `text` holds: each counted once, or with `repeats` as often as it stands."""
        found = np.zeros(len(self.names), np.int32)
        own = words(text)
        for size in self._sizes:
            for entry, times in Counter(zip(*(own[at:] for at in range(size)), strict=False)).items():
                found[self._domains.get(entry, [])] += times if repeats else 1
        return found

    def name(self, domain: int) -> str:
        """The name of a domain by its number; "none" for `metrics.NONE`."""
        return self.names[domain] if domain >= 0 else "none"

    @property
    def digest(self) -> str:
        """What tells one lexicon from another."""
        told = [[name, sorted(own)] for name, own in zip(self.names, self.entries, strict=True)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    @cached_property
    def _domains(self) -> dict[Entry, list[int]]:
        found: dict[Entry, list[int]] = {}
        for at, own in enumerate(self.entries):
            for entry in own:
                found.setdefault(entry, []).append(at)
        return found

    @cached_property
    def _sizes(self) -> list[int]:
        return sorted({len(entry) for entry in self._domains})


def words(text: str) -> list[str]:
    """The words of a text in lower case: letters and digits, with apostrophes and hyphens inside."""
    return [word.lower() for word in _WORD.findall(text)]


def lexicon(domains: dict[str, list[str]]) -> Lexicon:
    """A lexicon of domains by name. LexiconError where there is none, or one without a word."""
    if not domains:
        raise LexiconError("the lexicon is empty: without a domain every DSS is 0; name one domain with its words")
    entries = []
    for name, own in domains.items():
        told = [(each, tuple(words(each))) for each in own]
        empty = [each for each, entry in told if not entry]
        if empty or not told:
            what = f"the entry {empty[0]!r}, which holds no word" if empty else "no word"
            raise LexiconError(f"the domain {name!r} has {what}: give it words, or take it out")
        entries.append(frozenset(entry for _, entry in told))
    return Lexicon(tuple(domains), tuple(entries))


def read(path: Path | str) -> Lexicon:
    """The lexicon in a TOML file. LexiconError says what to change in the file."""
    file = f"lexicon {path}"
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise LexiconError(f"{file} is no file: give a .toml file")
        with open(path, "rb") as opened:
            data = opened.read(LARGEST_FILE + 1)
    except OSError as error:
        raise LexiconError(f"{file} cannot be read ({error.strerror}): check the path") from error
    if len(data) > LARGEST_FILE:
        raise LexiconError(f"{file} is larger than {LARGEST_FILE // 2**20} MiB: split it")
    try:
        found: dict[str, list[str]] = {}
        for name, own in _domains_in(tomllib.loads(data.decode("utf-8-sig"))):
            if name in found:
                raise LexiconError(f"two domains are called {name!r}: rename one")
            found[name] = own
        return lexicon(found)
    except RecursionError as error:
        raise LexiconError(f"{file} is nested too deeply to be read") from error
    except LexiconError as error:
        raise LexiconError(f"{file}: {error}") from error
    except ValueError as error:  # of TOML or of UTF-8
        raise LexiconError(f"{file} is not TOML in UTF-8 ({error}): mend it") from error


def toy() -> Lexicon:
    """The vocabulary of the toy world: 24 everyday domains."""
    return read(str(files("nvcim_jax").joinpath("data/toy/vocabulary.toml")))


def _domains_in(table: dict[str, Any], name: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Every domain of a table: its own lists as one, and the tables in it. Lists outside any table are one each."""
    lists = {key: value for key, value in table.items() if not isinstance(value, dict)}
    own = {key: list(_texts(value, key)) for key, value in lists.items()}
    if name is None:
        yield from own.items()
    elif own or not table:
        yield name, [text for part in own.values() for text in part]
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _domains_in(value, key)


def _texts(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, key)
    else:
        raise LexiconError(f"{key!r} holds {str(value)[:60]}: a lexicon has lists of words only")

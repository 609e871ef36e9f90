"""A life on disk: a bank, whose versions are the learnings, and beside the newest a journal of what came since.

A moment or an answer is one line, on the disk when the call returns; a learning is a version, written whole. Reading
the lines again from the version on gives the bits of a life that never stopped. The folder is a bank like any other: it
can be shown, asked, verified and repaired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nvcim_jax import files
from nvcim_jax.core.codec import DIM
from nvcim_jax.data.toy_words import restatements
from nvcim_jax.llm.config import PROMPT_SPACE
from nvcim_jax.llm.fingerprint import fingerprint
from nvcim_jax.llm.weights import Model
from nvcim_jax.memory import bank
from nvcim_jax.memory.storage import journal, store
from nvcim_jax.memory.storage.about import About
from nvcim_jax.memory.storage.folders import versions
from nvcim_jax.memory.storage.store import StoreError
from nvcim_jax.people import Sample
from nvcim_jax.pipeline import life as lives
from nvcim_jax.pipeline import memory as memories
from nvcim_jax.pipeline.learn import Report
from nvcim_jax.pipeline.life import Counts, Life, Observed, Replied, Rules
from nvcim_jax.pipeline.presets import Settings, named
from nvcim_jax.pipeline.synthesis import Restate, by_model
from nvcim_jax.provenance import provenance
from nvcim_jax.stream.lexicon import Lexicon
from nvcim_jax.stream.metrics import READINGS
from nvcim_jax.stream.policies import POLICIES

GENERATORS = {"model": by_model, "toy": restatements}
LIFE = "life"  # the field of a bank's description


class Place(NamedTuple):
    """Where a life lies, its version there, and the bytes of the journal beside it."""

    folder: Path
    version: int
    size: int


class Since(NamedTuple):
    """What came after a learning: the version that it was saved as, beside which the rest lies, and first entries."""

    version: int
    entries: list[Any]


class Kept(NamedTuple):
    """A life and where it lies; `mark` is the caller's own note of the last entry, such as a line that was read."""

    life: Life
    place: Place
    mark: Any = None


def create(folder: Path | str, model: Model, life: Life, *, mark: Any = None) -> Kept:
    """Write a life to a new folder. StoreError if something is there; ValueError for rules without a name."""
    return _saved(Place(Path(folder), -1, 0), model, life, [], mark)


def observe(
    model: Model,
    kept: Kept,
    samples: Sample | Sequence[Sample],
    *,
    time: float,
    mark: Any = None,
    report: Report = lambda progress: None,
) -> tuple[Kept, Observed]:
    """As `life.observe`, kept on the disk. A moment that is refused leaves nothing there."""
    said = [samples] if isinstance(samples, Sample) else list(samples)
    seen = lives.let_in(model, kept.life, said, time=time)
    entry = {"moments": [_written(each) for each in said], "time": int(time), "mark": mark}
    place = _appended(kept.place, entry)
    if not lives.is_due(seen.life):
        return Kept(seen.life, place, mark), seen
    learned = lives.learn(model, seen.life, report=report)
    return _saved(place, model, learned, [], mark), seen._replace(life=learned, has_learned=True)


def learn(model: Model, kept: Kept, *, report: Report = lambda progress: None) -> Kept:
    """As `life.learn`, kept on the disk."""
    return _saved(kept.place, model, lives.learn(model, kept.life, report=report), [], kept.mark)


def reply(
    model: Model, kept: Kept, question: Sample | str, *, user: str | None = None, mark: Any = None
) -> tuple[Kept, Replied]:
    """As `life.reply`; that the OVT answered is kept on the disk."""
    told = lives.reply(model, kept.life, question, user=user)
    who = kept.life.people.index(user or kept.life.people[0])
    place = _appended(kept.place, {"used": [who, told.answer.slot], "mark": mark})
    return Kept(told.life, place, mark), told


def resume(
    folder: Path | str,
    model: Model,
    words: Lexicon,
    *,
    settings: Settings | None = None,
    report: Report = lambda progress: None,
) -> Kept:
    """The life in a folder, as it was after the last entry; learns if it was about to.

    StoreError if it is damaged, or belongs to another model; ValueError for another lexicon, for a bank that is no
    life, and without the `settings` that it was begun with where these are no preset.
    """
    folder = Path(folder)
    saved = store.load(folder, model=memories.identity(model))
    said = saved.about.more.get(LIFE)
    if not isinstance(said, dict):
        raise StoreError(f"{folder} is a bank, but no life: begin one in another folder")
    try:
        life, since, mark = _begun(folder, model, words, saved, said, settings)
        beside = journal.read(folder, since.version) if since.version in versions(folder) else journal.Journal([], 0)
        entries, rounds = [*since.entries, *beside.entries], life.counts.rounds
        for entry in entries:
            life, mark = _again(model, life, entry, report), entry["mark"]
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        why = f"{type(error).__name__}, {files.reason(error)}"
        raise StoreError(
            f"{folder}: what it says of its life cannot be read ({why}): restore it from a copy"
        ) from error
    place = Place(folder, saved.version, beside.size)
    if life.counts.rounds != rounds:  # it was killed before its learning was saved
        return _saved(place, model, life, [], mark)
    if since.version != saved.version:  # another command has saved over it
        return _saved(place, model, life, entries, mark)
    return Kept(life, place, mark)


def _appended(place: Place, entry: dict[str, Any]) -> Place:
    return place._replace(size=journal.append(place.folder, place.version, entry, size=place.size))


def _saved(place: Place, model: Model, life: Life, entries: list[Any], mark: Any) -> Kept:
    """A new version of the life, to which `entries` led since it learned; its journal is empty."""
    version, counts = max(place.version, 0) + 1, life.counts
    if entries:  # which lead from an earlier learning to this life
        counts = counts._replace(**_before(entries, counts))
        entries = [
            {**each, "used": [0, lives.NOTHING]} if "used" in each else each for each in entries
        ]  # the bank has it
    said = {
        "version": version, "rules": rules_as_json(life.rules), "counts": counts._asdict(),
        "lexicon": life.words.digest, "key": np.asarray(jax.random.key_data(life.key)).tolist(),
        "entries": entries, "mark": mark,
    }  # fmt: skip
    memory = life.memory
    about = _unlearned(model, life) if memory is None else memory.about
    about = replace(about, more={**about.more, LIFE: said})
    if memory is None:
        nothing = bank.empty(life.rules.capacity, life.rules.settings.tokens, DIM)
        banks = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(life.people), *leaf.shape)), nothing)
        store.save(place.folder, banks, None, about, over=place.version)
    else:
        store.save(place.folder, memory.bank, memory.codec, about, over=place.version)
        life = life._replace(memory=memory._replace(about=about, version=version))
    return Kept(life, Place(place.folder, version, 0), mark)


def _before(entries: list[Any], counts: Counts) -> dict[str, int]:
    moments = sum("moments" in entry for entry in entries)
    return {"moments": counts.moments - moments, "waiting": counts.waiting - moments}


def _again(model: Model, life: Life, entry: dict[str, Any], report: Report) -> Life:
    """The life after what a line tells."""
    if "used" in entry:
        return lives.used(life, *entry["used"])
    samples = [Sample(**each) for each in entry["moments"]]
    return lives.observe(model, life, samples, time=entry["time"], report=report).life


def _begun(
    folder: Path, model: Model, words: Lexicon, saved: store.Saved, said: dict[str, Any], settings: Settings | None
) -> tuple[Life, Since, Any]:
    """The life as it was after its last learning, what came then, and the mark of the last entry before."""
    if said["lexicon"] != words.digest:
        raise ValueError(f"{folder} was begun with another lexicon (its digest differs): give that one")
    about = saved.about
    if settings is None:
        known = named()
        if about.preset not in known:
            raise ValueError(f"{folder} was begun with settings that are no preset: give them")
        settings = known[about.preset]
    about.require("task", "users")
    counts, since = Counts(**said["counts"]), Since(said["version"], list(said["entries"]))
    if any(type(value) is not int or value < 0 for value in (*counts, since.version)):
        raise TypeError("a count is no whole number")
    key = jax.random.wrap_key_data(jnp.array(said["key"], jnp.uint32))
    rules = _rules_from_json(said["rules"], model, settings)
    life = lives.begin_life(key, model, str(about.task), about.users, rules=rules, words=words, source=about.source)
    memory = None if saved.codec is None else memories.of_saved(saved, settings)
    return lives.at(life, model, counts, memory), since, said["mark"]


def _unlearned(model: Model, life: Life) -> About:
    """What a life says about itself before anything is learned."""
    rules = life.rules
    preset = next((name for name, each in named().items() if each == rules.settings), None)
    return About(
        model=fingerprint(model), prompt_space=PROMPT_SPACE, task=life.task.name, source=life.source, users=life.people,
        settings={
            "preset": preset, "place": rules.settings.wording.place, "device": rules.device, "sigma": rules.sigma,
            **({} if preset else rules.settings.described()),
        },
        provenance=provenance(),
    )  # fmt: skip


def rules_as_json(rules: Rules) -> dict[str, Any]:
    """The rules without the settings, which a bank says of itself. ValueError for a function without a name."""
    restate = rules.restate
    return {
        "device": rules.device, "sigma": rules.sigma, "slots": rules.slots, "every": rules.every,
        "capacity": rules.capacity, "policy": _name(POLICIES, rules.policy), "reading": _name(READINGS, rules.reading),
        "victim": _name(bank.VICTIMS, rules.victim),
        "restate": restate and {
            "generator": _name(GENERATORS, getattr(restate.generator, "func", restate.generator)),
            "count": restate.count, "low": restate.low, "high": restate.high,
        },
    }  # fmt: skip


def _rules_from_json(value: dict[str, Any], model: Model, settings: Settings) -> Rules:
    restate = told = value["restate"]
    if told:
        bounds = {"count": told["count"], "low": told["low"], "high": told["high"]}
        restate = replace(restating(told["generator"], model), **bounds)
    named = {
        "policy": POLICIES[value["policy"]], "reading": READINGS[value["reading"]],
        "victim": bank.VICTIMS[value["victim"]], "restate": restate,
    }  # fmt: skip
    return Rules(**{**value, **named, "settings": settings})


def restating(generator: str, model: Model) -> Restate:
    """Restatements by the generator called "model" or "toy". ValueError for another one."""
    if generator not in GENERATORS:
        raise ValueError(f"unknown generator {generator!r}: choose one of {', '.join(GENERATORS)}")
    known = GENERATORS[generator]
    return Restate(partial(known, model=model) if known is by_model else known)


def _name(known: Mapping[str, Any], value: Any) -> str:
    found = next((name for name, each in known.items() if each == value), None)
    if found is None:
        raise ValueError(f"a life on disk goes by rules that have a name ({', '.join(known)}), and {value} has none")
    return found


def _written(sample: Sample) -> dict[str, Any]:
    return {name: value for name, value in sample._asdict().items() if value is not None}

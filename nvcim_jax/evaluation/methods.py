"""The rows of the table: base model, prompts without memory, and NVCiM-PT under each preset, whole and in parts."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from nvcim_jax import tuning
from nvcim_jax.evaluation import one_for_all
from nvcim_jax.hardware import catalogue, crossbar
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.pipeline.learn import tune_bank
from nvcim_jax.pipeline.presets import (
    MITIGATIONS,
    PRESETS,
    SEARCHES,
    TOGETHER,
    Settings,
    flat_mips,
    from_common,
    mean_mips,
    mitigated,
    prompt_key,
    relative_rate,
)

BASE, OWN, ONE = "base model", "own tokens, untuned", "one prompt for all"
OTHERS = "others' prompt"
KNOWN, OWN_KNOWN = "OVT, right domain known, clean", "own tokens, right domain known, clean"
UNTUNED = tuning.Training(steps=0)
ONE_RATE = partial(relative_rate, share=0.12)  # its best: `experiments/tables.py one-for-all`


class Cell(NamedTuple):
    """A device, its sigma and the seconds since programming, if any: one cell of a table."""

    device: str
    sigma: float
    seconds: float | None = None

    @property
    def condition(self) -> Condition:
        return catalogue.condition(self.device, self.sigma, self.seconds)


class Method(NamedTuple):
    """A row of the table: how prompts are learned, written and found.

    Without `settings` the model answers alone. With `known_domain` nothing is stored: the question gets the OVT of its
    own domain as it was trained. So many `texts` of the user's history, found in noisy arrays of their own, stand
    before the question. With `from_others` prompts start from what other people have in common, where that is given.
    """

    name: str
    settings: Settings | None
    group: str = ""  # the preset that it belongs to
    learn: Callable = tune_bank
    known_domain: bool = False
    texts: int = 0
    from_others: bool = False

    @property
    def learned_with(self) -> Settings:
        """The settings. ValueError for a row that has none."""
        if self.settings is None:
            raise ValueError(f"{self.label} learns nothing: ask a row that has settings")
        return self.settings

    @property
    def label(self) -> str:
        return label(self.group, self.name)


def label(group: str, name: str) -> str:
    """How a row is called where a name must be one text: in JSON, in tables of differences."""
    return f"{group}: {name}" if group else name


def rows(presets: Mapping[str, Settings] = PRESETS) -> list[Method]:
    """Every row of the table, in its order. `presets` must have "recommended"; its own search comes last."""
    best = presets["recommended"]
    clean = replace(best, train_sigma=0.0, clip=1.0)
    found = [
        Method(BASE, None),
        Method(OWN, untuned(best)),
        _one_for_all(best),
        Method(OWN_KNOWN, untuned(clean), known_domain=True),
        Method(KNOWN, clean, known_domain=True),
    ]
    for group, settings in presets.items():
        found += _of_preset(group, settings)
    return found


def of_a_real_model(presets: Mapping[str, Settings] = PRESETS, *, has_others: bool) -> list[Method]:
    """Every row of the table for a model of one's own, where tuned prompts start from a common one.

    It is that of other people, if the users have others beside them, and then a row of its own; else `recommended`
    starts from one prompt for all of the user's own samples, and the other presets as on the embedded model.
    """
    if not has_others:
        return rows({**presets, "recommended": replace(from_common(presets["recommended"]), together=TOGETHER)})
    named = {name: from_common(each) for name, each in presets.items()}
    if "paper-literal" in presets:  # to the letter on a real model, too
        named["paper-literal"] = replace(named["paper-literal"], learning_rate=presets["paper-literal"].learning_rate)
    is_tuned = lambda row: row.settings is not None and row.settings.training.steps > 0  # noqa: E731
    found = [row._replace(from_others=is_tuned(row)) for row in rows(named)]
    others = Method(OTHERS, untuned(named["recommended"]), learn=one_for_all.learn, from_others=True)
    at = [row.label for row in found].index(ONE)
    return [*found[:at], others, *found[at:]]


def untuned(settings: Settings) -> Settings:
    """The same without any training."""
    return replace(settings, training=UNTUNED, together=None)


def _one_for_all(best: Settings) -> Method:
    """One prompt for all of a user's samples: where OVTs start from one, that one, without any of their own steps."""
    if best.together is not None:
        return Method(ONE, replace(best, training=UNTUNED))
    return Method(ONE, replace(best, learning_rate=ONE_RATE), learn=one_for_all.learn)


def short(rows: Sequence[Method]) -> list[Method]:
    """Those of `rows` that a model of one's own is judged by: alone, without tuning, with one prompt, with OVTs."""
    return [row for row in rows if row.label in (BASE, OWN, OTHERS, ONE, whole("recommended"))]


def with_texts(count: int = 4) -> list[Method]:
    """Rows beside those of the table: the base model behind retrieved text, and an OVT behind it, too."""
    best = PRESETS["recommended"]
    return [
        Method(f"text, {count} found", None, texts=count),
        Method(f"OVT and text, {count} found", best, texts=count),
    ]


def _of_preset(group: str, settings: Settings) -> list[Method]:
    """A preset without its parts, with others' mitigation in their place, and whole."""
    row = partial(Method, group=group)
    quiet = replace(settings, train_sigma=0.0)
    rows = []
    if settings.clip < 1:
        rows.append(row("no training noise, no clipping, flat MIPS", replace(quiet, clip=1.0, score=flat_mips)))
    rows += [
        row("no training noise, flat MIPS", replace(quiet, score=flat_mips)),
        row("flat MIPS", replace(settings, score=flat_mips)),
        row("mean-pooled MIPS", replace(settings, score=mean_mips)),
    ]
    if settings.method == tuning.CodePrompt():  # what the codec has lost already, no write can mitigate
        bare = replace(quiet, clip=1.0)
        rows += [row(f"by cell, {name}", mitigated(bare, key)) for key, name in MITIGATIONS.items()]
        rows.append(row("by cell", mitigated(settings, "none")))
    return [*rows, row(SEARCHES[group], settings)]


def whole(group: str) -> str:
    """The label of a preset with all its parts."""
    return f"{group}: {SEARCHES[group]}"


def pairs(scored: Container[str]) -> list[tuple[str, str]]:
    """The labels of rows whose difference a claim turns on, the first being claimed to be better: those `scored`."""
    found = [(ONE, BASE), (KNOWN, BASE), (KNOWN, OWN_KNOWN)]
    for group in PRESETS:
        at = f"{group}: {{}}".format
        found += [(whole(group), BASE), (at("flat MIPS"), at("no training noise, flat MIPS"))]
        found += [(whole(group), at(search)) for search in ("flat MIPS", "mean-pooled MIPS")]
        found += [(at("by cell"), at(f"by cell, {name}")) for name in MITIGATIONS.values()]
    found += [(whole("recommended"), other) for other in (OWN, OTHERS, ONE)]
    return [(a, b) for a, b in found if a in scored and b in scored]


def training_of(method: Method, cell: Cell) -> tuple[Callable, Settings, Cell | None]:
    """What decides the training of a method: not how it is written and found, and the cell only under its noise."""
    settings = replace(method.learned_with, key=prompt_key, score=flat_mips, write=crossbar.write_values, probes=0)
    meets_noise = any(each.train_sigma and each.training.steps for each in (settings, settings.together) if each)
    return method.learn, settings, cell if meets_noise else None

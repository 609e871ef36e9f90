"""What became of a stream of moments, as JSON values and as curves over time."""

from typing import Any

import numpy as np

from nvcim_jax.evaluation.figures import Line, Panel
from nvcim_jax.people import User
from nvcim_jax.stream.buffer import NOWHERE, REASONS, Decision, Scores
from nvcim_jax.stream.lexicon import Lexicon


def as_json(user: User, decisions: Decision, kept: list[int], words: Lexicon) -> list[dict[str, Any]]:
    """One object for every moment of `user`: its three numbers, its domains, what was decided and why."""
    told = []
    for at, sample in enumerate(user.history):
        slot, displaced = int(decisions.slot[at]), int(decisions.displaced[at])
        of_displaced = scores(decisions.displaced_scores, at) if displaced != NOWHERE else None
        told.append({
            "moment": at, **scores(decisions.scores, at), "domain": words.name(int(decisions.domain[at])),
            "known_domain": sample.domain, "stored": slot != NOWHERE, "kept": at in kept,
            "why": REASONS[int(decisions.reason[at])], "displaced": None if displaced == NOWHERE else displaced,
            "displaced_scores": of_displaced, "content": sample.content, "answer": sample.answer,
        })  # fmt: skip
    return told


def scores(of: Scores, at: int) -> dict[str, float]:
    """The three numbers of one moment by name."""
    return {name: float(value[at]) for name, value in zip(of._fields, of, strict=True)}


def panels(decisions: Decision, kept: list[int]) -> list[Panel]:
    """EOE, DSS and IDD of every moment over time, by what became of it, and how many of each there are so far."""
    at = np.arange(len(decisions.slot))
    stays = np.isin(at, kept)
    stored = np.asarray(decisions.slot) != NOWHERE
    groups = {
        "dropped": (~stored, "C7"),
        "stored, displaced later": (stored & ~stays, "C1"),
        "kept to the end": (stays, "C0"),
    }
    of_scores = [
        Panel(
            name.upper(), "moment", "on arrival",
            {
                label: Line(at[own].tolist(), np.asarray(value)[own].tolist(), ".", colour)
                for label, (own, colour) in groups.items()
            },
        )
        for name, value in zip(decisions.scores._fields, decisions.scores, strict=True)
    ]  # fmt: skip
    so_far = {label: Line(at.tolist(), np.cumsum(own).tolist(), "-", colour) for label, (own, colour) in groups.items()}
    return [*of_scores, Panel("what became of them", "moment", "moments so far", so_far)]


def panels_of_many(decisions: list[Decision], kept: list[list[int]]) -> list[Panel]:
    """Means over people, moment by moment: their numbers, the share that is stored, and how many domains are there."""
    most = max(len(each.slot) for each in decisions)
    at = list(range(most))

    def mean(rows: list[np.ndarray]) -> list[float]:
        """Over those whose streams are that long."""
        wide = np.full((len(rows), most), np.nan)
        for own, row in zip(wide, rows, strict=True):
            own[: len(row)] = row
        return np.nanmean(wide, axis=0).tolist()

    scores = {
        name.upper(): Line(at, mean([np.asarray(getattr(each.scores, name), float) for each in decisions]), "-")
        for name in Scores._fields
    }
    stored = [np.asarray(each.slot) != NOWHERE for each in decisions]
    stays = [np.isin(np.arange(len(each.slot)), own) for each, own in zip(decisions, kept, strict=True)]
    shares = {
        "stored": Line(at, mean([row.astype(float) for row in stored]), "-"),
        "kept to the end": Line(at, mean([row.astype(float) for row in stays]), "-"),
    }
    met = {
        "met": Line(at, mean([_domains_so_far(each, np.ones(len(each.slot), bool)) for each in decisions]), "-"),
        "of what is kept": Line(at, mean([_domains_so_far(*each) for each in zip(decisions, stays, strict=True)]), "-"),
    }
    return [
        Panel("scores, mean of all people", "moment", "on arrival", scores),
        Panel("what enters", "moment", "share of people", shares),
        Panel("domains so far", "moment", "domains, mean of all people", met),
    ]


def _domains_so_far(decisions: Decision, counts: np.ndarray) -> np.ndarray:
    """How many domains the moments that count have so far; none is no domain."""
    domains = np.asarray(decisions.domain)
    own = counts & (domains >= 0)
    first = [own[at] and domains[at] not in domains[:at][own[:at]] for at in range(len(domains))]
    return np.cumsum(np.array(first, float))

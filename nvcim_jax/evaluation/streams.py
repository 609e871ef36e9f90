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

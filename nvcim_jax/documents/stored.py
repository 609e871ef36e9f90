"""Codes of documents in arrays: what programming makes of them, what a question finds, and how likely that is."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nvcim_jax.core.quantise import Layout, Step, least_error_step, peak_step
from nvcim_jax.hardware.crossbar import write_values
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.memory import arrays, programming, ranking
from nvcim_jax.memory.variation import Gaussian, Law, value_law
from nvcim_jax.pipeline import presets
from nvcim_jax.pipeline.presets import SWV_BUDGET

STEPS: dict[str, Step] = {"peak": peak_step, "least error": least_error_step}  # by their names on disk
PEAKS = ("vector", "array")


@dataclass(frozen=True)
class Format:
    """How a code lies in arrays: in so many bits, of a step that fits its largest value or that errs least.

    `peak` says what shares a step and the largest value that noise is relative to: each "vector", whose scale is kept
    digitally, or all vectors of an "array". ValueError for what there is not.
    """

    bits: int = 8
    step: str = "least error"
    peak: str = "vector"

    def __post_init__(self):
        if type(self.bits) is not int or not 1 <= self.bits <= 16:
            raise ValueError(f"codes of {self.bits} bits: 1 to 16 are allowed")
        if self.step not in STEPS:
            raise ValueError(f"unknown step {self.step!r}: choose one of {', '.join(STEPS)}")
        if self.peak not in PEAKS:
            raise ValueError(f"one largest value per {self.peak!r}: choose one of {', '.join(PEAKS)}")

    @property
    def layout(self) -> Layout:
        """In the two-bit cells of Table II."""
        return Layout(bits=max(self.bits, 2))

    @property
    def cut(self) -> arrays.Cut:
        return arrays.each_vector if self.peak == "vector" else partial(arrays.each_array, layout=self.layout)

    @property
    def coding(self) -> dict:
        """Bits and step, as `programming.store` and the laws take them."""
        return {"bits": self.bits, "step": STEPS[self.step]}

    def arrays(self, vectors: int, dim: int) -> int:
        """Arrays of 384 x 128 cells that so many vectors take."""
        return arrays.arrays(vectors, dim, layout=self.layout)


class Ranked(NamedTuple):
    """The best documents of a question, best first, their scores, and by how much each leads the one behind it."""

    slots: Int[Array, "... k"]
    scores: Float[Array, "... k"]
    margins: Float[Array, "... k"]


Write = Callable[..., Float[Array, "rows dim"]]


def program(
    key: PRNGKeyArray,
    codes: Float[Array, "documents code"],
    condition: Condition,
    *,
    format: Format,
    write: Write = write_values,
) -> Float[Array, "documents code"]:
    """What the arrays return of the codes after one programming."""
    how = {"device": condition.device, "sigma": condition.sigma, "write": write, **format.coding}
    return format.cut(key, partial(programming.store, **how), codes)


def law(
    codes: Float[Array, "documents code"], condition: Condition, *, format: Format, law: Law = value_law
) -> Gaussian:
    """The law of what `program` returns: mean and variance of every value, [documents, code]. Differentiable."""

    def one(_, matrix: Float[Array, "columns values"]) -> Gaussian:
        return law(matrix, condition.device, sigma=condition.sigma, **format.coding)

    return format.cut(jax.random.key(0), one, codes)  # draws nothing


def score_law(question: Float[Array, "code"], stored: Gaussian, valid: Bool[Array, "documents"]) -> Gaussian:
    """The law of every document's score, its inner product with the question; minus infinity in a free slot."""
    mean = jnp.dot(stored.mean, question, precision="highest")
    variance = jnp.dot(stored.variance, question**2, precision="highest")
    return Gaussian(jnp.where(valid, mean, -jnp.inf), jnp.where(valid, variance, 0))


def rank(
    questions: Float[Array, "questions code"],
    stored: Float[Array, "documents code"],
    valid: Bool[Array, "documents"],
    *,
    k: int,
) -> Ranked:
    """The k best documents of every question, equal ones by slot; free slots come last, at minus infinity."""
    scores = jnp.dot(questions, stored.T, precision="highest")
    scores = jnp.where(valid[None], scores, -jnp.inf)
    best, slots = jax.lax.top_k(scores, min(k + 1, scores.shape[1]))
    behind = jnp.pad(best[:, 1:], ((0, 0), (0, 1)), constant_values=-jnp.inf)
    return Ranked(slots[:, :k], best[:, :k], (best - behind)[:, :k])


def chances(
    questions: Float[Array, "questions code"], stored: Gaussian, valid: Bool[Array, "documents"], *, k: int
) -> Float[Array, "questions documents"]:
    """The probability that each document is among the first k, over all programmings of the device."""

    def one(question):
        return ranking.top_probabilities(*score_law(question, stored, valid), k=k)

    return jax.lax.map(one, questions)


def expected(
    questions: Float[Array, "questions code"],
    stored: Gaussian,
    valid: Bool[Array, "documents"],
    right: Bool[Array, "questions documents"],
    *,
    k: int,
) -> ranking.Worth:
    """What the first k documents of each question are expected to be worth."""

    def one(each):
        question, own = each
        return ranking.expected(*score_law(question, stored, valid), own, k=k)

    return jax.lax.map(one, (questions, right))


def writing(mitigation: str | None, format: Format, *, budget: float = SWV_BUDGET) -> Write:
    """How codes of a format are written: one Gaussian a value for None, else cell by cell under a mitigation.

    `budget` is that of SWV, in pulses per cell. ValueError as `presets.mitigated` says.
    """
    return write_values if mitigation is None else _by_cell(mitigation, budget, format.layout)


@cache  # the same function object, so that its compiled program is found again
def _by_cell(mitigation: str, budget: float, layout: Layout) -> Write:
    return partial(presets.mitigated(presets.RECOMMENDED, mitigation, budget=budget).write, layout=layout)

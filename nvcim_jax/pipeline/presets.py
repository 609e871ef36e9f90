"""Three named ways to run NVCiM-PT, each a plain record of settings."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from nvcim_jax import tuning
from nvcim_jax.core import codec
from nvcim_jax.core.similarity import aligned, aligned_mean, mips, pairwise_mean, stored_wmsdp
from nvcim_jax.data.wording import TEMPLATED, Wording
from nvcim_jax.description import described
from nvcim_jax.hardware import compensation as compensations
from nvcim_jax.hardware import crossbar, mitigation
from nvcim_jax.llm.weights import Model
from nvcim_jax.memory.programming import Score, Write

# The search key of an OVT, from the code of its sample's content and its own code.
SearchKey = Callable[[Float[Array, "tokens code"], Float[Array, "tokens code"]], Float[Array, "tokens code"]]


def fixed_rate(start: PyTree, *, rate: float) -> PyTree:
    """The same learning rate for every array that is trained, whatever it holds."""
    return jax.tree.map(lambda leaf: jnp.asarray(rate, leaf.dtype), start)


def relative_rate(start: PyTree, *, share: float) -> PyTree:
    """A share of each array's root mean square, so that a step means the same in every model and space."""
    return jax.tree.map(lambda leaf: share * jnp.sqrt(jnp.mean(leaf**2)), start)


def prompt_key(
    content: Float[Array, "tokens code"], prompt: Float[Array, "tokens code"]
) -> Float[Array, "tokens code"]:
    """The OVT is its own search key, as in the paper."""
    return prompt


def content_key(
    content: Float[Array, "tokens code"], prompt: Float[Array, "tokens code"]
) -> Float[Array, "tokens code"]:
    """The mean of the sample's content tokens in every row, scaled to length one.

    A mean-pooled dot product with such a key ranks like the cosine of the means. Equal rows are as small as a mean
    is, and so is the noise that scales with the largest value; reading them together averages it out.
    """
    mean = jnp.mean(content, axis=0)
    norm = jnp.linalg.norm(mean)
    return jnp.broadcast_to(mean / jnp.where(norm > 0, norm, 1), content.shape)


def flat_mips(query: Float[Array, "rows code"], copies: tuple[Float[Array, "_ code"], ...]) -> Float[Array, ""]:
    """MIPS over all values of the finest copy."""
    return mips(query, copies[0], reduce=aligned)


def mean_mips(query: Float[Array, "rows code"], copies: tuple[Float[Array, "_ code"], ...]) -> Float[Array, ""]:
    """MIPS between mean rows, in the finest copy."""
    return mips(query, copies[0], reduce=pairwise_mean)


@dataclass(frozen=True)
class Settings:
    """What a run of NVCiM-PT can vary; hashable, so it is static under jit."""

    start: tuning.Start  # of the virtual tokens
    method: tuning.Method  # which trains them, in the model's space or in the code's
    fit_codec: codec.Fit
    learning_rate: Callable[[PyTree], PyTree]  # of each array that is trained, from what it starts as
    training: tuning.Training
    train_sigma: float  # training noise as a multiple of the device's sigma
    clip: float  # quantile of the start's magnitudes beyond which codes are clipped; 1 leaves them free
    key: SearchKey  # what an OVT is found by
    score: Score  # the scaled search
    start_text: str | None = None  # what the virtual tokens say at first; None: the sample's own words
    start_answer: bool = True  # whether its answer is among them
    learn_from: str = "sample"  # what an OVT is tuned on: its representative "sample", or the "cluster" of it
    together: "Settings | None" = None  # of one prompt for all of a user's samples, from which the user's OVTs start
    tokens: int = 16
    buffer: int = 25
    longest: int = 192  # tokens of a question that tuning reads; a longer one loses its middle
    cut: bool = True  # longer ones, with a warning; else they are refused
    wording: Wording = TEMPLATED  # around a question, and where the virtual tokens stand
    write: Write = crossbar.write_values
    probes: int = 0  # of the loss's curvature, which `write` is then given as `sensitivity`

    def __post_init__(self):
        if self.learn_from not in ("sample", "cluster"):
            raise ValueError(f"learn_from {self.learn_from!r}: choose sample or cluster")

    def steps(self, ovts: int, *, has_start: bool = False) -> int:
        """Training steps of so many OVTs of a user, who may have a prompt to start from."""
        first = 0 if self.together is None or has_start else self.together.training.steps
        return first + ovts * self.training.steps

    def described(self) -> dict[str, object]:
        """The settings as JSON values; those that hold their default are left out."""
        return described(self, NAMES)


NAMES = {  # on disk
    Settings: "settings", Wording: "wording", **tuning.NAMES,
    codec.fit_pca: "pca", codec.fit_autoencoder: "autoencoder",
    tuning.own_tokens: "own tokens", tuning.random_tokens: "random tokens",
    tuning.vocabulary_tokens: "vocabulary tokens", fixed_rate: "fixed rate", relative_rate: "relative rate",
    prompt_key: "prompt", content_key: "content", flat_mips: "flat MIPS", mean_mips: "mean-pooled MIPS",
    stored_wmsdp: "scaled search", aligned: "aligned", aligned_mean: "aligned mean", pairwise_mean: "pairwise mean",
    crossbar.write_values: "by value", crossbar.write_cells: "by cell", mitigation.write_and_read: "mitigated",
    mitigation.plain: "no mitigation", mitigation.selective_write_verify: "SWV", mitigation.cxdnn: "CxDNN",
    mitigation.correctnet: "CorrectNet", mitigation.kept: "kept", compensations.global_scale: "global scale",
    compensations.reference_column: "reference column", compensations.per_column: "per column",
}  # fmt: skip

# The paper to the letter where it speaks, its silence filled by the nearest convention.
PAPER_LITERAL = Settings(
    start=tuning.random_tokens,
    method=tuning.Prompt(),
    fit_codec=codec.fit_autoencoder,
    learning_rate=partial(fixed_rate, rate=1e-4),
    training=tuning.Training(steps=30),
    train_sigma=1.0,
    clip=1.0,
    key=prompt_key,
    score=partial(stored_wmsdp, reduce=aligned),
)

# The paper's three parts in the reading that works: own-token start, trained in the space that is stored.
PAPER = Settings(
    start=tuning.own_tokens,
    method=tuning.CodePrompt(),
    fit_codec=codec.fit_pca,
    learning_rate=partial(relative_rate, share=0.06),
    training=tuning.Training(steps=30),
    train_sigma=1.0,
    clip=1.0,
    key=prompt_key,
    score=partial(stored_wmsdp, reduce=aligned_mean),
)

# What measured best on users that no result is reported on.
RECOMMENDED = Settings(
    start=tuning.own_tokens,
    method=tuning.CodePrompt(),
    fit_codec=codec.fit_pca,
    learning_rate=partial(relative_rate, share=0.06),
    training=tuning.Training(steps=30),
    train_sigma=2.0,
    clip=0.9,
    key=content_key,
    score=partial(stored_wmsdp, reduce=pairwise_mean),
    wording=Wording("auto", "auto"),
)

# On a real model a sample's own words are a poor start: OVTs start from one prompt for many samples and stay near it.
# It is that of many other people where there is one (`common.learn_common`, by COMMON), else of all of the user's own.
COMMON = replace(
    RECOMMENDED,
    training=tuning.Training(steps=260, warmup=8, per_step=2),
    learning_rate=partial(relative_rate, share=0.2),
    longest=128,
)
NEAR = {
    "learn_from": "cluster",
    "training": tuning.Training(steps=6, per_step=1),
    "learning_rate": partial(relative_rate, share=0.05),
    "longest": 128,
}
TOGETHER = replace(COMMON, training=tuning.Training(steps=160, warmup=8, per_step=1))
PERSONAL = replace(RECOMMENDED, **NEAR, together=TOGETHER)

PRESETS = {"paper-literal": PAPER_LITERAL, "paper": PAPER, "recommended": RECOMMENDED}


def named() -> dict[str, Settings]:
    """Settings by all names that a memory on disk may say it was learned by."""
    return PRESETS | {"common": COMMON, "personal": PERSONAL}


def preset(name: str) -> Settings:
    """The preset called `name`; ValueError lists the known names."""
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def recommended(model: Model) -> Settings:
    """What measured best on a model: RECOMMENDED on the embedded one, PERSONAL on all others."""
    return PRESETS["recommended"] if model.is_embedded else PERSONAL


def from_common(settings: Settings) -> Settings:
    """A preset for OVTs that start from a common prompt on a real model, and so stay near it."""
    return replace(settings, **NEAR, wording=RECOMMENDED.wording, together=None)


# What a preset's own search is called in tables. The mean over pairs is blind to scale, so three copies average noise.
SEARCHES = {
    "paper-literal": "scaled search",
    "paper": "scaled search",
    "recommended": "mean-pooled MIPS, three copies",
}

# How OVTs lie in cells: what --mitigation takes, and what tables call it.
MITIGATIONS = {"none": "no mitigation", "swv": "SWV", "cxdnn": "CxDNN", "correctnet": "CorrectNet"}
SWV_BUDGET = 1.2  # pulses per cell
SWV_PROBES = 8  # of the loss's curvature


def mitigated(
    settings: Settings,
    name: str,
    *,
    budget: float = SWV_BUDGET,
    compensation: str = "none",
    refresh: float | None = None,
) -> Settings:
    """`settings` whose OVTs lie in cells, one Gaussian for each, written by the mitigation called `name`.

    `budget` is that of SWV: pulses per cell, first ones included. Against time, reads are compensated (`none`,
    `global`, `reference`, `column`) and cells written anew every `refresh` seconds. ValueError for an unknown name, a
    budget below 1, and a refresh more often than once a second.
    """
    if name not in MITIGATIONS:
        raise ValueError(f"unknown mitigation {name!r}: choose one of {', '.join(MITIGATIONS)}")
    if not budget >= 1:
        raise ValueError(f"a budget of {budget} pulses per cell: the first pulses alone take 1")
    if refresh is not None and not refresh >= 1:
        raise ValueError(f"a refresh every {refresh:g} seconds: once a second is the most")
    compensate = compensations.named(compensation)
    write = _by_cell(name, budget, compensate, refresh)
    return replace(settings, write=write, probes=SWV_PROBES if name == "swv" else 0)


@cache  # the same function object, so that its compiled program is found again
def _by_cell(name: str, budget: float, compensate: compensations.Compensate | None, refresh: float | None) -> Write:
    swv = partial(mitigation.selective_write_verify, budget=budget)
    writes = {"none": mitigation.plain, "swv": swv, "cxdnn": mitigation.cxdnn, "correctnet": mitigation.correctnet}
    if compensate is None and refresh is None:
        return partial(mitigation.write_and_read, write=writes[name])
    upkeep = {"compensate": compensate, "refresh": refresh}
    return partial(mitigation.kept, write=writes[name], **{at: each for at, each in upkeep.items() if each is not None})

"""More samples like those that a buffer kept: a generator restates each, and a filter says what is used.

A generator is a function; `by_model` asks the language model itself, `data.toy_words.restatements` is the grammar of
the toy world. ROUGE-1 against the original must lie between two bounds (Qin et al., DAC 2024; the bounds are ours).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import PRNGKeyArray

from nvcim_jax import llm
from nvcim_jax.data import lamp
from nvcim_jax.data.rouge import rouge1
from nvcim_jax.llm.weights import Model
from nvcim_jax.people import Sample
from nvcim_jax.pipeline.answer import Drawn, generate
from nvcim_jax.stream.lexicon import words

# For each of some samples up to so many texts that restate it: question and answer, or None where nothing came.
Generator = Callable[[PRNGKeyArray, Sequence[Sample], int], Sequence[Sequence[Sample | None]]]

WARM = llm.Sampling(0.5)
LONGEST = 100  # tokens of a restatement
INSTRUCTION = (
    "Write a text that says the same as the text block below in other words. Do not answer it, and do not explain "
    "anything. Hold the new text in [ ].\n\n"
)
_BRACKETED = re.compile(r"\[(.+)\]", re.DOTALL)


@dataclass(frozen=True)
class Restate:
    """How samples are restated, and which restatements are used. ValueError for bounds that let nothing through."""

    generator: Generator
    count: int = 3  # asked for, of each sample
    low: float = 0.3  # ROUGE-1 against the original: below it says something else
    high: float = 0.9  # above it says the same again

    def __post_init__(self):
        if not 0 <= self.low <= self.high <= 1:
            raise ValueError(f"ROUGE-1 from {self.low} to {self.high}: bounds from 0 to 1, the lower one first")
        if self.count < 1:
            raise ValueError(f"{self.count} restatements of each sample: at least one, or none are made at all")


class Tally(NamedTuple):
    """What became of the restatements that were asked for."""

    used: int = 0
    nothing: int = 0  # no text came
    instruction: int = 0  # the generator repeated what it was told
    copies: int = 0  # word for word the original, or an earlier restatement
    too_far: int = 0  # below the lower bound
    too_near: int = 0  # above the upper bound

    @property
    def asked(self) -> int:
        return sum(self)


def restate(key: PRNGKeyArray, samples: Sequence[Sample], how: Restate) -> tuple[list[tuple[Sample, ...]], Tally]:
    """The restatements of each sample that may be used, and a count of what became of all.

    What a generator leaves out counts as nothing said. ValueError if it speaks of more or fewer samples than it was
    given.
    """
    made = how.generator(key, samples, how.count)
    if len(made) != len(samples):
        raise ValueError(f"the generator restated {len(made)} samples, not the {len(samples)} that it was given")
    kept: list[tuple[Sample, ...]] = []
    counts = dict.fromkeys(Tally._fields, 0)
    for sample, texts in zip(samples, made, strict=True):
        own: list[Sample] = []
        for at in range(how.count):
            new = texts[at] if at < len(texts) else None
            fate = _fate(sample, new, own, how)
            counts[fate] += 1
            if new is not None and fate == "used":
                own.append(new._replace(domain=sample.domain, id=None))
        kept.append(tuple(own))
    return kept, Tally(**counts)


def _fate(sample: Sample, new: Sample | None, own: Sequence[Sample], how: Restate) -> str:
    """The field of `Tally` that counts a restatement."""
    text = "" if new is None else _block(new)
    if new is None or not (new.content.strip() and new.answer.strip()):
        return "nothing"
    if _tells(words(text), words(INSTRUCTION)):
        return "instruction"
    if any(words(text) == words(_block(each)) for each in (sample, *own)):
        return "copies"
    near = rouge1(text, _block(sample))
    return "too_far" if near < how.low else "too_near" if near > how.high else "used"


def _tells(text: list[str], instruction: list[str], least: int = 8) -> bool:
    """Whether a text holds so many words of an instruction in their order."""
    runs = {tuple(instruction[at : at + least]) for at in range(len(instruction) - least + 1)}
    return any(tuple(text[at : at + least]) in runs for at in range(len(text) - least + 1))


def by_model(
    key: PRNGKeyArray,
    samples: Sequence[Sample],
    count: int,
    *,
    model: Model,
    sampling: llm.Sampling = WARM,
) -> list[list[Sample | None]]:
    """The language model's own restatements, under a fixed prompt; bind `model` by `functools.partial`.

    Content and answer are one text block, and what comes back is read between its brackets. A small model understands
    no such prompt: then little or nothing passes the filter.
    """
    asked = [Sample(INSTRUCTION + _block(sample), "", _block(sample)) for sample in samples for _ in range(count)]
    texts = generate(model, asked, new_tokens=min(LONGEST, model.config.context // 4), drawn=Drawn(key, sampling))
    read = [_read(text, samples[at // count]) for at, text in enumerate(texts)]
    return [read[at : at + count] for at in range(0, len(read), count)]


def _block(sample: Sample) -> str:
    return f"{sample.content}{lamp.ANSWER} {sample.answer}"


def _read(text: str, sample: Sample) -> Sample | None:
    """What stands between brackets as a sample, or None; without an answer it keeps the original's."""
    found = _BRACKETED.search(text)
    if not found:
        return None
    content, _, answer = found[1].partition(lamp.ANSWER.strip())
    return lamp.reworded(sample, content.strip(), answer.strip() or sample.answer)

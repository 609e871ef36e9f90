"""Samples as token ids in fixed shapes: questions, labels, starts of virtual tokens."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from nvcim_jax.data import fields, lamp
from nvcim_jax.data import wording as wordings
from nvcim_jax.data.lamp import ANSWER, Task
from nvcim_jax.data.wording import PLAIN, Wording
from nvcim_jax.llm.decoder import NOWHERE
from nvcim_jax.people import Sample

Ids = list[int]


class Batch(NamedTuple):
    """Labelled samples for rows of prompts; `pool` counts the samples that one prompt is tuned on.

    Padding has the position NOWHERE and the label -1. Positions count from the question's first token.
    """

    ids: np.ndarray  # [rows, pool, tokens]
    positions: np.ndarray  # [rows, pool, tokens]
    labels: np.ndarray  # [rows, pool, labels]
    label_at: np.ndarray  # [rows, pool, labels]: the token that predicts the label
    place: np.ndarray | None = None  # [rows, pool]: tokens that stand before virtual ones; None where none does


class Questions(NamedTuple):
    """Questions side by side; padding has the position NOWHERE."""

    ids: np.ndarray  # [rows, tokens]
    positions: np.ndarray  # [rows, tokens]


def encode(tokenizer: Any, text: str, *, special: bool = False) -> Ids:
    """Token ids of `text`, with the tokenizer's own first token only if `special`.

    ValueError for half of a surrogate pair.
    """
    return tokenizer(fields.whole(text), add_special_tokens=special).input_ids


def question_ids(tokenizer: Any, sample: Sample, room: int | None = None) -> Ids:
    """The question up to the answer's place; one longer than `room` tokens, where given, loses its middle."""
    whole = encode(tokenizer, sample.question + ANSWER, special=True)
    return whole if room is None else without_middle(whole, room)


def without_middle(ids: Ids, room: int) -> Ids:
    """The ids, or `room` of them: the first half and the last, so that what is asked stays, wherever it stands."""
    return ids if len(ids) <= room else ids[: room // 2] + ids[len(ids) - (room - room // 2) :]


class Asked(NamedTuple):
    """A question as token ids up to the answer's place, and how many of them stand before the virtual tokens."""

    ids: Ids
    place: int


def asked(tokenizer: Any, sample: Sample, wording: Wording = PLAIN, room: int | None = None) -> Asked:
    """The question as `wording` says; one longer than `room` tokens, where given, loses its own middle.

    ValueError for a template that cannot be rendered or leaves no room.
    """
    if wording.is_templated(tokenizer):
        before, question, after = wordings.turn(tokenizer, sample.question)
    else:
        whole = question_ids(tokenizer, sample)
        kept = wording.place == "second"
        before, question, after = whole[:kept], whole[kept:], []
    if room is not None and len(question) > (left := room - len(before) - len(after)):
        if left < 1:
            raise ValueError(
                f"the chat template alone takes {len(before) + len(after)} tokens; there is room for {room}"
            )
        question = without_middle(question, left)
    places = {"front": 0, "second": min(len(before), 1), "turn": len(before)}
    return Asked(before + question + after, places[wording.place_in(tokenizer)])


def answer_ids(tokenizer: Any, sample: Sample, wording: Wording = PLAIN) -> Ids:
    """The gold answer, with the token that ends it."""
    space = "" if wording.is_templated(tokenizer) else " "
    return [*encode(tokenizer, space + sample.answer), tokenizer.eos_token_id]


def decode(tokenizer: Any, ids: Sequence[int], ends: Sequence[int]) -> str:
    """The text of an answer up to its first end token."""
    kept = list(itertools.takewhile(lambda token: token not in ends, map(int, ids)))
    return tokenizer.decode(kept, skip_special_tokens=True).strip()


def start_ids(
    tokenizer: Any, task: Task, sample: Sample, rows: int, *, history: Sequence[Sample] = (), answer: bool = True
) -> Ids:
    """`rows` tokens that sum the sample up: those of its content that tell most, in their order, then its answer.

    A token tells the more, the fewer samples of the user's `history` hold it; of equals the later one stays. What is
    short is repeated until the rows are full. Without `answer` all rows are content.
    """
    tail = [*encode(tokenizer, ANSWER), *answer_ids(tokenizer, sample)][-rows:] if answer else []
    gist = encode(tokenizer, lamp.gist(task, sample)) or tail
    holders = Counter(token for each in history for token in set(encode(tokenizer, lamp.gist(task, each))))
    return _most_telling(gist, rows - len(tail), holders) + tail


def _most_telling(ids: Ids, room: int, holders: Counter) -> Ids:
    """`room` of the ids, or all of them repeated: each once before any twice, the rarest first, the later of equals."""
    if len(ids) <= room:
        return (ids * room)[:room]
    seen: Counter = Counter()
    ranks = []
    for at, token in reversed(list(enumerate(ids))):
        ranks.append((seen[token], holders[token], -at))
        seen[token] += 1
    return [ids[at] for at in sorted(-behind for *_, behind in sorted(ranks)[:room])]


def bucket(size: int, multiple: int = 16) -> int:
    """`size` rounded up to a multiple, so that nearby lengths share one compiled program."""
    return max(-(-size // multiple), 1) * multiple


def pad(rows: Sequence[Ids], width: int, fill: int) -> np.ndarray:
    """Rows of ids as one array [rows, width], `fill` on the right."""
    out = np.full((len(rows), width), fill, np.int32)
    for at, row in enumerate(rows):
        out[at, : len(row)] = row
    return out


def questions(asked: Sequence[Ids], width: int | None = None) -> Questions:
    """Questions padded to `width` or the next bucket."""
    width = width or bucket(max(map(len, asked)))
    return Questions(pad(asked, width, 0), _positions([len(row) for row in asked], width))


def batch(pools: Sequence[Sequence[tuple[Ids, Ids]]], places: Sequence[Sequence[int]] | None = None) -> Batch:
    """One row per prompt, each a pool of (question ids, answer ids).

    `places` say how many tokens of each question stand before virtual ones; none by default. Every row must hold
    equally many samples. The last label needs no successor, so it is not fed in. ValueError names a row that has a
    sample without question or answer.
    """
    for row, pool in enumerate(pools):
        if not pool or not all(question and answer for question, answer in pool):
            raise ValueError(f"row {row} has a sample without question or label tokens: there is nothing to tune on")
    pairs = [pair for pool in pools for pair in pool]
    whole = [question + answer[:-1] for question, answer in pairs]
    width, labels = bucket(max(map(len, whole))), bucket(max(len(answer) for _, answer in pairs), 4)
    label_at = [list(range(len(q) - 1, len(q) + len(a) - 1)) for q, a in pairs]
    shape = (len(pools), len(pools[0]))
    return Batch(
        pad(whole, width, 0).reshape(*shape, -1),
        _positions([len(row) for row in whole], width).reshape(*shape, -1),
        pad([answer for _, answer in pairs], labels, -1).reshape(*shape, -1),
        pad(label_at, labels, 0).reshape(*shape, -1),
        None if places is None or not np.any(places) else np.array(places, np.int32),
    )


def _positions(lengths: Sequence[int], width: int) -> np.ndarray:
    place = np.arange(width, dtype=np.int32)[None]
    return np.where(place < np.asarray(lengths)[:, None], place, NOWHERE).astype(np.int32)

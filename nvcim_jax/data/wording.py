"""How a question is put to a model: as plain text, or in the user's turn of the chat template of its tokenizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from nvcim_jax.data import fields
from nvcim_jax.llm.folder import one_line

Ids = list[int]

TEMPLATES = ("none", "auto")
PLACES = ("front", "second", "turn", "auto")
_MARK = "Xq7Vw"  # stands for the question where the words around it are looked for


@dataclass(frozen=True)
class Wording:
    """What stands around a question, and where the virtual tokens stand; hashable.

    `template` "auto" is the chat template of a tokenizer that has one. The `place` of virtual tokens is before
    everything ("front"), behind the first token ("second") or before the question in the user's turn ("turn"); "auto"
    is in the turn where there is a template, else before everything. ValueError for other words.
    """

    template: str = "none"
    place: str = "front"

    def __post_init__(self):
        for name, allowed in (("template", TEMPLATES), ("place", PLACES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r}: choose one of {', '.join(allowed)}")

    def is_templated(self, tokenizer: Any) -> bool:
        """Whether questions go into a chat template. ValueError if the place asks for one that is not there."""
        templated = self.template == "auto" and bool(tokenizer.chat_template)
        if self.place == "turn" and not templated:
            raise ValueError("place 'turn' is inside a chat template, of which there is none: choose front or second")
        return templated

    def place_in(self, tokenizer: Any) -> str:
        """The place for a tokenizer: "front", "second" or "turn". ValueError as `is_templated` says."""
        templated = self.is_templated(tokenizer)
        return self.place if self.place != "auto" else "turn" if templated else "front"


PLAIN = Wording()
TEMPLATED = Wording("auto")


class Turn(NamedTuple):
    """A question in the user's turn, as token ids: what stands before it, itself, and all up to its answer."""

    before: Ids
    question: Ids
    after: Ids


def templated(tokenizer: Any, question: str) -> tuple[Ids, int]:
    """The question in the user's turn of the tokenizer's chat template, and how many tokens stand before it there.

    ValueError as `turn` says.
    """
    before, asked, after = turn(tokenizer, question)
    return before + asked + after, len(before)


def turn(tokenizer: Any, question: str) -> Turn:
    """The question in the user's turn of the tokenizer's chat template.

    Together the ids are those of the whole text, as transformers makes them. A question that holds the name of a
    special token is encoded alone, so that the name stays text. ValueError for a template that cannot be rendered,
    or in which the question does not stand as it is.
    """
    before, found, after = _rendered(tokenizer, _MARK).partition(_MARK)
    whole = _rendered(tokenizer, fields.whole(question))
    if not found or not (whole.startswith(before) and whole.endswith(after)) or len(whole) <= len(before + after):
        raise ValueError("the chat template does not hold the question as it stands: choose template none")
    inside = whole[len(before) : len(whole) - len(after)]
    if not tokenizer.is_fast or any(token in inside for token in tokenizer.get_added_vocab()):
        return Turn(_ids(tokenizer, before), _ids(tokenizer, inside, text_only=True), _ids(tokenizer, after))
    encoded = tokenizer(whole, add_special_tokens=False, split_special_tokens=False, return_offsets_mapping=True)
    ids, spans = encoded.input_ids, encoded.offset_mapping
    first = sum(end <= len(before) for _, end in spans)
    last = sum(start < len(before) + len(inside) for start, _ in spans)
    return Turn(ids[:first], ids[first:last], ids[last:])


def _ids(tokenizer: Any, text: str, *, text_only: bool = False) -> Ids:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=text_only).input_ids


def _rendered(tokenizer: Any, question: str) -> str:
    """The chat that begins with `question`, up to where its answer begins. Transformers renders in a sandbox."""
    try:
        chat: list[Mapping[str, str]] = [{"role": "user", "content": question}]
        return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # whatever the template makes of it
        raise ValueError(f"the chat template cannot be rendered ({one_line(error)}): choose template none") from error

"""The model's answers to questions, each behind what a method adapted for it: whole, or as their tokens come."""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from nvcim_jax import llm, programs, text, tuning
from nvcim_jax.lamp import Sample
from nvcim_jax.llm.decoder import NOWHERE
from nvcim_jax.llm.weights import Model

ROWS = 64  # of one compiled program
BARE = tuning.Adapted()
Report = Callable[[int], None]


def answer(
    model: Model,
    queries: Sequence[Sample],
    adapted: tuning.Adapted = BARE,
    *,
    new_tokens: int,
    report: Report = lambda rows: None,
) -> list[str]:
    """The model's greedy answers to `queries`, each behind its own row of what a method adapted."""
    room = model.config.context - tuning.taken(adapted) - new_tokens
    asked = [text.question_ids(model.tokenizer, query, room) for query in queries]
    pad = model.tokenizer.pad_token_id or 0
    answers = []
    block = min(ROWS, text.bucket(len(asked), 8))
    width = text.bucket(max(map(len, asked)))
    for start in range(0, len(asked), block):
        part = asked[start : start + block]
        rows = np.resize(np.arange(start, start + len(part)), block)  # a short last block repeats its rows
        own = jax.tree.map(lambda leaf, rows=rows: leaf[rows], adapted)
        params, embeddings, positions, prefix = _placed(model, own, [asked[row] for row in rows], width)
        out = llm.generate(
            params, model.config, embeddings, positions, prefix=prefix, new_tokens=new_tokens, end=model.ends, pad=pad
        )
        answers += [text.decode(model.tokenizer, row, model.ends) for row in np.asarray(out)[: len(part)]]
        report(len(part))
    return answers


def tell(
    model: Model,
    query: Sample,
    adapted: tuning.Adapted = BARE,
    *,
    new_tokens: int,
    sampling: llm.Sampling,
    key: PRNGKeyArray,
    alone: bool = False,
) -> Iterator[str]:
    """The answer to one query, piece by piece as its tokens are known.

    With `alone` it is the answer without the virtual tokens of `adapted`, from the program that is compiled for the
    answer with them: they stand where no token looks.
    """
    asked = text.question_ids(model.tokenizer, query, model.config.context - tuning.taken(adapted) - new_tokens)
    params, embeddings, positions, prefix = _placed(model, adapted, [asked], text.bucket(len(asked)))
    if alone:
        positions = _without_front(np.asarray(positions), tuning.taken(adapted))
    how = {"new_tokens": new_tokens, "end": model.ends, "sampling": sampling, "keys": key[None], "prefix": prefix}
    tokens, told = [], ""
    for token in llm.stream(params, model.config, embeddings, positions, **how):
        tokens.append(int(token[0]))
        whole = text.decode(model.tokenizer, tokens, model.ends)
        if not whole.endswith("\ufffd"):  # half of a character waits for its other half
            yield whole[len(told) :]
            told = whole


def _without_front(positions: np.ndarray, front: int) -> np.ndarray:
    """Positions [rows, tokens] that count from 0 behind the first `front` of them, which nobody sees."""
    behind = (positions >= front) & (positions != NOWHERE)
    return np.where(behind, positions - front, NOWHERE).astype(positions.dtype)


def _placed(model: Model, adapted: tuning.Adapted, asked: Sequence[text.Ids], width: int) -> tuning.Placed:
    ids, positions = text.questions(asked, width)
    return tuning.place(model.params, adapted, programs.embed(model.params, model.config, ids), jnp.asarray(positions))

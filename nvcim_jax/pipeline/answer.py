"""From a question to its answer: program the bank, search it, read the best OVT back, and let the model answer."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from nvcim_jax import llm, tuning
from nvcim_jax.data import lamp, text
from nvcim_jax.data.wording import PLAIN, Wording
from nvcim_jax.hardware import catalogue
from nvcim_jax.hardware.devices import Condition, Device
from nvcim_jax.llm import room
from nvcim_jax.llm.decoder import NOWHERE
from nvcim_jax.llm.weights import Model
from nvcim_jax.people import Sample, User
from nvcim_jax.pipeline import compiled, retrieve
from nvcim_jax.pipeline.memory import Memory

ROWS = 64  # of one compiled program
MOST_NEW_TOKENS = 100  # as in the paper
BARE = tuning.Adapted()
GREEDY = llm.Sampling(0.0)
Report = Callable[[int], None]


class Drawn(NamedTuple):
    """How tokens are drawn, and the key to draw them with."""

    key: PRNGKeyArray
    sampling: llm.Sampling


class Found(NamedTuple):
    """What a search found for one question."""

    sample: Sample | None  # that the best OVT was learned from; None where the memory does not know it
    slot: int  # of the best OVT
    score: float  # its score
    margin: float  # by which it leads the second; infinite where there is no second
    ranking: tuple[tuple[int, float], ...]  # slot and score of every OVT, the best first
    prompt: jax.Array  # [tokens, dim], the best OVT as it was read back, in the model's space


class Answer(NamedTuple):
    """The answer to one question, and the OVT that it was given with."""

    text: str
    found: Sample | None  # as in `Found`; so are slot, score and margin
    slot: int
    score: float
    margin: float
    is_abstained: bool  # the margin was too small: the model answered alone


def answer(
    key: PRNGKeyArray,
    model: Model,
    memory: Memory,
    queries: Sequence[Sample | str],
    device: str | Device | Condition | None = None,
    *,
    sigma: float | None = None,
    user: str | None = None,
    least_margin: float = 0.0,
) -> list[Answer]:
    """Answer the questions of one `user` of the memory (by default its first), greedily, each behind the OVT found.

    The user's bank is programmed once, on `device` at `sigma`, by default those that it was learned for, and searched
    as `memory.settings` say. A `Condition` (`nv.condition("PCM-Joshi", 1.0, 3600)`) stands for device, sigma and the
    seconds since programming. Where the best OVT leads by less than `least_margin`, the model answers alone.

    ValueError without questions, for an empty one, for a user whom the memory does not hold or of whom it holds
    nothing, and for a memory of another model.
    """
    asked = asking(memory, queries, user)
    found = find(key, model, asked, condition_of(memory, device, sigma))
    is_sure = np.array([each.margin >= least_margin for each in found])
    texts = np.empty(len(found), object)
    room = answer_room(model, asked.users)
    for sure in (True, False):
        at = np.flatnonzero(is_sure == sure)
        if len(at):
            front = tuning.Adapted(front=jnp.stack([found[i].prompt for i in at])) if sure else BARE
            chosen = [asked.users[0].queries[i] for i in at]
            texts[at] = generate(model, chosen, front, new_tokens=room, wording=memory.settings.wording)
    return [
        Answer(told, each.sample, each.slot, each.score, each.margin, not sure)
        for told, each, sure in zip(texts, found, is_sure, strict=True)
    ]


def counted(memory: Memory, answers: Sequence[Answer], *, user: str | None = None) -> Memory:
    """The memory in which each OVT has one more use for every answer of `user` (by default the first) given with it.

    `save` keeps the counts; `bank.least_used` evicts by them. ValueError for a user whom the memory does not hold.
    """
    at = memory.at(user)
    slots = [each.slot for each in answers if not each.is_abstained]
    uses = memory.bank.origin.uses.at[at, jnp.array(slots, jnp.int32)].add(1)
    return memory._replace(bank=memory.bank._replace(origin=memory.bank.origin._replace(uses=uses)))


def stream_answer(
    key: PRNGKeyArray,
    model: Model,
    memory: Memory,
    query: Sample | str,
    device: str | Device | Condition | None = None,
    *,
    sigma: float | None = None,
    user: str | None = None,
    sampling: llm.Sampling = GREEDY,
) -> Iterator[str]:
    """As `answer` for one question, piece by piece as its tokens are known; `sampling` says how they are drawn."""
    find_key, draw_key = jax.random.split(key)
    asked = asking(memory, [query], user)
    (found,) = find(find_key, model, asked, condition_of(memory, device, sigma))
    front, room = tuning.Adapted(front=found.prompt[None]), answer_room(model, asked.users)
    return stream(
        draw_key, model, asked.users[0].queries[0], front, new_tokens=room, wording=memory.settings.wording,
        sampling=sampling,
    )  # fmt: skip


def asking(memory: Memory, queries: Sequence[Sample | str], user: str | None = None) -> Memory:
    """The memory of one user alone, with `queries` to ask. A text becomes a question in the wording of the task.

    ValueError as `answer` says.
    """
    if not queries:
        raise ValueError("there is no question: ask at least one")
    own = memory.of(user)
    person = own.users[0]._replace(queries=tuple(question(own.task, each) for each in queries))
    return own._replace(block=own.block._replace(users=[person]))


def question(task: lamp.Task, query: Sample | str) -> Sample:
    """A question as a sample without an answer, a text in the wording of the task. ValueError for an empty one."""
    if isinstance(query, Sample):
        whole, content = query.question, query.content
    else:
        whole = query if query.startswith(task.pieces[0]) else lamp.ask(task, query)
        content = lamp.content(task, whole)
    if not content.strip():
        said = f"holds the words of {task.name} and nothing more" if whole.strip() else "is empty"
        raise ValueError(f"the question {said}: ask something")
    return query if isinstance(query, Sample) else Sample(whole, "", content)


def condition_of(
    memory: Memory, device: str | Device | Condition | None = None, sigma: float | None = None
) -> Condition:
    """`device` at `sigma`; what is left out is as the memory was learned. ValueError if that does not say.

    A `Condition` is taken as it is; ValueError if a sigma is given beside it.
    """
    if isinstance(device, Condition):
        if sigma is not None:
            raise ValueError(f"sigma {sigma:g} beside a condition, which has its own: give one of them")
        return device
    about = memory.about
    device, sigma = about.device if device is None else device, about.sigma if sigma is None else sigma
    if device is None or sigma is None:
        raise ValueError("the memory does not say what device and sigma it was learned for: give both")
    return catalogue.condition(device, sigma)


def find(key: PRNGKeyArray, model: Model, asked: Memory, condition: Condition) -> list[Found]:
    """Program the bank of the one user in `asked`, search it for each of the user's questions, read the best back.

    The settings are those of `asked`.
    """
    asked.require(model)
    settings = asked.settings
    program_key, curve_key = jax.random.split(key)
    curve = None
    if settings.probes:  # of a write that ranks values by what their errors cost
        curve = retrieve.sensitivities(curve_key, model, asked.block, asked.bank, settings=settings)
    banks = retrieve.program(program_key, asked.block, asked.bank, condition, settings=settings, sensitivity=curve)
    match = retrieve.search(model, asked.block, banks, settings=settings)
    prompts = compiled.prompts_of(asked.codec, match.prompt[:, 0])[0]
    slots, scores = np.asarray(match.index[0, 0]), np.asarray(match.scores[0, 0])
    samples = asked.block.selected.samples[0]
    return [_found(samples, int(slot), row, prompt) for slot, row, prompt in zip(slots, scores, prompts, strict=True)]


def _found(samples: Sequence[Sample | None], best: int, scores: np.ndarray, prompt) -> Found:
    slots = [int(slot) for slot in np.argsort(-scores, kind="stable") if np.isfinite(scores[slot]) and slot != best]
    ranking = tuple((slot, float(scores[slot])) for slot in (best, *slots))
    margin = ranking[0][1] - ranking[1][1] if ranking[1:] else np.inf
    return Found(samples[best], best, ranking[0][1], margin, ranking, prompt)


def answer_room(model: Model, users: Sequence[User]) -> int:
    """Tokens an answer may take: a quarter more than the longest in any history, at most the paper's 100."""
    lengths = [len(text.answer_ids(model.tokenizer, sample)) for user in users for sample in user.history]
    longest = max(lengths, default=MOST_NEW_TOKENS)
    return min(text.bucket(longest + longest // 4), MOST_NEW_TOKENS)


def generate(
    model: Model,
    queries: Sequence[Sample],
    adapted: tuning.Adapted = BARE,
    *,
    new_tokens: int,
    wording: Wording = PLAIN,
    report: Report = lambda rows: None,
    drawn: Drawn | None = None,
) -> list[str]:
    """The model's answers to `queries`, put as `wording` says, each with its own row of what a method adapted.

    Tokens are the likeliest, or `drawn`, every answer's from a key of its own.

    ValueError for a chat template that cannot be rendered.
    """
    longest = model.config.context - tuning.taken(adapted) - new_tokens
    asked = [text.asked(model.tokenizer, query, wording, longest) for query in queries]
    pad = model.tokenizer.pad_token_id or 0
    answers = []
    width = text.bucket(max(len(each.ids) for each in asked))
    each = room.answer(model.config, width + tuning.taken(adapted), new_tokens)
    block = room.block(len(asked), room.rows(each, ROWS))
    own_keys = drawn and jax.vmap(partial(jax.random.fold_in, drawn.key))(jnp.arange(len(asked)))
    room.require(block * each, model.memory, model.config, f"answering questions of {width} tokens")
    for start in range(0, len(asked), block):
        part = asked[start : start + block]
        rows = np.resize(np.arange(start, start + len(part)), block)  # a short last block repeats its rows
        own = jax.tree.map(lambda leaf, rows=rows: leaf[rows], adapted)
        params, inputs = _placed(model, own, [asked[row] for row in rows], width)
        draw = {} if own_keys is None or drawn is None else {"keys": own_keys[rows], "sampling": drawn.sampling}
        out = llm.generate(params, model.config, inputs, new_tokens=new_tokens, end=model.ends, pad=pad, **draw)
        answers += [text.decode(model.tokenizer, row, model.ends) for row in np.asarray(out)[: len(part)].tolist()]
        report(len(part))
    return answers


def stream(
    key: PRNGKeyArray,
    model: Model,
    query: Sample,
    adapted: tuning.Adapted = BARE,
    *,
    new_tokens: int,
    wording: Wording = PLAIN,
    sampling: llm.Sampling = GREEDY,
    alone: bool = False,
) -> Iterator[str]:
    """The answer to one query, piece by piece as its tokens are known.

    With `alone` it is the answer without the virtual tokens of `adapted`, from the program that is compiled for the
    answer with them: they are masked.
    """
    asked = text.asked(model.tokenizer, query, wording, model.config.context - tuning.taken(adapted) - new_tokens)
    params, inputs = _placed(model, adapted, [asked], text.bucket(len(asked.ids)))
    if alone:
        positions = _without_front(np.asarray(inputs.positions), tuning.taken(adapted), asked.place)
        inputs = inputs._replace(positions=jnp.asarray(positions))
    tokens, told = [], ""
    for token in llm.stream(
        params, model.config, inputs, new_tokens=new_tokens, end=model.ends, sampling=sampling, keys=key[None]
    ):
        tokens.append(int(token[0]))
        whole = text.decode(model.tokenizer, tokens, model.ends)
        if not whole.endswith("\ufffd"):  # half of a character waits for its other half
            yield whole[len(told) :]
            told = whole


def _without_front(positions: np.ndarray, front: int, place: int = 0) -> np.ndarray:
    """Positions [rows, tokens] that count from 0 but for the `front` of them behind the first `place`, which nobody
    sees."""
    before, behind = positions < place, (positions >= place + front) & (positions != NOWHERE)
    return np.where(before, positions, np.where(behind, positions - front, NOWHERE)).astype(positions.dtype)


def _placed(model: Model, adapted: tuning.Adapted, asked: Sequence[text.Asked], width: int) -> tuning.Placed:
    ids, positions = text.questions([each.ids for each in asked], width)
    places = [each.place for each in asked]
    place = jnp.array(places) if any(places) else None
    embeddings = compiled.embed(model.params, model.config, ids)
    return tuning.place(model.params, adapted, embeddings, jnp.asarray(positions), place=place)

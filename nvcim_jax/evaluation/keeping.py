"""What a small buffer should keep: policies compared by what is learned from what they kept; cells of a study.

After a whole stream the buffer's moments are learned, as OVTs in a noisy memory and as one LoRA at the same compute,
and questions of all domains are asked.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import jax
import numpy as np

from nvcim_jax import tuning
from nvcim_jax.data import lamp
from nvcim_jax.data.toy_stream import Stream, stream
from nvcim_jax.data.users import Users
from nvcim_jax.evaluation import life_study, one_for_all
from nvcim_jax.evaluation.ladder import metric_of
from nvcim_jax.evaluation.methods import Cell
from nvcim_jax.evaluation.studies import CHOOSING
from nvcim_jax.evaluation.study import Json, Measured, Study
from nvcim_jax.llm.fingerprint import fingerprint
from nvcim_jax.people import EMBEDDED_WORLD, User
from nvcim_jax.pipeline import compiled, keep, retrieve
from nvcim_jax.pipeline.answer import answer_room, generate
from nvcim_jax.pipeline.block import Block, gather
from nvcim_jax.pipeline.learn import tune_bank
from nvcim_jax.pipeline.presets import RECOMMENDED, fixed_rate
from nvcim_jax.stream import lexicon, metrics
from nvcim_jax.stream.policies import POLICIES

NAME = "keep"
LORA = replace(
    RECOMMENDED, method=tuning.Lora(), start=tuning.vocabulary_tokens, learning_rate=partial(fixed_rate, rate=0.01),
    clip=1.0, train_sigma=0.0,
)  # fmt: skip
SHOWN = ("all-three", "eoe", "dss", "idd", "length", "fifo", "random", "reservoir", "k-center")


@dataclass(frozen=True)
class Plan:
    """What decides a comparison of policies beside these and their buffers."""

    users: int = 32
    task: str = "LaMP-2"
    moments: int = 200
    run: int = 25  # moments of one domain in a row, about
    questions: int = 16
    device: str = "NVM-3"
    sigma: float = 0.1
    seed: int = 0


def study(plan: Plan = Plan(), *, buffers: Sequence[int] = (8, 16, 64), policies: Sequence[str] = SHOWN) -> Study:
    """Policies by buffer, on correlated and on shuffled streams. ValueError for a policy that is not known."""
    if unknown := [name for name in policies if name not in POLICIES]:
        raise ValueError(f"unknown policy {unknown[0]!r}: choose of {', '.join(POLICIES)}")
    shared = {name: value for name, value in asdict(plan).items() if name != "users"}
    cells = tuple(
        {**shared, "users": block, "shuffled": shuffled, "slots": slots, "policy": name}
        for block in life_study.blocks(plan.users)
        for slots in buffers
        for shuffled in (False, True)
        for name in policies
    )
    model = fingerprint(life_study.toy())
    settings = {**asdict(plan), "buffers": list(buffers), "policies": list(policies), "model": model}
    return Study(NAME, settings, cells, measure, ("users", "slots"), (CHOOSING,))


def measure(cell: Json) -> Measured:
    """One policy on one block of users: of each user the scores of OVTs and of LoRA, and the share of domains kept.

    Also how the EOE of the moments goes with their length: Spearman's rank correlation, which is the same for all
    policies.
    """
    model, task, (first, count) = life_study.toy(), lamp.task(cell["task"]), cell["users"]
    how = {"moments": cell["moments"], "run": cell["run"], "questions": cell["questions"]}
    streams = [stream(task, first + at, **how, every=cell["moments"], shuffled=cell["shuffled"]) for at in range(count)]
    people = Users(task, tuple(User(each.user, each.moments, each.asked[-1]) for each in streams), EMBEDDED_WORLD)
    keep_key, gather_key, ovt_key, lora_key = jax.random.split(jax.random.key(cell["seed"]), 4)
    kept = keep.keep(keep_key, model, people, slots=cell["slots"], policy=POLICIES[cell["policy"]])
    settings = replace(RECOMMENDED, buffer=cell["slots"])
    block = gather(gather_key, model, task, list(kept.users), settings=settings)
    at = Cell(cell["device"], cell["sigma"])
    told = {"ovts": _ovts(ovt_key, block, at), "lora": _lora(lora_key, block, at)}
    metric = metric_of(task)
    result: Json = {"scores": {}, "domains": {}, "length": _rank_correlations(streams)}
    for name, answers in told.items():
        given = iter(answers)
        result["scores"][name] = {
            user.id: float(np.mean([metric(next(given), query.answer) for query in user.queries]))
            for user in kept.users
        }
    for own, user in zip(streams, kept.users, strict=True):
        met = {moment.domain for moment in own.moments}
        result["domains"][own.user] = len({sample.domain for sample in user.history}) / len(met)
    return Measured(result)


def _ovts(key, block: Block, at: Cell) -> list[str]:
    """Answers with the OVTs of a noisy memory, found by search."""
    model, (tune_key, write_key) = life_study.toy(), jax.random.split(key)
    learned = tune_bank(tune_key, model, block, at.condition, settings=RECOMMENDED)
    banks = retrieve.program(write_key, block, learned, at.condition, settings=RECOMMENDED)
    match = retrieve.search(model, block, banks, settings=RECOMMENDED)
    prompts = compiled.prompts_of(block.codec, match.prompt[:, 0])
    return _answers(block, tuning.Adapted(front=prompts.reshape(-1, *prompts.shape[2:])))


def _lora(key, block: Block, at: Cell) -> list[str]:
    """Answers with one LoRA for each user, tuned at the compute of the user's OVTs and never stored in arrays."""
    model = life_study.toy()
    values = one_for_all.tune(key, model, block, at.condition._replace(sigma=0.0), settings=LORA)
    owners = np.repeat(np.arange(len(block.users)), [len(user.queries) for user in block.users])
    own = jax.tree.map(lambda leaf: leaf[owners], values)
    codec = jax.tree.map(lambda leaf: leaf[owners], block.codec)
    return _answers(block, compiled.adapted(own, codec, method=LORA.method, config=model.config))


def _answers(block: Block, adapted: tuning.Adapted) -> list[str]:
    model = life_study.toy()
    queries = [query for user in block.users for query in user.queries]
    room = answer_room(model, block.users)
    return generate(model, queries, adapted, new_tokens=room, wording=RECOMMENDED.wording)


def _rank_correlations(streams: Sequence[Stream]) -> dict[str, dict[str, float]]:
    """Spearman's correlation of EOE with the number of tokens, of each user of whom both vary, in every reading."""
    from scipy.stats import spearmanr

    texts = [keep.said(moment) for each in streams for moment in each.moments]
    found: dict[str, dict[str, float]] = {}
    for name, reading in metrics.READINGS.items():
        items = keep.read_texts(life_study.toy(), texts, lexicon.toy(), reading=reading)
        eoe, length = (np.asarray(leaf).reshape(len(streams), -1) for leaf in (items.eoe, items.length))
        rows = [row for row in zip(streams, eoe, length, strict=True) if np.ptp(row[1]) > 0 and np.ptp(row[2]) > 0]
        found[name] = {own.user: float(spearmanr(*pair)[0]) for own, *pair in rows}  # pyright: ignore[reportArgumentType]
    return found

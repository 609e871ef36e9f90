"""Tuning 25 prompts (OVTs) here against Hugging Face PEFT one by one and against PyTorch with all in one batch.

    python -m bench.tuning
    python -m bench.tuning --sizes "4 layers, d=256" --rounds 9 --steps 20 --json tuning.json

Same weights, samples, starts, Adam and cosine decay on every side; 64 tokens a sample, 16 of them labels, 16 virtual
tokens. The sides are taken turn by turn after a warm-up each, ratios are medians over the turns, above 1 where ours is
faster: ours in float32, and "mixed" with bfloat16 weights. The losses of the last step stand beside them. Seconds are
for a step of all 25; where PEFT tunes fewer, they are scaled. Shares are of the measured float32 matrix rate; "in full"
were the last layer counted for all tokens, as the peers compute it. Run it on quiet cores (needs the extra `bench`).
"""

import math
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import nvcim_jax
from bench import checkpoints, harness
from nvcim_jax import tuning
from nvcim_jax.core.codec import Codec
from nvcim_jax.data import text
from nvcim_jax.hardware import catalogue
from nvcim_jax.hardware.devices import Condition

torch, transformers, peft = harness.peers("torch", "transformers", "peft")

PROMPTS, VIRTUAL, TOKENS, LABELS, RATE = 25, 16, 64, 16, 3e-3
WIDTH = VIRTUAL + TOKENS


class Size(NamedTuple):
    """A model, how long it is measured, and what is asked of it."""

    shape: tuple[int, int, int]  # layers, dim, heads
    words: int
    steps: int
    rounds: int
    alone: int  # prompts that PEFT tunes one by one; the seconds of all are scaled from theirs
    share: float  # aim, of the measured float32 matrix rate


SIZES = {
    "4 layers, d=256": Size((4, 256, 4), 2_048, steps=10, rounds=9, alone=PROMPTS, share=0.55),
    "8 layers, d=512": Size((8, 512, 8), 32_000, steps=4, rounds=5, alone=PROMPTS, share=0.75),
    "12 layers, d=1024": Size((12, 1024, 16), 32_000, steps=2, rounds=3, alone=5, share=0.85),
}
OURS, MIXED = "ours, float32", "ours, mixed"
PEFT, PEFT_HALF = "PEFT, float32", "PEFT, bfloat16"
BATCH, BATCH_HALF = "PyTorch, float32", "PyTorch, bfloat16"
COMPILED = "PyTorch, compiled"
AIMS = {PEFT: 3.0, PEFT_HALF: 1.0, BATCH: 1.7}


class Problem(NamedTuple):
    """What every side is given."""

    start: np.ndarray  # [prompts, virtual tokens, dim]
    ids: np.ndarray  # [prompts, tokens], of which the last are the labels
    steps: int


def problem_of(params, config, steps: int) -> Problem:
    """Random samples, and starts as large as the embeddings."""
    rng = np.random.default_rng(harness.SEED)
    scale = float(jnp.sqrt(jnp.mean(params["embedding"]["embedding"] ** 2)))
    start = scale * rng.standard_normal((PROMPTS, VIRTUAL, config.dim), np.float32)
    return Problem(start, rng.integers(0, config.vocab_size, (PROMPTS, TOKENS)), steps)


def ours(params, config, problem: Problem):
    """All prompts in one program; returns the losses of the last step, as the other sides do."""
    pools = [[(row[:-LABELS].tolist(), row[-LABELS:].tolist())] for row in problem.ids]
    job = tuning.Job(
        jax.random.split(jax.random.key(harness.SEED), PROMPTS), jnp.asarray(problem.start), Codec((), ()),
        jnp.full(PROMPTS, RATE), jnp.full(PROMPTS, jnp.inf), jax.tree.map(jnp.asarray, text.batch(pools)),
    )  # fmt: skip
    fixed = {"config": config, "method": tuning.Prompt(), "training": tuning.Training(steps=problem.steps)}

    def work() -> np.ndarray:
        return np.asarray(tuning.run(params, job, Condition(catalogue.device("NVM-1"), 0.0), **fixed).losses[-1])

    return work


def cosine(optimiser, steps: int):
    """The decay of `tuning.Training` without warm-up."""
    share = lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))  # noqa: E731
    return torch.optim.lr_scheduler.LambdaLR(optimiser, share)


def one_by_one(model, problem: Problem, count: int):
    """PEFT's prompt tuning of the first `count` samples in a loop, as its users write it; the adapter is made here."""
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL)
    adapted = peft.get_peft_model(model, config)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    starts, ids = torch.tensor(problem.start[:count]), torch.tensor(problem.ids[:count])
    labels = ids.clone()
    labels[:, :-LABELS] = -100

    def work() -> np.ndarray:
        last = []
        for start, row, wanted in zip(starts, ids[:, None], labels[:, None], strict=True):
            with torch.no_grad():
                trained[0].copy_(start)
            optimiser = torch.optim.Adam(trained, lr=RATE)
            schedule = cosine(optimiser, problem.steps)
            for _ in range(problem.steps):
                loss = adapted(input_ids=row, labels=wanted).loss
                loss.backward()
                optimiser.step()
                schedule.step()
                optimiser.zero_grad()
            last.append(loss.item())
        return np.array(last)

    return work


def one_batch(model, problem: Problem, *, compiled: bool = False):
    """All prompts in one batch: embedded once, the label that nobody reads left out, only labels meet the head."""
    body = torch.compile(model.model) if compiled else model.model
    starts, ids = torch.tensor(problem.start), torch.tensor(problem.ids)
    labels = ids[:, -LABELS:].flatten()
    with torch.no_grad():
        asked = model.get_input_embeddings()(ids[:, :-1])

    def work() -> np.ndarray:
        soft = starts.clone().requires_grad_()
        optimiser = torch.optim.Adam([soft], lr=RATE, fused=True)
        schedule = cosine(optimiser, problem.steps)
        for _ in range(problem.steps):
            x = torch.cat([soft.to(asked.dtype), asked], dim=1)
            states = body(inputs_embeds=x, use_cache=False).last_hidden_state[:, -LABELS:]
            logits = model.lm_head(states).flatten(0, 1).float()
            losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none").view(PROMPTS, LABELS).mean(1)
            losses.sum().backward()
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
        return losses.detach().numpy()

    return work


def operations(config, last: int) -> float:
    """Of one step: forward and backward through frozen kernels, two products each; `last` tokens ask the last layer.

    Keys and values are for all tokens; scores and mixed values are counted as full squares, forward and, by both of
    their factors, backward; labels alone meet the head.
    """
    attended = config.heads * config.head_dim
    by_asking = 2 * config.dim * attended + 3 * config.dim * config.hidden_dim
    by_all = 2 * config.dim * config.kv_heads * config.head_dim

    def layer(asking: int) -> int:
        return 4 * (asking * by_asking + WIDTH * by_all) + 12 * asking * WIDTH * attended

    head = 4 * LABELS * config.dim * config.vocab_size
    return float(PROMPTS * ((config.layers - 1) * layer(WIDTH) + layer(last) + head))


def torch_models(folder: Path):
    """The frozen checkpoint in float32 and in bfloat16."""
    load = transformers.AutoModelForCausalLM.from_pretrained
    models = [load(folder, dtype=dtype).eval() for dtype in (torch.float32, torch.bfloat16)]
    for model in models:
        model.config.use_cache = False
        model.requires_grad_(False)
    return models


def sides_of(size: Size, steps: int, compiled: bool) -> tuple[dict, nvcim_jax.llm.Config]:
    """Every side, ready to run, and the model's config."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.small_llama(Path(folder), *size.shape, size.words)
        model = nvcim_jax.llm.load(folder)
        whole, half = torch_models(Path(folder))
    params, config = model.params, model.config
    problem = problem_of(params, config, steps)
    mixed = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    sides = {
        OURS: ours(params, config, problem), MIXED: ours(mixed, config, problem),
        PEFT: one_by_one(whole, problem, size.alone), PEFT_HALF: one_by_one(half, problem, size.alone),
        BATCH: one_batch(whole, problem), BATCH_HALF: one_batch(half, problem),
    }  # fmt: skip
    if compiled:
        sides[COMPILED] = one_batch(whole, problem, compiled=True)
    return sides, config


def of_size(name: str, rounds: int | None, steps: int | None, compiled: bool):
    """A row for each side: seconds of a step of all prompts, ratios, agreement; and one of the shares of the rate."""
    size = SIZES[name]
    rounds, steps = rounds or size.rounds, steps or size.steps
    sides, config = sides_of(size, steps, compiled)
    losses: dict[str, np.ndarray] = {}

    def kept(side, work):
        return lambda: losses.update({side: work()})

    rate = harness.matmul_rate()
    taken = harness.turns({side: kept(side, work) for side, work in sides.items()}, rounds=rounds, steady=0.3)
    rate = max(rate, harness.matmul_rate())
    step = {side: times * PROMPTS / len(losses[side]) / steps for side, times in taken.items()}
    median = {side: float(np.median(seconds)) for side, seconds in step.items()}
    about = {"model": name, "rounds": rounds, "steps": steps}
    for side, seconds in step.items():
        mine = losses[OURS][: len(losses[side])]
        yield about | {
            "side": side, "step_s": median[side], "tokens_per_s": PROMPTS * WIDTH / median[side],
            "ratio": float(np.median(seconds / step[OURS])), "aim": AIMS.get(side),
            "ratio_mixed": float(np.median(seconds / step[MIXED])), "prompts": len(mine),
            "loss": float(losses[side].mean()), "differs_by": float(np.abs(losses[side] / mine - 1).max()),
        }  # fmt: skip
    shares = {
        f"{key}{tag}": operations(config, last) / median[side] / rate
        for key, last in (("share", LABELS), ("share_in_full", WIDTH))
        for tag, side in (("", OURS), ("_mixed", MIXED))
    }
    yield about | {"matmul_rate": rate, "aim": size.share, **shares}
    if max(np.abs(losses[side] / losses[OURS][: len(losses[side])] - 1).max() for side in (PEFT, BATCH)) > 1e-3:
        print("WARNING: the float32 sides do not agree: their losses differ by more than 0.001 of ours", flush=True)


def measure(args):
    for name in args.sizes:
        yield from of_size(name, args.rounds, args.steps, args.compile)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=harness.whole, help="turns of every side (default: 3 to 9 by size)")
    parser.add_argument("--steps", type=harness.whole, help="of training in each turn (default: 2 to 10 by size)")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument(
        "--compile", action="store_true", help="PyTorch's batch under torch.compile, too: half a minute and more a size"
    )
    quick = {"rounds": 1, "steps": 1, "sizes": list(SIZES)[:1]}
    harness.run(parser, measure, quick=quick, peers=(torch, transformers, peft))


if __name__ == "__main__":
    main()

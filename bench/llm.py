"""Our decoder against transformers with PyTorch on the same weights: prefill, decoding, gradients of soft prompts.

    python -m bench.llm

Both sides run in one process, turn by turn; ratios are medians over the turns, above 1 where ours is faster. Weights
are random bfloat16 values, as most checkpoints hold them: ours keeps them in float32 or as they are ("mixed"), with the
same answers; PyTorch in float32 or all in bfloat16 ("bf16"). Seconds of decoding are for a token. The limit is the
machine's matrix rate, for decoding of one row its read rate. The agreement is that of ours and ours mixed with
PyTorch's float32 (rounded in the gradient, as training does). Run it on quiet cores (needs the extra `bench`).
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bench import checkpoints, harness
from nvcim_jax import llm
from nvcim_jax.llm import decoder

torch, transformers = harness.peers("torch", "transformers")

SIZES = {"4 layers, d=256": (4, 256, 4), "8 layers, d=512": (8, 512, 8)}
VOCAB, PROMPTS, VIRTUAL, ASKED, LABELS = 32_000, 25, 16, 40, 8
AIMS = {"prefill": 1.5, "decode, batch 1": 2.0, "decode, batch 25": 3.0, "gradient": 1.7}


class Job(NamedTuple):
    """One piece of work, as a function of the weights on either side, and how their results are compared."""

    ours: Callable[[Any], jax.Array]
    torch: Callable[[Any], Any]
    agreement: Callable[[np.ndarray, np.ndarray], str]
    precision: str | None = None  # of ours with bfloat16 weights
    operations: float = 0.0
    reads: float = 0.0  # bytes
    tokens: int = 1


def largest(found: np.ndarray, wanted: np.ndarray) -> str:
    return f"{np.abs(found - wanted).max():.0e}"


def relative(found: np.ndarray, wanted: np.ndarray) -> str:
    return largest(found / np.abs(wanted).max(), wanted / np.abs(wanted).max())


def equal(found: np.ndarray, wanted: np.ndarray) -> str:
    return f"{np.mean(found == wanted):.0%} equal"


def prefill(config: llm.Config, rng: np.random.Generator, block_operations: float) -> Job:
    """The logits behind 256 tokens."""
    ids = rng.integers(0, VOCAB, (1, 256))
    asked = torch.tensor(ids)

    @jax.jit
    def ours(params):
        x = llm.embed(params, config, ids)
        end = jnp.full((1, 1), ids.shape[1] - 1)
        states, _ = llm.hidden(params, config, x, decoder.causal_positions(ids.shape), at=end)
        return llm.unembed(params, config, states)

    @torch.no_grad()
    def theirs(model):
        return model(asked, logits_to_keep=1).logits

    return Job(ours, theirs, largest, operations=block_operations * ids.size)


def decode(params, config: llm.Config, rng: np.random.Generator, rows: int, new_tokens: int) -> Job:
    """Greedy tokens behind 16 tokens a row."""
    start = rng.integers(0, VOCAB, (rows, 16))
    x, asked = jax.jit(lambda params: llm.embed(params, config, start))(params), torch.tensor(start)
    how = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    @torch.no_grad()
    def theirs(model):
        return model.generate(asked, attention_mask=torch.ones_like(asked), **how)[:, 16:]

    read = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) - params["embedding"]["embedding"].nbytes
    ours = lambda params: llm.generate(params, config, llm.Inputs(x), new_tokens=new_tokens)  # noqa: E731
    return Job(ours, theirs, equal, reads=read * new_tokens if rows == 1 else 0.0, tokens=new_tokens)


def gradient(config: llm.Config, rng: np.random.Generator, block_operations: float) -> Job:
    """Of the loss of labels by the soft prompts before their questions."""
    prompts = rng.normal(size=(PROMPTS, VIRTUAL, config.dim)).astype(np.float32) * 0.05
    asked, labels = rng.integers(0, VOCAB, (PROMPTS, ASKED)), rng.integers(0, VOCAB, (PROMPTS, LABELS))
    ids = np.concatenate([asked, labels[:, :-1]], axis=1)
    label_at = np.broadcast_to(VIRTUAL + ASKED - 1 + np.arange(LABELS), labels.shape)

    @jax.jit
    def ours(params):
        x = llm.embed(params, config, ids)

        def loss(prompts):
            rows = jnp.concatenate([prompts, x], axis=1)
            return llm.label_loss(params, config, llm.Inputs(rows), jnp.asarray(labels), jnp.asarray(label_at)).sum()

        return jax.grad(loss)(jnp.asarray(prompts))

    full = torch.tensor(np.concatenate([asked, labels], axis=1))
    told = torch.cat([torch.full((PROMPTS, VIRTUAL + ASKED), -100), torch.tensor(labels)], dim=1)

    def theirs(model):
        soft = torch.tensor(prompts, dtype=model.dtype, requires_grad=True)
        x = torch.cat([soft, model.get_input_embeddings()(full)], dim=1)
        (model(inputs_embeds=x, labels=told).loss * PROMPTS).backward()
        return soft.grad

    operations = 2 * PROMPTS * (block_operations * (VIRTUAL + ids.shape[1]) + 2 * VOCAB * config.dim * LABELS)
    return Job(ours, theirs, relative, precision="bfloat16", operations=operations)


def jobs(params, config: llm.Config, new_tokens: int) -> dict[str, Job]:
    """All jobs on one size of model."""
    rng = np.random.default_rng(harness.SEED)
    kernels = [leaf.size for path, leaf in jax.tree.leaves_with_path(params) if "weight" in str(path)]
    block_operations = 2 * sum(kernels) - 2 * VOCAB * config.dim
    return {
        "prefill": prefill(config, rng, block_operations),
        "decode, batch 1": decode(params, config, rng, 1, new_tokens),
        f"decode, batch {PROMPTS}": decode(params, config, rng, PROMPTS, new_tokens),
        "gradient": gradient(config, rng, block_operations),
    }


def figures(job: Job, models: dict, rounds: int, matmul_rate: float, read_rate: float) -> harness.Row:
    """Seconds of every side, ratios, the share of the limit, agreement."""

    def mixed():
        with jax.default_matmul_precision(job.precision):
            return job.ours(models["mixed"])

    wanted = job.torch(models["torch"]).numpy()
    agree = " and ".join(job.agreement(np.asarray(found), wanted) for found in (job.ours(models["ours"]), mixed()))
    sides = {"ours": lambda: job.ours(models["ours"]), "mixed": mixed}
    sides |= {name: partial(job.torch, models[name]) for name in ("torch", "bf16")}
    taken = harness.turns(sides, rounds=rounds, steady=0.3)
    seconds = {f"{side}_s": float(np.median(each)) / job.tokens for side, each in taken.items()}
    pairs = {"ratio": ("torch", "ours"), "ratio_mixed": ("torch", "mixed"), "ratio_bf16": ("bf16", "mixed")}
    ratios = {name: float(np.median(taken[theirs] / taken[own])) for name, (theirs, own) in pairs.items()}
    share = (job.operations / matmul_rate or job.reads / read_rate) / float(np.median(taken["ours"]))
    return seconds | ratios | {"of_the_limit": share or None, "agreement": agree}


def measure(args):
    rates = {"matmul_rate": harness.matmul_rate(), "read_rate": harness.read_rate()}
    yield rates
    for name in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            config = checkpoints.small_llama(Path(folder), *SIZES[name], VOCAB)
            params = llm.load(folder).params
            load = transformers.AutoModelForCausalLM.from_pretrained
            theirs, half = (load(folder, dtype=dtype).eval() for dtype in (torch.float32, torch.bfloat16))
        theirs.requires_grad_(False), half.requires_grad_(False)
        bfloat16 = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        models = {"ours": params, "mixed": bfloat16, "torch": theirs, "bf16": half}
        for job, work in jobs(params, config, args.new_tokens).items():
            row = figures(work, models, args.rounds, **rates)
            yield {"model": name, "job": job, "aim": AIMS[job], **row}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--rounds", type=harness.whole, default=7)
    parser.add_argument("--new-tokens", type=harness.whole, default=64)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    quick = {"rounds": 1, "new_tokens": 4, "sizes": list(SIZES)[:1]}
    harness.run(parser, measure, quick=quick, peers=(torch, transformers))


if __name__ == "__main__":
    main()

"""Peak memory and seconds of one tuning step of 25 OVTs on a model with the shapes of Gemma-2B, activations kept or
computed again on the way back.

    python -m bench.tuning_memory [--prompts 25] [--dtype bfloat16]

Random weights; 64 tokens a sample, 16 of them labels, 16 virtual tokens. Each way runs in a process of its own; the
losses stand beside the figures and must agree. Free 20 GB for float32 weights, 14 GB for bfloat16.
"""

import os
import tempfile
from functools import partial
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the memory is for the process that measures

import jax
import jax.numpy as jnp
import numpy as np

from bench import checkpoints, harness
from nvcim_jax import llm, tuning
from nvcim_jax.core.codec import Codec
from nvcim_jax.data import text
from nvcim_jax.hardware import catalogue
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.llm.decoder import Decoder

GEMMA_2B = checkpoints.MODELS["gemma-2b"]


def config_of(layers: int) -> llm.Config:
    with tempfile.TemporaryDirectory() as folder:
        return checkpoints.describe(Path(folder), GEMMA_2B | {"num_hidden_layers": layers})


def weights(config: llm.Config, dtype: str):
    """Random weights, small enough that signals pass all layers; a million values over and over."""
    shapes = jax.eval_shape(lambda: Decoder(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"])
    some = np.random.default_rng(harness.SEED).normal(0, 0.02, 1 << 20).astype(dtype)
    return jax.tree.map(lambda leaf: jnp.asarray(np.resize(some, leaf.shape)), shapes)


def one(prompts: int, layers: int, dtype: str, recompute: bool) -> harness.Row:
    """What one way takes."""
    config = config_of(layers)
    params, rng = weights(config, dtype), np.random.default_rng(harness.SEED + 1)
    rows = rng.integers(0, config.vocab_size, (prompts, 64))
    batch = text.batch([[(row[:48].tolist(), row[48:].tolist())] for row in rows])
    start_key, row_key = jax.random.split(jax.random.key(harness.SEED))
    start = 0.02 * jax.random.normal(start_key, (prompts, 16, config.dim))
    each = jnp.ones(prompts)
    job = tuning.Job(jax.random.split(row_key, prompts), start, Codec((), ()), each, each, batch)
    how = {"config": config, "method": tuning.Prompt(), "training": tuning.Training(steps=1, recompute=recompute)}
    tune = partial(tuning.tune, params, job, Condition(catalogue.device("NVM-1"), 0.0), **how)
    _, with_compilation = harness.timed(tune)
    tuned, seconds = harness.timed(tune)
    return {
        "weights_gb": sum(leaf.nbytes for leaf in jax.tree.leaves(params)) / 1e9, "peak_gb": harness.peak_gb(),
        "seconds": seconds, "with_compilation_s": with_compilation, "loss": float(tuned.losses[0].mean()),
    }  # fmt: skip


def measure(args):
    for way, recompute in (("kept", False), ("computed again", True)):
        yield {"activations": way, **harness.alone(one, args.prompts, args.layers, args.dtype, recompute)}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--prompts", type=harness.whole, default=25)
    parser.add_argument("--layers", type=harness.whole, default=GEMMA_2B["num_hidden_layers"])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of the weights")
    harness.run(parser, measure, quick={"prompts": 1, "layers": 1})


if __name__ == "__main__":
    main()

"""Peak memory and seconds of one tuning step of 25 OVTs on a model with the shapes of Gemma-2B, activations kept or
computed again on the way back.

    python bench/tuning_memory.py [--prompts 25] [--dtype bfloat16]

Random weights; 64 tokens a sample, 16 of them labels, 16 virtual tokens. Each way runs in a process of its own; the
losses stand beside the figures and must agree. Free 20 GB for float32 weights, 14 GB for bfloat16.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from nvcim_jax import llm, tuning
from nvcim_jax.core.codec import Codec
from nvcim_jax.data import text
from nvcim_jax.hardware import catalogue
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.llm.config import plain_rope
from nvcim_jax.llm.decoder import Decoder

GEMMA_2B = llm.Config(
    vocab_size=256_000, dim=2048, hidden_dim=16_384, layers=18, heads=8, kv_heads=1, head_dim=256, context=8192,
    norm_eps=1e-6, tied=True, rope=plain_rope(1e4, 256), norm="rms_plus_one", activation="gelu_tanh",
    embedding_scale=2048**0.5,
)  # fmt: skip


def weights(dtype: str):
    """Random weights, small enough that signals pass all layers; a million values over and over."""
    shapes = jax.eval_shape(lambda: Decoder(GEMMA_2B).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"])
    some = np.random.default_rng(0).normal(0, 0.02, 1 << 20).astype(dtype)
    return jax.tree.map(lambda leaf: jnp.asarray(np.resize(some, leaf.shape)), shapes)


def one(prompts: int, dtype: str, recompute: bool) -> dict:
    """What one way takes."""
    params, rng = weights(dtype), np.random.default_rng(1)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    rows = rng.integers(0, GEMMA_2B.vocab_size, (prompts, 64))
    batch = text.batch([[(row[:48].tolist(), row[48:].tolist())] for row in rows])
    start = 0.02 * jax.random.normal(jax.random.key(2), (prompts, 16, GEMMA_2B.dim))
    one_each = jnp.ones(prompts)
    job = tuning.Job(jax.random.split(jax.random.key(3), prompts), start, Codec((), ()), one_each, one_each, batch)
    training = tuning.Training(steps=1, recompute=recompute)
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        tuned = jax.block_until_ready(
            tuning.tune(
                params,
                job,
                Condition(catalogue.device("NVM-1"), 0.0),
                config=GEMMA_2B,
                method=tuning.Prompt(),
                training=training,
            )
        )
        seconds.append(time.perf_counter() - began)
    return {
        "weights_gb": held / 1e9,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "seconds": seconds[1],
        "seconds_with_compilation": seconds[0],
        "loss": float(tuned.losses[0].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=25)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="of the weights")
    parser.add_argument("--one", choices=["kept", "again"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.prompts, args.dtype, args.one == "again")))
        return
    print(
        f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {args.prompts} prompts, {args.dtype} weights"
    )
    for way, name in (("kept", "activations kept"), ("again", "computed again")):
        command = [sys.executable, __file__, "--one", way, "--prompts", str(args.prompts), "--dtype", args.dtype]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            print(f"{name:18s} ended with code {done.returncode}: -9 is a machine without enough memory", flush=True)
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        print(f"{name:18s} " + ", ".join(f"{key} {value:.4g}" for key, value in found.items()), flush=True)


if __name__ == "__main__":
    main()

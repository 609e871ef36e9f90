"""Seconds from the start of a process to the first token of a 40-million-parameter model, by the compilation cache.

    python -m bench.first_token

Each figure is of fresh Python processes that import the library, load the checkpoint and stream one token. The cache is
JAX's own: `JAX_COMPILATION_CACHE_DIR=~/.cache/nvcim-jax nvcim ask ...` keeps compiled programs between processes.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import checkpoints, harness

CHILD = """
import sys
from nvcim_jax import llm
import jax.numpy as jnp
model = llm.load(sys.argv[1])
x = llm.embed(model.params, model.config, jnp.arange(16)[None])
print(int(next(llm.stream(model.params, model.config, llm.Inputs(x), new_tokens=8))[0]))
"""
SIZES = {
    "model_type": "llama", "vocab_size": 16_000, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8,
    "num_attention_heads": 8, "num_key_value_heads": 8, "max_position_embeddings": 512, "tie_word_embeddings": False,
    "dtype": "float16",
}  # fmt: skip


def first_token(folder: str, cache: str | None) -> float:
    """Seconds until a fresh process has printed its first token."""
    cached = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    around = os.environ | (cached if cache else {"JAX_ENABLE_COMPILATION_CACHE": "false"})
    command = [sys.executable, "-c", CHILD, folder]
    return harness.timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=around))[1]


def measure(args):
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        checkpoints.write(Path(folder), SIZES | {"num_hidden_layers": args.layers})
        first_token(folder, None)  # the files are in memory from here on
        for kind, place, starts in (
            ("none", None, args.starts),
            ("being filled", cache, 1),
            ("filled", cache, args.starts),
        ):
            seconds = statistics.median(first_token(folder, place) for _ in range(starts))
            yield {"cache": kind, "seconds": seconds, "starts": starts}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--starts", type=harness.whole, default=3, help="of a process; the median counts")
    parser.add_argument("--layers", type=harness.whole, default=SIZES["num_hidden_layers"])
    harness.run(parser, measure, quick={"starts": 1, "layers": 1})


if __name__ == "__main__":
    main()

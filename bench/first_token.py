"""Seconds from the start of a process to the first token of a 40-million-parameter model, by the compilation cache.

Each line is a fresh Python process that imports the library, loads the checkpoint and streams one token. The cache is
JAX's own: `JAX_COMPILATION_CACHE_DIR=~/.cache/nvcim-jax nvcim ask ...` keeps compiled programs between processes.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
    cached = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} if cache else {}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", CHILD, folder], check=True, stdout=subprocess.DEVNULL, env=os.environ | cached
    )
    return time.perf_counter() - start


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from bench.fullsize import write

    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        write(Path(folder), SIZES)
        first_token(folder, None)  # the files are in memory from here on
        without = [first_token(folder, None) for _ in range(3)]
        filling = first_token(folder, cache)
        filled = [first_token(folder, cache) for _ in range(3)]
    result = {
        "without_cache_s": statistics.median(without),
        "filling_the_cache_s": filling,
        "with_cache_s": statistics.median(filled),
    }
    print(json.dumps({name: round(value, 2) for name, value in result.items()}, indent=1))


if __name__ == "__main__":
    main()

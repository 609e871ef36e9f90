"""True sizes on this machine: load, one gradient of a soft prompt, eight tokens; seconds and peak memory.

    python -m bench.fullsize
    python -m bench.fullsize --models gemma-2b --dtype bfloat16

Writes random checkpoints with the shapes of Gemma-2B, Phi-2 and Mistral-7B-GPTQ (sharded safetensors, half precision or
packed words) to a temporary folder, one after the other, and runs each in a process of its own.
"""

import json
import os
import tempfile
import threading
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the memory is for the process that measures

import jax
import jax.numpy as jnp
import numpy as np

from bench import checkpoints, harness
from nvcim_jax import llm


def anonymous_bytes() -> int:
    """Memory of this process that no file backs: weights, not the pages of a mapped checkpoint."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not tell the anonymous memory of a process: run it on Linux")


class Peak:
    """The largest anonymous memory while the block runs, sampled a hundred times a second."""

    def __enter__(self):
        self.bytes, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _watch(self):
        while not self._over.wait(0.01):
            self.bytes = max(self.bytes, anonymous_bytes())


def one(folder: Path, dtype: str | None) -> harness.Row:
    """What one model takes: seconds of every step, memory in GB."""
    packed = "quantization_config" in json.loads((folder / "config.json").read_text())
    how, before = "lazy" if packed else "load", anonymous_bytes()
    with Peak() as loading:
        model, load_s = harness.timed(lambda: llm.load(folder, dtype=dtype, dequantise=how))
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    row = {"load_s": load_s, "params_gb": held / 1e9, "load_peak_over_params": (loading.bytes - before) / held}
    soft = jax.random.normal(jax.random.key(harness.SEED), (1, 16, model.config.dim)) * 0.02
    with Peak() as running:
        row |= steps(model, soft)
    row |= {"run_peak_gb": running.bytes / 1e9, "max_rss_gb": harness.peak_gb()}
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        row["device_peak_gb"] = stats["peak_bytes_in_use"] / 1e9
    return row


def steps(model: llm.Model, soft) -> harness.Row:
    """A gradient of the soft prompt [1, tokens, dim] and eight tokens behind it, each with compilation and without."""
    config = model.config
    ids = jnp.arange(32, dtype=jnp.int32)[None] + 5

    @jax.jit
    def gradient(params, soft):
        def loss(soft):
            x = llm.embed(params, config, ids)
            x = jnp.concatenate([soft.astype(x.dtype), x], axis=1)
            labels, label_at = ids[:, -4:], jnp.arange(43, 47)[None]
            return llm.label_loss(params, config, llm.Inputs(x), labels, label_at).sum()

        return jax.value_and_grad(loss)(soft)

    _, first_gradient_s = harness.timed(lambda: gradient(model.params, soft))
    (loss, slope), gradient_s = harness.timed(lambda: gradient(model.params, soft))
    prompt = jnp.concatenate([soft.astype(slope.dtype), llm.embed(model.params, config, ids)], axis=1)
    eight = lambda: llm.generate(model.params, config, llm.Inputs(prompt), new_tokens=8)  # noqa: E731
    _, first_eight_tokens_s = harness.timed(eight)
    tokens, eight_tokens_s = harness.timed(eight)
    return {
        "first_gradient_s": first_gradient_s, "gradient_s": gradient_s, "first_eight_tokens_s": first_eight_tokens_s,
        "eight_tokens_s": eight_tokens_s, "loss": float(loss), "gradient_norm": float(jnp.linalg.norm(slope)),
        "tokens": str(np.asarray(tokens)[0].tolist()),
    }  # fmt: skip


def measure(args):
    for name in args.models:
        told = checkpoints.MODELS[name] | ({"num_hidden_layers": args.layers} if args.layers else {})
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name}: writing a random checkpoint", flush=True)
            checkpoints.write(Path(folder), told)
            yield {"model": name, **harness.alone(one, Path(folder), args.dtype)}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--models", nargs="+", default=list(checkpoints.MODELS), choices=list(checkpoints.MODELS))
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the weights (default: the machine's)")
    parser.add_argument("--layers", type=harness.whole, help="of each model (default: all that it has)")
    harness.run(parser, measure, quick={"models": ["mistral-7b-gptq"], "layers": 1})


if __name__ == "__main__":
    main()

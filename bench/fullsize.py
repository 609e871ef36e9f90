"""True sizes on this machine: load, one gradient of a soft prompt, eight tokens; seconds and peak memory.

Writes random checkpoints with the shapes of Gemma-2B, Phi-2 and Mistral-7B-GPTQ (sharded safetensors, half precision or
packed words) to a temporary folder, one after the other, and runs each in a process of its own:
`python bench/fullsize.py`, or `python bench/fullsize.py --models gemma-2b --dtype bfloat16`.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

SHARD = 1 << 30  # bytes
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True}
MODELS = {
    "gemma-2b": {
        "model_type": "gemma", "vocab_size": 256_000, "hidden_size": 2048, "intermediate_size": 16_384,
        "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256,
        "max_position_embeddings": 8192, "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True,
        "dtype": "bfloat16",
    },
    "phi-2": {
        "model_type": "phi", "vocab_size": 51_200, "hidden_size": 2560, "intermediate_size": 10_240,
        "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 2048,
        "tie_word_embeddings": False, "dtype": "float16",
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.4},
    },
    "mistral-7b-gptq": {
        "model_type": "mistral", "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32_768,
        "sliding_window": 4096, "tie_word_embeddings": False, "dtype": "float16", "quantization_config": GPTQ,
    },
}  # fmt: skip


def write(folder: Path, told: dict, seed: int = 0) -> None:
    """A random checkpoint with the shapes that its configuration asks for."""
    from dataclasses import replace

    import ml_dtypes
    from safetensors.numpy import save_file

    from nvcim_jax.llm import families, names, parameters

    (folder / "config.json").write_text(json.dumps(told))
    words = {"type": "WordLevel", "vocab": {"<unk>": 0, "<eos>": 1}, "unk_token": "<unk>"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": words}))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')
    config, how, _ = families.read(folder)
    config = replace(config, packed=how)
    rng = np.random.default_rng(seed)
    kind = ml_dtypes.bfloat16 if told["dtype"] == "bfloat16" else np.float16
    pool = (rng.standard_normal(1 << 22, np.float32) * 0.02).astype(kind)  # repeated: its values do not matter
    noise = rng.integers(-(2**31), 2**31, 1 << 20, dtype=np.int32)

    def values(ours, leaf):
        shape = leaf.shape
        if ours.endswith("qweight"):
            return np.resize(noise, shape)
        if ours.endswith("qzeros"):
            return np.full(shape, 0x77777777, np.int32)
        if ours.endswith("scales"):
            return np.full(shape, 0.004, np.float16)
        if ours.endswith("g_idx"):
            return rng.permutation(np.arange(shape[0], dtype=np.int32) // told["quantization_config"]["group_size"])
        if ours.endswith("scale"):
            return (np.zeros if told["model_type"] == "gemma" else np.ones)(shape, kind)
        return np.resize(pool, shape)

    shard, size, where, count = {}, 0, {}, 0
    todo = parameters.shapes(config)
    for number, (ours, leaf) in enumerate(todo.items(), 1):
        name = names.source(names.FAMILIES[told["model_type"]], config, ours).name
        shard[name] = values(ours, leaf)
        size += shard[name].nbytes
        if size >= SHARD or number == len(todo):
            count += 1
            file = f"model-{count:05d}.safetensors"
            save_file(shard, folder / file, {"format": "pt"})
            where |= dict.fromkeys(shard, file)
            shard, size = {}, 0
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def anonymous_bytes() -> int:
    """Memory of this process that no file backs: weights, not the pages of a mapped checkpoint."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system does not tell the anonymous memory of a process")


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


def run_one(folder: Path, dtype: str | None) -> dict:
    """What one model takes: seconds of every step, memory in GB."""
    import jax
    import jax.numpy as jnp

    from nvcim_jax import llm
    from nvcim_jax.llm.decoder import causal_positions

    packed = "quantization_config" in json.loads((folder / "config.json").read_text())
    before, result = anonymous_bytes(), {}
    with Peak() as peak:
        start = time.perf_counter()
        model = llm.load(folder, dtype=dtype, dequantise="lazy" if packed else "load")
        jax.block_until_ready(model.params)
        result["load_s"] = time.perf_counter() - start
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    result |= {"params_gb": held / 1e9, "load_peak_over_params": (peak.bytes - before) / held}
    config = model.config
    ids = jnp.arange(32, dtype=jnp.int32)[None] + 5
    soft = jax.random.normal(jax.random.key(0), (1, 16, config.dim)) * 0.02

    @jax.jit
    def gradient(params, soft):
        def loss(soft):
            x = llm.embed(params, config, ids)
            x = jnp.concatenate([soft.astype(x.dtype), x], axis=1)
            labels, label_at = ids[:, -4:], jnp.arange(43, 47)[None]
            return llm.label_loss(params, config, x, causal_positions(x.shape[:2]), labels, label_at).sum()

        return jax.value_and_grad(loss)(soft)

    with Peak() as peak:
        for name in ("first_gradient_s", "gradient_s"):
            start = time.perf_counter()
            loss, slope = jax.block_until_ready(gradient(model.params, soft))
            result[name] = time.perf_counter() - start
        prompt = jnp.concatenate([soft.astype(slope.dtype), llm.embed(model.params, config, ids)], axis=1)
        for name in ("first_eight_tokens_s", "eight_tokens_s"):
            start = time.perf_counter()
            tokens = jax.block_until_ready(llm.generate(model.params, config, prompt, new_tokens=8))
            result[name] = time.perf_counter() - start
    result["run_peak_gb"] = peak.bytes / 1e9
    result["max_rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    result |= {
        "loss": float(loss),
        "gradient_norm": float(jnp.linalg.norm(slope)),
        "tokens": np.asarray(tokens)[0].tolist(),
    }
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        result["device_peak_gb"] = stats["peak_bytes_in_use"] / 1e9
    return result | {"backend": jax.default_backend(), "device": jax.devices()[0].device_kind}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of the weights (default: the machine's)")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options.one, options.dtype)))
        return
    results = {}
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            print(f"{name}: writing a random checkpoint", flush=True)
            write(Path(folder), MODELS[name])
            command = [sys.executable, __file__, "--one", folder]
            command += ["--dtype", options.dtype] if options.dtype else []
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[name] = json.loads(done.stdout.splitlines()[-1])
        for key, value in results[name].items():
            print(f"  {key:>24}: {value:.4g}" if isinstance(value, float) else f"  {key:>24}: {value}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

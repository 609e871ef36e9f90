"""Our decoder against transformers with PyTorch on the same weights: prefill, decoding, gradients of soft prompts.

Both sides run in one process, turn by turn; ratios are medians over the turns. The weights are random bfloat16 values,
as most checkpoints hold them: ours keeps them in float32 or as they are, with the same answers. Run it on quiet cores:
`python bench/llm.py` (needs the `bench` extra).
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from machine import matmul_rate, read_rate, steady  # beside this file
from rich.console import Console
from rich.table import Table

from nvcim_jax import llm
from nvcim_jax.llm import decoder, weights
from nvcim_jax.llm.config import Config, plain_rope

SIZES = {"4 layers, d=256": (4, 256, 4), "8 layers, d=512": (8, 512, 8)}
VOCAB, CONTEXT, PROMPTS, VIRTUAL, ASKED, LABELS = 32_000, 1024, 25, 16, 40, 8
TARGETS = {"prefill": 1.5, "decode, batch 1": 2.0, "decode, batch 25": 3.0, "gradient": 1.7}


def checkpoint(folder: Path, layers: int, dim: int, heads: int, words: int = VOCAB) -> Config:
    """A random Llama as a Hugging Face folder: bfloat16 values in float32."""
    config = Config(
        vocab_size=words, dim=dim, hidden_dim=round(dim * 8 / 3 / 32) * 32, layers=layers, heads=heads, kv_heads=heads,
        head_dim=dim // heads, context=CONTEXT, norm_eps=1e-5, tied=False, rope=plain_rope(1e4, dim // heads),
    )  # fmt: skip
    shapes = decoder.Decoder(config).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    shapes = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), shapes)
    weights.save_weights(folder / "model.safetensors", shapes, config, np.float32)
    told = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": words, "hidden_size": dim,
        "intermediate_size": config.hidden_dim, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": heads, "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False, "dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(told))
    words = {"type": "WordLevel", "vocab": {"<unk>": 0}, "unk_token": "<unk>"}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": words}))
    return config


def turns(sides: dict, count: int) -> dict[str, list[float]]:
    """Seconds of every side's work, taken in turn."""
    for work in sides.values():
        work()
    taken = {name: [] for name in sides}
    for _ in range(count):
        for name, work in sides.items():
            taken[name].append(steady(work))
    return taken


def measure(name: str, rounds: int, new_tokens: int, console: Console, rate: float, reads: float) -> dict:
    """All four jobs of one size of model."""
    with tempfile.TemporaryDirectory() as folder:
        config = checkpoint(Path(folder), *SIZES[name])
        model = llm.load(folder)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        half = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    for parameter in (*theirs.parameters(), *half.parameters()):
        parameter.requires_grad_(False)
    rng = np.random.default_rng(0)
    params, results = model.params, {}
    same = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)  # the same values; activations stay float32

    def add(job, mine, torch_side, gap, flops=None, precision=None):
        def mixed():
            with jax.default_matmul_precision(precision):
                return mine(same)

        wanted = torch_side(theirs).numpy()
        agree = " and ".join(gap(np.asarray(found), wanted) for found in (mine(params), mixed()))
        sides = {"ours": lambda: mine(params), "mixed": mixed}
        taken = turns(sides | {"torch": lambda: torch_side(theirs), "bf16": lambda: torch_side(half)}, rounds)
        median = {side: statistics.median(times) for side, times in taken.items()}
        pairs = {"ratio": ("torch", "ours"), "ratio_mixed": ("torch", "mixed"), "ratio_bf16": ("bf16", "mixed")}
        ratios = {
            name: statistics.median(t / m for t, m in zip(taken[theirs], taken[mine], strict=True))
            for name, (theirs, mine) in pairs.items()
        }
        results[job] = {f"{side}_s": seconds for side, seconds in median.items()} | ratios | {"agreement": agree}
        if flops:
            results[job]["share_of_matmul_rate"] = flops / median["ours"] / rate

    ids = rng.integers(0, VOCAB, (1, 256))

    @jax.jit
    def last(params, ids):
        x = llm.embed(params, config, ids)
        end = jnp.full((len(ids), 1), ids.shape[1] - 1)
        states, _ = llm.hidden(params, config, x, decoder.causal_positions(ids.shape), at=end)
        return llm.unembed(params, config, states)

    wanted = torch.tensor(ids)

    @torch.no_grad()
    def torch_last(model):
        return model(wanted, logits_to_keep=1).logits

    largest = lambda found, wanted: f"{np.abs(found - wanted).max():.0e}"  # noqa: E731
    block_flops = 2 * sum(leaf.size for path, leaf in jax.tree.leaves_with_path(params) if "weight" in str(path))
    block_flops -= 2 * VOCAB * config.dim
    add("prefill", lambda params: last(params, ids).block_until_ready(), torch_last, largest, block_flops * 256)

    embed = jax.jit(lambda params, ids: llm.embed(params, config, ids))
    for rows in (1, PROMPTS):
        start = rng.integers(0, VOCAB, (rows, 16))
        x, start_torch = embed(params, start), torch.tensor(start)

        @torch.no_grad()
        def torch_decode(model, start=start_torch):
            mask = torch.ones_like(start)
            return model.generate(
                start,
                attention_mask=mask,
                max_new_tokens=new_tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )[:, 16:]

        def mine(params, x=x):
            return llm.generate(params, config, llm.Inputs(x), new_tokens=new_tokens).block_until_ready()

        add(f"decode, batch {rows}", mine, torch_decode, lambda found, wanted: f"{np.mean(found == wanted):.0%} equal")

    prompts = rng.normal(size=(PROMPTS, VIRTUAL, config.dim)).astype(np.float32) * 0.05
    asked, labels = rng.integers(0, VOCAB, (PROMPTS, ASKED)), rng.integers(0, VOCAB, (PROMPTS, LABELS))
    whole = np.concatenate([asked, labels[:, :-1]], axis=1)
    label_at = np.broadcast_to(VIRTUAL + ASKED - 1 + np.arange(LABELS), labels.shape)

    @jax.jit
    def gradient(params, prompts):
        x = llm.embed(params, config, whole)

        def loss(prompts):
            rows = jnp.concatenate([prompts, x], axis=1)
            return llm.label_loss(params, config, llm.Inputs(rows), jnp.asarray(labels), jnp.asarray(label_at)).sum()

        return jax.grad(loss)(prompts)

    full = torch.tensor(np.concatenate([asked, labels], axis=1))
    told = torch.cat([torch.full((PROMPTS, VIRTUAL + ASKED), -100), torch.tensor(labels)], dim=1)

    def torch_gradient(model):
        soft = torch.tensor(prompts, dtype=model.dtype, requires_grad=True)
        x = torch.cat([soft, model.get_input_embeddings()(full)], dim=1)
        (model(inputs_embeds=x, labels=told).loss * PROMPTS).backward()
        return soft.grad

    flops = 2 * PROMPTS * (block_flops * (VIRTUAL + whole.shape[1]) + 2 * VOCAB * config.dim * LABELS)
    relative = lambda found, wanted: largest(found / np.abs(wanted).max(), wanted / np.abs(wanted).max())  # noqa: E731
    add("gradient", lambda params: gradient(params, prompts).block_until_ready(), torch_gradient, relative, flops,
        precision="bfloat16")  # fmt: skip
    read = sum(leaf.nbytes for leaf in jax.tree.leaves(params)) - params["embedding"]["embedding"].nbytes
    results["decode, batch 1"]["share_of_read_rate"] = read * new_tokens / results["decode, batch 1"]["ours_s"] / reads

    table = Table(
        "job", "ours", "PyTorch", "ratio", "target", "ours bf16", "both bf16", "of the limit", "agreement",
        title=f"{name}, {VOCAB:,} words; a ratio above 1 means ours is faster; bf16: weights only here, all there",
        caption="limit: the matrix rate, for one row the read rate; agreement with PyTorch's float32: ours, ours bf16 "
        "(rounded in the gradient, as training does)",
    )  # fmt: skip
    for job, row in results.items():
        per = new_tokens if job.startswith("decode") else 1
        share = row.get("share_of_matmul_rate") or row.get("share_of_read_rate")
        table.add_row(
            job, *(f"{row[side] / per * 1e3:.1f} ms" for side in ("ours_s", "torch_s")), f"{row['ratio']:.2f}",
            f"{TARGETS[job]}", f"{row['ratio_mixed']:.2f}", f"{row['ratio_bf16']:.2f}",
            f"{share:.0%}" if share else "", row["agreement"],
        )  # fmt: skip
    console.print(table)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    transformers.utils.logging.disable_progress_bar()
    console, rate, reads = Console(width=150), matmul_rate(), read_rate()
    load = os.getloadavg()[0]
    versions = {"jax": jax.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    rates = f"matrix products {rate / 1e9:.0f} GFLOP/s, reads {reads / 1e9:.0f} GB/s"
    console.print(f"load {load:.1f}, {rates}, {versions}")
    results = {name: measure(name, options.rounds, options.new_tokens, console, rate, reads) for name in options.sizes}
    if options.json:
        settings = {
            "rounds": options.rounds,
            "new_tokens": options.new_tokens,
            "load": load,
            "matmul_flops": rate,
            "read_bytes": reads,
        }
        options.json.write_text(json.dumps({"settings": settings, "versions": versions, "results": results}, indent=1))


if __name__ == "__main__":
    main()

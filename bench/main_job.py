"""Seconds of the main job by stage, tuning rate against the machine's float32 matrix rate, peak memory.

    python bench/main_job.py [--users 8] [--task LaMP-2]

Every stage is run twice: cold (compilation included) and warm, on other users. The score stands beside the times.
"""

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
from machine import matmul_rate  # noqa: E402 (beside this file)

from nvcim_jax import llm, tuning  # noqa: E402
from nvcim_jax.cli import EMBEDDED  # noqa: E402
from nvcim_jax.data import lamp, synthetic, text  # noqa: E402
from nvcim_jax.evaluation.ladder import metric_of  # noqa: E402
from nvcim_jax.hardware import catalogue  # noqa: E402
from nvcim_jax.hardware.devices import Condition  # noqa: E402
from nvcim_jax.pipeline import compiled, retrieve  # noqa: E402
from nvcim_jax.pipeline.answer import answer_room, generate  # noqa: E402
from nvcim_jax.pipeline.block import gather  # noqa: E402
from nvcim_jax.pipeline.learn import pair, tune_bank  # noqa: E402
from nvcim_jax.pipeline.presets import RECOMMENDED  # noqa: E402
from nvcim_jax.provenance import provenance  # noqa: E402

IMPORTED = time.perf_counter()


def operations_per_token(config: llm.Config) -> float:
    """Of a forward and a backward pass through frozen weights: two products each, two operations a weight."""
    attention = config.dim * config.head_dim * (2 * config.heads + 2 * config.kv_heads)
    return 4.0 * config.layers * (attention + 3 * config.dim * config.hidden_dim)


def stages(model, task, users, device) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each stage, and what came out."""
    seconds, marks = {}, [time.perf_counter()]

    def lap(name, value):
        jax.block_until_ready(value)
        marks.append(time.perf_counter())
        seconds[name] = marks[-1] - marks[-2]
        return value

    key = jax.random.key(0)
    condition = Condition(device, 0.1)
    block = gather(key, model, task, users, settings=RECOMMENDED)
    lap("select, fit codecs", block.codec)
    learned = lap("tune", tune_bank(key, model, block, condition, settings=RECOMMENDED))
    banks = lap("program", retrieve.program(key, block, learned, condition, settings=RECOMMENDED))
    match = lap("search", retrieve.search(model, block, banks, settings=RECOMMENDED))
    prompts = compiled.prompts_of(block.codec, match.prompt[:, 0])
    queries = [query for user in users for query in user.queries]
    flat = prompts.reshape(-1, *prompts.shape[-2:])
    answers = lap(
        "generate",
        generate(model, queries, tuning.Adapted(front=flat), new_tokens=answer_room(model, block.users)),
    )
    metric = metric_of(task)
    score = float(np.mean([metric(answer, query.answer) for answer, query in zip(answers, queries, strict=True)]))
    pairs = [pair(model, sample, RECOMMENDED) for row in block.selected.samples for sample in row if sample]
    width = RECOMMENDED.tokens + text.bucket(max(len(question) + len(answer) - 1 for question, answer, _ in pairs))
    return seconds, {"score": score, "rows": int(block.selected.valid.sum()), "width": width}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--task", default="LaMP-2")
    args = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores (a busy machine gives slow figures)")

    task, device = lamp.task(args.task), catalogue.device("NVM-3")
    start = time.perf_counter()
    model = llm.load(EMBEDDED)
    loaded = time.perf_counter() - start
    cold, _ = stages(model, task, synthetic.users(task, args.users), device)
    warm, out = stages(model, task, synthetic.users(task, args.users, first=synthetic.HELD_OUT + 500), device)
    print(f"{'import':20s} {IMPORTED - STARTED:7.2f} s\n{'load the model':20s} {loaded:7.2f} s")
    for name in warm:
        print(f"{name:20s} {warm[name]:7.2f} s warm, {cold[name]:6.2f} s with compilation")

    rows = tuning.ROWS * -(-out["rows"] // tuning.ROWS)
    tokens = rows * RECOMMENDED.training.steps * out["width"]
    rate = tokens / warm["tune"]
    peak = matmul_rate()
    share = rate * operations_per_token(model.config) / peak
    print(f"tuning {rate:,.0f} tokens/s, {share:.0%} of the measured {peak / 1e9:.0f} GFLOP/s float32 matrix rate")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(f"score of these {args.users} users: {out['score']:.3f}")
    print(json.dumps({"cold_s": cold, "warm_s": warm, "tokens_per_s": rate, "share": share, **provenance()}))


if __name__ == "__main__":
    main()

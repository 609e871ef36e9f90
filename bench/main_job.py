"""Seconds of the main job by stage, tuning rate against the machine's float32 matrix rate, peak memory.

    python -m bench.main_job [--users 8] [--task LaMP-2]

Every stage is run twice: cold (compilation included) and warm, on other users. The score stands beside the times.
"""

import subprocess
import sys
from functools import partial

import jax
import numpy as np

from bench import harness
from nvcim_jax import llm, tuning
from nvcim_jax.cli import EMBEDDED
from nvcim_jax.data import lamp, synthetic, text
from nvcim_jax.evaluation.ladder import metric_of
from nvcim_jax.hardware import catalogue
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.pipeline import compiled, retrieve
from nvcim_jax.pipeline.answer import answer_room, generate
from nvcim_jax.pipeline.block import gather
from nvcim_jax.pipeline.learn import pair, tune_bank
from nvcim_jax.pipeline.presets import RECOMMENDED

IMPORTS = "import nvcim_jax as nv; nv.learn, nv.answer, nv.save, nv.load, nv.load_model"


def operations_per_token(config: llm.Config) -> float:
    """Of a forward and a backward pass through frozen weights: two products each, two operations a weight."""
    attention = config.dim * config.head_dim * (2 * config.heads + 2 * config.kv_heads)
    return 4.0 * config.layers * (attention + 3 * config.dim * config.hidden_dim)


def stages(model, task, users) -> tuple[dict[str, float], harness.Row]:
    """Seconds of each stage, and what came out."""
    seconds = {}

    def lap(name, work):
        given, seconds[name] = harness.timed(work)
        return given

    key, how = jax.random.key(harness.SEED), {"settings": RECOMMENDED}
    condition = Condition(catalogue.device("NVM-3"), 0.1)
    block = lap("select, fit codecs", partial(gather, key, model, task, users, **how))
    learned = lap("tune", partial(tune_bank, key, model, block, condition, **how))
    banks = lap("program", partial(retrieve.program, key, block, learned, condition, **how))
    match = lap("search", partial(retrieve.search, model, block, banks, **how))
    prompts = compiled.prompts_of(block.codec, match.prompt[:, 0])
    queries = [query for user in users for query in user.queries]
    front = tuning.Adapted(front=prompts.reshape(-1, *prompts.shape[-2:]))
    answers = lap("generate", partial(generate, model, queries, front, new_tokens=answer_room(model, block.users)))
    metric = metric_of(task)
    score = float(np.mean([metric(answer, query.answer) for answer, query in zip(answers, queries, strict=True)]))
    pairs = [pair(model, sample, RECOMMENDED)[:2] for row in block.selected.samples for sample in row if sample]
    width = RECOMMENDED.tokens + text.bucket(max(len(question) + len(answer) - 1 for question, answer in pairs))
    return seconds, {"score": score, "rows": int(block.selected.valid.sum()), "width": width}


def measure(args):
    task = lamp.task(args.task)
    command = [sys.executable, "-c", IMPORTS]
    yield {"stage": "import", "warm_s": harness.best(lambda: subprocess.run(command, check=True), args.starts)}
    model, seconds = harness.timed(partial(llm.load, EMBEDDED))
    yield {"stage": "load the model", "warm_s": seconds}
    cold, _ = stages(model, task, synthetic.users(task, args.users))
    warm, out = stages(model, task, synthetic.users(task, args.users, first=synthetic.HELD_OUT + 500))
    for name in warm:
        yield {"stage": name, "warm_s": warm[name], "cold_s": cold[name]}
    rate = out["rows"] * RECOMMENDED.training.steps * out["width"] / warm["tune"]
    peak = harness.matmul_rate()
    share = rate * operations_per_token(model.config) / peak
    yield {
        "tokens_per_s": rate, "share_of_matmul_rate": share, "matmul_rate": peak, "peak_gb": harness.peak_gb(),
        "score": out["score"],
    }  # fmt: skip


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--users", type=harness.whole, default=8)
    parser.add_argument("--task", default="LaMP-2", choices=list(synthetic.TASKS))
    parser.add_argument("--starts", type=harness.whole, default=3, help="of a process that imports; the best counts")
    harness.run(parser, measure, quick={"users": 1, "starts": 1})


if __name__ == "__main__":
    main()

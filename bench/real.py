"""A model as people have it, in a GGUF file: tuning against PEFT, time to a first answer, memory against the estimate.

    python -m bench.real SmolLM2-135M-Instruct.Q4_1.gguf
    python -m bench.real SmolLM2-135M-Instruct.Q4_1.gguf --parts answer memory

"tuning": 25 OVTs on samples of 64 tokens as in `bench.tuning`, against PEFT one by one, in float32, the losses of the
last step beside; PEFT tunes --alone of them, and its seconds are scaled to all. "answer": seconds of whole processes of
`nvcim ask`, with an empty cache of compiled programs and with a full one. "memory": what tuning 25 OVTs takes above
the model, and what `llm.room` says it takes. Run it on quiet cores; "tuning" needs the extra `bench`.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

import nvcim_jax as nv
from bench import harness
from nvcim_jax import tuning
from nvcim_jax.llm import room

STEPS, ROUNDS = 2, 3
PEAK, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def tuned(path: str, rounds: int, alone: int) -> Iterator[harness.Row]:
    """A row for each side."""
    import bench.tuning as sides  # which asks for its peers

    load = sides.transformers.AutoModelForCausalLM.from_pretrained
    peer = load(Path(path).parent, gguf_file=Path(path).name, dtype=sides.torch.float32).eval()
    peer.config.use_cache = False
    peer.requires_grad_(False)
    model = nv.load_model(path, dtype="float32")
    problem = sides.problem_of(model.params, model.config, STEPS)
    losses: dict[str, np.ndarray] = {}
    work = {sides.OURS: sides.ours(model.params, model.config, problem),
            sides.PEFT: sides.one_by_one(peer, problem, alone)}  # fmt: skip
    taken = harness.turns({side: lambda side=side: losses.update({side: work[side]()}) for side in work}, rounds=rounds)
    step = {side: seconds * sides.PROMPTS / len(losses[side]) / STEPS for side, seconds in taken.items()}
    for side, seconds in step.items():
        yield {
            "part": "tuning", "side": side, "step_s": float(np.median(seconds)),
            "ratio": float(np.median(seconds / step[sides.OURS])), "aim": 2.0 if side == sides.PEFT else None,
            "loss": float(losses[side].mean()), "prompts": len(losses[side]),
        }  # fmt: skip


def answered(path: str, starts: int) -> Iterator[harness.Row]:
    """Seconds of whole processes: the first compiles, the others find its programs."""
    with tempfile.TemporaryDirectory() as folder:
        people = nv.toy_users("LaMP-5", 1)
        untuned = replace(nv.RECOMMENDED, training=tuning.Training(steps=0))
        memory = nv.learn(
            jax.random.key(harness.SEED), nv.load_model(path), people, "NVM-3", sigma=0.1, settings=untuned
        )
        preset = replace(memory.about, settings=memory.about.settings | {"preset": "recommended"})
        nv.save(Path(folder, "bank"), memory._replace(about=preset))
        command = [sys.executable, "-m", "nvcim_jax", "ask", str(Path(folder, "bank")), people[0].queries[0].content]
        around = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
        around["XDG_CACHE_HOME"] = folder  # where the command keeps its programs
        ask = lambda: subprocess.run(  # noqa: E731
            [*command, "--model", path], check=True, stdout=subprocess.DEVNULL, env=around
        )
        for programs, times, aim in (("none yet", 1, 40.0), ("kept", starts, 10.0)):
            seconds = [harness.timed(ask)[1] for _ in range(times)]
            yield {"part": "answer", "programs": programs, "seconds": float(np.median(seconds)), "aim": aim}


def remembered(path: str) -> harness.Row:
    """Peak memory of this process while it tunes, above what the loaded model takes, and the estimate. Linux only."""
    import bench.tuning as sides

    model = nv.load_model(path, dtype="float32")
    problem = sides.problem_of(model.params, model.config, 1)
    work = sides.ours(model.params, model.config, problem)
    PEAK.write_text("5")  # from here on the peak counts anew: reading the file takes more than what stays of it
    before = _peak_gb()
    work()
    peak = _peak_gb() - before
    told = sides.PROMPTS * room.gradient(model.config, sides.WIDTH, sides.LABELS).kept / 1e9
    return {"part": "memory", "loaded_gb": before, "tuning_gb": peak, "estimate_gb": told, "off_by": told / peak - 1,
            "aim": 0.15}  # fmt: skip


def _peak_gb() -> float:
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e9


def measure(args) -> Iterator[harness.Row]:
    if "tuning" in args.parts:
        yield from tuned(args.model, args.rounds, args.alone)
    if "answer" in args.parts:
        yield from answered(args.model, args.starts)
    if "memory" in args.parts:
        yield harness.alone(remembered, args.model)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("model", help="a .gguf file")
    parser.add_argument("--parts", nargs="+", default=["tuning", "answer", "memory"],
                        choices=["tuning", "answer", "memory"])  # fmt: skip
    parser.add_argument("--rounds", type=harness.whole, default=ROUNDS, help="turns of both sides")
    parser.add_argument("--alone", type=harness.whole, default=5, help="OVTs that PEFT tunes one by one")
    parser.add_argument("--starts", type=harness.whole, default=3, help="of `ask`; the median counts")
    harness.run(parser, measure, quick={"rounds": 1, "alone": 1, "starts": 1})


if __name__ == "__main__":
    main()

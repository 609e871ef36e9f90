"""A model as people have it, in a GGUF file: tuning against PEFT, time to a first answer, memory against the estimate,
and the answers of the model alone beside those that transformers gives.

    python -m bench.real SmolLM2-135M-Instruct.Q4_1.gguf
    python -m bench.real SmolLM2-135M-Instruct.Q4_1.gguf --parts answer memory
    python -m bench.real SmolLM2-135M-Instruct.Q4_1.gguf --parts base --data LaMP_5_acl --users 8

"tuning": 25 OVTs on samples of 64 tokens as in `bench.tuning`, against PEFT one by one, in float32, the losses of the
last step beside; PEFT tunes --alone of them, and its seconds are scaled to all. "answer": seconds of whole processes of
`nvcim ask`, with an empty cache of compiled programs and with a full one. "memory": what tuning 25 OVTs takes above
the model, and what `llm.room` says it takes. "base": LaMP-5 questions of --users people (of the toy world without
--data), put in the model's chat template and answered greedily. Run it on quiet cores; "tuning" and "base" need the
extra `bench`.
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
    each = room.gradient(model.config, sides.WIDTH, sides.LABELS).kept
    told = (sides.PROMPTS * each + room.compiling(model.config)) / 1e9
    return {"part": "memory", "loaded_gb": before, "tuning_gb": peak, "estimate_gb": told, "off_by": told / peak - 1,
            "aim": 0.15}  # fmt: skip


def alone(path: str, data: Path | None, users: int) -> Iterator[harness.Row]:
    """ROUGE-1 of the model without virtual tokens on both sides, and how many answers are the same to the letter."""
    import bench.tuning as sides
    from nvcim_jax.data.users import with_history
    from nvcim_jax.evaluation.metrics import rouge1
    from nvcim_jax.pipeline.answer import answer_room, generate

    people = nv.toy_users("LaMP-5", users) if data is None else with_history(nv.read_lamp(data, "LaMP-5"))[:users]
    queries = [user.queries[0] for user in people]
    model = nv.load_model(path, dtype="float32")
    room = answer_room(model, people)
    ours = generate(model, queries, new_tokens=room, wording=nv.RECOMMENDED.wording)
    where = {"pretrained_model_name_or_path": Path(path).parent, "gguf_file": Path(path).name}
    peer = sides.transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=sides.torch.float32).eval()
    words = sides.transformers.AutoTokenizer.from_pretrained(**where)

    def answered(question: str) -> str:
        ids = words.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        told = peer.generate(ids, max_new_tokens=room, do_sample=False, eos_token_id=list(model.ends), pad_token_id=0)
        return words.decode(told[0, ids.shape[1] :], skip_special_tokens=True).strip()

    theirs = [answered(query.question) for query in queries]
    same = float(np.mean([one.strip() == other for one, other in zip(ours, theirs, strict=True)]))
    for side, answers in ((sides.OURS, ours), ("transformers", theirs)):
        score = np.mean([rouge1(told, query.answer) for told, query in zip(answers, queries, strict=True)])
        yield {"part": "base", "side": side, "questions": len(queries), "rouge1": float(score), "same": same}


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
    if "base" in args.parts:
        yield from alone(args.model, args.data, args.users)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("model", help="a .gguf file")
    parts = ["tuning", "answer", "memory", "base"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts)
    parser.add_argument("--rounds", type=harness.whole, default=ROUNDS, help="turns of both sides")
    parser.add_argument("--alone", type=harness.whole, default=5, help="OVTs that PEFT tunes one by one")
    parser.add_argument("--starts", type=harness.whole, default=3, help="of `ask`; the median counts")
    parser.add_argument("--data", type=Path, help="a LaMP-5 folder, for base; the toy world without")
    parser.add_argument("--users", type=harness.whole, default=4, help="of whom base asks one question each")
    harness.run(parser, measure, quick={"rounds": 1, "alone": 1, "starts": 1})


if __name__ == "__main__":
    main()

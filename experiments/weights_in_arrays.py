"""OVTs in arrays against OVTs and the model's own matrices in arrays.

    python experiments/weights_in_arrays.py --users 12 --out out/weights

Held-out embedded users (numbers from 4,000,000 on). For each sigma the matrices of all layers go through the cells of a
device once (`nv.disturb`, by value), and the OVTs are learned on, and answered by, the model as it then is. Means over
users with half of their 95 % interval.
"""

import argparse
from pathlib import Path

import jax

from nvcim_jax import files, llm
from nvcim_jax.cli import EMBEDDED
from nvcim_jax.data.users import toy_users
from nvcim_jax.evaluation import ladder, methods
from nvcim_jax.evaluation.statistics import interval
from nvcim_jax.hardware.catalogue import device
from nvcim_jax.hardware.disturb import disturb
from nvcim_jax.provenance import provenance

FIRST = 4_000_000  # number of the first user
MATRICES = "^blocks_.*weight$"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--task", default="LaMP-2")
    parser.add_argument("--device", default="NVM-3")
    parser.add_argument("--sigma", type=float, nargs="*", default=[0.01, 0.02, 0.05, 0.1])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    model, users = llm.load(EMBEDDED), toy_users(args.task, args.users, first=FIRST)
    whole = methods.whole("recommended")
    rows = [row for row in methods.rows() if row.label in (methods.BASE, whole)]
    weights_key, key = jax.random.split(jax.random.key(args.seed))
    lines, kept = ["| sigma | what lies in arrays | base model | with OVTs |", "|---|---|---|---|"], []
    for sigma in args.sigma:
        noisy = disturb(weights_key, model.params, device(args.device), sigma=sigma, where=MATRICES)
        for what, params in (("OVTs", model.params), ("OVTs and the model's matrices", noisy)):
            cell = methods.Cell(args.device, sigma)
            found = ladder.ladder(key, model._replace(params=params), users, [cell], draws=args.draws, rows=rows)
            scores = [interval(found.scores[cell][label].scores) for label in (methods.BASE, whole)]
            lines.append(f"| {sigma:g} | {what} | " + " | ".join(f"{s.mean:.2f}±{s.half:.2f}" for s in scores) + " |")
            kept.append({"sigma": sigma, "what": what, "base": scores[0]._asdict(), "ovts": scores[1]._asdict()})
            print(lines[-1], flush=True)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        files.write_text(args.out / "table.md", "\n".join(lines) + "\n")
        files.write_json(args.out / "results.json", {"rows": kept, "provenance": provenance()})


if __name__ == "__main__":
    main()

"""Draws a second of cells that are written, age and are read: 25 OVTs, here and in CrossSim and aihwkit.

    python -m bench.hardware [--ovts 25] [--draws 200] [--json out/hardware.json]

A draw is every cell of 25 OVTs of 16 x 48 values, eight 2-bit cells each: written by PCM-Joshi, a day old, read once.
The others draw as many cells of a matrix, by their own model of the same paper: CrossSim writes them (its model knows
no time), aihwkit writes, drifts and reads. What is not installed is said. Everything is warmed up and blocked on; the
best of five.
"""

from functools import partial

import jax
import numpy as np

from bench import harness
from bench.harness import SEED, best
from nvcim_jax.hardware import catalogue, crossbar
from nvcim_jax.memory import monte_carlo

DAY = 86400.0


def ours(ovts: int, draws: int) -> dict[str, float]:
    """Draws a second of this library, one program for all of them."""
    codes = jax.random.randint(jax.random.key(SEED), (ovts, 16, 48), -32767, 32768)

    def trial(key, codes, device):
        one = partial(crossbar.write_cells, device=device, sigma=1.0, seconds=DAY)
        return jax.vmap(one)(jax.random.split(key, ovts), codes).sum()

    arguments = (codes, catalogue.device("PCM-Joshi"))
    draw = partial(monte_carlo.monte_carlo, jax.random.key(SEED + 1), trial, arguments)
    seconds = best(lambda: list(draw(draws=draws))) / draws
    return {"cells": codes.size * 8, "draws_per_second": 1 / seconds}


def crosssim(cells: int) -> dict[str, float | str]:
    """CrossSim's PCM, written."""
    try:
        from simulator import AnalogCore, CrossSimParameters
        from simulator.devices.device import PCMJoshi
    except ImportError:
        return {"CrossSim": "not installed: skipped"}
    AnalogCore(np.eye(2), params=CrossSimParameters())  # its first core chooses NumPy for its devices, too
    own = CrossSimParameters().xbar.device
    own.Rmin, own.Rmax = 1e6 / 25, 1e6 / 0.25
    made = PCMJoshi(own, own.programming_error)
    target = np.random.default_rng(SEED).uniform(0.01, 1, (cells // 48, 48))
    return {"draws_per_second": 1 / best(lambda: made.programming_error(target.copy()))}


def aihwkit(cells: int) -> dict[str, float | str]:
    """aihwkit's PCM: written, drifted for a day, read."""
    try:
        import torch
        from aihwkit.inference.noise.pcm import PCMLikeNoiseModel
    except ImportError:
        return {"aihwkit": "not installed: skipped"}
    model, target = PCMLikeNoiseModel(g_max=25.0), 25 * torch.rand(cells // 48, 48)

    def draw():
        written = model.apply_programming_noise_to_conductance(target)
        return model.apply_drift_noise_to_conductance(written, model.generate_drift_coefficients(target), DAY)

    return {"draws_per_second": 1 / best(draw), "torch_threads": torch.get_num_threads()}


def measure(args):
    found = ours(args.ovts, args.draws)
    yield {"what": "here", **found}
    for name, theirs in (("CrossSim", crosssim), ("aihwkit", aihwkit)):
        row = theirs(int(found["cells"]))
        speed = row.get("draws_per_second")
        yield {
            "what": name,
            **row,
            **({"times": found["draws_per_second"] / speed} if isinstance(speed, float) else {}),
        }


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--ovts", type=harness.whole, default=25)
    parser.add_argument("--draws", type=harness.whole, default=200)
    harness.run(parser, measure, quick={"ovts": 2, "draws": 3})


if __name__ == "__main__":
    main()

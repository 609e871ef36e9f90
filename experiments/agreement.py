"""The same cells and products through this library and through the established simulators, each where it is installed.

    python experiments/agreement.py --out out/agreement

CrossSim and CAMASim are read from where Python finds them (`pip install` of their source, or PYTHONPATH at a checkout),
aihwkit from its wheel; what is absent is left out and said. Writes agreement.md and agreement.json.
"""

import argparse
import importlib.util
import random
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nvcim_jax import files
from nvcim_jax.core.quantise import Layout
from nvcim_jax.hardware import ageing, catalogue, cells, crossbar
from nvcim_jax.hardware.devices import Device
from nvcim_jax.memory import cam

CELLS = 10_000  # of each level
DAY = 86400.0
MOST_WAN = 39.26  # uS that CrossSim's Wan takes
PAIR = Layout(bits=3, cell_bits=2, sign="pair")


class Row(NamedTuple):
    """One quantity by both, one number for each level or case; and the standard error of either."""

    what: str
    unit: str
    ours: np.ndarray
    theirs: np.ndarray
    error: np.ndarray

    @property
    def apart(self) -> float:
        """The largest difference in standard errors of a difference."""
        return float(np.max(np.abs(self.ours - self.theirs) / np.maximum(self.error, 1e-12)))


def is_there(module: str) -> bool:
    """Whether a simulator can be imported."""
    return importlib.util.find_spec(module) is not None


def drawn_here(key: jax.Array, name: str, seconds: float | None = None) -> np.ndarray:
    """Conductances in uS of cells of every level of a published device: [levels, cells]."""
    device = catalogue.device(name)
    write, life, read = jax.random.split(key, 3)
    levels = jnp.repeat(jnp.arange(4), CELLS).reshape(1, 4, CELLS)
    held = cells.program(write, levels, device, sigma=1.0)
    flicker = None
    if seconds is not None:
        old = ageing.age(held, device, seconds=seconds, life=life)
        held, flicker = old, ageing.flicker(held, old, device, seconds=seconds)
        held = cells.sense(read, held, device._replace(read_noise=None), flicker=flicker)
    off, on = np.asarray(device.conductance_us)
    return off + np.asarray(held)[0] / 3 * (on - off)


def rows_of(what: str, ours: np.ndarray, theirs: np.ndarray) -> list[Row]:
    """Means and deviations of both by level."""
    std = np.hypot(ours.std(1), theirs.std(1)) / CELLS**0.5
    mean = Row(f"{what}: mean", "uS", ours.mean(1), theirs.mean(1), std)
    return [mean, Row(f"{what}: deviation", "uS", ours.std(1), theirs.std(1), std / 2**0.5)]


def crosssim(key: jax.Array) -> list[Row]:
    """CrossSim's own devices, and a product in differential pairs."""
    from simulator import AnalogCore, CrossSimParameters  # pyright: ignore[reportMissingImports]

    AnalogCore(np.eye(2), params=CrossSimParameters())  # its first core chooses NumPy for its devices, too
    found = []
    for at, (name, model) in enumerate(
        (("RRAM-Milo", "RRAMMilo"), ("RRAM-Wan", "RRAMWan"), ("PCM-Joshi", "PCMJoshi"), ("SONOS-Agrawal", "SONOS"))
    ):
        own = jax.random.fold_in(key, at)
        found += rows_of(f"{name} written", drawn_here(own, name), _crosssim_cells(name, model))
    for days in (1, 3, 5):
        ours = drawn_here(jax.random.fold_in(key, 10 + days), "SONOS-Agrawal", days * DAY)
        found += rows_of(f"SONOS-Agrawal after {days} d", ours, _crosssim_cells("SONOS-Agrawal", "SONOS", days))
    return [*found, *_crosssim_product(jax.random.fold_in(key, 20))]


def _crosssim_cells(name: str, model: str, days: float = 0) -> np.ndarray:
    from simulator import CrossSimParameters  # pyright: ignore[reportMissingImports]
    from simulator.devices import device as theirs  # pyright: ignore[reportMissingImports]

    sheet = catalogue.sheet(name)
    off, on = max(float(sheet.off_us or 0), 1e-6), float(sheet.on_us or 0)
    on = min(on, MOST_WAN) if model == "RRAMWan" else on
    own = CrossSimParameters().xbar.device
    own.Rmin, own.Rmax = 1e6 / on, 1e6 / off
    made = getattr(theirs, model)(own, own.programming_error)
    low = off / on
    target = np.repeat(low + np.arange(4)[:, None] / 3 * (1 - low), CELLS, axis=1)
    out = made.drift_error(target, days) if days else made.programming_error(target)
    return np.asarray(out) * on


def _crosssim_product(key: jax.Array) -> list[Row]:
    """The same row of weights from -3 to 3 many times over, on cells that deviate by 2 % of their range."""
    from simulator import AnalogCore, CrossSimParameters  # pyright: ignore[reportMissingImports]

    drawn, copies, sigma = np.random.default_rng(0), 4000, 0.02
    weights, asked = drawn.integers(-3, 4, 48), drawn.integers(0, 2, 48)
    weights[0] = 3  # the full range is used
    many = np.tile(weights, (copies, 1))
    own = CrossSimParameters()
    own.xbar.device.Rmin, own.xbar.device.Rmax = 1e3, 1e4  # at an off-conductance of zero noise would be cut off there
    ideal = np.asarray(AnalogCore(many[:4].astype(float), params=own) @ asked.astype(float))
    own.xbar.device.programming_error.enable = True
    own.xbar.device.programming_error.model = "NormalIndependentDevice"
    own.xbar.device.programming_error.magnitude = 0.9 * sigma  # a share of the highest conductance
    theirs = np.asarray(AnalogCore(many.astype(float), params=own) @ asked.astype(float))
    even, write, read = Device(jnp.ones(4)), *jax.random.split(key)
    clean = crossbar.program(write, jnp.asarray(many[:4]), even, sigma=0.0, layout=PAIR)
    noisy = crossbar.program(write, jnp.asarray(many), even, sigma=sigma, layout=PAIR)
    how = {"layout": PAIR, "input_bits": 2}
    exact = np.asarray(crossbar.multiply(read, jnp.asarray(asked), clean, even, **how))
    ours = np.asarray(crossbar.multiply(read, jnp.asarray(asked), noisy, even, **how))
    each = np.array([np.hypot(ours.std(), theirs.std()) / copies**0.5])
    return [
        Row("a product of 48, ideal", "", exact[:1], ideal[:1], np.array([1e-4])),
        Row("the product, cells off by 2 %: mean", "", ours.mean(keepdims=True), theirs.mean(keepdims=True), each),
        Row("the product: deviation", "", ours.std(keepdims=True), theirs.std(keepdims=True), each / 2**0.5),
    ]


def aihwkit(key: jax.Array) -> list[Row]:
    """aihwkit's PCM after writing and with time, and its Wan RRAM."""
    import torch  # pyright: ignore[reportMissingImports]
    from aihwkit.inference.noise.pcm import PCMLikeNoiseModel  # pyright: ignore[reportMissingImports]
    from aihwkit.inference.noise.reram import ReRamWan2022NoiseModel  # pyright: ignore[reportMissingImports]

    found = []
    torch.manual_seed(0)
    pcm, wan = PCMLikeNoiseModel(g_max=25.0), ReRamWan2022NoiseModel(g_max=40.0)
    target = torch.tensor(np.repeat(0.25 + np.arange(4)[:, None] / 3 * 24.75, CELLS, 1), dtype=torch.float32)
    written = pcm.apply_programming_noise_to_conductance(target)
    found += rows_of("PCM-Joshi written", drawn_here(key, "PCM-Joshi"), written.numpy())
    for seconds in (3600.0, DAY):
        nu = pcm.generate_drift_coefficients(target)
        theirs = pcm.apply_drift_noise_to_conductance(written, nu, seconds - 20).numpy()
        ours = drawn_here(jax.random.fold_in(key, int(seconds)), "PCM-Joshi", seconds)
        found += rows_of(f"PCM-Joshi after {seconds:g} s", ours, theirs)
    target = torch.tensor(np.repeat(1.0 + np.arange(4)[:, None] * 13, CELLS, 1), dtype=torch.float32)
    for seconds in (1.0, DAY, 2 * DAY):
        theirs = wan.apply_drift_noise_to_conductance(target, target, seconds).numpy()
        ours = drawn_here(jax.random.fold_in(key, int(seconds) + 1), "RRAM-Wan", seconds)
        found += rows_of(f"RRAM-Wan after {seconds:g} s", ours, theirs)
    return found


def camasim(key: jax.Array) -> list[Row]:
    """CAMASim's distances, and the rows that its sense amplifier takes; of rows that are alike each as often."""
    from CAMASim.function.module.distance import euclidean_pairwise  # pyright: ignore[reportMissingImports]
    from CAMASim.function.module.sensing import (  # pyright: ignore[reportMissingImports]
        get_array_best_results_sensing as sense,
    )

    times, drawn = 20_000, np.random.default_rng(0)
    random.seed(0)
    stored, asked = drawn.integers(0, 4, (8, 16)).astype(float), drawn.integers(0, 4, (3, 16)).astype(float)
    theirs = euclidean_pairwise(stored, asked)
    ours = np.stack([np.asarray(cam.cam_distance(jnp.asarray(each), jnp.asarray(stored), most=3.0)) for each in asked])
    found = [Row("distances of 8 rows, 3 questions", "levels", ours.ravel() ** 0.5, theirs.ravel(), np.full(24, 1e-5))]
    for limit in (0.3, 1.0):
        own = jnp.asarray(-theirs[0])
        taken = jax.vmap(lambda key, own=own, limit=limit: cam.sensed(key, own, limit))(jax.random.split(key, times))
        here = np.bincount(np.asarray(taken), minlength=8) / times
        there = np.bincount(sense(np.tile(theirs[:1], (times, 1)), limit)[0][:, 0], minlength=8) / times
        error = np.sqrt(2 * np.maximum(here * (1 - here), 1 / times) / times)
        found.append(Row(f"rows taken at a limit of {limit:g}", "share", here, there, error))
    return found


SIMULATORS: dict[str, tuple[str, Callable[[jax.Array], list[Row]]]] = {
    "CrossSim": ("simulator", crosssim),
    "aihwkit": ("aihwkit", aihwkit),
    "CAMASim": ("CAMASim", camasim),
}


def version_of(name: str) -> str:
    """The version that is installed; a checkout has none that Python knows."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "from source"


def table(rows: list[Row]) -> str:
    """Markdown: both sides, level by level, and how far apart they are."""
    lines = ["| quantity | unit | here | there | apart, in standard errors |", "|---|---|---|---|---|"]
    for row in rows:
        here, there = (", ".join(f"{value:.4g}" for value in side) for side in (row.ours, row.theirs))
        lines.append(f"| {row.what} | {row.unit} | {here} | {there} | {row.apart:.1f} |")
    return "\n".join(lines)


def _as_json(row: Row) -> dict[str, Any]:
    sides = {"here": row.ours.tolist(), "there": row.theirs.tolist(), "standard_error": row.error.tolist()}
    return {"what": row.what, "unit": row.unit, **sides}


def measure() -> dict[str, list[Row]]:
    """Every simulator that is here."""
    return {
        name: run(jax.random.fold_in(jax.random.key(0), at))
        for at, (name, (module, run)) in enumerate(SIMULATORS.items())
        if is_there(module)
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=None)
    out = parser.parse_args().out
    found: dict[str, Any] = measure()
    text = "\n\n".join(f"## {name} ({version_of(name)})\n\n{table(rows)}" for name, rows in found.items())
    print(text or "no simulator is installed here: nothing to compare with")
    if out and found:
        out.mkdir(parents=True, exist_ok=True)
        (out / "agreement.md").write_text(text + "\n", encoding="utf-8")
        plain = {name: [_as_json(row) for row in rows] for name, rows in found.items()}
        files.write_json(out / "agreement.json", plain)


if __name__ == "__main__":
    main()

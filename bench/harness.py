"""What all benchmarks share: options, the machine, timing, rows printed as they are done, figures as JSON.

A benchmark is a function of its options that yields one row, a dict, for each thing that it has measured. `run` prints
every row at once, and keeps all of them in the file that `--json` names.
"""

import argparse
import importlib
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nvcim_jax import files
from nvcim_jax.provenance import provenance

SEED = 0  # of all that is random
QUIET = 0.8  # cores that are idle for a smaller share are called busy
TICKS = Path("/proc/stat")
WIDEST = 160  # columns of a row; a wider one is printed as lines
SILENCE = 30.0  # seconds, after which a line says that work goes on

Row = dict[str, Any]


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(
        prog=f"python -m bench.{Path(sys.argv[0]).stem}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--json", type=Path, help="write the figures here, too")
    made.add_argument("--quick", action="store_true", help="small sizes: whether it runs; its figures mean nothing")
    return made


def whole(text: str) -> int:
    """An option that is a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def peers(*names: str) -> list[ModuleType]:
    """The libraries to compare with. PyTorch gets all cores. Ends the program in one sentence where one is missing."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        found = {name: importlib.import_module(name) for name in names}
    except ImportError as error:
        sys.exit(f"error: {error.name} is missing, which this benchmark compares with: install the extra `bench`")
    if "torch" in found:
        found["torch"].set_num_threads(len(cores()))
    if "transformers" in found:
        found["transformers"].utils.logging.disable_progress_bar()
    return list(found.values())


def run(
    parser: argparse.ArgumentParser,
    measure: Callable[[argparse.Namespace], Iterator[Row]],
    *,
    quick: dict[str, Any],
    peers: Iterable[ModuleType] = (),
) -> None:
    """Say what the machine is, then print every row as it is measured, and write all so far to `--json`.

    `quick` are the defaults under `--quick`; what the command line says goes before them.
    """
    args = parser.parse_args()
    if args.quick:
        parser.set_defaults(**quick)
        args = parser.parse_args()
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    made = provenance()
    versions = made["versions"] | {module.__name__: module.__version__ for module in peers}
    about = made | {"versions": versions, "settings": settings, "seed": SEED, "machine": machine()}
    rows, columns = [], None
    try:
        keep(args.json, about, rows)
        announce(about["machine"], versions)
        for row in measure(args):
            rows.append(row)
            keep(args.json, about, rows)
            columns = show(row, columns)
    except OSError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"stopped after {len(rows)} rows")


def keep(path: Path | None, about: dict[str, Any], rows: list[Row]) -> None:
    """Write the rows that there are. Raises OSError."""
    if path:
        files.write_json(path, about | {"rows": rows})


def machine() -> dict[str, Any]:
    """What the figures are measured on."""
    return {"device": jax.devices()[0].device_kind, "cores": len(cores()), "idle": idle_share()}


def announce(machine: dict[str, Any], versions: dict[str, str | None]) -> None:
    """The machine, the versions, and a warning where others are at work."""
    idle = machine["idle"]
    said = "this system does not say how idle they are" if idle is None else f"{idle:.0%} idle"
    print(f"{machine['device']}, cores: {machine['cores']}, {said}")
    print(", ".join(f"{name} {version}" for name, version in versions.items()), flush=True)
    if idle is not None and idle < QUIET:
        print("WARNING: others use these cores. All is slow, and PyTorch suffers more than JAX: the ratios flatter us.",
              flush=True)  # fmt: skip


def cores() -> set[int]:
    """The cores that this process may use."""
    known = getattr(os, "sched_getaffinity", None)
    return known(0) if known else set(range(os.cpu_count() or 1))


def idle_share(seconds: float = 0.5) -> float | None:
    """Share of the next `seconds` for which the cores of this process are idle; None where the system does not say."""
    if not TICKS.is_file():
        return None
    before = ticks(TICKS.read_text(), cores())
    time.sleep(seconds)
    idle, spent = ticks(TICKS.read_text(), cores()) - before
    return float(idle / spent) if spent else None


def ticks(stat: str, cores: set[int]) -> np.ndarray:
    """Ticks since the start in which these cores were idle or waited for a disk, and all of them: [2]."""
    names = {f"cpu{core}" for core in cores}
    rows = (line.split() for line in stat.splitlines())
    spent = np.array([row[1:9] for row in rows if row and row[0] in names]).astype(int)
    return np.array([spent[:, 3:5].sum(), spent.sum()])


def show(row: Row, columns: list[str] | None) -> list[str]:
    """Print a row, under a head if its columns are not those of the last row; gives its columns.

    What is neither a number nor a text, such as a curve, goes to the JSON only.
    """
    shown = {
        name.replace("_", " "): value for name, value in row.items() if isinstance(value, int | float | str | None)
    }
    widths = [-max(len(name), 20) if isinstance(value, str) else max(len(name), 9) for name, value in shown.items()]
    values = [cell(value) for value in shown.values()]
    if sum(abs(width) + 1 for width in widths) > WIDEST:
        print("\n".join(f"{name:36} {value}" for name, value in zip(shown, values, strict=True)), flush=True)
        return []
    lines = [values] if list(shown) == columns else [list(shown), values]
    for line in lines:
        cells = (
            each.ljust(-width) if width < 0 else each.rjust(width) for each, width in zip(line, widths, strict=True)
        )
        print(" ".join(cells).rstrip(), flush=True)
    return list(shown)


def cell(value: float | str | None) -> str:
    """A figure in four digits, a count or text as it is, a dash for none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` gives, waited for, and its seconds."""
    start = time.perf_counter()
    given = jax.block_until_ready(work())
    return given, time.perf_counter() - start


def turns(
    sides: dict[str, Callable[[], Any]], *, rounds: int = 5, seconds: float = 0.0, steady: float = 0.0
) -> dict[str, np.ndarray]:
    """Seconds of every side [rounds], warmed up, waited for, and taken in turn, so that a slow while meets them all.

    There are `rounds` turns at least, and more until `seconds` are over. A turn of `steady` seconds is the mean of runs
    in a row behind one that does not count: after another side's turn the first finds caches and threads cold.
    """
    for work in sides.values():
        timed(work)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    began = said = time.perf_counter()
    done = 0
    while done < rounds or time.perf_counter() - began < seconds:
        for name, work in sides.items():
            taken[name].append(_turn(work, steady))
            if time.perf_counter() - said > SILENCE:
                said = time.perf_counter()
                print(f"... {said - began:.0f} s, in round {done + 1} of {rounds}", flush=True)
        done += 1
    return {name: np.array(each) for name, each in taken.items()}


def _turn(work: Callable[[], Any], steady: float) -> float:
    if steady:
        timed(work)
    runs, spent = 0, 0.0
    while not runs or spent < steady:
        spent += timed(work)[1]
        runs += 1
    return spent / runs


def best(work: Callable[[], Any], rounds: int = 5) -> float:
    """Seconds of the fastest of `rounds` runs after one that compiles."""
    return float(min(turns({"": work}, rounds=rounds)[""]))


def alone(work: Callable[..., Row], *args: Any) -> Row:
    """What `work(*args)` gives in a process of its own, whose peak memory is that of the work."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(work, *args).result()
        except BrokenProcessPool:
            return {"ended": "its process was killed, most likely for want of memory"}


def peak_gb() -> float:
    """The most memory that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def matmul_rate(size: int = 2048) -> float:
    """Measured float32 operations per second of one large product."""
    a = jax.random.normal(jax.random.key(SEED), (size, size))
    multiply = jax.jit(jnp.matmul)
    return 2 * size**3 / best(lambda: multiply(a, a), 8)


def read_rate(gigabytes: float = 1.0) -> float:
    """Measured bytes read per second while summing an array much larger than the caches."""
    large, total = jnp.ones(int(gigabytes * 2**28), jnp.float32), jax.jit(jnp.sum)
    return large.nbytes / best(lambda: total(large), 8)

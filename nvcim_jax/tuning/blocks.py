"""Train any number of rows: in blocks of similar length, with progress told, and kept on disk so that it can go on."""

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event, Lock
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from nvcim_jax import files
from nvcim_jax.data.text import bucket
from nvcim_jax.description import described
from nvcim_jax.hardware.devices import Condition
from nvcim_jax.llm import room
from nvcim_jax.llm.config import Config, Packed, Rope
from nvcim_jax.llm.decoder import NOWHERE
from nvcim_jax.llm.layers import precision
from nvcim_jax.tuning import train
from nvcim_jax.tuning.dept import Dept
from nvcim_jax.tuning.ia3 import Ia3
from nvcim_jax.tuning.lora import Lora
from nvcim_jax.tuning.method import Method
from nvcim_jax.tuning.prefix import Prefix
from nvcim_jax.tuning.prompt import CodePrompt, Prompt
from nvcim_jax.tuning.train import Job, State, Training, Tuned

NAMES = {  # on disk
    Config: "decoder", Rope: "rope", Packed: "gptq", Training: "training", Prompt: "prompt", CodePrompt: "code prompt",
    Dept: "dept", Prefix: "prefix", Lora: "lora", Ia3: "ia3",
}  # fmt: skip
FILE = re.compile(r"rows-\d{7}\.safetensors")
ANEW = "give another folder, or remove it to start anew"
FIRST = "first"  # the folder in the folder, of what was trained before, to start from
SIDE_BY_SIDE = 1e11  # operations of a step, from which blocks train side by side
KEEP_EVERY = 20.0  # seconds between two writes of an unfinished block


class Progress(NamedTuple):
    """What was done since the last report."""

    row_steps: int  # steps, counted for every row
    tokens: int  # that went through the model
    loss: float  # mean of the rows' latest


def run(
    params: PyTree,
    job: Job,
    condition: Condition,
    *,
    config: Config,
    method: Method,
    training: Training,
    folder: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Tuned:
    """`train.tune` for any number of rows, on the host: `training.rows` at once, those of similar length together.

    On a CPU the rows of a large model are two blocks that train side by side, `training.rows` being those of both: what
    one does on a single core hides behind the other (8 % faster on two). With a `folder`, what is finished is kept
    there every few seconds, and a run that was interrupted or killed goes on from it, bit by bit as if nothing had
    happened. ValueError if the folder holds what another job kept.
    """
    count = job.keys.shape[0]
    job = job._replace(
        **{name: jax.tree.map(np.asarray, part) for name, part in job._asdict().items() if name != "keys"}
    )
    order = np.argsort(_lengths(job), kind="stable")
    lanes = _lanes(params, job, training)
    block = room.block(count, max(training.rows // lanes, 1))
    condition = condition._replace(sigma=jnp.float32(condition.sigma))
    program = partial(train.advance, config=config, method=method, training=training)
    if folder is not None:
        prepare(folder, {name_of(first) for first in range(0, count, block)})
    lock, stop = Lock(), Event()

    def told(progress: Progress) -> None:
        with lock:
            report(progress)

    def trained(first: int):
        chosen = order[first : first + block]
        # A short last block repeats its rows, where another program would cost more than computing them.
        part = _trimmed(_rows(job, np.resize(chosen, block) if lanes == 1 else chosen))
        kept = None if folder is None else Kept(folder, first, _digest(params, part, condition, program.keywords))
        advance = partial(program, params, part, condition)
        tuned = _block(advance, part, training, kept, told, len(chosen), stop)
        return _rows((tuned.values, tuned.losses.T, tuned.broken), slice(len(chosen)))

    parts = _side_by_side(trained, range(0, count, block), lanes, stop)
    back = np.argsort(order)
    values, losses, broken = _rows(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), back)
    return jax.tree.map(jnp.asarray, Tuned(values, losses.T, broken))


def _lanes(params: PyTree, job: Job, training: Training) -> int:
    """How many blocks train side by side: two on a CPU, where a step takes long and there is memory for two rows."""
    rows, pool, width = job.batch.ids.shape
    tokens = rows * (training.per_step or pool) * training.draws * width
    operations = 4 * tokens * sum(leaf.size for leaf in jax.tree.leaves(params))
    is_large = jax.default_backend() == "cpu" and operations >= SIDE_BY_SIDE
    return 2 if is_large and min(rows, training.rows) > 1 else 1


def _side_by_side(train: Callable, firsts: Sequence[int], lanes: int, stop: Event) -> list:
    """`train` of each of `firsts`, in so many threads. What goes wrong in one of them stops the others."""
    if lanes == 1:
        return [train(first) for first in firsts]
    chosen = precision()  # which every thread has of its own

    def one(first: int):
        with jax.default_matmul_precision(chosen):
            return train(first)

    with ThreadPoolExecutor(lanes) as pool:
        running = [pool.submit(one, first) for first in firsts]
        try:
            return [each.result() for each in running]
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _block(
    advance: Callable[[State, int], State],
    job: Job,
    training: Training,
    kept: "Kept | None",
    report: Callable[[Progress], None],
    real: int,
    stop: Event,
) -> Tuned:
    """One block to its end, or until `stop`, told and kept in stretches of about a second; `real` rows of it count."""
    state = train.begin(job, training=training)
    if kept is not None:
        state = kept.read(state)
    at, stretch, written = int(state.step), 1, time.monotonic()
    front = jax.tree.leaves(job.start)[0].shape[1] if isinstance(job.start, np.ndarray) else 0
    each = (training.per_step or job.batch.ids.shape[1]) * training.draws * (job.batch.ids.shape[2] + front)
    if at:
        report(Progress(real * at, 0, _latest(state, at, real)))
    try:
        while at < training.steps and not bool(jnp.all(state.stopped)) and not stop.is_set():
            started = time.monotonic()
            state = advance(state, min(at + stretch, training.steps))
            done, at = int(state.step) - at, int(state.step)
            report(Progress(real * done, real * done * each, _latest(state, at, real)))
            if time.monotonic() - started < 0.5:
                stretch *= 2
            if kept is not None and time.monotonic() - written > KEEP_EVERY:
                kept.write(state)
                written = time.monotonic()
    except KeyboardInterrupt:
        if kept is not None:
            kept.write(state)
        raise
    if at < training.steps and not stop.is_set():
        report(Progress(real * (training.steps - at), 0, _latest(state, at, real)))
    if kept is not None:
        kept.write(state)
    return train.finish(state)


def discard(folder: Path) -> None:
    """Remove what `run` kept in `folder`, and the folder. Where there is none, nothing happens.

    Raises ValueError, with nothing removed, if `folder` is a link or holds anything that `run` did not write.
    """
    found = _own(folder)
    for path in found:
        path.unlink()
    inner = {folder, folder / FIRST, *(path.parent for path in found)}
    for each in sorted(inner, key=lambda path: len(path.parts), reverse=True):
        if each.is_dir():
            each.rmdir()


def prepare(folder: Path, names: set[str]) -> None:
    """Make `folder`, closed to others. ValueError if it holds anything but `names`, as an earlier run left them."""
    for path in _own(folder):
        if folder / FIRST not in path.parents and path.name not in names:
            raise ValueError(f"{folder} keeps another job: {ANEW}")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)


def name_of(first: int) -> str:
    """The file of the block that begins with row `first` in order of length."""
    return f"rows-{first:07d}.safetensors"


def _own(folder: Path) -> list[Path]:
    """The files that `run` wrote in `folder`, which need not exist. ValueError if there is anything else."""
    if not os.path.lexists(folder):
        return []
    if folder.is_symlink() or not folder.is_dir():
        raise ValueError(f"{folder} is no folder that tuning made: move it away")
    found = []
    for path in sorted(folder.iterdir()):
        if path.name == FIRST:
            found += _own(path)
            continue
        cut_off = path.name.startswith(files.PARTIAL) and path.is_dir() and not path.is_symlink()
        inside = sorted(path.iterdir()) if cut_off else [path]  # a killed run leaves a file that it was writing
        for each in inside:
            if not (FILE.fullmatch(each.name) and stat.S_ISREG(each.lstat().st_mode) and (cut_off or _is_kept(each))):
                raise ValueError(f"{folder} holds {path.name}, which tuning did not write: move it away")
        found += inside
    return found


@contextmanager
def _opened(path: Path):
    """A kept file. ValueError if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as tensors:
            yield tensors
    except (SafetensorError, TypeError, AttributeError) as error:  # the last two for types that NumPy does not have
        raise ValueError(f"{path} is damaged ({error}): remove it, and its rows are trained again") from error


def _is_kept(path: Path) -> bool:
    with _opened(path) as tensors:
        return _job_of(tensors) is not None


def _job_of(tensors) -> str | None:
    """The digest of the job that a kept file belongs to."""
    return (tensors.metadata() or {}).get("job")


class Kept:
    """The state of one block, a tree of arrays, in a file: complete or absent, and nobody else can read it."""

    def __init__(self, folder: Path, first: int, digest: str):
        self.path, self.digest = folder / name_of(first), digest

    def write(self, state: PyTree) -> None:
        from safetensors.numpy import save

        leaves = {str(at): np.asarray(leaf) for at, leaf in enumerate(jax.tree.leaves(state))}
        files.write_bytes(self.path, save(leaves, metadata={"job": self.digest}), private=True)

    def read(self, fresh: PyTree) -> PyTree:
        """What was kept of this job, else `fresh`, whose shapes it must have. ValueError for another job's."""
        if not self.path.exists():
            return fresh
        shape, leaves = jax.tree.structure(fresh), jax.tree.leaves(fresh)
        with _opened(self.path) as tensors:
            if _job_of(tensors) != self.digest:
                raise ValueError(f"{self.path.parent} keeps another job: {ANEW}")
            held = [tensors.get_tensor(str(at)) for at in range(len(leaves))]
        if [(leaf.shape, leaf.dtype) for leaf in held] != [(leaf.shape, leaf.dtype) for leaf in leaves]:
            raise ValueError(f"{self.path} holds arrays of other shapes: {ANEW}")
        return jax.tree.unflatten(shape, [jnp.asarray(leaf) for leaf in held])


def _rows(tree: PyTree, rows) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _lengths(job: Job) -> np.ndarray:
    """Tokens of the longest sample of every row."""
    return (np.asarray(job.batch.positions) != NOWHERE).sum(axis=2).max(axis=1)


def _trimmed(job: Job) -> Job:
    """The rows without the padding that only longer ones need; lengths in buckets share a program."""
    batch = job.batch
    width = min(bucket(int(_lengths(job).max())), batch.ids.shape[2])
    labels = min(bucket(int((batch.labels >= 0).sum(axis=2).max()), 4), batch.labels.shape[2])
    ids, positions = batch.ids[..., :width], batch.positions[..., :width]
    return job._replace(batch=batch._replace(
        ids=ids, positions=positions, labels=batch.labels[..., :labels], label_at=batch.label_at[..., :labels]
    ))  # fmt: skip


def _latest(state: State, at: int, real: int) -> float:
    losses = np.asarray(state.losses[max(at - 1, 0), :real])
    return float(np.nanmean(losses)) if np.isfinite(losses).any() else float("nan")


def _digest(params, job: Job, condition: Condition, fixed) -> str:
    """Of all that decides the outcome; of the weights, which are many, the shapes and the first values."""
    fixed = fixed | {"training": replace(fixed["training"], recompute=False)}  # which changes no bit
    settings = {"sigma": float(condition.sigma)} | {name: described(each, NAMES) for name, each in fixed.items()}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    leaves = [jax.random.key_data(job.keys), *jax.tree.leaves((job[1:], condition.device))]
    for leaf in (*leaves, *(part.reshape(-1)[:1024] for part in jax.tree.leaves(params))):
        leaf = np.asarray(leaf)
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data if leaf.ndim else leaf.tobytes())
    return digest.hexdigest()

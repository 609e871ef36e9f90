"""Train any number of rows: in blocks of similar length, with progress told, and kept on disk so that it can go on."""

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from nvcim_jax import files
from nvcim_jax.devices import Device
from nvcim_jax.llm.config import Config
from nvcim_jax.llm.decoder import NOWHERE
from nvcim_jax.text import bucket
from nvcim_jax.tuning import train
from nvcim_jax.tuning.method import Method
from nvcim_jax.tuning.train import Job, State, Training, Tuned

ROWS = 48  # of one compiled program
KEEP_EVERY = 20.0  # seconds between two writes of an unfinished block


class Progress(NamedTuple):
    """What was done since the last report."""

    row_steps: int  # steps, counted for every row
    tokens: int  # that went through the model
    loss: float  # mean of the rows' latest


def run(
    params: PyTree,
    job: Job,
    device: Device,
    sigma: float,
    *,
    config: Config,
    method: Method,
    training: Training,
    names: Sequence[str] | None = None,
    rows: int = ROWS,
    folder: Path | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Tuned:
    """`train.tune` for any number of rows, on the host: at most `rows` at once, those of similar length together.

    With a `folder`, what is finished is kept there every few seconds, and a run that was interrupted or killed goes on
    from it, bit by bit as if nothing had happened; another job's leavings are refused with ValueError. Rows whose loss
    is not finite stop there: a warning gives their `names`.
    """
    count = job.keys.shape[0]
    job = job._replace(
        **{name: jax.tree.map(np.asarray, part) for name, part in job._asdict().items() if name != "keys"}
    )
    order = np.argsort(_lengths(job), kind="stable")
    block = min(rows, bucket(count, 8))
    fixed = {"config": config, "method": method, "training": training}
    parts = []
    for first in range(0, count, block):
        chosen = order[first : first + block]
        part = _trimmed(_rows(job, np.resize(chosen, block)))  # a short last block repeats its rows
        kept = None if folder is None else _Kept(folder, first, _digest(params, part, device, sigma, fixed))
        tuned = _block(params, part, device, jnp.float32(sigma), fixed, kept, report, len(chosen))
        parts.append(_rows((tuned.values, tuned.losses.T, tuned.broken), slice(len(chosen))))
    back = np.argsort(order)
    values, losses, broken = _rows(jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts), back)
    if broken.any():
        told = [str(at) if names is None else names[at] for at in np.flatnonzero(broken)]
        warnings.warn(
            f"the loss of {len(told)} of {count} rows was not finite; they keep their last finite values: "
            f"{', '.join(told[:5])}{', ...' if len(told) > 5 else ''}. A smaller learning rate may help",
            stacklevel=2,
        )
    return jax.tree.map(jnp.asarray, Tuned(values, losses.T, broken))


def _block(params, job: Job, device, sigma, fixed, kept: "_Kept | None", report, real: int) -> Tuned:
    """One block to its end, told and kept in stretches of about a second; `real` rows of it count."""
    training: Training = fixed["training"]
    state = train.begin(job, training=training)
    if kept is not None:
        state = kept.read(state)
    at, stretch, written = int(state.step), 1, time.monotonic()
    front = jax.tree.leaves(job.start)[0].shape[1] if isinstance(job.start, np.ndarray) else 0
    each = (training.per_step or job.batch.ids.shape[1]) * training.draws * (job.batch.ids.shape[2] + front)
    if at:
        report(Progress(real * at, 0, _latest(state, at, real)))
    try:
        while at < training.steps and not bool(jnp.all(state.stopped)):
            started = time.monotonic()
            state = train.advance(params, job, device, sigma, state, min(at + stretch, training.steps), **fixed)
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
    if at < training.steps:
        report(Progress(real * (training.steps - at), 0, _latest(state, at, real)))
    if kept is not None:
        kept.write(state)
    return train.finish(state)


class _Kept:
    """The state of one block in a file, complete or absent."""

    def __init__(self, folder: Path, first: int, digest: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.digest = folder / f"rows-{first:07d}.safetensors", digest

    def write(self, state: State) -> None:
        from safetensors.numpy import save

        leaves = {str(at): np.asarray(leaf) for at, leaf in enumerate(jax.tree.leaves(state))}
        files.write_bytes(self.path, save(leaves, metadata={"job": self.digest}), private=True)

    def read(self, fresh: State) -> State:
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return fresh
        shape, leaves = jax.tree.structure(fresh), jax.tree.leaves(fresh)
        try:
            with safe_open(self.path, framework="np") as tensors:
                found = (tensors.metadata() or {}).get("job")
                held = [tensors.get_tensor(str(at)) for at in range(len(leaves))] if found == self.digest else None
        except SafetensorError as error:
            raise ValueError(f"{self.path} is damaged ({error}): remove it, and its rows are trained again") from error
        if held is None:
            raise ValueError(f"{self.path.parent} keeps another job: give another folder, or remove it to start anew")
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


def _digest(params, job: Job, device, sigma, fixed) -> str:
    """Of all that decides the outcome; of the weights, which are many, the shapes and the first values."""
    digest = hashlib.sha256(repr((sigma, sorted(fixed.items(), key=lambda each: each[0]))).encode())
    leaves = [jax.random.key_data(job.keys), *jax.tree.leaves((job[1:], device))]
    for leaf in (*leaves, *(part.reshape(-1)[:1024] for part in jax.tree.leaves(params))):
        leaf = np.asarray(leaf)
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).view(np.uint8).data if leaf.ndim else leaf.tobytes())
    return digest.hexdigest()

"""A life that goes on with a file of moments, quickly learned, for tests that kill it: `python -m tests.helpers.live_worker
FOLDER FILE` says "begun" and then "lived" after each line."""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

import nvcim_jax as nv
from nvcim_jax import tuning
from nvcim_jax.data import lamp, moments
from nvcim_jax.data.toy_stream import stream
from nvcim_jax.memory import bank
from nvcim_jax.memory.storage.folders import versions
from nvcim_jax.people import Sample
from nvcim_jax.pipeline import answer, life_store
from nvcim_jax.stream import lexicon

TASK = lamp.task("LaMP-2")
MOMENTS = stream(TASK, 2_000_000).moments
FAST = replace(nv.RECOMMENDED, training=tuning.Training(steps=0), tokens=8)
RULES = nv.Rules(slots=3, capacity=4, settings=FAST, victim=bank.least_used)


def opened(folder: Path, model) -> life_store.Kept:
    """The life in a folder; a new one where nothing is."""
    if versions(folder):
        return life_store.resume(folder, model, lexicon.toy(), settings=FAST)
    return life_store.create(folder, model, nv.begin_life(jax.random.key(0), model, TASK, rules=RULES))


def lived(folder: Path, file: Path, model, told=lambda: None) -> life_store.Kept:
    """The life after all lines of a file that are new."""
    kept = opened(folder, model)
    data, mark = moments.opened(file, moments.mark_of(kept.mark))
    for line in moments.lines(data, "moments", mark):
        asked = answer.question(TASK, line.pair.question)
        if line.pair.answer:
            sample = Sample(asked.question, line.pair.answer, asked.content, line.pair.domain)
            kept, _ = life_store.observe(model, kept, sample, time=line.pair.time or 0, mark=line.mark)
        else:
            kept, _ = life_store.reply(model, kept, asked, mark=line.mark)
        told()
    return kept


def bits(kept: life_store.Kept) -> list[np.ndarray]:
    """All arrays of a life: what its buffer and memory hold, and the counts."""
    life = kept.life
    parts = (life.buffer._replace(key=jax.random.key_data(life.buffer.key)), life.counts)
    parts += () if life.memory is None else (life.memory.bank, life.memory.codec)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(parts)]


if __name__ == "__main__":
    toy = nv.load_model("toy")
    print("begun", flush=True)
    lived(Path(sys.argv[1]), Path(sys.argv[2]), toy, told=lambda: print("lived", flush=True))

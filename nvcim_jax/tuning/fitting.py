"""How many rows and samples go through the model at once, and whether activations are kept.

Rows and samples follow from the sizes of model and samples alone, so that a memory has the same bits on every machine.
What a machine has decides whether activations are kept for backward or computed again, which changes no bit.
"""

from dataclasses import replace

from nvcim_jax.llm import room
from nvcim_jax.llm.config import Config
from nvcim_jax.tuning.train import Training


def fitted(
    training: Training, config: Config, *, pool: int, tokens: int, labels: int, memory: int | None = None
) -> Training:
    """`training` with rows and samples at once for rows of `pool` samples of `tokens`, virtual ones counted.

    `training.rows` stays the most. Activations are computed again in backward where they do not fit what the process
    may take (`room.of`). ValueError, with what is needed, if even that does not fit.
    """
    row = room.gradient(config, tokens, labels)
    per_step, each = training.per_step or pool, training.draws * row.kept
    most = training.at_once or per_step
    fits = room.rows(each, most)
    at_once = max(n for n in range(1, fits + 1) if per_step % n == 0)
    rows = room.rows(at_once * each, training.rows)
    samples = rows * at_once * training.draws
    left = room.require(samples * row.recomputed, memory, config, f"tuning on samples of {tokens} tokens")
    recompute = training.recompute or samples * row.kept > left
    return replace(
        training, rows=rows, at_once=at_once if at_once < per_step else training.at_once, recompute=recompute
    )

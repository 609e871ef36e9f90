"""The banks that `nvcim vary` asks: saved ones, or those that embedded users learn now."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nvcim_jax.cli.shared import announce

if TYPE_CHECKING:  # JAX takes its time
    from nvcim_jax.evaluation.retrieval import Case
    from nvcim_jax.llm.weights import Model
    from nvcim_jax.people import User
    from nvcim_jax.pipeline.presets import Settings

SECONDS_TO_LEARN = 0.2  # a user of the toy world, with the toy model on two cores
Read = Callable[["Model"], tuple[list["User"], "Case", str, "Settings"]]


def saved(bank: Path, preset: str | None, task: str | None, data: Path | None) -> Read:
    """What reads the case of a saved bank, given a model: users, case, what "right" means, settings."""
    from nvcim_jax.evaluation import cases

    if preset is not None or task is not None:
        raise ValueError("a saved bank has its own preset and task: leave out --preset and --task, or the bank")

    def read(model):
        block, learned, settings = cases.saved(bank, model, data)
        return block.users, *cases.case(model, block, learned, settings=settings), settings

    return read


def learned(preset: str | None, task: str | None, users: int, data: Path | None, seed: int, hours: float) -> Read:
    """As `saved`, of banks that are learned now."""
    import jax

    from nvcim_jax.data import lamp
    from nvcim_jax.evaluation import cases, main_job
    from nvcim_jax.pipeline import presets

    chosen = lamp.task("LaMP-2" if task is None else task)
    given = None if preset in (None, "recommended") else presets.preset(preset)
    if data is None:
        announce(users * SECONDS_TO_LEARN, hours, f"learning the banks of {users} users")

    def learn(model):
        people, settings = main_job.people(chosen, users, data).users, given or presets.recommended(model)
        block, learned = cases.embedded(jax.random.key(seed), model, people, settings=settings)
        return block.users, *cases.case(model, block, learned, settings=settings), settings

    return learn

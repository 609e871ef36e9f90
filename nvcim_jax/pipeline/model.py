"""The language models that a user names: the toy model that is part of the package, or a checkpoint."""

from pathlib import Path
from typing import Literal

from nvcim_jax import llm
from nvcim_jax.llm.weights import Model

TOY = Path(__file__).parents[1] / "data" / "toy" / "model"


def load_model(
    name: Path | str = "toy",
    *,
    dtype: str | None = None,
    dequantise: Literal["load", "lazy"] = "load",
    revision: str | None = None,
    memory: int | str | None = None,
) -> Model:
    """The toy model ("toy"), or the checkpoint in a folder, in a .gguf file or of a Hugging Face hub name.

    The rest is as `llm.load` says. CheckpointError says what is wrong with a checkpoint.
    """
    where = TOY if name == "toy" else name
    model = llm.load(where, dtype=dtype, dequantise=dequantise, revision=revision, memory=memory)
    return model._replace(is_embedded=str(where) == str(TOY))

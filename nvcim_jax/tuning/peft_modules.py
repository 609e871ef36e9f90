"""Which modules of a checkpoint an adapter's tensors belong to, and which of our kernels those are."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from nvcim_jax.llm import names
from nvcim_jax.llm.config import Config
from nvcim_jax.tuning.peft_files import WEIGHTS, Adapter

STEM = "base_model.model."


class Kernel(NamedTuple):
    """A module that every layer of a checkpoint has, and which of its outputs our modules are."""

    inside: str
    paths: list[str]
    inputs: int
    parts: dict[str, np.ndarray]

    @property
    def outputs(self) -> int:
        return sum(map(len, self.parts.values()))

    def tensors(self, leaf: str, stack: Float[np.ndarray, "layers ..."]) -> dict[str, np.ndarray]:
        """One tensor per layer, by PEFT's name."""
        return {f"{STEM}{path}.{leaf}": values for path, values in zip(self.paths, stack, strict=True)}

    def stacked(self, adapter: Adapter, leaf: str, shape: tuple[int, int]) -> Float[np.ndarray, "layers a b"]:
        """The stack of values that `tensors` gave; ValueError if a layer's tensor is absent or of another shape."""
        return np.stack([adapter.tensor(f"{STEM}{path}.{leaf}", shape) for path in self.paths])


def _kernels(config: Config, family: str) -> list[Kernel]:
    found: dict[str, Kernel] = {}
    try:
        for ours, (inputs, outputs) in config.kernel_sizes().items():
            called = names.FAMILIES[family]
            where = [names.source(called, config, f"blocks_{layer}/{ours}/weight") for layer in range(config.layers)]
            inside = called.inside[ours].partition("[")[0]
            kernel = found.setdefault(inside, Kernel(inside, [source.module for source in where], inputs, {}))
            kernel.parts[ours] = np.arange(outputs) if where[0].outputs is None else where[0].outputs
    except KeyError as error:
        raise ValueError(
            f"family {family!r} does not fit the model's config: give the model_type in its config.json, one of "
            f"{', '.join(names.FAMILIES)}"
        ) from error
    return list(found.values())


def held(config: Config, family: str, trained: dict) -> list[tuple[Kernel, list[str]]]:
    """The kernels that something was trained for, and for which of their parts."""
    kernels, sizes = _kernels(config, family), config.kernel_sizes()
    for target in trained:
        if target not in sizes:
            raise ValueError(f"no module {target!r} in a layer: choose among {', '.join(sizes)}")
    if not trained:
        raise ValueError("the adapter has no target: give what a method with at least one target has trained")
    both = [(kernel, [part for part in kernel.parts if part in trained]) for kernel in kernels]
    return [(kernel, parts) for kernel, parts in both if parts]


def adapted(adapter: Adapter, config: Config, family: str, leaves: tuple[str, ...]) -> list[Kernel]:
    """The kernels that the adapter has tensors for. ValueError for a tensor of none of them, or none at all."""
    kernels = _kernels(config, family)
    known = [{f"{STEM}{path}.{leaf}" for path in kernel.paths for leaf in leaves} for kernel in kernels]
    adapter.only(set().union(*known))
    if not adapter.tensors:
        raise ValueError(f"{adapter.folder / WEIGHTS} holds no tensors: export the adapter again")
    return [kernel for kernel, own in zip(kernels, known, strict=True) if own & adapter.tensors.keys()]

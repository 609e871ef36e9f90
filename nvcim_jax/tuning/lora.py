"""LoRA (Hu et al., 2022): a low-rank product beside some kernels of every layer."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nvcim_jax.core.codec import Codec
from nvcim_jax.llm.config import Config
from nvcim_jax.tuning.method import Adapted, Noise


class Factors(NamedTuple):
    """Of one kernel in all layers: x @ a @ b is added to its product."""

    a: Float[Array, "layers inputs rank"]
    b: Float[Array, "layers rank outputs"]


@dataclass(frozen=True)
class Lora:
    """Factors of `rank` beside the `targets`, modules such as `attention/q`; `b` starts at 0.

    `x @ a @ b * alpha / rank` is added to a target's product.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("attention/q", "attention/v")

    def init(
        self, key: PRNGKeyArray, tokens: Float[Array, "start dim"], codec: Codec, config: Config
    ) -> dict[str, Factors]:
        keys, sizes = jax.random.split(key, len(self.targets)), config.kernel_sizes()
        factors = {}
        for own, target in zip(keys, self.targets, strict=True):
            if target not in sizes:
                raise ValueError(f"no module {target!r} in a layer: choose among {', '.join(sizes)}")
            inputs, outputs = sizes[target]
            a = jax.random.uniform(own, (config.layers, inputs, self.rank), minval=-1, maxval=1) * inputs**-0.5
            factors[target] = Factors(a, jnp.zeros((config.layers, self.rank, outputs)))
        return factors

    def apply(self, trained: dict[str, Factors], codec: Codec, config: Config, noise: Noise) -> Adapted:
        scale, leaves = self.alpha / self.rank, {}
        for target, (a, b) in noise(trained).items():
            leaves[target] = {"lora_a": a, "lora_b": scale * b}
        return Adapted(layers=in_layers(leaves))

    def stored(self, trained: dict[str, Factors], codec: Codec, config: Config) -> dict[str, Factors]:
        return trained


def in_layers(leaves: dict[str, dict[str, Float[Array, "layers ..."]]]) -> dict:
    """Leaves by module, stacked over the layers, as the tree that stands beside a model's params."""
    tree: dict = {}
    for module, named in leaves.items():
        for name, stack in named.items():
            for layer in range(stack.shape[0]):
                place = tree.setdefault(f"blocks_{layer}", {})
                for part in module.split("/"):
                    place = place.setdefault(part, {})
                place[name] = stack[layer]
    return tree

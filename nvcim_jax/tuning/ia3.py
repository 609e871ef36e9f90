"""IA3 (Liu et al., 2022): vectors that scale keys, values and the input of the feed-forward's last product."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nvcim_jax.core.codec import Codec
from nvcim_jax.llm.config import Config
from nvcim_jax.tuning.lora import in_layers
from nvcim_jax.tuning.method import Adapted, Noise

Vectors = dict[str, Float[Array | np.ndarray, "layers _"]]  # by module


@dataclass(frozen=True)
class Ia3:
    """A vector that scales each output of `outputs` and each input of `inputs`, in every layer; ones at first."""

    outputs: tuple[str, ...] = ("attention/k", "attention/v")
    inputs: tuple[str, ...] = ("down",)

    def init(self, key: PRNGKeyArray, tokens: Float[Array, "start dim"], codec: Codec, config: Config) -> Vectors:
        sizes = config.kernel_sizes()
        for target in (*self.outputs, *self.inputs):
            if target not in sizes:
                raise ValueError(f"no module {target!r} in a layer: choose among {', '.join(sizes)}")
        wide = {target: sizes[target][1] for target in self.outputs} | {t: sizes[t][0] for t in self.inputs}
        return {target: jnp.ones((config.layers, width)) for target, width in wide.items()}

    def apply(self, trained: Vectors, codec: Codec, config: Config, noise: Noise) -> Adapted:
        side = lambda target: "scale_in" if target in self.inputs else "scale_out"  # noqa: E731
        return Adapted(layers=in_layers({target: {side(target): own} for target, own in noise(trained).items()}))

    def stored(self, trained: Vectors, codec: Codec, config: Config) -> Vectors:
        return trained

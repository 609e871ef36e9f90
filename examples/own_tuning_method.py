"""A tuning method of one's own: virtual tokens whose code has a low rank.

Run `python examples/own_tuning_method.py`: half a minute, most of it to compile. `tuning.method` says what a method is.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

import nvcim_jax as nv
from nvcim_jax import tuning


@dataclass(frozen=True)
class LowRank:
    """Trains two factors of the stored code, [tokens, rank] and [rank, code], which start as its singular vectors."""

    rank: int = 4

    def init(self, key, tokens, codec, config):
        left, sizes, right = jnp.linalg.svd(nv.encode(codec, tokens), full_matrices=False)
        root = jnp.sqrt(sizes[: self.rank])
        return left[:, : self.rank] * root[None], root[:, None] * right[: self.rank]

    def apply(self, trained, codec, config, noise):
        return tuning.Adapted(front=nv.decode(codec, noise(trained[0] @ trained[1])))

    def stored(self, trained, codec, config):
        return trained[0] @ trained[1]


model, users = nv.load_model("toy"), nv.toy_users("LaMP-2")
settings = replace(nv.RECOMMENDED, method=LowRank(), training=tuning.Training(steps=10))
memory = nv.learn(jax.random.key(0), model, users, "NVM-3", sigma=0.1, settings=settings)
told = nv.answer(jax.random.key(1), model, memory, users[0].queries)
right = sum(each.text == query.answer for each, query in zip(told, users[0].queries, strict=True))
losses = memory.bank.origin.loss[memory.bank.valid]  # of the last step of each OVT
print(f"{settings.method}: {len(losses)} OVTs, mean loss {losses.mean():.3f}, {right} of {len(told)} questions right")

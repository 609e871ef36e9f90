"""The layers that a decoder is built of: linear maps in several types, norms, rotary positions."""

from functools import reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from nvcim_jax.llm import gptq, nibbles
from nvcim_jax.llm.config import Config, Packed, Rope
from nvcim_jax.llm.nibbles import Nibbles

NOWHERE = jnp.iinfo(jnp.int32).max  # the position of padding, which nobody reaches
FEW_ROWS = 64  # reading the weight takes longer than multiplying so many: it is read once for both parts of the rows
Turn = tuple[Float[Array, "batch tokens 1 pairs"], Float[Array, "batch tokens 1 pairs"]]
ACTIVATIONS = {
    "silu": nn.silu,
    "relu": nn.relu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
}


def rotation(rope: Rope, positions: Int[Array, "batch tokens"], longest: Int[Array, "batch"]) -> Turn:
    """Cosine and sine of every token's angles; longrope asks how long its row is by now."""
    place = jnp.where(positions == NOWHERE, 0, positions).astype(jnp.float32)
    frequencies = jnp.asarray(rope.frequencies, jnp.float32)[None]
    if rope.long_frequencies:
        long = jnp.asarray(rope.long_frequencies, jnp.float32)[None]
        frequencies = jnp.where(longest[:, None] > rope.original_context, long, frequencies)
    angle = (place[..., None] * frequencies[:, None])[:, :, None]
    both = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1) * rope.scale
    # A product is where fusing ends: a CPU would otherwise work the angles out anew for every head of every layer.
    both = jnp.matmul(both, jnp.eye(both.shape[-1]), precision="highest")
    cos, sin = jnp.split(both, 2, axis=-1)
    return cos, sin


def rotate(x: Float[Array, "batch tokens heads head_dim"], turn: Turn) -> Float[Array, "batch tokens heads head_dim"]:
    """Rotary position embedding (Su et al., 2021): the halves of the turned part of a head are real and imaginary."""
    cos, sin = (part.astype(x.dtype) for part in turn)
    pairs = cos.shape[-1]
    first, second, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def precision() -> str | None:
    """What `jax.default_matmul_precision` was given; None if it was not."""
    return jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]


class Norm(nn.Module):
    """Root-mean-square norm, Gemma's (which scales by 1 + weight), or layer norm; computed in float32."""

    config: Config

    @nn.compact
    def __call__(self, x: Float[Array, "*rows dim"]) -> Float[Array, "*rows dim"]:
        c, wide = self.config, x.astype(jnp.float32)
        start = nn.initializers.zeros if c.norm == "rms_plus_one" else nn.initializers.ones
        vector = lambda name, start: self.param(name, start, (x.shape[-1],))[(None,) * (x.ndim - 1)]  # noqa: E731
        scale = vector("scale", start)
        if c.norm == "layer":
            bias = vector("bias", nn.initializers.zeros).astype(x.dtype)
            wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + c.norm_eps)
        if c.norm == "rms_plus_one":
            return (wide * (1 + scale.astype(jnp.float32))).astype(x.dtype)
        scaled = wide.astype(x.dtype) * scale.astype(x.dtype)
        return scaled + bias if c.norm == "layer" else scaled


def product(x: Float[Array, "*rows inputs"], weight: Float[Array, "outputs inputs"]) -> Float[Array, "*rows outputs"]:
    """x @ weight.T, multiplied in the weight's type, summed up in float32 and returned in the type of x.

    Float32 values meet a bfloat16 weight as the sum of two bfloat16 ones, which lacks 2^-17 of them at most: the
    answers are those of float32 weights of the same values, at half the memory and on the matrix units of a CPU that
    has them. Under `jax.default_matmul_precision("bfloat16")` they are rounded to one: twice as fast, less exact.
    """
    if x.dtype == weight.dtype == jnp.float32:
        return jax.lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))
    return _mixed(x, weight)


@jax.custom_vjp
def _mixed(x, weight):
    return _contract(x, weight, 1)


def _mixed_back(kept, change):
    x, weight = kept
    rows = tuple(range(x.ndim - 1))
    slope = jnp.tensordot(change.astype(jnp.float32), x.astype(jnp.float32), (rows, rows))
    return _contract(change, weight, 0), slope.astype(weight.dtype)


_mixed.defvjp(lambda x, weight: (_mixed(x, weight), (x, weight)), _mixed_back)


def _contract(x, weight, over):
    """The last axis of x against the axis `over` of the weight.

    The result is asked for in float32: with a bfloat16 one the compiler misses the matrix units of a CPU, which takes
    seven times as long.
    """

    def multiply(part):
        return jax.lax.dot_general(part, weight, (((1,), (over,)), ((), ())), preferred_element_type=jnp.float32)

    parts = _parts(x.reshape(-1, x.shape[-1]), weight.dtype)
    if len(parts[0]) <= FEW_ROWS:
        products = jnp.split(multiply(jnp.concatenate(parts)), len(parts))
    else:
        products = map(multiply, parts)
    return reduce(jnp.add, products).reshape(*x.shape[:-1], -1).astype(x.dtype)


def _parts(x, dtype):
    """Values of `dtype` whose sum is x, or nearly so."""
    if x.dtype != jnp.float32 or dtype != jnp.bfloat16 or precision() == "bfloat16":
        return [x.astype(dtype)]
    high = jax.lax.reduce_precision(x, 8, 7)  # to bfloat16 and back, a detour that a compiler would spare itself
    return [high.astype(dtype), (x - high).astype(dtype)]


class Linear(nn.Module):
    """x @ weight.T (+ bias), from a plain weight, GPTQ words or blocks of 4 bits, with what a method put beside them in
    the params.

    A weight is [out, in], as in the checkpoint: a product of few rows then reads it as it lies, and is up to twice as
    fast as with [in, out]. Leaves beside it have a leading axis of rows: `lora_a` [rows, in, rank] and `lora_b` [rows,
    rank, out] add a low-rank product, `scale_in` [rows, in] and `scale_out` [rows, out] stretch what comes in and what
    goes out.
    """

    packed: Packed | None
    features: int
    use_bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
        if (stretch := self._beside("scale_in")) is not None:
            x = x * stretch[:, None].astype(x.dtype)
        if self.has_variable("params", "nibbles"):
            y = nibbles.product(x, Nibbles(*map(self._beside, Nibbles._fields)), None)
        elif self.packed is None:
            start = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)
            y = product(x, self.param("weight", start, (self.features, x.shape[-1])))
        else:
            y = gptq.product(x, self._words(x.shape[-1], self.packed), self.packed)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias[(None,) * (x.ndim - 1)].astype(x.dtype)
        if (down := self._beside("lora_a")) is not None:
            y = y + (x @ down.astype(x.dtype)) @ self._beside("lora_b").astype(x.dtype)
        if (stretch := self._beside("scale_out")) is not None:
            y = y * stretch[:, None].astype(y.dtype)
        return y

    def _beside(self, name: str) -> Any:
        return self.get_variable("params", name) if self.has_variable("params", name) else None

    def _words(self, inputs: int, packed: Packed) -> gptq.Words:
        zeros, shapes = nn.initializers.zeros, gptq.word_shapes(inputs, self.features, packed)
        types = (jnp.int32, jnp.int32, jnp.float16, jnp.int32)
        words = (self.param(leaf, zeros, shapes[leaf], kind) for leaf, kind in zip(gptq.LEAVES, types, strict=True))
        qweight, qzeros, scales, g_idx = words
        return qweight, qzeros, scales, g_idx

"""GPTQ words to weights (Frantar et al., 2023), in the layouts of AutoGPTQ ("gptq") and GPTQModel ("gptq_v2")."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from nvcim_jax.llm.config import CheckpointError, Packed
from nvcim_jax.llm.fields import QUANTISATION, checked
from nvcim_jax.llm.folder import short
from nvcim_jax.llm.ties import product_of_packed

FORMATS = ("gptq", "gptq_v2")
LEAVES = ("qweight", "qzeros", "scales", "g_idx")
# The four leaves of a kernel.
Words = tuple[
    Int32[Array, "words out"], Int32[Array, "groups zero_words"], Float[Array, "groups out"], Int32[Array, "in"]
]
TYPES = {"qweight": ("I32",), "qzeros": ("I32",), "scales": ("F16", "BF16", "F32"), "g_idx": ("I32",)}


def dequantise(
    qweight: Int32[Array | np.ndarray, "words out"],
    qzeros: Int32[Array | np.ndarray, "groups zero_words"],
    scales: Float[Array | np.ndarray, "groups out"],
    g_idx: Int32[Array | np.ndarray, "in"],
    *,
    bits: int,
    checkpoint_format: str,
) -> Float[Array, "in out"]:
    """Weights in float32: `(q[i, o] - zero[g_idx[i], o]) * scale[g_idx[i], o]`.

    A word of 32 bits holds 32 / bits values, the lowest bits first, along the inputs in `qweight` and along the
    outputs in `qzeros`. "gptq" (version 1) stores every zero less one, modulo 2^bits. Raises ValueError for bits
    other than 4 and 8 and for other formats.
    """
    if bits not in (4, 8):
        raise ValueError(f"bits {bits}: GPTQ words of 4 or 8 bits are read")
    if checkpoint_format not in FORMATS:
        raise ValueError(f"checkpoint_format {checkpoint_format!r}: {' or '.join(FORMATS)} is read")
    values = _unpack(qweight, bits).transpose(0, 2, 1).reshape(-1, qweight.shape[1])
    zeros = _unpack(qzeros, bits).reshape(qzeros.shape[0], -1)
    if checkpoint_format == "gptq":
        zeros = (zeros + 1) & (2**bits - 1)
    scales = scales.astype(jnp.float32)
    return (values - zeros[g_idx]).astype(jnp.float32) * scales[g_idx]


def _kernel(words: Words, how: Packed) -> Float[Array, "in out"]:
    return dequantise(*words, bits=how.bits, checkpoint_format=how.checkpoint_format)


product = product_of_packed(_kernel)


def _unpack(words, bits):
    """[rows, columns] words -> [rows, columns, 32 / bits] values."""
    shifts = jnp.arange(0, 32, bits, dtype=jnp.int32)
    return jax.lax.shift_right_logical(words[..., None], shifts[None, None]) & (2**bits - 1)


def packed(told: dict) -> Packed:
    """How the words of a checkpoint are packed, from its `quantization_config`. Raises CheckpointError for others."""
    method, layout = told.get("quant_method", "gptq"), told.get("checkpoint_format") or "gptq"
    if method != "gptq" or layout not in FORMATS:
        name = layout if method == "gptq" else method
        raise CheckpointError(
            f"quantisation {short(name)} is not supported; known: {', '.join(FORMATS)} (marlin, AWQ, exl2 and bitblas "
            "words are laid out otherwise: use the unquantised or the GPTQ edition of the model)"
        )
    told = checked(told, QUANTISATION, "quantization_config.")
    if told.get("bits") not in (4, 8):
        raise CheckpointError(f"GPTQ with {told.get('bits')} bits is not supported; known: 4, 8")
    return Packed(told["bits"], told.get("group_size", -1), layout)


def word_shapes(inputs: int, outputs: int, how: Packed) -> dict[str, tuple[int, ...]]:
    """Shape of each leaf of a packed kernel. Raises CheckpointError where the kernel does not fill whole words."""
    per_word = 32 // how.bits
    if inputs % per_word or outputs % per_word:
        raise CheckpointError(f"a kernel of {inputs} by {outputs} does not fill words of {per_word} values")
    groups = how.groups(inputs)
    shapes = (inputs // per_word, outputs), (groups, outputs // per_word), (groups, outputs), (inputs,)
    return dict(zip(LEAVES, shapes, strict=True))


def words_of(outputs: np.ndarray, how: Packed) -> np.ndarray:
    """Which words of `qzeros` hold these outputs. Raises CheckpointError unless they fill whole words, in order."""
    per_word = 32 // how.bits
    words = outputs[::per_word] // per_word
    if not np.array_equal(outputs, (words[:, None] * per_word + np.arange(per_word)).reshape(-1)):
        raise CheckpointError(
            f"the parts of a fused module do not fill words of {per_word} values: load it dequantised"
        )
    return words


def warn_of_wrapped_zeros(name: str, qzeros: np.ndarray, how: Packed) -> None:
    """Version 1 cannot store the largest zero point: kernels disagree on what its place means."""
    full = (1 << how.bits) - 1
    if how.checkpoint_format != "gptq":
        return
    if any(np.any((qzeros.view(np.uint32) >> shift) & full == full) for shift in range(0, 32, how.bits)):
        warnings.warn(
            f"{name}: an asymmetric version-1 zero point wraps to 0 here; some GPTQ kernels read {full + 1}",
            stacklevel=2,
        )

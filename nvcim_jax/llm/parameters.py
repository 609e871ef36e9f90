"""Where each of our parameters is read from, compared with what the headers say, and the reading."""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import DTypeLike

from nvcim_jax.llm import gguf_file, gptq, names, nibbles, tensors
from nvcim_jax.llm.config import CheckpointError, Config, Packed
from nvcim_jax.llm.decoder import Decoder
from nvcim_jax.llm.folder import short

Tensor = tensors.Tensor | gguf_file.Tensor
Net = Callable[[Config], Any]  # a Flax module, called with ids
_HEAD, _ROW = "lm_head.weight", slice(0, 1)


def shapes(config: Config, net: Net = Decoder) -> dict[str, jax.ShapeDtypeStruct]:
    """Our name of every parameter -> its shape and type. Layers are alike: one is traced, however many there are."""
    one = replace(config, layers=1, windows=config.windows[:1])
    tree = jax.eval_shape(net(one).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    flat: dict[str, Any] = traverse_util.flatten_dict(tree, sep="/")
    inside = {ours: leaf for ours, leaf in flat.items() if ours.startswith("blocks_0/")}
    blocks = range(config.layers)
    return flat | {ours.replace("_0", f"_{block}", 1): leaf for block in blocks for ours, leaf in inside.items()}


class Part(NamedTuple):
    """One of our parameters, and what it is read from: one tensor, or the four of a GPTQ kernel."""

    ours: str
    shape: tuple[int, ...]
    dtype: DTypeLike | None  # None: as the caller wants
    source: names.Source
    turned: bool  # GPT-2 keeps [in, out]
    tensors: tuple[Tensor, ...]
    how: Packed | None
    empty: float  # what a parameter that says nothing holds everywhere


def planned(
    path: Path,
    there: Mapping[str, Tensor],
    called: names.Names,
    config: Config,
    how: Packed | None,
    net: Net = Decoder,
) -> list[Part]:
    """Where every parameter of `net` is read from, the largest first: what reading needs beside the weights is then
    never on top of all of them. `there` are the tensors of the checkpoint at `path`. Raises CheckpointError unless
    names, shapes and types are those that the configuration asks for."""
    there = {name: tensor for name, tensor in there.items() if not any(part in name for part in called.unread)}
    layers = names.layers(called, there)
    if layers != config.layers:
        raise CheckpointError(f"{path}: its tensors are of {layers} layers, its configuration says {config.layers}")
    wanted = shapes(config, net)
    sources = {ours: names.source(called, config, ours) for ours in wanted}
    files = _match(path, there, sources, config.tied, how)
    parts = []
    for ours in sorted(wanted, key=lambda ours: -np.prod(wanted[ours].shape)):
        source, leaf = sources[ours], wanted[ours]
        turned = called.inputs_first and ours.endswith("/weight") and source.module != "lm_head"
        read = [source.name] if source.name in files else [f"{source.module}.{each}" for each in gptq.LEAVES]
        empty = -1.0 if config.norm == "rms_plus_one" and ours.endswith("/scale") else 0.0
        kept = leaf.dtype if source.leaf in gptq.LEAVES else None
        parts.append(Part(ours, leaf.shape, kept, source, turned, tuple(files[name] for name in read), how, empty))
    _check_headers(parts)
    if config.tied and _HEAD in there:
        _warn_of_another_head(there[_HEAD], files[sources["embedding/embedding"].name])
    return parts


def _match(path, there, sources, tied, how) -> dict[str, Tensor]:
    """The tensors by the names that we look for. Raises CheckpointError for missing and unknown ones."""
    full = dict(there)
    stem = sources["embedding/embedding"].module.split(".")[0]
    if not any(name.startswith(f"{stem}.") for name in there):  # saved from the bare decoder, which has no stem
        full |= {f"{stem}.{name}": tensor for name, tensor in there.items()}
    wanted, missing = set(), []
    for source in sources.values():
        packed_names = [f"{source.module}.{leaf}" for leaf in gptq.LEAVES]
        if source.name in full:
            wanted.add(source.name)
        elif how and source.leaf == "weight" and all(name in full for name in packed_names):
            wanted.update(packed_names)
        else:
            missing.append(source.name)
    read = {full[name].name for name in wanted}
    unused = [name for name in there if name not in read and not name.endswith(names.BUFFERS)]
    unused = [name for name in unused if not (tied and name == _HEAD)]
    if how:  # AutoGPTQ writes a bias of zeros for every layer
        unused = [name for name in unused if not _zero_bias(there[name])]
    if missing or unused:
        raise CheckpointError(f"{path}: tensors missing: {_some(missing)}; tensors unknown: {_some(unused)}")
    return full


def _some(found: list[str]) -> str:
    return ", ".join(map(short, sorted(found)[:3])) or "none"


def _warn_of_another_head(head: Tensor, embedding: Tensor) -> None:
    """Old files hold a tied head once more. A row of it tells whether it is the embedding indeed."""
    alike = head.shape == embedding.shape and head.dtype in tensors.FLOATS
    if not alike or not np.array_equal(head.read(_ROW), embedding.read(_ROW)):
        warnings.warn(
            f"{head.path}: {head.name} is not used: config.json ties the head to the embedding, from which it differs",
            stacklevel=2,
        )


def _zero_bias(tensor: Tensor) -> bool:
    return tensor.name.endswith(".bias") and tensor.dtype in tensors.FLOATS and not np.any(tensor.read())


def _check_headers(parts: list[Part]) -> None:
    """Raise CheckpointError unless every tensor has the shape that its parts fill, and a type for its purpose."""
    outputs = Counter()  # of a fused module those of all its parts
    for part in parts:
        outputs[part.source.name] += part.shape[_output_axis(part.source.leaf)]
    for part in parts:
        for tensor, (shape, types) in zip(part.tensors, _headers(part, outputs[part.source.name]), strict=True):
            if tensor.shape != shape:
                raise CheckpointError(
                    f"{tensor.path}: {tensor.name} has shape {list(tensor.shape)}; the configuration asks for "
                    f"{list(shape)}"
                )
            if tensor.dtype not in types:
                raise CheckpointError(
                    f"{tensor.path}: {tensor.name} has the type {tensor.dtype}; allowed: {', '.join(types)}"
                )


def _headers(part: Part, outputs: int) -> list[tuple[tuple[int, ...], tuple[str, ...]]]:
    """Shape and allowed types of each tensor that a part is read from, which has so many outputs."""
    shape, axis = list(part.shape), _output_axis(part.source.leaf)
    if part.source.leaf != "g_idx":
        shape[axis] = outputs
    if part.how is None or len(part.tensors) == 1:
        return [(tuple(shape[::-1] if part.turned else shape), gptq.TYPES.get(part.source.leaf, tensors.FLOATS))]
    words = gptq.word_shapes(shape[1], shape[0], part.how)
    return [(words[leaf], gptq.TYPES[leaf]) for leaf in gptq.LEAVES]


def _output_axis(leaf: str) -> int:
    return 1 if leaf in ("qweight", "qzeros", "scales") else 0


def read(part: Part, dtype: DTypeLike) -> np.ndarray:
    """A parameter, turned and cut as ours, as a fresh array in `dtype`; GPTQ words that are kept keep their types.

    Raises CheckpointError for values that no sound checkpoint has.
    """
    how = part.how if len(part.tensors) > 1 else None
    with np.errstate(over="ignore"):  # what the type cannot hold becomes infinite, and is refused
        value = _plain(part, part.dtype or dtype) if how is None else _dequantised(part, how, dtype)
    _check(part, part.ours.rsplit("/", 1)[1], value)
    return value


def is_nibbles(part: Part) -> bool:
    """Whether a parameter is a kernel of a layer that lies in a GGUF file in blocks of 4 bits, as [out, in]."""
    tensor = part.tensors[0]
    in_blocks = isinstance(tensor, gguf_file.Tensor) and tensor.kind in nibbles.KINDS
    return in_blocks and part.ours.startswith("blocks_") and part.ours.endswith("/weight") and not part.turned


def read_nibbles(part: Part) -> dict[str, np.ndarray]:
    """The leaves of a kernel that stays packed, by our names. Raises CheckpointError as `read` does."""
    (tensor,), outputs = part.tensors, part.source.outputs
    assert isinstance(tensor, gguf_file.Tensor)
    kernel = nibbles.of_bytes(tensor.kind, tensor.bytes())
    leaves = {leaf: values for leaf, values in kernel._asdict().items() if values is not None}
    for leaf in leaves.keys() - {"nibbles"}:
        _check(part, "bias", leaves[leaf])  # of either sign
    module = part.ours.removesuffix("weight")
    return {f"{module}{leaf}": values if outputs is None else values[outputs] for leaf, values in leaves.items()}


def _dequantised(part: Part, how: Packed, dtype: DTypeLike) -> np.ndarray:
    words = [tensor.read() for tensor in part.tensors]
    for leaf, values in zip(gptq.LEAVES, words, strict=True):
        _check(part, leaf, values)
    gptq.warn_of_wrapped_zeros(part.source.module, words[1], how)
    kernel = gptq.dequantise(*map(jnp.asarray, words), bits=how.bits, checkpoint_format=how.checkpoint_format)
    outputs = part.source.outputs
    return np.asarray((kernel if outputs is None else kernel[:, outputs]).T, dtype, order="C")


def _plain(part: Part, dtype: DTypeLike) -> np.ndarray:
    source, outputs, values = part.source, part.source.outputs, part.tensors[0].read()
    packed = part.how if source.leaf == "qzeros" else None
    if packed is not None:
        gptq.warn_of_wrapped_zeros(source.module, values, packed)
    if outputs is None or source.leaf == "g_idx":
        cut = values.T if part.turned else values
    elif packed is not None:
        cut = values[:, gptq.words_of(outputs, packed)]
    elif source.leaf in gptq.LEAVES:
        cut = values[:, outputs]
    else:
        cut = (values.T if part.turned else values)[outputs]
    return np.asarray(cut, dtype, order="C")


def _check(part: Part, leaf: str, values: np.ndarray) -> None:
    name = f"{part.tensors[0].path}: {part.source.module}.{leaf if leaf in gptq.LEAVES else part.source.leaf}"
    groups = part.how.groups(values.shape[0]) if part.how is not None and leaf == "g_idx" else 0
    try:
        tensors.check_values(name, leaf, values, groups=groups, empty=part.empty)
    except CheckpointError as error:
        raise CheckpointError(f"{error}: download it again") from error

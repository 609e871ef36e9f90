"""BERT in Flax: every token sees every other one. It shares its layers with the decoder, and generates nothing."""

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jaxtyping import Array, DTypeLike, Float, Int, PyTree

from nvcim_jax.llm import families, fields, huggingface, names, parameters, tensors, tokens
from nvcim_jax.llm.config import CheckpointError, Config
from nvcim_jax.llm.decoder import Block
from nvcim_jax.llm.folder import check_links, read_object
from nvcim_jax.llm.layers import NOWHERE, Norm


class Bert(NamedTuple):
    """A frozen BERT without heads: weights, sizes and tokenizer."""

    params: PyTree
    config: Config
    tokenizer: Any


class Layers(nn.Module):
    """Words, positions and the first token type through blocks whose norms come after (Devlin et al., 2019)."""

    config: Config

    @nn.compact
    def __call__(
        self,
        ids: Int[Array, "batch tokens"],
        lengths: Int[Array, "batch"] | None = None,
        at: Int[Array, "batch some"] | None = None,
    ) -> Float[Array, "batch states dim"]:
        c = self.config
        words = nn.Embed(c.vocab_size, c.dim, name="embedding")(ids)
        places = nn.Embed(c.context, c.dim, name="places")(jnp.arange(ids.shape[1]))
        kind = nn.Embed(c.token_types, c.dim, name="kinds")(jnp.zeros(1, jnp.int32))
        words, places, kind = (part.astype(jnp.float32) for part in (words, places[None], kind[None]))
        x = Norm(c, name="norm")(words + places + kind)
        there = True if lengths is None else jnp.arange(ids.shape[1])[None] < lengths[:, None]
        seen = jnp.broadcast_to(
            jnp.where(there, 0, NOWHERE), ids.shape
        )  # one position for all tokens: each sees all, and none sees padding
        for layer in range(c.layers):
            asking = at if layer == c.layers - 1 else None
            x, _ = Block(c, None, name=f"blocks_{layer}")(x, seen, seen, None, None, 0, asking)
        return x


def states(
    params: PyTree,
    config: Config,
    ids: Int[Array, "batch tokens"],
    lengths: Int[Array, "batch"],
    *,
    at: Int[Array, "batch some"] | None = None,
) -> Float[Array, "batch states dim"]:
    """Last hidden states of the first `length` tokens of each row, or of those at the indices `at` alone.

    What stands at padding means nothing.
    """
    found: Any = Layers(config).apply({"params": params}, ids, lengths, at)
    return found


def load(folder: Path | str, *, dtype: DTypeLike = jnp.float32) -> Bert:
    """The BERT in a Hugging Face folder, its weights in float32 or bfloat16; its pooler and heads are left out.

    Raises CheckpointError for a folder without one, for another family, and for what `llm.load` refuses: damaged,
    incomplete or pickled weights, links out of the folder.
    """
    folder = Path(folder).expanduser()
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json: give the folder of a Hugging Face checkpoint")
    check_links(folder)
    config, hf = configuration(folder)
    called = names.BERT
    parts = parameters.planned(folder, tensors.found(folder), called, config, None, Layers)
    flat = {part.ours: jax.device_put(parameters.read(part, jnp.dtype(dtype))) for part in parts}
    return Bert(traverse_util.unflatten_dict(flat, sep="/"), config, tokens.tokenizer(folder, hf, config.vocab_size))


def configuration(folder: Path) -> tuple[Config, Any]:
    """The Config of a BERT folder, and what transformers knows of it. Raises CheckpointError for another family."""
    path = folder / "config.json"
    try:
        told = fields.known(read_object(path))
        if told.get("model_type") != "bert":
            raise CheckpointError(f"model_type {told.get('model_type')!r} is no BERT: an encoder of texts is needed")
        hf: Any = huggingface.configuration(told | {"name_or_path": str(folder)})
        return families.bert(hf), hf
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(f"{path}: {error}") from error

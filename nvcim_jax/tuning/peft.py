"""Adapters as Hugging Face PEFT keeps them, in and out, without PEFT: what a method's `stored` gives is written, and
what is read its `apply` takes.

A soft prompt and a prefix are one tensor each. LoRA and IA3 name the modules of the checkpoint, so they ask for its
`family`, the model_type in its config.json. Some families keep several of our modules in a fused one (GPT-2's c_attn).
P-tuning v2 has no type of its own there: it is PREFIX_TUNING without a projection.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nvcim_jax.llm import names
from nvcim_jax.llm.config import PROMPT_SPACE, Config
from nvcim_jax.llm.decoder import Prefix
from nvcim_jax.tuning.ia3 import Ia3, Vectors
from nvcim_jax.tuning.lora import Factors, Lora
from nvcim_jax.tuning.peft_files import CONFIG, WEIGHTS, read, write
from nvcim_jax.tuning.peft_modules import STEM, Kernel, adapted, held

__all__ = [
    "CONFIG", "WEIGHTS", "export_ia3", "export_lora", "export_prefix", "export_prompt", "import_ia3", "import_lora",
    "import_prefix", "import_prompt",
]  # fmt: skip

_PROMPT = "prompt_embeddings"
_A, _B, _VECTOR = "lora_A.weight", "lora_B.weight", "ia3_l"
# What makes more of LoRA than x @ a @ b, or changes the frozen weights when PEFT loads it.
_BEYOND_LORA = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "lora_bias", "layer_replication",
                "trainable_token_indices", "target_parameters", "use_qalora", "use_bdlora", "alora_invocation_tokens",
                "arrow_config", "kasa_config", "monteclora_config", "velora_config")  # fmt: skip


def export_prompt(folder: Path | str, prompt: Float[Array | np.ndarray, "..."], *, base_model: str) -> None:
    """Write a prompt tuning adapter for `base_model` to a new `folder`, complete or not at all.

    The prompt is in the space of the model's embeddings as they enter the first layer. ValueError if it is no matrix of
    finite values or the folder exists.
    """
    values = np.asarray(prompt, np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"a prompt of shape {values.shape}: finite values [tokens, dim] are needed")
    told = {
        "num_virtual_tokens": values.shape[0],
        "token_dim": values.shape[1],
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",  # it is overwritten by the stored prompt
    }
    write(folder, "PROMPT_TUNING", base_model, told, {_PROMPT: values}, prompt_space=PROMPT_SPACE)


def import_prompt(
    folder: Path | str, config: Config | None = None, *, base_model: str | None = None
) -> Float[Array, "tokens dim"]:
    """The prompt of a prompt tuning adapter folder.

    ValueError if it holds another method, is damaged, does not fit the model's `config` or is not for `base_model`,
    where these are given.
    """
    adapter = read(folder, "PROMPT_TUNING", base_model)
    space = adapter.metadata.get("prompt_space", PROMPT_SPACE)  # peft does not say; its present releases mean this one
    if space != PROMPT_SPACE:
        raise ValueError(f"{folder}: its prompt lives in {space!r}, the models here take {PROMPT_SPACE!r}: convert it")
    adapter.only({_PROMPT})
    prompt, dim = adapter.tensor(_PROMPT), adapter.told.get("token_dim")
    expected = (adapter.whole("num_virtual_tokens"), *([dim] if dim else prompt.shape[-1:]))
    if prompt.shape != expected:
        raise ValueError(f"{folder}: the prompt is {prompt.shape}, its {CONFIG} says {expected}")
    return jnp.asarray(adapter.tensor(_PROMPT, expected if config is None else (expected[0], config.dim)))


def export_prefix(folder: Path | str, prefix: Prefix, config: Config, *, base_model: str) -> None:
    """Write a prefix tuning adapter, one row of keys and values [layers, tokens, kv_heads, head_dim].

    ValueError if their shapes do not fit the model's `config`, a value is not finite or the folder exists.
    """
    tokens = np.shape(prefix.keys)[1] if np.ndim(prefix.keys) == 4 else 0
    shape = (config.layers, max(tokens, 1), config.kv_heads, config.head_dim)
    keys, values = _shaped("prefix.keys", prefix.keys, shape), _shaped("prefix.values", prefix.values, shape)
    told = {
        "num_virtual_tokens": tokens,
        "num_layers": config.layers,
        "num_attention_heads": config.kv_heads,
        "token_dim": config.kv_heads * config.head_dim,
        "num_transformer_submodules": 1,
        "prefix_projection": False,
    }
    flat = np.stack([keys, values]).transpose(2, 1, 0, 3, 4).reshape(tokens, -1)  # tokens, layers, key or value
    write(folder, "PREFIX_TUNING", base_model, told, {_PROMPT: flat})


def import_prefix(folder: Path | str, config: Config, *, base_model: str | None = None) -> Prefix:
    """Keys and values [layers, tokens, kv_heads, head_dim] of a prefix tuning adapter, with or without a projection.

    ValueError if the folder holds another method, is damaged, or is for another model.
    """
    adapter = read(folder, "PREFIX_TUNING", base_model)
    adapter.refuse(num_transformer_submodules=(1,), modules_to_save=())
    adapter.only({_PROMPT})
    sizes = {"num_layers": config.layers, "num_attention_heads": config.kv_heads}
    for name, ours in (sizes | {"token_dim": config.kv_heads * config.head_dim}).items():
        if adapter.whole(name) != ours:
            raise ValueError(f"{folder}: {name} is {adapter.told[name]}, not {ours}: an adapter for another model")
    shape = (adapter.whole("num_virtual_tokens"), config.layers, 2, config.kv_heads, config.head_dim)
    flat = adapter.tensor(_PROMPT, (shape[0], int(np.prod(shape[1:]))))
    keys, values = flat.reshape(shape).transpose(2, 1, 0, 3, 4)
    return Prefix(jnp.asarray(keys), jnp.asarray(values))


def export_lora(
    folder: Path | str, factors: dict[str, Factors], method: Lora, config: Config, family: str, *, base_model: str
) -> None:
    """Write a LoRA adapter of the factors that `method` trained for a model of this `config` and `family`.

    Targets that share a fused module stand side by side there, in a rank as large as theirs together. ValueError if
    shapes do not fit, a value is not finite or the folder exists.
    """
    kernels = held(config, family, factors)
    shared = max(len(parts) for _, parts in kernels)  # one rank for all modules: zeros where fewer share one
    tensors = {}
    for kernel, parts in kernels:
        a, b = _side_by_side(kernel, {part: factors[part] for part in parts}, method.rank, shared * method.rank)
        tensors |= kernel.tensors(_A, a) | kernel.tensors(_B, b)
    told = {
        "r": shared * method.rank,
        "lora_alpha": shared * method.alpha,
        "bias": "none",
        "fan_in_fan_out": names.FAMILIES[family].inputs_first,
        "target_modules": [kernel.inside for kernel, _ in kernels],
    }
    write(folder, "LORA", base_model, told, tensors)


def import_lora(
    folder: Path | str, config: Config, family: str, *, base_model: str | None = None
) -> tuple[Lora, dict[str, Factors]]:
    """A LoRA adapter as a method and its factors; those of a fused module share their a.

    ValueError if the folder holds another method or a variant of LoRA, is damaged, or is for another model.
    """
    adapter = read(folder, "LORA", base_model)
    adapter.refuse(**dict.fromkeys(_BEYOND_LORA, ()), bias=("none",))
    adapter.refuse(init_lora_weights=(True, "gaussian", "orthogonal", "eva"))  # others start from changed weights
    rank, alpha, factors = adapter.whole("r"), adapter.number("lora_alpha"), {}
    for kernel in adapted(adapter, config, family, (_A, _B)):
        a = kernel.stacked(adapter, _A, (rank, kernel.inputs)).swapaxes(1, 2)
        b = kernel.stacked(adapter, _B, (kernel.outputs, rank)).swapaxes(1, 2)
        for part, outputs in kernel.parts.items():
            factors[part] = Factors(jnp.asarray(a), jnp.asarray(b[..., outputs]))
    scale = alpha * rank**0.5 if adapter.flag("use_rslora") else alpha  # alpha / sqrt(rank) instead of alpha / rank
    return Lora(rank, float(scale), tuple(factors)), factors


def _side_by_side(kernel: Kernel, factors: dict[str, Factors], own: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """PEFT's A [layers, rank, inputs] and B [layers, outputs, rank] of a module, from its parts' of rank `own`."""
    layers = len(kernel.paths)
    a = np.zeros((layers, rank, kernel.inputs), np.float32)
    b = np.zeros((layers, kernel.outputs, rank), np.float32)
    for at, (part, factor) in enumerate(factors.items()):
        outputs, ranks = kernel.parts[part], slice(at * own, (at + 1) * own)
        a[:, ranks] = _shaped(f"{part}: a", factor.a, (layers, kernel.inputs, own)).swapaxes(1, 2)
        b[:, outputs, ranks] = _shaped(f"{part}: b", factor.b, (layers, own, len(outputs))).swapaxes(1, 2)
    return a, b


def export_ia3(
    folder: Path | str,
    vectors: Vectors,
    method: Ia3,
    config: Config,
    family: str,
    *,
    base_model: str,
) -> None:
    """Write an IA3 adapter of the vectors that `method` trained for a model of this `config` and `family`.

    ValueError if shapes do not fit, a value is not finite, the folder exists, or what enters the parts of a fused
    module is not stretched alike.
    """
    tensors, inward, kernels = {}, [], held(config, family, vectors)
    for kernel, parts in kernels:
        own = {part: vectors[part] for part in parts}
        if any(part in method.inputs for part in parts):
            tensors |= kernel.tensors(_VECTOR, _alike(kernel, own, method.inputs)[:, None])
            inward.append(kernel.inside)
        else:
            tensors |= kernel.tensors(_VECTOR, _one_after_another(kernel, own)[..., None])
    told = {
        "target_modules": [kernel.inside for kernel, _ in kernels],
        "feedforward_modules": inward,
        "fan_in_fan_out": names.FAMILIES[family].inputs_first,
    }
    write(folder, "IA3", base_model, told, tensors)


def import_ia3(
    folder: Path | str, config: Config, family: str, *, base_model: str | None = None
) -> tuple[Ia3, Vectors]:
    """An IA3 adapter as a method and its vectors.

    ValueError if the folder holds another method, is damaged, or is for another model.
    """
    adapter = read(folder, "IA3", base_model)
    adapter.refuse(modules_to_save=())
    sides, vectors = {True: [], False: []}, {}
    for kernel in adapted(adapter, config, family, (_VECTOR,)):
        first = adapter.tensors.get(f"{STEM}{kernel.paths[0]}.{_VECTOR}")
        inward = first is not None and first.shape[:1] == (1,)  # [1, inputs] stretches inputs, [outputs, 1] outputs
        shape = (1, kernel.inputs) if inward else (kernel.outputs, 1)
        values = kernel.stacked(adapter, _VECTOR, shape).reshape(config.layers, -1)
        for part, outputs in kernel.parts.items():
            vectors[part] = jnp.asarray(values if inward else values[:, outputs])
            sides[inward].append(part)
    return Ia3(tuple(sides[False]), tuple(sides[True])), vectors


def _one_after_another(kernel: Kernel, vectors: Vectors) -> Float[np.ndarray, "layers outputs"]:
    """What stretches all that leaves a module; ones where a part is left as it is."""
    full = np.ones((len(kernel.paths), kernel.outputs), np.float32)
    for part, vector in vectors.items():
        outputs = kernel.parts[part]
        full[:, outputs] = _shaped(part, vector, (len(kernel.paths), len(outputs)))
    return full


def _alike(kernel: Kernel, vectors: Vectors, inputs: tuple[str, ...]) -> Float[np.ndarray, "layers inputs"]:
    """What stretches all that enters a module. ValueError unless it is the same for all its parts."""
    own = [_shaped(part, vectors[part], (len(kernel.paths), kernel.inputs)) for part in vectors if part in inputs]
    if len(own) != len(kernel.parts) or not all(np.array_equal(own[0], other) for other in own):
        raise ValueError(f"{', '.join(kernel.parts)} are one module there: stretch what enters them alike, or none")
    return own[0]


def _shaped(what: str, values, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(values, np.float32)
    if values.shape != shape:
        raise ValueError(f"{what} has shape {values.shape}: the model and the method ask for {shape}")
    return values

"""Prompts as PEFT keeps them: a folder with `adapter_config.json` and `adapter_model.safetensors`."""

import json
import os
from pathlib import Path

import numpy as np
from jaxtyping import Array, Float

from nvcim_jax.llm.config import PROMPT_SPACE

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def export_prompt(folder: Path | str, prompt: Float[Array, "tokens dim"], *, base_model: str) -> None:
    """Write a prompt tuning adapter for `base_model` to a new `folder`, complete or not at all.

    The prompt is in the space of the model's embeddings as they enter the first layer. ValueError if it is no matrix of
    finite values or the folder exists.
    """
    from safetensors.numpy import save_file

    folder, values = Path(folder), np.asarray(prompt, np.float32)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"a prompt of shape {values.shape}: finite values [tokens, dim] are needed")
    if folder.exists():
        raise ValueError(f"{folder} exists already: give another folder, or remove it first")
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "num_virtual_tokens": values.shape[0],
        "token_dim": values.shape[1],
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",  # it is overwritten by the stored prompt
    }
    partial = folder.with_name(f"{folder.name}.part")
    partial.mkdir(parents=True, exist_ok=True)
    save_file({"prompt_embeddings": values}, partial / WEIGHTS, metadata={"format": "pt", "prompt_space": PROMPT_SPACE})
    (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    os.rename(partial, folder)


def import_prompt(folder: Path | str) -> Float[Array, "tokens dim"]:
    """The prompt of a prompt tuning adapter folder. ValueError if it holds another method or is damaged."""
    import jax.numpy as jnp
    from safetensors import SafetensorError, safe_open

    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        method = config["peft_type"]
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no {CONFIG}: give the folder of a PEFT adapter") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged: it is no JSON object with a peft_type") from error
    if method != "PROMPT_TUNING":
        raise ValueError(f"{folder} holds a {method} adapter: only PROMPT_TUNING can be read")
    try:
        with safe_open(folder / WEIGHTS, framework="np") as tensors:
            prompt, told = tensors.get_tensor("prompt_embeddings"), tensors.metadata() or {}
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no {WEIGHTS}: only safetensors are read, never pickles") from error
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is damaged or holds no prompt_embeddings ({error})") from error
    space = told.get("prompt_space", PROMPT_SPACE)  # peft itself does not say; its present releases mean this one
    if space != PROMPT_SPACE:
        raise ValueError(f"{folder}: its prompt lives in {space!r}, the models here take {PROMPT_SPACE!r}: convert it")
    expected = (config.get("num_virtual_tokens"), config.get("token_dim") or prompt.shape[-1])
    if prompt.shape != expected:
        raise ValueError(f"{folder}: the prompt is {prompt.shape}, its {CONFIG} says {expected}")
    return jnp.asarray(prompt, jnp.float32)

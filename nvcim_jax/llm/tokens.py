"""The tokenizer of a checkpoint, tried before it is trusted, and the tokens that end an answer."""

import warnings
from pathlib import Path
from typing import Any

from nvcim_jax.llm import huggingface
from nvcim_jax.llm.config import CheckpointError
from nvcim_jax.llm.folder import one_line, read_object, short

_ONE_OF = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_OTHER_FILES = ("gguf_file", "fast_tokenizer_files")  # settings that name a file to read instead
_PROBE = "Two words, 1 é 字"


def read(folder: Path, hf: Any, vocab_size: int) -> tuple[Any, tuple[int, ...]]:
    """The tokenizer in a folder, and its end tokens. Raises CheckpointError as `tokenizer` does, and if no token ends
    an answer."""
    found = tokenizer(folder, hf, vocab_size)
    return found, _ends(folder, found, vocab_size)


def tokenizer(folder: Path, hf: Any, vocab_size: int) -> Any:
    """The tokenizer in a folder; every token has a row of the embedding.

    Raises CheckpointError if files are absent or damaged, a token lies beyond `vocab_size`, or a text cannot be encoded
    and decoded.
    """
    if not any((folder / name).is_file() for name in _ONE_OF):
        raise CheckpointError(f"{folder} holds no tokenizer.json: save the tokenizer beside the weights")
    for name in _SETTINGS:
        if (folder / name).is_file():
            _check_settings(folder / name)
    try:
        found = huggingface.tokenizer(folder, hf)
        check(found, vocab_size)
        _warn_of_moved(folder, found)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return found


def _check_settings(path: Path) -> None:
    told = read_object(path)
    for name in _OTHER_FILES:
        if name in told:
            raise CheckpointError(f"{path}: {name} names another file, which is not followed: remove it")


def check(tokenizer: Any, vocab_size: int) -> None:
    """Raise CheckpointError for a tokenizer that cannot encode and decode, or gives tokens beyond `vocab_size`."""
    try:
        token, last = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
        encoded = [tokenizer(_PROBE, add_special_tokens=special).input_ids for special in (False, True)]
        tokenizer.decode(encoded[1], skip_special_tokens=True)
    except Exception as error:
        raise CheckpointError(f"the tokenizer cannot encode and decode a text ({one_line(error)})") from error
    if last >= vocab_size:
        raise CheckpointError(f"token {short(token)} has the id {last}, but the embedding has {vocab_size} rows")
    if not encoded[0]:
        raise CheckpointError("the tokenizer finds no token in a text: its vocabulary is damaged")
    for token in encoded[1]:
        if not 0 <= token < vocab_size:
            raise CheckpointError(f"the tokenizer adds the token {token}, but the embedding has {vocab_size} rows")


def _warn_of_moved(folder: Path, tokenizer: Any) -> None:
    """Transformers gives a token that it does not find, or finds in an odd place, the next free id: its row of the
    embedding was trained for something else, or not at all."""
    path, ids = folder / "tokenizer.json", tokenizer.get_vocab()
    if not path.is_file():
        return
    told, end = _declared(path), tokenizer.eos_token
    if end is not None and end not in told:
        warnings.warn(
            f"{path} lacks the end token {short(end)}: it gets the id {ids.get(end)}, which the model may never write",
            stacklevel=2,
        )
    moved = [token for token, number in told.items() if ids.get(token) != number]
    if moved:
        warnings.warn(
            f"{path}: of its tokens {len(moved)} get another id, such as {short(moved[0])} {ids.get(moved[0])} instead "
            f"of {told[moved[0]]}: texts with them may mean something else to the model",
            stacklevel=2,
        )


def _declared(path: Path) -> dict[str, int]:
    """Token -> id, as a tokenizer.json says."""
    told = read_object(path)
    try:
        words = told["model"]["vocab"]
        words = {piece: at for at, (piece, _) in enumerate(words)} if isinstance(words, list) else dict(words)
        return words | {token["content"]: token["id"] for token in told.get("added_tokens") or []}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: it is no tokenizer's ({one_line(error)})") from error


def _ends(folder: Path, tokenizer: Any, vocab_size: int) -> tuple[int, ...]:
    """Those of generation_config.json, else the tokenizer's; the tokenizer gets the first one if it has none."""
    ends, where = tokenizer.eos_token_id, folder / "generation_config.json"
    if where.is_file():
        told = read_object(where).get("eos_token_id")
        ends = ends if told is None or told == [] else told
    if ends is None:
        raise CheckpointError(f"{folder}: no token ends an answer: name the eos_token in tokenizer_config.json")
    ends = ends if isinstance(ends, list) else [ends]
    for end in ends:
        if type(end) is not int or not 0 <= end < vocab_size:
            raise CheckpointError(f"{where}: eos_token_id {short(end)}; allowed: tokens from 0 to {vocab_size - 1}")
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0]) or ""
    return tuple(ends)

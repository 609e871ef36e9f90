"""The tokenizer of a GGUF file, with its chat template, and the tokens that end an answer."""

import warnings
from typing import Any, NamedTuple

from nvcim_jax.llm import huggingface, tokens
from nvcim_jax.llm.config import CheckpointError
from nvcim_jax.llm.folder import short
from nvcim_jax.llm.gguf_file import Header


class Cut(NamedTuple):
    """How a vocabulary of byte pairs cuts a text into words."""

    name: str  # that transformers' converter knows
    digits: bool = False  # every digit stands alone
    whole: bool = False  # a word of the vocabulary is never cut, and a text begins with a first token


# llama.cpp's names. The converter takes every name that it does not know for GPT-2's, so all that are read stand here.
CUTS = {
    **dict.fromkeys(("gpt-2", "default", "phi-2", "olmo", "mpt"), Cut("gpt-2")),
    **dict.fromkeys(("smollm", "starcoder", "refact"), Cut("gpt-2", digits=True)),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral"), Cut("llama-bpe", whole=True)),
    **dict.fromkeys(("dbrx", "smaug-bpe"), Cut("dbrx")),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2"), Cut("qwen2")),
    "tekken": Cut("tekken", whole=True),
}
_KINDS = ("gpt2", "llama")  # byte pairs, sentencepiece
_SPECIAL = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id",
            "pad_token": "padding_token_id"}  # fmt: skip
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")


def read(header: Header, vocab_size: int) -> tuple[Any, tuple[int, ...]]:
    """The tokenizer in a GGUF file, and its end tokens.

    Raises CheckpointError if it is absent, damaged or cuts texts in a way that is not known, and as `tokens.read` does.
    """
    named = {name.removeprefix("tokenizer.ggml."): value for name, value in header.fields.items()}
    try:
        _check(named, vocab_size)
        tokenizer = _made(header, named)
        tokens.check(tokenizer, vocab_size)
    except CheckpointError as error:
        raise CheckpointError(f"{header.path}: {error}") from error
    ends = tuple(dict.fromkeys(named[name] for name in _ENDS if named.get(name) is not None))
    if not ends:
        raise CheckpointError(f"{header.path}: no token ends an answer: tokenizer.ggml.eos_token_id has to name one")
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = named["tokens"][ends[0]]
    return tokenizer, ends


def _made(header: Header, named: dict[str, Any]) -> Any:
    cut = _cut(header, named) if named["model"] == "gpt2" else None
    words = {name: named[name] for name in ("tokens", "merges", "scores", "token_type") if name in named}
    words |= {"tokenizer_type": named["model"], "pre_tokenizer_type": cut and cut.name}
    special = {ours: named["tokens"][named[theirs]] for ours, theirs in _SPECIAL.items() if theirs in named}
    begins = named["model"] == "llama" if cut is None else cut.whole
    return huggingface.gguf_tokenizer(
        header.fields["general.architecture"],
        words,
        digits=bool(cut and cut.digits),
        whole=bool(cut and cut.whole),
        spaced=named.get("add_space_prefix", True) is not False,
        add_bos_token=named.get("add_bos_token", begins) is True,
        add_eos_token=named.get("add_eos_token", False) is True,
        chat_template=header.fields.get("tokenizer.chat_template"),
        **{name: special.get(name) for name in _SPECIAL},
    )


def _cut(header: Header, named: dict[str, Any]) -> Cut:
    name = named.get("pre", "default")
    if not isinstance(name, str) or name not in CUTS:
        raise CheckpointError(f"tokenizer.ggml.pre {short(name)} is not supported; known: {', '.join(CUTS)}")
    if name == "default":
        warnings.warn(
            f"{header.path} does not say how its tokenizer cuts texts into words: it is read as GPT-2's", stacklevel=2
        )
    return CUTS[name]


def _check(named: dict[str, Any], vocab_size: int) -> None:
    kind = named.get("model")
    if kind is None or "tokens" not in named:
        raise CheckpointError("it holds no tokenizer: choose a file that does")
    if kind not in _KINDS:
        raise CheckpointError(f"tokenizer.ggml.model {short(kind)} is not supported; known: {', '.join(_KINDS)}")
    count = len(named["tokens"]) if isinstance(named["tokens"], list) else 0
    if not 1 <= count <= vocab_size:
        raise CheckpointError(f"its tokenizer has {count} tokens, but the embedding has {vocab_size} rows")
    needed = {"tokens": (str, count), **({"merges": (str, None)} if kind == "gpt2" else {"scores": (float, count)})}
    if "token_type" in named:
        needed["token_type"] = (int, count)
    for name, (of, length) in needed.items():
        given = named.get(name)
        if (
            not isinstance(given, list)
            or not all(type(each) is of for each in given)
            or length not in (None, len(given))
        ):
            raise CheckpointError(f"tokenizer.ggml.{name} is {short(given)}; a list of {length or 'pairs'} is needed")
    for name in (*_SPECIAL.values(), *_ENDS):
        if name in named and (type(named[name]) is not int or not 0 <= named[name] < count):
            raise CheckpointError(f"tokenizer.ggml.{name} is {short(named[name])}; allowed: 0 to {count - 1}")
    template = named.get("tokenizer.chat_template", "")
    if not isinstance(template, str):
        raise CheckpointError(f"tokenizer.chat_template is {short(template)}; a text is needed")

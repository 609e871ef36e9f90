"""What a folder of sentence-transformers says about how texts become vectors."""

from dataclasses import dataclass
from pathlib import Path

from nvcim_jax.llm.config import CheckpointError
from nvcim_jax.llm.fields import FLAG, WORD, Kind, checked, or_null, whole
from nvcim_jax.llm.folder import check_link, read_object, read_value, short

MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_POOLING = {
    **dict.fromkeys(("pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_max_tokens"), FLAG),
    **dict.fromkeys(("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens"), FLAG),
    "pooling_mode_lasttoken": FLAG,
    "pooling_mode": or_null(WORD),  # as newer files say it
}
_SETTINGS = {"max_seq_length": or_null(whole(2, 2**20)), "do_lower_case": FLAG}
_PROMPTS = {"prompts": Kind("an object of texts or null", lambda told: told is None or _are_texts(told))}


@dataclass(frozen=True)
class Sentences:
    """How many tokens of a text are read, how their states become one vector, and what goes before questions and texts.

    A folder without modules.json is read as sentence-transformers reads it: the mean of all its tokens.
    """

    window: int
    pooling: str = "mean"  # or "cls", the state of the first token
    is_unit: bool = False  # vectors are scaled to length one
    before_question: str = ""
    before_text: str = ""


def read(folder: Path, context: int) -> Sentences:
    """The settings in a folder. Raises CheckpointError for modules and poolings that are not built here, by name."""
    if not (folder / "modules.json").is_file():
        return Sentences(context)
    modules = read_value(folder / "modules.json")
    pooling, is_unit = "mean", False
    for at, module in enumerate(modules if isinstance(modules, list) else [modules]):
        kind, place = _module(module, folder / "modules.json")
        if kind not in ("Transformer", "Pooling", "Normalize") or (kind == "Transformer") != (at == 0):
            raise CheckpointError(
                f"{folder / 'modules.json'}: module {at} is {short(kind)}; a Transformer, then Pooling and Normalize "
                "are built here"
            )
        pooling = _pooling(folder, place) if kind == "Pooling" else pooling
        is_unit = is_unit or kind == "Normalize"
    settings, said = folder / "sentence_bert_config.json", folder / "config_sentence_transformers.json"
    own = checked(read_object(settings), _SETTINGS) if settings.is_file() else {}
    prompts = (checked(read_object(said), _PROMPTS).get("prompts") if said.is_file() else None) or {}
    text = next((prompts[name] for name in ("document", "passage") if name in prompts), "")
    window = min(own.get("max_seq_length") or context, context)
    return Sentences(window, pooling, is_unit, prompts.get("query", ""), text)


def _module(module: object, path: Path) -> tuple[str, str]:
    """Kind and folder of a module: the last part of its class's name, which no code is loaded by."""
    told = module if isinstance(module, dict) else {}
    kind, place = told.get("type"), told.get("path", "")
    if not isinstance(kind, str) or not isinstance(place, str):
        raise CheckpointError(f"{path} is damaged: it holds {short(module)}, a module with type and path is needed")
    return kind.rsplit(".", 1)[-1], place


def _pooling(folder: Path, place: str) -> str:
    if Path(place).name != place or place in ("", ".", ".."):
        raise CheckpointError(
            f"{folder / 'modules.json'}: {short(place)} is no folder beside it, which is not followed"
        )
    check_link(folder / place)
    check_link(folder / place / "config.json")
    path = folder / place / "config.json"
    told = checked(read_object(path), _POOLING)
    asked: list[str] = [str(MODES.get(name, name)) for name in told if told[name] is True]
    asked = asked or [str(told.get("pooling_mode") or "mean")]
    if len(asked) != 1 or asked[0] not in MODES.values():
        raise CheckpointError(f"{path}: pooling by {', '.join(asked)} is not built here; known: mean, cls")
    return asked[0]


def _are_texts(told: object) -> bool:
    return isinstance(told, dict) and all(isinstance(each, str) and len(each) <= 1000 for each in told.values())

"""Annotations are checked while the tests run: the shapes of arrays by jaxtyping, everything else by beartype."""

from collections.abc import Callable
from pathlib import Path

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

PACKAGE = Path(__file__).parents[2] / "nvcim_jax"
LEFT_OUT = {"__init__", "__main__", "cli"}  # commands are told by typer what they get

_as_pep_484 = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a whole number will do where a float is wanted


def checked(function: Callable) -> Callable:
    """The function, which then refuses what its annotations do not say; one without any is left as it is."""
    return _as_pep_484(function) if function.__annotations__ else function


def check_annotations() -> None:
    """Check what every function of the package takes and gives. Call it before any of its modules is imported."""
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    install_import_hook([f"nvcim_jax.{room}" for room in sorted(rooms - LEFT_OUT)], f"{__name__}.checked")

"""Imports go down only, and each heavy library has its doors."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nvcim_jax"
FLOORS = [  # what a package may import: itself, those before it, and not what `APART` names
    {"description", "files", "interrupts", "people", "provenance"},
    {"core"},
    {"hardware"},
    {"memory"},
    {"stream"},
    {"llm"},
    {"data"},
    {"tuning"},
    {"pipeline"},
    {"documents"},
    {"evaluation"},
    {"cli", "__main__"},
]
APART = {
    "stream": {"hardware", "memory"},
    "llm": {"hardware", "memory", "stream"},
    "data": {"core", "hardware", "memory", "stream"},
    "tuning": {"memory", "stream"},
}
DOORS = {
    "flax": {"llm"},
    "optax": {"tuning", "core", "documents"},
    "orbax": {"memory"},
    "transformers": {"llm"},
    "typer": {"cli"},
    "matplotlib": {"evaluation"},
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def floor_of(name: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_imports_from_a_higher_floor(path):
    for name in imports(path):
        if name.startswith("nvcim_jax."):
            other = name.split(".")[1]
            if (PACKAGE / other).is_dir() or (PACKAGE / f"{other}.py").is_file():
                assert floor_of(other) <= floor_of(room(path)), f"{path.name} imports {name}"
                assert other not in APART.get(room(path), ()), f"{path.name} imports {name}"


@pytest.mark.parametrize("library", DOORS)
def test_each_heavy_library_has_its_doors(library):
    users = {room(path) for path in FILES if any(name.split(".")[0] == library for name in imports(path))}
    assert users == DOORS[library]


def test_only_one_file_opens_orbax():
    users = [path.name for path in FILES if any(name.split(".")[0] == "orbax" for name in imports(path))]
    assert users == ["checkpoint.py"]


def test_the_mathematics_needs_jax_only():
    standard = {"dataclasses", "math", "typing", "collections", "functools"}
    for path in [*(PACKAGE / "core").glob("*.py"), *(PACKAGE / "stream").glob("*.py")]:
        if path.name == "lexicon.py":  # reads files
            continue
        allowed = (
            standard | {"jax", "jaxtyping", "numpy", "nvcim_jax"} | ({"optax"} if path.name == "codec.py" else set())
        )
        assert {found.split(".")[0] for found in imports(path)} <= allowed, path.name

"""Public functions say what they take and what they give; the tests check it at runtime (`helpers/typecheck.py`)."""

import ast
from importlib.resources import files

import pytest

from tests.helpers.typecheck import PACKAGE

FILES = sorted(PACKAGE.rglob("*.py"))


def public_functions(node: ast.AST):
    for child in ast.iter_child_nodes(node):
        if not getattr(child, "name", "_").startswith("_"):
            if isinstance(child, ast.FunctionDef):
                yield child
            elif isinstance(child, ast.ClassDef):
                yield from public_functions(child)


def unannotated(function: ast.FunctionDef):
    own = function.args
    given = [*own.posonlyargs, *own.args, *own.kwonlyargs, *filter(None, (own.vararg, own.kwarg))]
    yield from (each.arg for each in given if each.annotation is None and each.arg not in ("self", "cls"))
    if function.returns is None:
        yield "return"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_functions_are_annotated(path):
    found = public_functions(ast.parse(path.read_text()))
    assert not {function.name: names for function in found if (names := list(unannotated(function)))}


def test_the_tests_check_annotations_at_runtime():
    from beartype.roar import BeartypeException
    from jaxtyping import TypeCheckError

    from nvcim_jax.data.text import bucket

    with pytest.raises((TypeCheckError, BeartypeException)):
        bucket("16")


def test_the_package_tells_type_checkers_that_it_is_typed():
    assert files("nvcim_jax").joinpath("py.typed").is_file()

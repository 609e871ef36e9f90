"""What is shipped: a wheel holds the whole package, with its data, and nothing else."""

from pathlib import Path

from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]


def shipped(builder) -> set[str]:
    return {file.distribution_path for file in builder(str(ROOT)).recurse_included_files()}


def test_a_wheel_is_the_package_with_its_data():
    found = shipped(WheelBuilder)
    package = (path for path in (ROOT / "nvcim_jax").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert found == {path.relative_to(ROOT).as_posix() for path in package}
    toy = {f"data/toy/model/{name}" for name in ("config.json", "model.safetensors", "tokenizer.json")}
    data = toy | {"py.typed", "__init__.pyi", "data/toy/vocabulary.toml", "evaluation/converter_bits.json"}
    assert {f"nvcim_jax/{name}" for name in data} <= found


def test_a_source_distribution_can_be_built_and_tested():
    needed = {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "tests/conftest.py",
        "bench/harness.py",
        "experiments/remake.py",
    }
    assert needed | shipped(WheelBuilder) <= shipped(SdistBuilder)

"""The commands as a test calls them."""

from typer.testing import CliRunner

from nvcim_jax import cli


def nvcim(*words: object, code: int = 0, told: str | bytes | None = None) -> str:
    """What `nvcim words...` prints, on a terminal of 200 columns; AssertionError unless it exits with `code`.

    `told` is what it reads on standard input.
    """
    result = CliRunner().invoke(cli.app, list(map(str, words)), input=told, env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output

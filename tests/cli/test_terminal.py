"""The terminal: nothing from outside is obeyed."""

import ast
import io
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from nvcim_jax import cli
from nvcim_jax.cli.shared import plain_errors, print_json, progress_bar
from nvcim_jax.cli.terminal import Terminal, plain, visible
from tests.test_floors import FILES, PACKAGE, imports

OUTSIDE = [
    ("[INST] a [/INST]", "[INST] a [/INST]"),
    ("[bold]a[/bold] [link=http://x]b[/link] [ok]", "[bold]a[/bold] [link=http://x]b[/link] [ok]"),
    ("[/] \\[a] :smile:", "[/] \\[a] :smile:"),
    ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
    ("a\nb\rc\td\x00e\x7f\x85\x9b31m", r"a\nb\rc\td\x00e\x7f\x85\x9b31m"),
    ("\u202ea\u202d\u2066b\u2069\u200e", r"\u202ea\u202d\u2066b\u2069\u200e"),
    ("a\u200bb\u200dc\ufeff\u2028\u00ad", r"a\u200bb\u200dc\ufeff\u2028\xad"),
    ("a\ud800b\udcff", r"a\ud800b\udcff"),
    ("\U000e0041", r"\U000e0041"),
    ("naïve 日本語 עברית 😀 a\u00a0b", "naïve 日本語 עברית 😀 a\u00a0b"),
]


def terminal(colour=False) -> tuple[Terminal, io.StringIO]:
    file = io.StringIO()
    return Terminal(
        file=file, width=200, force_terminal=colour or None, color_system="truecolor" if colour else None
    ), file


@pytest.mark.parametrize(("given", "shown"), OUTSIDE)
def test_outside_text_by_hand(given, shown):
    assert visible(given) == shown and plain(given).plain == shown


def test_lines_are_kept_where_asked():
    assert visible("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def printed_everywhere(console: Terminal, text: str) -> None:
    console.print(text)
    console.print(f"in a sentence: {text}", style="yellow", soft_wrap=True)
    console.out(text)
    console.print(Text(text), Path(text.replace("\0", "")))
    console.rule(text)
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    table.add_row(plain(text, "bold"))
    console.print(table)


@pytest.mark.parametrize(("given", "shown"), OUTSIDE)
def test_a_terminal_prints_text_as_it_stands(given, shown):
    console, file = terminal()
    printed_everywhere(console, given)
    assert file.getvalue().count(shown) >= 7
    assert all(char == "\n" or visible(char) == char for char in file.getvalue())


@pytest.mark.parametrize(("given", "shown"), OUTSIDE)
def test_a_status_and_a_progress_bar_show_text_as_it_stands(given, shown, monkeypatch):
    console, file = terminal(colour=True)
    with console.status(given):
        pass
    assert shown in file.getvalue()
    console, file = terminal(colour=True)
    monkeypatch.setattr("nvcim_jax.cli.progress.Terminal", lambda **options: console)
    with progress_bar() as progress:
        progress.add_task(given, total=1)
    assert shown in file.getvalue()


def test_styles_are_still_obeyed():
    console, file = terminal(colour=True)
    console.print(plain("a", "bold"), "b", style="yellow")
    assert file.getvalue() == "\x1b[1;33ma\x1b[0m\x1b[33m b\x1b[0m\n"


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize(("given", "shown"), OUTSIDE)
def test_errors_and_warnings_are_one_line_of_text(given, shown, capsys):
    with pytest.raises(SystemExit) as stopped, plain_errors():
        warnings.warn(given, stacklevel=1)
        raise ValueError(given)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines() == [f"warning: {shown}", f"error: {shown}"]


def test_a_very_long_error_loses_its_middle(capsys):
    with pytest.raises(SystemExit), plain_errors():
        raise ValueError("start " + "x" * 10**6 + " end")
    said = capsys.readouterr().err
    assert said.startswith("error: start x") and said.endswith("x end\n") and len(said) < 2100


def test_an_error_without_words_is_named(capsys):
    with pytest.raises(SystemExit), plain_errors():
        raise OSError
    assert capsys.readouterr().err == "error: OSError\n"


@pytest.mark.parametrize(
    "words", [["\u202ea\x1b[31m"], ["ask", "b", "q", "\u202ea"], ["--a\u202e"], ["bank", "\u202e"]]
)
def test_arguments_that_are_quoted_back(words):
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2 and r"\u202e" in result.output and "\u202e" not in result.output


def test_a_terminal_without_some_characters():
    command = [sys.executable, "-m", "nvcim_jax", "devices"]
    done = subprocess.run(command, capture_output=True, check=True, env={"PYTHONIOENCODING": "ascii"})
    assert rb"0.9 \xb1 0.049" in done.stdout and not done.stderr


@pytest.mark.parametrize("given", [given for given, _ in OUTSIDE])
def test_json_holds_the_text_itself(given, capsys):
    print_json({"text": given})
    said = capsys.readouterr().out
    assert json.loads(said) == {"text": given} and visible(said, keep="\n") == said


def calls(path: Path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def has_line_break(node: ast.AST) -> bool:
    return any(isinstance(part, ast.Constant) and "\n" in str(part.value) for part in ast.walk(node))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_there_is_one_way_to_the_terminal(path):
    """rich is met through Terminal; only its tables and progress bars, which Terminal keeps plain, are used directly."""
    if path.name == "terminal.py":
        return
    for name in imports(path):
        if name.split(".")[0] == "rich":
            assert ".".join(name.split(".")[:2]) in ("rich.table", "rich.progress"), f"{path.name} imports {name}"
    for call in calls(path):
        name = ast.unparse(call.func)
        assert name not in ("print", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"), name
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("markup", "False") == given.get("emoji", "False") == "False", ast.unparse(call)
        assert name.split(".")[-1] != "TextColumn", "it parses markup: use Words"
        if name.endswith(("console.print", "stderr.print")):
            own = [part for part in call.args if not ast.unparse(part).startswith("plain(")]
            assert not any(map(has_line_break, own)), f"two lines are two prints: {ast.unparse(call)}"

"""The terminal: what comes from outside is printed as text, whatever characters it holds.

Texts, names, paths and errors may look like rich's markup (`[INST]`, `:smile:`) or hold characters that command a
terminal (escape sequences, bidirectional overrides). Neither is ever obeyed: markup is off, and such characters are
shown as Python writes them in a literal, an escape as `\\x1b`.
"""

import unicodedata
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Task, TextColumn
from rich.segment import Segment
from rich.status import Status
from rich.text import Text

UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidi, zero width), surrogates, line and paragraph separators


def visible(value: object, *, keep: str = "") -> str:
    """`str(value)` in one line, with characters that would not be seen written as escapes, except those in `keep`."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in UNSEEN and char not in keep else char
        for char in text
    )


def plain(value: object, style: str = "", *, keep: str = "") -> Text:
    """`visible(value)` for a console, a table's cell or a progress bar: never parsed as markup."""
    return Text(visible(value, keep=keep), style)


class Terminal(Console):
    """A console that takes every string as one line of plain text, in tables and titles too.

    Styles are given by `style=` or `plain(text, style)`; two lines are two calls of `print`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Strings, before they are laid out."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What was made without `plain`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text, keep="\n"))

    def status(self, status: str, **options: Any) -> Status:
        """rich would parse the status as markup."""
        return super().status(plain(status), **options)


class Words(TextColumn):
    """A column of a progress bar whose words are plain text."""

    def render(self, task: Task) -> Text:
        return plain(self.text_format.format(task=task))

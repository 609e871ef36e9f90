"""Ctrl-C ends a command at any moment with exit code 130.

Python would raise KeyboardInterrupt wherever the program happens to be. In native code that is just being imported this
crashes the process, in a callback of native code it is printed and forgotten, and while something is being compiled an
orderly end crashes. So a command ends at once, except in the stretches where it has something to keep (`caught`), or
that are all that Ctrl-C is to end (`stopping`).
"""

import _thread
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Timer

_asked = Event()
_stretches: list[None] = []  # one entry for each `caught` that is open
_last: list[Callable[[], None]] = []  # done before an end


def asked() -> bool:
    """Whether Ctrl-C was pressed, so that any error since then may be its work."""
    return _asked.is_set()


def before_the_end(do: Callable[[], None]) -> None:
    """Have something done, such as tidying, if the process ends here; it must be quick."""
    _last.append(do)


@contextmanager
def caught(kept: Callable[[], str | None] = lambda: None) -> Iterator[None]:
    """A stretch in which Ctrl-C raises KeyboardInterrupt; `kept` says in a note to it what is kept, if anything is."""
    _stretches.append(None)
    try:
        yield
    except KeyboardInterrupt as stop:
        note = kept()
        if note:
            stop.add_note(note)
        raise
    finally:
        _stretches.pop()


@contextmanager
def stopping() -> Iterator[None]:
    """A stretch that Ctrl-C ends, and nothing else: the program goes on behind it."""
    try:
        with caught():
            yield
    except KeyboardInterrupt:
        _asked.clear()


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Run a command as a whole process: after Ctrl-C, or where it exits with 130, the process ends here."""
    signal.signal(signal.SIGINT, _stop)
    sys.unraisablehook = _again
    try:
        yield
    except BaseException as error:
        if asked() or getattr(error, "code", None) == 130:
            _end()
        raise
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done: what is left of the process takes a moment


def _stop(*_) -> None:
    _asked.set()
    if _stretches:
        raise KeyboardInterrupt
    if sys.stderr.isatty():
        os.write(2, b"\x1b[?25h\n")  # a progress bar hides the cursor
    os.write(2, b"interrupted\n")
    _end()


def _end() -> None:
    for do in _last:
        with suppress(Exception):
            do()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(130)


def _again(lost) -> None:
    """Raise a KeyboardInterrupt once more, a moment later, that nobody could have caught where it was raised."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        Timer(0.02, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)

"""Bad input, and what may come of it: it is taken and what comes out is sound, or it is refused in one sentence."""

import signal
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import NamedTuple


class Attack(NamedTuple):
    """One piece of bad input. `run()` hands it to the program and returns what the program made of it."""

    name: str
    run: Callable[[], object]


class Hang(BaseException):
    """An attack that did not end in time. No `except Exception` of the program can swallow it."""


def outcomes(
    attacks: Iterable[Attack],
    *,
    refusals: tuple[type[Exception], ...] = (ValueError, OSError),
    is_sound: Callable[[object], bool] = lambda made: True,
    seconds: float = 30,
) -> Counter:
    """How many attacks were "taken" and how many "refused".

    AssertionError lists every attack that raised anything but one of `refusals` with a message of one line, that ran
    for more than `seconds`, or that was taken although `is_sound(made)` is false: wrong in silence.
    """
    counts, broken = Counter(), []
    for name, run in attacks:
        try:
            with _time_limit(seconds):
                made = run()
        except refusals as error:
            lines = str(error).strip().splitlines()
            if len(lines) == 1:
                counts["refused"] += 1
            else:
                broken.append(f"{name}: refused in {len(lines)} lines: {error}")
        except Hang:
            broken.append(f"{name}: still running after {seconds} s")
        except Exception as error:
            broken.append(f"{name}: {type(error).__name__}: {error}")
        else:
            if is_sound(made):
                counts["taken"] += 1
            else:
                broken.append(f"{name}: taken in silence, and what came out is wrong")
    assert not broken, f"{len(broken)} of {len(broken) + counts.total()} attacks:\n" + "\n".join(broken[:20])
    return counts


def command(*words: object) -> str:
    """What `nvcim words...` prints. A refusal (exit code 2, one error) raises ValueError with its sentence.

    AssertionError for a traceback, another exit code, or more than one error.
    """
    from typer.testing import CliRunner

    from nvcim_jax import cli

    result = CliRunner().invoke(cli.app, list(map(str, words)))
    if result.exit_code == 0:
        return result.output
    assert result.exit_code == 2, f"exit code {result.exit_code}: {result.output} {result.exception!r}"
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    sentence = " ".join(result.output.split())
    assert sentence and "Traceback" not in sentence, result.output
    raise ValueError(sentence)


@contextmanager
def _time_limit(seconds: float):
    def stop(*_):
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

"""Ctrl-C ends a process with 130, wherever it strikes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nvcim_jax import interrupts

ROOT = Path(__file__).parents[1]
BEGINNING = "import signal, sys\nfrom nvcim_jax.interrupts import asked, caught, ending_at_once, stopping\nwith ending_at_once():\n"
HIT = "signal.raise_signal(signal.SIGINT)"
CALLBACK = f"""
class A:
    def __del__(self):
        {HIT}
with caught():
    A()
    for _ in range(10**9):
        pass
print("lost", file=sys.stderr)
"""


def ended(body):
    """Exit code and stderr of a process that does `body`."""
    code = BEGINNING + "".join(f"    {line}\n" for line in body.splitlines())
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def test_an_interrupt_ends_at_once():
    assert ended(f"try:\n    {HIT}\nfinally:\n    print('late', file=sys.stderr)") == (130, "interrupted\n")
    assert ended(f"with caught():\n    pass\n{HIT}") == (130, "interrupted\n")


@pytest.mark.parametrize(
    "body",
    [
        f"with caught():\n    {HIT}",
        f"with caught():\n    try:\n        {HIT}\n    except KeyboardInterrupt:\n        raise ImportError('odd')",
        f"try:\n    with caught():\n        {HIT}\nexcept KeyboardInterrupt:\n    raise SystemExit(0 if asked() else 1)",
        CALLBACK,
        "raise SystemExit(130)",
    ],
)
def test_where_it_is_caught_it_is_never_lost_and_never_an_error(body):
    assert ended(body) == (130, "")


def test_a_stretch_may_be_all_that_is_stopped():
    """The process ends as it would have ended without."""
    body = f"with stopping():\n    {HIT}\n    print('late', file=sys.stderr)\nprint(asked(), file=sys.stderr)"
    assert ended(f"{body}\nraise SystemExit(0)") == (0, "False\n")
    assert ended(f"{body}\n{HIT}") == (130, "False\ninterrupted\n")


def test_tidying_comes_before_the_end():
    tidy = "from nvcim_jax.interrupts import before_the_end\n"
    tidy += "before_the_end(lambda: 1 / 0)\nbefore_the_end(lambda: print('tidy', file=sys.stderr))\n"
    assert ended(tidy + HIT) == (130, "interrupted\ntidy\n")
    assert ended(tidy + "raise SystemExit(0)") == (0, "")


def test_a_note_says_what_is_kept():
    for told, notes in (("half", ["half"]), (None, None)):
        with pytest.raises(KeyboardInterrupt) as stop, interrupts.caught(lambda told=told: told):
            raise KeyboardInterrupt
        assert getattr(stop.value, "__notes__", None) == notes
    with interrupts.caught(pytest.fail):
        pass


def test_other_ends_are_as_ever():
    assert ended("pass") == (0, "")
    assert ended("raise SystemExit(2)") == (2, "")
    code, said = ended("assert not asked()\nraise ValueError('a bug')")
    assert code == 1 and said.endswith("ValueError: a bug\n")
    code, said = ended("class A:\n    def __del__(self):\n        raise OSError('odd')\nA()")
    assert code == 0 and "OSError: odd" in said


COMMAND = """
import sys
from nvcim_jax.interrupts import ending_at_once
with ending_at_once():
    print("ready", flush=True)
    from nvcim_jax import cli
    cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [["run", "--users", "1", "--draws", "1"], ["learn", "--out", "bank"], ["vary"], ["cost"], ["devices"]],
    ids=str,
)
def test_commands_end_at_any_moment(tmp_path, words):
    wait, ends = 0.0, []
    while wait < 30:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        said, error = process.communicate(timeout=120)
        assert process.returncode in (0, 130), (wait, process.returncode, error)
        assert process.returncode == 130 or said, (wait, error)
        assert "Traceback" not in error and "KeyboardInterrupt" not in error, (wait, error)
        assert process.returncode == 0 or len(error.strip().splitlines()) <= 3, (wait, error)
        assert "figures above" not in error or "base model" in said
        ends.append(process.returncode)
        if process.returncode == 0:
            break
        wait = 1.4 * wait + 0.1
    assert 130 in ends

"""Results on the terminal."""

from io import StringIO

import numpy as np

from nvcim_jax.cli import show
from nvcim_jax.cli.terminal import Terminal
from nvcim_jax.data import lamp
from nvcim_jax.evaluation.main_job import TaskResult
from nvcim_jax.evaluation.methods import Method
from nvcim_jax.people import User


def test_methods_stand_under_their_group_by_their_own_names():
    rows = [
        Method("base: plain", None),
        Method("never scored", None),
        Method("flat", None, "paper"),
        Method("x: y", None, "paper"),
    ]
    scores = {row.label: np.array([0.25, 0.75]) for row in rows if row.name != "never scored"}
    users = [User(str(at), (), ()) for at in range(2)]
    console = Terminal(file=StringIO(), width=160)
    result = TaskResult(lamp.task("LaMP-2"), users, scores, {}, [])
    show.results(console, [result], rows, {"device": "NVM-3", "sigma": 0.1, "draws": 1})
    table = [line.split("│")[1] for line in console.file.getvalue().splitlines() if line.startswith("│")]
    assert [name.rstrip() for name in table] == [" base: plain", " paper", "   flat", "   x: y"]
    assert "0.50±" in console.file.getvalue()

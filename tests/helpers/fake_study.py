"""A study whose cells take no time, for tests of the engine; as a program, `python -m tests.helpers.fake_study FOLDER`
runs a slow one."""

import os
import random
import sys
import time
from pathlib import Path

from nvcim_jax.evaluation import study
from nvcim_jax.evaluation.study import Json, Measured, Study
from nvcim_jax.memory.storage import digests

USERS = ("1000000", "1000001")


def measured(cell: Json) -> Measured:
    """A score and two rows from the cell's own name; its "sleep" is waited for, and its "fatal" file kills once."""
    time.sleep(cell.get("sleep", 0))
    if cell.get("fatal") and not os.path.exists(cell["fatal"]):
        Path(cell["fatal"]).touch()
        os._exit(9)
    draw = random.Random(digests.of_text(cell))
    rows = [{"user": user, "question": f"{user}-q0", "answer": f"tag {draw.randrange(9)}"} for user in USERS]
    return Measured({"score": draw.random()}, rows)


def fake(*, sleep: float = 0.0, blocks: int = 6, fatal: str | None = None, **settings: object) -> Study:
    """Two devices for each of `blocks` blocks of users; a worker dies at the last cell where `fatal` is no file yet."""
    cells: list[Json] = [
        {"users": [1_000_000 + 2 * block, 2], "device": device, "sleep": sleep}
        for block in range(blocks)
        for device in ("NVM-1", "NVM-2")
    ]
    if fatal:
        cells[-1]["fatal"] = fatal
    return Study("fake", {"draws": 3, **settings}, tuple(cells), measured, ("users",))


def rows_of(folder: Path | str) -> tuple[dict, list]:
    """Results by cell and rows of questions, without who wrote them when."""
    found = study.read(folder)
    rows = sorted(study.questions(folder, found), key=lambda row: (row["cell"], row["question"]))
    return {name: (cell["at"], cell["result"]) for name, cell in found.cells.items()}, rows


if __name__ == "__main__":
    study.run(fake(sleep=0.05), sys.argv[1])

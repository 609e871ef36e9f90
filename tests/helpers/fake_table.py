"""The cells of studies of answers with results that take no time."""

import random

from nvcim_jax.evaluation.study import Json, Measured
from nvcim_jax.memory.storage import digests

QUESTIONS = 2  # of each user
SCRIPT = "<script>alert('&')</script>"  # in every text that comes from outside


def measured(cell: Json, source: object = None) -> Measured:
    """Of each user in the cell a score of 0, 0.5 or 1 by the cell's name; two questions a draw."""
    draw, (first, count) = random.Random(digests.of_text(cell)), cell["users"]
    is_stored, task = "device" in cell, cell["task"]
    rows = [
        {
            "user": str(user), "question": f"{user}-q{at}", "draw": time, "content": f"{task} {SCRIPT} of {user}",
            "found": SCRIPT if is_stored else None, "found_answer": SCRIPT if is_stored else None, "margin": None,
            "answer": f"{SCRIPT} {draw.randrange(3)}", "gold": SCRIPT, "scores": {"accuracy": draw.randrange(2)},
        }
        for user in range(first, first + count)
        for at in range(QUESTIONS)
        for time in range(cell.get("draws", 1))
    ]  # fmt: skip
    scores = {str(user): draw.randrange(3) / 2 for user in range(first, first + count)}
    result = {"metric": "accuracy", "scores": scores, "right_domain": None, "questions": QUESTIONS * count}
    return Measured(result, rows)

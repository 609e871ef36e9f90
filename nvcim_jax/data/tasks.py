"""Tasks by name: LaMP's seven, and `free`, in which a question is asked as it stands."""

from nvcim_jax.data import lamp
from nvcim_jax.data.lamp import Task

FREE = Task("free", "rouge1", ("",), ("question", "answer"))  # of people's own histories


def task(name: str) -> Task:
    """The task called `name`; ValueError lists the known names."""
    if name == FREE.name:
        return FREE
    if name not in lamp.TASKS:
        raise ValueError(f"unknown task {name!r}: choose one of {', '.join(lamp.TASKS)}, {FREE.name}")
    return lamp.TASKS[name]

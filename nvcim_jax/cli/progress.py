"""Progress of long work: a bar with the time left; a plain line every half minute where output is no terminal.

The time left comes from finished work of the same kind; before there is any, none is shown. All of it goes to stderr.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TaskProgressColumn

from nvcim_jax.cli.terminal import Terminal, Words, plain
from nvcim_jax.interrupts import caught

if TYPE_CHECKING:  # JAX takes its time, and a bar does without
    from nvcim_jax.evaluation.study import Study
    from nvcim_jax.pipeline.learn import Report
    from nvcim_jax.tuning import Progress as Done

SECONDS = 30.0  # between two lines


class Pace(NamedTuple):
    """When work was seen to be finished for the first and for the last time: (seconds, units of work)."""

    first: tuple[float, float]
    last: tuple[float, float]

    def seen(self, now: float, done: float) -> "Pace":
        """With `done` units finished by `now`."""
        return self._replace(last=(now, done))

    def without(self, units: float) -> "Pace":
        """With `units` that were finished without work, such as what an earlier run had kept."""
        return Pace(*((at, done + units) for at, done in self))

    def left(self, now: float, total: float) -> float | None:
        """Seconds until `total` units are finished; None before there is anything to tell it from, and when overdue."""
        (began, before), (at, done) = self
        if done <= before or at <= began:
            return None
        left = (total - done) * (at - began) / (done - before) - (now - at)
        return left if left >= 0 else None


class Bar(Progress):
    """A rich progress bar that knows the `Pace` of its tasks.

    A task is added at its own pace, which begins with the first units that it advances by: what came before them, such
    as compiling, will not come again. With `marked=True` it begins at once, and counts only what `mark` is told.
    While the bar is shown, Ctrl-C is caught.
    """

    def __init__(self, *more: ProgressColumn):
        told = Words("{task.description}")
        self.paces: dict[TaskID, Pace] = {}
        self._over = Event()
        super().__init__(
            told, BarColumn(), TaskProgressColumn(), *more, _TimeLeft(self.paces), console=Terminal(stderr=True)
        )

    def add_task(self, description: str, *args: Any, marked: bool = False, **fields: Any) -> TaskID:
        task = super().add_task(description, *args, **fields, marked=marked)
        if marked:
            self.paces[task] = Pace((self.get_time(), 0), (self.get_time(), 0))
        return task

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        if not self._tasks[task_id].fields["marked"]:
            self.mark(task_id)

    def mark(self, task_id: TaskID, completed: float | None = None) -> None:
        """Say that a piece of work is finished: all that is `completed`."""
        if completed is not None:
            self.update(task_id, completed=completed)
        now = (self.get_time(), self._tasks[task_id].completed)
        self.paces[task_id] = self.paces.get(task_id, Pace(now, now)).seen(*now)

    def skip(self, task_id: TaskID, units: float) -> None:
        """Advance by units that took no work."""
        super().advance(task_id, units)
        if task_id in self.paces:
            self.paces[task_id] = self.paces[task_id].without(units)

    def __enter__(self) -> "Bar":
        self._stretch = caught()
        self._stretch.__enter__()
        return super().__enter__()

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        self._stretch.__exit__(*error)

    def start(self) -> None:
        if self.console.is_terminal:
            super().start()
        else:
            Thread(target=self._print_lines, daemon=True).start()

    def stop(self) -> None:
        self._over.set()
        if self.console.is_terminal:
            super().stop()

    def _print_lines(self) -> None:
        while not self._over.wait(SECONDS):
            for task in self.tasks:
                self.console.print(self.line(task), soft_wrap=True)

    def line(self, task: Task) -> str:
        """The bar of a task as words."""
        columns = [
            each for each in self.columns if isinstance(each, ProgressColumn) and not isinstance(each, BarColumn)
        ]
        words = (str(column.render(task)).strip() for column in columns)
        return ", ".join(filter(None, words))


class _TimeLeft(ProgressColumn):
    def __init__(self, paces: dict[TaskID, Pace]):
        super().__init__()
        self.paces = paces

    def render(self, task: Task):
        pace = self.paces.get(task.id)
        left = pace and not task.finished and pace.left(task.get_time(), task.total or 0)
        return plain(f"{clock(left)} left" if left else "", "progress.remaining")


def clock(seconds: float) -> str:
    """Seconds as 0:00:00."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def progress_bar() -> Bar:
    """A bar with the time left, to be used in `with`."""
    return Bar()


@contextmanager
def tuning_bar(row_steps: int) -> Iterator["Report"]:
    """A progress bar with loss, tokens per second and time left; gives what `pipeline.learn` reports to."""
    with Bar(Words("{task.fields[told]}")) as bar:
        task = bar.add_task("tuning", total=row_steps, told="compiling")
        tokens, began = 0, None

        def report(done: "Done") -> None:
            nonlocal tokens, began
            if not done.tokens:  # what an earlier run had finished, or what stopped early
                bar.skip(task, done.row_steps)
                return
            bar.advance(task, done.row_steps)
            rate = ""
            if began is None:  # these tokens waited for the compiler
                began = bar.get_time()
            else:
                tokens += done.tokens
                rate = f", {tokens / max(bar.get_time() - began, 1e-3):,.0f} tokens/s"
            bar.update(task, told=f"loss {done.loss:.3f}{rate}")

        yield report


def run_with_bar(study: "Study", folder: Path, shard: str = "1/1") -> None:
    """Run a study, or a shard of it, under a bar. Ctrl-C says that its folder keeps what is finished."""
    from nvcim_jax.evaluation.study import run, units

    note = f"finished cells are in {folder}: the same command goes on from them"
    with caught(lambda: note), Bar() as bar:
        work = bar.add_task(study.name, total=sum(map(len, units(study, shard))))
        run(study, folder, shard=shard, report=lambda count, kept: (bar.skip if kept else bar.advance)(work, count))

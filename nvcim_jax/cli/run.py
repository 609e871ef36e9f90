"""`nvcim run`: the main job."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from nvcim_jax.cli.shared import (
    EMBEDDED,
    MOST_HOURS,
    Budget,
    Compensation,
    Data,
    DeviceName,
    Extrapolate,
    Hours,
    Json,
    MemorySize,
    Mitigation,
    Model,
    Refresh,
    Seconds,
    Seed,
    Sigma,
    Weights,
    announce,
    checked_device,
    console,
    load,
    mitigating,
    number,
    path,
    plain_errors,
    prepare,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nvcim_jax.evaluation.main_job import Found
    from nvcim_jax.people import User

app = typer.Typer()
COMPILING = 25.0  # seconds that the programs of a task take
RESULTS = ("results.json", "results.png", "predictions", "bank-*", "common-*")


class Job(NamedTuple):
    """A model, the methods to compare, and on what device; the settings, which are kept beside the results in `out`."""

    model: Any  # llm.Model
    rows: Any  # tuple[evaluation.methods.Method, ...]
    cell: Any  # evaluation.methods.Cell
    settings: dict[str, Any]
    out: Path | None

    @property
    def draws(self) -> int:
        return self.settings["draws"]

    def units(self, people: "Sequence[User]") -> int:
        """Units of progress of a block of people."""
        from nvcim_jax.evaluation import ladder

        return ladder.work(people, self.model, 1, self.draws, self.rows)

    def units_in_common(self, found: "Found") -> int:
        """Units of progress of the prompt that others have in common; 0 if no row starts from it."""
        from nvcim_jax.evaluation.crowd import work_on
        from nvcim_jax.pipeline.presets import COMMON

        if found.others is None or not any(row.from_others for row in self.rows):
            return 0
        return COMMON.training.steps * (COMMON.training.per_step or 1) * work_on(self.model, found.others).step


@app.command(
    epilog="Examples:\n\n  nvcim run\n\n  nvcim run --task LaMP-2 --users 20 --sigma 0.2 --out out/sigma02\n\n"
    "  nvcim run --device PCM-Joshi --sigma 1 --seconds 86400 --compensation global\n\n"
    "  nvcim run --model ~/models/llama --task LaMP-3 --data ~/lamp/LaMP_3"
)
def run(
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="LaMP-1 to 7; may be repeated.", show_default="the embedded world's five"),
    ] = None,
    users: Annotated[int, typer.Option(parser=number(int, 1, 10**12), metavar="INTEGER", help="Users per task.")] = 4,
    device: DeviceName = "NVM-3",
    sigma: Sigma = 0.1,
    which: Annotated[
        str | None,
        typer.Option(
            "--methods", show_default="all of the embedded model, short of another",
            help="all, or short: the model alone, own tokens untuned, others' prompt, one prompt for all, recommended.",
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option(parser=number(int, 1, 10**12), metavar="INTEGER", help="Times that each bank is programmed.")
    ] = 3,
    mitigation: Mitigation = None,
    budget: Budget = 1.2,
    seconds: Seconds = None,
    compensation: Compensation = "none",
    refresh: Refresh = None,
    extrapolate: Extrapolate = False,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    weights: Weights = None,
    memory_size: MemorySize = None,
    data: Data = None,
    hours: Hours = MOST_HOURS,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            metavar="FOLDER",
            help="For results.json, results.png, predictions in LaMP's form and the banks.",
            show_default="none",
        ),
    ] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """The main job: learn from histories, store in noisy memory, search, answer, score; all methods side by side.

    With a model of your own OVTs start from one prompt for up to 20 other people, those behind the first --users.
    """
    with plain_errors():
        from nvcim_jax.cli import show
        from nvcim_jax.data import lamp, synthetic
        from nvcim_jax.evaluation import main_job, methods, predictions
        from nvcim_jax.people import EMBEDDED_WORLD
        from nvcim_jax.pipeline.presets import PRESETS
        from nvcim_jax.provenance import provenance

        if data and len(task or []) != 1:
            raise ValueError("--data holds one task: name it with one --task, such as --task LaMP-3")
        upkeep = {"seconds": seconds, "compensation": compensation, "refresh": refresh}
        if which not in (None, "all", "short"):
            raise ValueError(f"--methods {which}: choose all or short")
        presets = {name: mitigating(each, mitigation, budget, **upkeep) for name, each in PRESETS.items()}
        tasks = [lamp.task(name) for name in dict.fromkeys(task or synthetic.TASKS)]
        checked_device(device, sigma, seconds, extrapolate=extrapolate)
        prepare(out, *RESULTS)
        provenance()  # of now, not of the end
        loaded = load(model, weights, memory_size)
        found = _read(tasks, users, data)
        rows = methods.rows(presets)
        if not loaded.is_embedded:
            rows = methods.of_a_real_model(presets, has_others=found[0].others is not None)
        if which == "short" or (which is None and not loaded.is_embedded):
            rows = methods.short(rows)
        settings = {
            "device": device, "sigma": sigma, "draws": draws, "seed": seed, "users": users,
            "model": "embedded" if model == EMBEDDED else Path(model).name, "weights": weights or "default",
            "data": str(data.resolve()) if data else EMBEDDED_WORLD, "mitigation": mitigation, "budget": budget,
            **upkeep,
        }  # fmt: skip
        job = Job(loaded, rows, methods.Cell(device, sigma, seconds), settings, out)
        finished, stop = _climb(job, _announced(job, found, users, hours))
        results = [main_job.collect(each, job.cell, blocks) for each, blocks in finished if blocks]
        if results:
            show.results(console, results, rows, settings)
            if out:
                main_job.write(out, results, rows, settings)
                predictions.write(out / "predictions", results)
            if json:
                print_json(main_job.as_json(results, settings))
        kept = (
            f"results.json, results.png, predictions and the banks are in {out}"
            if out
            else "no file was written: --out keeps it"
        )
        if stop is None:
            console.print(kept, soft_wrap=True)
        elif results:
            stop.add_note(f"the figures above are of the users that were finished; {kept}")
        if stop:
            raise stop


def _read(tasks, users: int, data: Path | None) -> "list[Found]":
    """Users of every task; of the embedded world no more than a block, which tell how long the others will take."""
    from nvcim_jax.evaluation import main_job

    with console.status("reading the users"):
        found = [main_job.people(each, users if data else min(users, main_job.BLOCK), data) for each in tasks]
    for each in found:
        if each.passed_over:
            told = f"{each.users.task.name}: {each.passed_over} users without a history were passed over"
            console.print(told, style="yellow")
    return found


def _announced(job: Job, found: "list[Found]", users: int, hours: float) -> "list[Found]":
    """All `users` of every task. ValueError for more work than `hours` allow, before so many are made up."""
    import jax

    from nvcim_jax.evaluation import main_job
    from nvcim_jax.people import EMBEDDED_WORLD

    few, is_made_up = len(found[0].users), found[0].users.source == EMBEDDED_WORLD
    units = sum(job.units(each.users) for each in found) * (users / few if is_made_up else 1)
    units += sum(map(job.units_in_common, found))
    # Two operations for each parameter and token, of which two cores do about 10^11 a second.
    size = sum(leaf.size for leaf in jax.tree.leaves(job.model.params))
    seconds = units * size / (5e10 if jax.default_backend() == "cpu" else 5e12) + COMPILING * len(found)
    announce(seconds, hours, f"{users} users of {len(found)} tasks under {job.draws} draws")
    if is_made_up and few < users:
        with console.status("making up the users"):
            return [main_job.people(each.users.task, users, None) for each in found]
    return found


def _climb(job: Job, found: "list[Found]"):
    """Finished blocks by task, their banks saved in `out`; and the Ctrl-C that ended the work early, or None."""
    import jax

    from nvcim_jax.evaluation import main_job

    finished = [(each.users.task, []) for each in found]
    key, done = jax.random.key(job.settings["seed"]), 0
    with progress_bar() as bar:
        shared = [job.units_in_common(each) for each in found]
        work = bar.add_task("", total=sum(shared) + sum(job.units(each.users) for each in found))
        told = lambda units: bar.advance(work, units)  # noqa: E731
        try:
            for each, units, (task, blocks) in zip(found, shared, finished, strict=True):
                bar.update(work, description=task.name)
                common = _common(job, key, each, units, told)
                done += units
                bar.mark(work, completed=done)
                how = {"rows": job.rows, "draws": job.draws, "common": common, "report": told}
                for block in main_job.blocks(key, job.model, each.users, [job.cell], **how):
                    blocks.append(block)  # before the bank is written, so that no interrupt can lose it
                    done += job.units(block.users)
                    bar.mark(work, completed=done)
                    if job.out:
                        folder = job.out / f"bank-{task.name}-{len(blocks) - 1}"
                        main_job.save_bank(folder, job.model, block, job.settings)
        except KeyboardInterrupt as stop:
            return finished, stop
    return finished, None


def _common(job: Job, key, found: "Found", units: int, told):
    """What others have in common, by so many `units` of progress, saved in `out`; None for none."""
    import zlib

    import jax

    from nvcim_jax.pipeline import memory
    from nvcim_jax.pipeline.common import learn_common, start_of
    from nvcim_jax.pipeline.presets import COMMON

    if found.others is None or not units:
        return None
    own, each = jax.random.fold_in(key, zlib.crc32(b"common")), units // COMMON.training.steps
    report = lambda done: told(done.row_steps * each)  # noqa: E731
    made = learn_common(own, job.model, found.others, job.cell.device, sigma=job.cell.sigma, report=report)
    if job.out:
        memory.save(job.out / f"common-{found.users.task.name}", made.noted(**job.settings))
    return start_of(made)

"""`nvcim live`: the life of a device, from a file in time order or line by line: what it keeps, learns and answers."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nvcim_jax.cli import living
from nvcim_jax.cli.shared import (
    EMBEDDED,
    Json,
    MemorySize,
    Model,
    Seed,
    Weights,
    checked_device,
    console,
    device_name,
    load,
    number,
    path,
    plain_errors,
    print_json,
)

if TYPE_CHECKING:
    from nvcim_jax.pipeline.life_store import Kept

app = typer.Typer()
PIPE = Path("-")
USUAL = {
    "task": "free", "buffer": 16, "every": None, "capacity": 64, "evict": "oldest", "policy": "all-three",
    "reading": "recommended", "restate": "none", "device": "NVM-3", "sigma": 0.1,
}  # fmt: skip


Buffer = Annotated[
    int | None,
    typer.Option(
        "--buffer", parser=number(int, 1, 10**4), metavar="INTEGER", show_default="16",
        help="Moments that the buffer holds.",
    ),
]  # fmt: skip
Every = Annotated[
    int | None,
    typer.Option(
        "--every", parser=number(int, 1, 10**6), metavar="INTEGER", show_default="when the buffer is full",
        help="Moments between two learnings; --policy then chooses among them.",
    ),
]  # fmt: skip
Capacity = Annotated[
    int | None,
    typer.Option(
        "--capacity", parser=number(int, 1, 10**4), metavar="INTEGER", show_default="64",
        help="OVTs that the memory holds.",
    ),
]  # fmt: skip
Evict = Annotated[
    str | None,
    typer.Option(
        "--evict", show_default="oldest",
        help="What makes room in a full memory: the oldest OVT, the least-used, the oldest of the fullest-domain, or "
        "the older of the two most alike (redundant).",
    ),
]  # fmt: skip
Policy = Annotated[
    str | None,
    typer.Option("--policy", show_default="all-three", help="Who makes room in a full buffer, as `nvcim stream` says."),
]
Reading = Annotated[
    str | None,
    typer.Option(
        "--reading", show_default="recommended",
        help="Of EOE, and of what is compared: recommended, paper or released.",
    ),
]  # fmt: skip
Restating = Annotated[
    str | None,
    typer.Option(
        "--restate", show_default="none",
        help="Tune on three restatements of each sample, too: by the model, or by the toy world's grammar (toy).",
    ),
]  # fmt: skip
TaskOf = Annotated[
    str | None,
    typer.Option("--task", show_default="free", help="LaMP-1 to 7, whose wording questions then have, or free."),
]
DeviceOf = Annotated[
    str | None,
    typer.Option(
        "--device", parser=device_name, metavar="NAME", show_default="NVM-3",
        help="NVM-1 to NVM-5 (Table II), or the .toml file of your own.",
    ),
]  # fmt: skip
SigmaOf = Annotated[
    float | None,
    typer.Option("--sigma", parser=number(float, 0, 10), metavar="0..10", show_default="0.1", help="Device variation."),
]


@app.command(
    epilog="Examples:\n\n  nvcim live out/life moments.jsonl\n\n  nvcim live out/life\n\n"
    "  tail -f moments.jsonl | nvcim live out/life - --json\n\n"
    "  nvcim live out/life moments.jsonl --buffer 16 --every 40 --evict redundant --bad skip\n\n"
    'A line is a moment, {"time": "2024-05-31T18:30", "question": "...", "answer": "..."}, or without an answer a '
    "question. A file is gone on with where it stopped."
)
def live(
    life: Annotated[
        Path,
        typer.Argument(parser=path, metavar="LIFE", show_default=False, help="The folder of a life; a new one begins."),
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            parser=path, metavar="FILE", help="JSON lines in time order; - or nothing reads standard input.",
            show_default="standard input",
        ),
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="Whose life; lines of others are passed over.", show_default="the first line's")
    ] = None,
    bad: Annotated[
        str, typer.Option(help="A line that cannot be used: refuse it and stop, or skip it with a remark.")
    ] = "refuse",
    buffer: Buffer = None,
    every: Every = None,
    capacity: Capacity = None,
    evict: Evict = None,
    policy: Policy = None,
    reading: Reading = None,
    restate: Restating = None,
    lexicon: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="FILE", help="Domains and their words, in TOML.",
            show_default="the embedded world's vocabulary",
        ),
    ] = None,
    task: TaskOf = None,
    device: DeviceOf = None,
    sigma: SigmaOf = None,
    seed: Seed = 0,
    model: Model = EMBEDDED,
    weights: Weights = None,
    memory_size: MemorySize = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Live: moments fill a small buffer, the device learns from it, and questions are answered in between.

    Every moment is on the disk before the next is read: a life that was killed goes on where it stopped, bit by bit.
    """
    with plain_errors():
        from nvcim_jax import interrupts
        from nvcim_jax.data import moments
        from nvcim_jax.memory.storage.folders import versions
        from nvcim_jax.stream import lexicon as lexicons

        if bad not in ("refuse", "skip"):
            raise ValueError(f"--bad {bad}: choose refuse or skip")
        given = {
            "task": task, "buffer": buffer, "every": every, "capacity": capacity, "evict": evict, "policy": policy,
            "reading": reading, "restate": restate, "device": device, "sigma": sigma,
        }  # fmt: skip
        words = lexicons.toy() if lexicon is None else lexicons.read(lexicon)
        is_new = not versions(life)  # one that was killed while it was begun has none either
        data = [] if file in (None, PIPE) else moments.opened(file, moments.START)[0]  # before a model is read
        loaded = load(model, weights, memory_size)
        if is_new:
            kept = _begun(life, loaded, _chosen(given), words, seed, user or _first_user(data))
        else:
            kept = _resumed(life, loaded, given, words, user)
        session = living.Session(
            loaded, print_json if json else console.print, json, _refusing if bad == "skip" else None
        )
        note = f"all up to the last line shown is kept in {life}: the same command goes on"
        with interrupts.caught(lambda: note):
            if file is not None and file != PIPE:
                kept = living.from_file(kept, session, file)
            elif file is None and sys.stdin is not None and sys.stdin.isatty():
                kept = living.talk(kept, session)
            elif sys.stdin is not None:
                kept = living.from_lines(kept, session, sys.stdin.buffer)
        living.show_counts(kept, session)


def _refusing(said: str) -> None:
    console.print(f"passed over: {said}", style="yellow", soft_wrap=True)


def _chosen(given: dict[str, Any]) -> dict[str, Any]:
    return {name: USUAL[name] if value is None else value for name, value in given.items()}


def _first_user(data: list[bytes]) -> str | None:
    """The user whom the first line that can be read names."""
    from nvcim_jax.data import moments
    from nvcim_jax.data.fields import DataError

    for line in data[:100]:
        try:
            return moments.read_line(line, "").user
        except DataError:
            continue
    return None


def _begun(folder: Path, model: Any, chosen: dict[str, Any], words: Any, seed: int, user: str | None) -> "Kept":
    import jax

    from nvcim_jax.data import tasks
    from nvcim_jax.memory import bank
    from nvcim_jax.pipeline import life, life_store, presets
    from nvcim_jax.stream.metrics import READINGS
    from nvcim_jax.stream.policies import POLICIES

    checked_device(chosen["device"], chosen["sigma"])
    restate = chosen["restate"]
    rules = life.Rules(
        device=chosen["device"], sigma=chosen["sigma"], settings=presets.recommended(model), slots=chosen["buffer"],
        every=chosen["every"], capacity=chosen["capacity"], policy=_named(POLICIES, "policy", chosen),
        reading=_named(READINGS, "reading", chosen), victim=_named(bank.VICTIMS, "evict", chosen),
        restate=None if restate == "none" else life_store.restating(restate, model),
    )  # fmt: skip
    fresh = life.begin_life(
        jax.random.key(seed), model, tasks.task(chosen["task"]), [user or "me"], rules=rules, words=words,
        source="moments",
    )  # fmt: skip
    return life_store.create(folder, model, fresh)


def _resumed(folder: Path, model: Any, given: dict[str, Any], words: Any, user: str | None) -> "Kept":
    """The life in a folder. ValueError for options that it was not begun with, and another person."""
    from nvcim_jax.pipeline import life_store

    with console.status("reading the life"):
        kept = life_store.resume(folder, model, words)
    rules = life_store.rules_as_json(kept.life.rules)
    restate = (rules["restate"] or {"generator": "none"})["generator"]
    own = {**rules, "task": kept.life.task.name, "buffer": rules["slots"], "evict": rules["victim"], "restate": restate}
    for name, value in given.items():
        if value is not None and value != own[name]:
            raise ValueError(f"{folder} was begun with --{name} {own[name]}, not {value}: leave the option out")
    if user is not None and user not in kept.life.people:
        raise ValueError(f"{folder} is the life of {kept.life.people[0]!r}, not of {user!r}: give another folder")
    return kept


def _named(known: dict[str, Any], option: str, chosen: dict[str, Any]) -> Any:
    if chosen[option] not in known:
        raise ValueError(f"--{option} {chosen[option]}: choose one of {', '.join(known)}")
    return known[chosen[option]]

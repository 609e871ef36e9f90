"""The commands that look after a bank on disk: parse, call, show."""

from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from nvcim_jax.cli.shared import (
    BankFolder,
    Json,
    Refresh,
    console,
    number,
    path,
    plain,
    plain_errors,
    prepare,
    print_json,
    progress_bar,
)

app = typer.Typer(help="Look after a bank on disk: show, verify, repair, export.", no_args_is_help=True)


@app.command(epilog="Examples:\n\n  nvcim bank show out/bank\n\n  nvcim bank show out/bank --refresh 86400 --json")
def show(bank: BankFolder, refresh: Refresh = None, json: Json = False) -> None:
    """The OVTs of a bank, where each comes from, and how long its cells live at the pace of learning."""
    with plain_errors():
        from nvcim_jax.memory.storage import store

        with console.status("reading and checking"):
            saved = store.load(bank)
        told = _described(saved)
        told["life"] = _life(told, refresh)
        if json:
            print_json(told)
            return
        console.print(f"{bank}: version {told['version']}, {told['task'] or 'no task'}, {_made(told)}", soft_wrap=True)
        console.print(
            f"{len(told['ovts'])} OVTs of {told['rows']} x {told['dim']} in {told['slots']} slots, "
            f"{told['arrays']} crossbar arrays"
        )
        for user, ovts in groupby(told["ovts"], key=lambda ovt: ovt["user"]):
            console.print(f"user {user}" if user else "user unknown", style="bold")
            for ovt in ovts:
                _print_ovt(ovt)
        console.print(told["life"]["told"], soft_wrap=True)


def _described(saved) -> dict:
    """Everything that `show` tells, as JSON values."""
    import jax
    import numpy as np

    from nvcim_jax.memory.bank import arrays
    from nvcim_jax.memory.storage.about import taken

    about, held = saved.about, jax.tree.map(np.asarray, saved.bank)
    *_, slots, rows, dim = held.prompts.shape
    ovts = []
    for at in zip(*np.nonzero(taken(held)), strict=True):
        origin = jax.tree.map(lambda leaf, at=at: leaf[at], held.origin)
        sample = about.sample(int(origin.user), int(origin.sample))
        ovts.append({
            "user": about.name("users", int(origin.user)), "slot": int(at[-1]),
            "domain": about.name("domains", int(origin.domain)), "device": about.name("devices", int(origin.device)),
            "content": sample.content if sample else "", "answer": sample.answer if sample else "",
            "loss": float(origin.loss) if np.isfinite(origin.loss) else None,
            "uses": int(origin.uses), "writes": int(held.writes[at]),
            "learned_at": datetime.fromtimestamp(int(origin.time), UTC).isoformat() if origin.time else None,
        })  # fmt: skip
    return {
        "version": saved.version, "task": about.task, "model": about.model, "source": about.source,
        "settings": dict(about.settings), "rows": rows, "dim": dim, "slots": held.count.size * slots,
        "writes": held.writes.reshape(-1).tolist(),
        "arrays": arrays(len(ovts), rows), "users": list(about.users), "ovts": ovts,
    }  # fmt: skip


def _life(told: dict, refresh: float | None) -> dict:
    """How long the cells of the bank's device live, as JSON values and in words."""
    from nvcim_jax.hardware import catalogue, wear

    name = told["settings"].get("device")
    try:
        endurance = catalogue.sheet(name).endurance if name else None
    except ValueError:  # a file that is not here
        endurance = None
    if endurance is None:
        return {"told": f"wear: {f'{name} gives' if name else 'the bank names'} no endurance, so no life can be told"}
    learned = [datetime.fromisoformat(ovt["learned_at"]).timestamp() for ovt in told["ovts"] if ovt["learned_at"]]
    found = wear.life(endurance, writes=told["writes"], learned=learned, refresh=refresh)
    if found is None:
        return {"told": "wear: all OVTs were learned within a day, which is no pace to tell a life from"}
    return {
        "writes_per_year": found.writes_per_year, "years": found.years,
        "told": f"wear: with {found.why}, the {endurance:g} pulses of {name} last {found.years:.3g} more years",
    }  # fmt: skip


def _made(told: dict) -> str:
    settings = told["settings"]
    parts = [f"model {told['model'] or 'unknown'}"]
    parts += [f"learned by {settings['preset']}"] if settings.get("preset") else []
    parts += [f"for {settings['device']} at sigma {settings.get('sigma')}"] if settings.get("device") else []
    return ", ".join([*parts, *([f"users from {told['source']}"] if told["source"] else [])])


def _print_ovt(ovt: dict) -> None:
    """Two lines that fit the terminal: facts, then what was learned and its answer, cut where they are long."""
    learned_at = f"{datetime.fromisoformat(ovt['learned_at']):%Y-%m-%d %H:%M}" if ovt["learned_at"] else ""
    facts = [
        f"slot {ovt['slot']}", ovt["domain"], ovt["device"], "" if ovt["loss"] is None else f"loss {ovt['loss']:.3f}",
        f"{ovt['uses']} uses", f"slot written {ovt['writes']} times" if ovt["writes"] > 1 else "", learned_at,
    ]  # fmt: skip
    answer = plain(ovt["answer"])
    answer.truncate(console.width // 3, overflow="ellipsis")
    content = plain(ovt["content"])
    content.truncate(max(console.width - 8 - answer.cell_len, 1), overflow="ellipsis")
    console.print(plain("  " + ", ".join(filter(None, facts))), no_wrap=True, overflow="ellipsis")
    if ovt["content"] or ovt["answer"]:
        console.print(plain("    ") + content + " -> " + answer, no_wrap=True, overflow="ellipsis")


@app.command(epilog="Example:\n\n  nvcim bank verify out/bank")
def verify(bank: BankFolder) -> None:
    """Check every digest; exit code 2 if the bank is damaged or an interrupted save has left something behind."""
    with plain_errors():
        from nvcim_jax.memory.storage import store

        for version in store.versions(bank) or [store.newest(bank)]:
            with console.status(f"checking version {version}"):
                count = int(store.load(bank, version=version).bank.count.sum())
            console.print(f"version {version}: whole, {count} OVTs")
        left = store.leftovers(bank)
        if left:
            raise store.StoreError(f"{bank} holds leftovers of an interrupted save ({', '.join(left)}): repair it")


@app.command(epilog="Example:\n\n  nvcim bank repair out/bank")
def repair(
    bank: BankFolder,
    set_aside: Annotated[
        int | None,
        typer.Option(
            parser=number(int, 0, 10**9),
            metavar="VERSION",
            show_default="none",
            help="Rename this version, whatever is wrong with it.",
        ),
    ] = None,
) -> None:
    """Keep the OVTs that are whole, also of the version before; what is damaged is renamed, and nothing deleted."""
    with plain_errors():
        from nvcim_jax.memory.storage import repair as mend

        with console.status("checking"):
            done = mend.repair(bank) if set_aside is None else mend.set_aside(bank, set_aside)
        console.print(f"{bank}: {done}", soft_wrap=True)


@app.command(epilog="Example:\n\n  nvcim bank export out/bank --to peft --out adapters --base-model google/gemma-2b")
def export(
    bank: BankFolder,
    out: Annotated[
        Path,
        typer.Option(parser=path, metavar="FOLDER", help="For the adapters, one folder per OVT; nothing may be there."),
    ],
    to: Annotated[str, typer.Option(help="The only format so far is peft: prompt tuning adapters.")] = "peft",
    base_model: Annotated[str, typer.Option(help="Name or folder of the model, as PEFT shall find it.")] = "",
) -> None:
    """Decode every OVT of a bank and write it as an adapter that PEFT loads."""
    with plain_errors():
        import jax
        import numpy as np

        from nvcim_jax.core.codec import decode
        from nvcim_jax.memory.storage import store
        from nvcim_jax.memory.storage.about import taken
        from nvcim_jax.tuning import peft

        if to != "peft":
            raise ValueError(f"--to {to}: the only format is peft")
        prepare(out, "*")
        saved = store.load(bank)
        if saved.codec is None:
            raise ValueError(f"{bank} was saved without a codec: its codes cannot be turned into prompts")
        saved = saved.block
        places = list(zip(*np.nonzero(taken(saved.bank)), strict=True))
        names = [_folder_name(saved, user, slot) for user, slot in places]
        if len(set(names)) < len(names):
            raise ValueError(f"several users of {bank} have one name: their adapters would have one folder")
        with progress_bar() as progress:
            for (user, slot), name in progress.track(list(zip(places, names, strict=True)), description="exporting"):
                codec = jax.tree.map(lambda leaf, user=user: leaf[user], saved.codec)
                prompt = decode(codec, saved.bank.prompts[user, slot])
                peft.export_prompt(out / name, prompt, base_model=base_model)
        console.print(f"{len(names)} adapters are in {out}", soft_wrap=True)


def _folder_name(saved, user: int, slot: int) -> str:
    """`user-slot`, such as 1000003-2. ValueError if the user's name would lead out of the folder."""
    name = saved.about.name("users", int(saved.bank.origin.user[user, slot])) or (f"ovt-{user}" if user else "ovt")
    is_plain = name.isprintable() and Path(name).name == name and "\\" not in name and name not in (".", "..")
    if not is_plain or len(name.encode()) > 200:
        raise ValueError(f"user {name[:60]!r} cannot name a folder: a short name without path separators is needed")
    return f"{name}-{slot}"

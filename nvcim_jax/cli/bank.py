"""The commands that look after a bank on disk: parse, call, show."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from nvcim_jax.cli.shared import console, plain_errors, progress_bar

app = typer.Typer(help="Look after a bank on disk: show, verify, repair, export.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="BANK", help="A folder written by learn or run.")]


@app.command(epilog="Example:\n\n  nvcim bank show out/bank")
def show(bank: Folder) -> None:
    """The OVTs of a bank and where each comes from."""
    with plain_errors():
        import jax
        import numpy as np

        from nvcim_jax import store
        from nvcim_jax.bank import arrays

        with console.status("reading and checking"):
            saved = store.load(bank)
        about, held = saved.about, jax.tree.map(np.asarray, saved.bank)
        rows, dim = held.prompts.shape[-2:]
        count, slots = int(held.count.sum()), int(np.prod(held.prompts.shape[:-2]))
        task, model = about.get("task", "no task"), about.get("model", "unknown")
        console.print(f"{bank}: version {saved.version}, {task}, model {model}")
        console.print(f"{count} OVTs of {rows} x {dim} in {slots} slots, {arrays(count, rows)} crossbar arrays")
        table = Table("user", "slot", "domain", "learned from", "its answer", "device", "loss", "uses", "learned at")
        for at in zip(*np.nonzero(np.asarray(saved.bank.valid)), strict=True):
            origin = jax.tree.map(lambda leaf, at=at: leaf[at], held.origin)
            user = _name(about, "users", origin.user)
            sample = _sample(about, origin)
            learned_at = datetime.fromtimestamp(int(origin.time), UTC).strftime("%Y-%m-%d %H:%M") if origin.time else ""
            table.add_row(
                user, str(at[-1]), _name(about, "domains", origin.domain), sample.get("content", ""),
                sample.get("answer", ""), _name(about, "devices", origin.device),
                "" if np.isnan(origin.loss) else f"{origin.loss:.3f}", str(origin.uses), learned_at,
            )  # fmt: skip
        console.print(table)


@app.command(epilog="Example:\n\n  nvcim bank verify out/bank")
def verify(bank: Folder) -> None:
    """Check every digest; exit code 2 if the bank is damaged or an interrupted save has left something."""
    with plain_errors():
        from nvcim_jax import store

        for version in store.versions(bank) or [store.newest(bank)]:
            with console.status(f"checking version {version}"):
                count = int(store.load(bank, version=version).bank.count.sum())
            console.print(f"version {version}: whole, {count} OVTs")
        left = store.leftovers(bank)
        if left:
            raise store.StoreError(f"{bank} holds leftovers of an interrupted save ({', '.join(left)}): repair it")


@app.command(epilog="Example:\n\n  nvcim bank repair out/bank")
def repair(bank: Folder) -> None:
    """Remove leftovers; go back to the newest whole version, or keep the OVTs that are whole."""
    with plain_errors():
        from nvcim_jax.repair import repair as mend

        with console.status("checking"):
            done = mend(bank)
        console.print(f"{bank}: {done}", soft_wrap=True)


@app.command(epilog="Example:\n\n  nvcim bank export out/bank --to peft --out adapters --base-model google/gemma-2b")
def export(
    bank: Folder,
    out: Annotated[Path, typer.Option(help="Folder for the adapters, one folder per OVT; it must not exist.")],
    to: Annotated[str, typer.Option(help="The only format so far is peft: prompt tuning adapters.")] = "peft",
    base_model: Annotated[str, typer.Option(help="Name or folder of the model, as PEFT shall find it.")] = "",
) -> None:
    """Decode every OVT of a bank and write it as an adapter that PEFT loads."""
    with plain_errors():
        import jax
        import numpy as np

        from nvcim_jax import store
        from nvcim_jax.codec import decode
        from nvcim_jax.tuning import peft

        if to != "peft":
            raise ValueError(f"--to {to}: the only format is peft")
        if out.exists():
            raise ValueError(f"{out} exists already: give another folder, or remove it first")
        saved = store.load(bank)
        if saved.codec is None:
            raise ValueError(f"{bank} was saved without a codec: its codes cannot be turned into prompts")
        places = list(zip(*np.nonzero(np.asarray(saved.bank.valid)), strict=True))
        names = [_folder_name(saved, at) for at in places]
        with progress_bar() as progress:
            for at, name in progress.track(list(zip(places, names, strict=True)), description="exporting"):
                codec = jax.tree.map(lambda leaf, at=at: leaf[at[:-1]], saved.codec)
                peft.export_prompt(out / name, decode(codec, saved.bank.prompts[at]), base_model=base_model)
        console.print(f"{len(names)} adapters are in {out}")


def _folder_name(saved, at: tuple[int, ...]) -> str:
    """`user-slot`, such as 1000003-2. ValueError if the user's name would lead out of the folder."""
    user = _name(saved.about, "users", saved.bank.origin.user[at]) or "ovt"
    if Path(user).name != user or "\\" in user or user in (".", ".."):
        raise ValueError(f"user {user!r} cannot name a folder: a name without path separators is needed")
    return f"{user}-{at[-1]}"


def _name(about: dict, kind: str, number: int) -> str:
    names = about.get(kind, ())
    return str(names[number] or "") if 0 <= number < len(names) else ""


def _sample(about: dict, origin) -> dict:
    rows = about.get("samples", ())
    row = rows[origin.user] if origin.user < len(rows) else ()
    return (row[origin.sample] if origin.sample < len(row) else None) or {}

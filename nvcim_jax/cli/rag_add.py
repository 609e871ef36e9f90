"""`nvcim rag add`: more documents into a memory that is there."""

from pathlib import Path
from typing import Annotated

import typer

from nvcim_jax.cli.rag import Encoder, app, encoding, made_encoder, tell_cut
from nvcim_jax.cli.shared import BankFolder, Json, console, path, plain_errors, print_json, progress_bar


@app.command(epilog="Example:\n\n  nvcim rag add out/notes --texts notes")
def add(
    bank: BankFolder,
    given: Annotated[
        Path,
        typer.Option(
            "--texts",
            parser=path,
            metavar="PATH",
            help="Documents, as --texts of learn reads them. One of a name that is there takes the old one's place.",
        ),
    ],
    encoder: Encoder = None,
    json: Json = False,
) -> None:
    """Put more documents into a memory that was learned of texts; the others and the projection stay as they are."""
    with plain_errors():
        from nvcim_jax.documents import learn as learning
        from nvcim_jax.documents import memory, texts

        with console.status("reading the memory"):
            old = memory.load_documents(bank)
        if old.task.name != texts.TEXTS.name:
            raise ValueError(f"{bank} holds LaMP's documents, not texts of your own: learn it again with all of them")
        people = texts.read_documents(given)
        for person in people:
            old.at(person.id)  # whom the memory does not hold is told before anything is encoded
        made, new = made_encoder(encoder), old
        with progress_bar() as bar:
            told = encoding(bar)
            for person in people:
                new = learning.add_documents(made, new, person.history, user=person.id, report_texts=told)
            if new is not old:
                memory.save_documents(bank, new)
        there = {(user.id, sample) for user in old.users for sample in user.history}
        same = sum((user.id, sample) in there for user in people for sample in user.history)
        came, before, after = (sum(len(user.history) for user in each) for each in (people, old.users, new.users))
        fresh, cut = after - before, new.cut - old.cut
        counts = {"new": fresh, "replaced": came - same - fresh, "unchanged": same, "documents": after}
        console.print(
            f"documents: {fresh} new, {counts['replaced']} in the place of an older form, {same} unchanged; "
            f"{after} are kept in {bank}",
            soft_wrap=True,
        )
        tell_cut(cut, made)
        if json:
            print_json({"memory": str(bank), **counts, "cut": cut})

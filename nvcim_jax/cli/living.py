"""What `nvcim live` does with moments and questions, wherever they come from, and what it shows of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.table import Table

from nvcim_jax.cli.asking import show_ovts, typed_lines
from nvcim_jax.cli.progress import Bar
from nvcim_jax.cli.shared import console, plain, progress_bar, tuning_bar

if TYPE_CHECKING:  # JAX takes its time
    from nvcim_jax.pipeline.life_store import Kept

COMMANDS = "/fix TEXT is the better answer, /learn learns now, /show shows what is known, /quit leaves"


class Session(NamedTuple):
    """What does not change while a life is gone on with: the model, where to print, and how."""

    model: Any  # llm.Model
    say: Callable[..., None]
    is_json: bool
    refused: Callable[[str], None] | None  # told of lines that cannot be used; without it they end the life
    bar: Bar | None = None  # that is shown already


def from_file(kept: "Kept", session: Session, file: Path) -> "Kept":
    """What is new in a file, with a bar of its lines."""
    from nvcim_jax.data import moments

    before = moments.mark_of(kept.mark)
    data, mark = moments.opened(file, before)
    if before.line:
        where = f"going on behind line {mark.line} of {file}"
        console.print(where if mark.line else f"{file} is another file: all of it is new", style="dim", soft_wrap=True)
    user = _asked_for(kept)
    with progress_bar() as bar:
        work = bar.add_task("living", total=len(data) + mark.line)
        bar.skip(work, mark.line)
        shown = session._replace(bar=bar)
        if console.is_terminal and not session.is_json:
            shown = shown._replace(say=bar.console.print)
        for line in moments.lines(data, str(file), mark, user=user, bad=session.refused):
            kept = _lived(kept, shown, line.pair, line.mark)
            bar.mark(work, line.mark.line)
    return kept


def from_lines(kept: "Kept", session: Session, data: Any) -> "Kept":
    """What comes through a pipe, all of which is new; how far a file was read stays as it is."""
    from nvcim_jax.data import moments

    for line in moments.lines(data, "standard input", user=_asked_for(kept), bad=session.refused):
        kept = _lived(kept, session, line.pair, kept.mark)
    return kept


def _asked_for(kept: "Kept") -> str | None:
    """Whose lines count; of a life without a name those of one person."""
    from nvcim_jax.data.history import ONLY

    (name,) = kept.life.people
    return None if name == ONLY else name


def _lived(kept: "Kept", session: Session, pair: Any, mark: Any) -> "Kept":
    """The life after a moment or a question, shown."""
    import time

    from nvcim_jax.data import lamp
    from nvcim_jax.people import Sample
    from nvcim_jax.pipeline import answer, life_store

    task = kept.life.task
    asked = answer.question(task, pair.question)
    if not pair.answer:
        kept, told = life_store.reply(session.model, kept, asked, mark=mark)
        _show_answer(session, asked, told.answer)
        return kept
    sample = Sample(asked.question, pair.answer, lamp.content(task, asked.question), pair.domain)
    now = time.time() if pair.time is None else pair.time
    began = time.perf_counter()
    before = kept.life
    with _tuning(session, kept) as report:
        kept, seen = life_store.observe(session.model, kept, sample, time=now, mark=mark, report=report)
    _show_moment(session, kept, sample, seen.decision)
    if seen.has_learned:
        _show_learned(session, before, kept, time.perf_counter() - began)
    return kept


@contextmanager
def _tuning(session: Session, kept: "Kept", *, is_asked: bool = False) -> Iterator[Any]:
    """What learning reports to, shown as a bar where the next moment fills the buffer or ends the round."""
    from nvcim_jax.core.selection import cluster_count

    rules, waiting = kept.life.rules, kept.life.counts.waiting + 1
    stored = sum(told is not None for row in kept.life.held for told in row)
    steps = rules.settings.steps(cluster_count(rules.slots))
    if not (is_asked or (stored + 1 >= rules.slots if rules.every is None else waiting >= rules.every)):
        yield lambda done: None
    elif session.bar is None:
        with tuning_bar(steps) as report:
            yield report
    else:
        task = session.bar.add_task("tuning", total=steps)
        yield lambda done: session.bar and session.bar.advance(task, done.row_steps)
        session.bar.remove_task(task)


def talk(kept: "Kept", session: Session) -> "Kept":
    """Lines that somebody types: questions, better answers, commands, and lines of JSON."""
    import time

    from nvcim_jax.data import history, moments
    from nvcim_jax.pipeline import life_store

    console.print(f"the life of {kept.life.people[0]}: {COMMANDS}", style="dim", soft_wrap=True)
    asked = ""
    for line in typed_lines():
        word, _, rest = line.partition(" ")
        try:
            if word == "/quit":
                break
            elif word == "/show":
                _show_known(kept)
            elif word == "/learn":
                began, before = time.perf_counter(), kept.life
                with _tuning(session, kept, is_asked=True) as report:
                    kept = life_store.learn(session.model, kept, report=report)
                _show_learned(session, before, kept, time.perf_counter() - began)
            elif word == "/fix" and asked and rest.strip():
                told = history.Pair("", None, None, asked, rest.strip(), None)
                kept = _lived(kept, session, told, kept.mark)
            elif word.startswith("/"):
                said = "ask first, then /fix with the answer you want" if word == "/fix" else f"{word} is no command"
                console.print(f"{said}: {COMMANDS}", style="yellow", soft_wrap=True)
            else:
                is_json = line.startswith("{")
                told = (
                    moments.read_line(line.encode(), "this line")
                    if is_json
                    else history.Pair("", None, None, line, "", None)
                )
                kept, asked = _lived(kept, session, told, kept.mark), told.question
        except ValueError as error:
            console.print(str(error), style="red", soft_wrap=True)
    return kept


def _show_answer(session: Session, asked: Any, told: Any) -> None:
    alone, found = told.is_abstained, told.found
    if session.is_json:
        session.say({
            "question": asked.content, "answer": told.text, "slot": None if alone else told.slot,
            "from": found and found.content, "margin": None if alone else told.margin,
        })  # fmt: skip
        return
    source = "nothing is learned yet" if alone else f"from slot {told.slot}: {found.content if found else ''}"
    session.say(f"? {asked.content}", soft_wrap=True)
    session.say(plain(f"  {told.text}", "bold green"), soft_wrap=True)
    session.say(f"  {source}", style="dim", soft_wrap=True)


def _show_moment(session: Session, kept: "Kept", sample: Any, decision: Any) -> None:
    from nvcim_jax.evaluation import streams
    from nvcim_jax.stream.buffer import NOWHERE, REASONS

    counts, scores = kept.life.counts, streams.scores(decision.scores, 0)
    is_stored, why = int(decision.slot[0]) != NOWHERE, REASONS[int(decision.reason[0])]
    if session.is_json:
        session.say({
            "moment": counts.moments - 1, "content": sample.content, "stored": is_stored, "why": why, **scores,
            "domain": kept.life.words.name(int(decision.domain[0])),
        })  # fmt: skip
        return
    numbers = " ".join(f"{name.upper()} {value:.2f}" for name, value in scores.items())
    fate = f"{'kept' if is_stored else 'dropped'}, {why}"
    session.say(f"{counts.moments - 1:5d} {fate} ({numbers}): {sample.content}", style="dim", soft_wrap=True)


def _show_learned(session: Session, before: Any, kept: "Kept", seconds: float) -> None:
    counts, memory = kept.life.counts, kept.life.memory
    assert memory is not None  # it has just learned
    tuned, made_room = counts.tuned - before.counts.tuned, counts.made_room - before.counts.made_room
    known = int(memory.bank.count.sum())
    if session.is_json:
        samples = [each for each in memory.block.selected.samples[0][:known] if each][-tuned:]
        session.say({
            "learned": [{"content": each.content, "answer": each.answer} for each in samples], "made_room": made_room,
            "ovts": known, "seconds": seconds,
        })  # fmt: skip
        return
    said = f"learned: {tuned} OVTs tuned, {made_room} made room, {known} of {kept.life.rules.capacity} slots taken"
    session.say(plain(f"{said}, {seconds:.1f} s", "bold"), soft_wrap=True)


def _show_known(kept: "Kept") -> None:
    memory = kept.life.memory
    if memory is None:
        console.print("nothing is learned yet", style="yellow")
    else:
        show_ovts(kept.life.people[0], memory.block.selected.samples[0])


def show_counts(kept: "Kept", session: Session) -> None:
    """What a life has come to."""
    counts, memory = kept.life.counts, kept.life.memory
    known = 0 if memory is None else int(memory.bank.count.sum())
    if session.is_json:
        session.say({**counts._asdict(), "ovts": known, "version": kept.place.version, "life": str(kept.place.folder)})
        return
    table = Table("moments", "learnings", "OVTs tuned", "made room", "OVTs held", "waiting in the buffer")
    waiting = sum(told is not None for row in kept.life.held for told in row)
    numbers = (counts.moments, counts.rounds, counts.tuned, counts.made_room, known, waiting)
    table.add_row(*map(str, numbers))
    console.print(table)
    console.print(f"kept in {kept.place.folder}, version {kept.place.version}", soft_wrap=True)

"""Banks that somebody else hands over: flipped, cut, linked, forged with right digests, or no banks at all.

What is loaded is what was saved, or consistent in itself; nothing outside the folder is read, emptied or waited for;
repair loses no byte.
"""

import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.cli.bank import _described
from nvcim_jax.core.codec import fit_pca
from nvcim_jax.memory import bank as banks
from nvcim_jax.memory.storage import digests, repair, store
from nvcim_jax.memory.storage.about import About
from nvcim_jax.pipeline import memory
from tests.helpers.attacks import Attack, command, outcomes

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*uses.*left out"),
]
SAMPLE = {"question": "q", "answer": "fantasy", "content": "dragons and rings", "domain": "elves"}
ABOUT = {
    "model": "f00", "task": "LaMP-2", "users": ["Ann", "Bob"], "samples": [[SAMPLE] * 3, [SAMPLE, None, SAMPLE]],
    "domains": ["elves"], "devices": ["NVM-3"], "settings": {"preset": "paper", "device": "NVM-3", "sigma": 0.1},
    "provenance": {"commit": None},
}  # fmt: skip
DIARY = "rain on monday"
METADATA = "000001/_CHECKPOINT_METADATA"


def held(**changes):
    """Two users' banks of three slots, two of them taken."""
    codes = jax.random.normal(jax.random.key(0), (2, 3, 16, 8))
    origin = banks.unknown((2, 3))._replace(domain=jnp.zeros((2, 3), jnp.int32), user=jnp.array([[0] * 3, [1] * 3]))
    return banks.new(codes, 2 * codes, origin, jnp.array([2, 2], jnp.int32))._replace(**changes)


def codec():
    one = fit_pca(jax.random.key(1), jax.random.normal(jax.random.key(2), (40, 24)), jnp.ones(40), dim=8)
    return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 1]), one)


BANK, CODEC = held(), codec()


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A bank as it was saved, and beside it something that no bank may touch."""
    place = tmp_path_factory.mktemp("honest")
    store.save(place / "bank", BANK, CODEC, ABOUT)
    (place / "diary").write_text(DIARY)
    return place


# What is done to a bank


def flipped(path: Path, at: float, bit: int) -> None:
    whole = bytearray(path.read_bytes())
    if whole:
        whole[int(at * (len(whole) - 1))] ^= 1 << bit
        path.write_bytes(whole)


def cut(path: Path, share: float) -> None:
    os.truncate(path, int(share * path.stat().st_size))


def replaced(path: Path, kind: str) -> None:
    """Something else of the same name; what was there lies outside of the bank."""
    place = next(each for each in path.parents if each.name == "place")
    outside = shutil.move(path, place / f"outside-{path.name}") if os.path.lexists(path) else place / "nothing"
    if kind == "link":
        path.symlink_to(outside)
    elif kind == "link to the diary":
        path.symlink_to(place / "diary")
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "other file":
        path.write_text("{}")


def forged(folder: Path, change) -> None:
    """Metadata changed by somebody who knows how digests are made."""
    path = folder / METADATA
    whole = json.loads(path.read_text())
    metadata = whole["custom_metadata"]
    metadata.pop("digest")
    metadata = change(metadata) or metadata
    if isinstance(metadata, dict):
        metadata["digest"] = digests.of_text(metadata)
    path.write_text(json.dumps(whole | {"custom_metadata": metadata}))


def at(*path, value):
    """`value` in the place of what stands at `path` in the metadata; it may be a function of that."""

    def change(metadata):
        *way, last = path
        for step in way:
            metadata = metadata[step]
        metadata[last] = value(metadata[last]) if callable(value) else value

    return change


def without(*path):
    def change(metadata):
        *way, last = path
        for step in way:
            metadata = metadata[step]
        del metadata[last]

    return change


def renamed(*path, to):
    def change(metadata):
        for step in path[:-1]:
            metadata = metadata[step]
        metadata[to] = metadata.pop(path[-1])

    return change


# What comes of it


def opened(folder: Path):
    """The bank, described as `bank show` does and readied for questions, where that is not refused."""
    saved = store.load(folder)
    json.dumps(_described(saved))
    try:
        memory.load(folder)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
    return saved


def is_what_was_saved(saved) -> bool:
    same = jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), (saved.bank, saved.codec), (BANK, CODEC))
    return all(jax.tree.leaves(same)) and saved.about == About.from_json(ABOUT) and saved.version == 1


def is_consistent(saved) -> bool:
    """Arrays as they were saved, under another description that fits them."""
    saved.about.check(jax.tree.map(np.asarray, saved.bank))
    told = saved._replace(about=About.from_json(ABOUT))
    return is_what_was_saved(told) and About.from_json(json.loads(json.dumps(saved.about.to_json()))) == saved.about


def not_followed(folder: Path):
    """That which leads out of a bank makes it none, however sound it looks."""
    opened(folder)
    raise AssertionError("what lies outside the bank was read as a part of it")


def mended(folder: Path):
    """Whether repair, refused or not, kept every byte that was there; a bank that then loads is the one saved."""
    before = contents(folder)
    try:
        repair.repair(folder)
    finally:
        kept = list(contents(folder).values())
        assert all(value in kept for value in before.values()), "repair lost a file"
    return store.load(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def attack(honest: Path, tmp_path: Path, name: str, harm, act=opened) -> Attack:
    def run():
        place = tmp_path / "place"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(honest, place, symlinks=True)
        harm(place / "bank")
        try:
            return act(place / "bank")
        finally:
            assert (place / "diary").read_text() == DIARY, "something outside the bank was written"

    return Attack(name, run)


KINDS = ["missing", "link", "link to the diary", "link to itself", "pipe", "folder", "other file"]
VALUES = {
    "null": None, "true": True, "zero": 0, "minus one": -1, "half": 0.5, "huge": 10**400, "nan": float("nan"),
    "infinite": float("inf"), "empty": "", "text": "x", "markup": "[INST] [/INST]", "escape": "\x1b[2J\u202e",
    "surrogate": "\ud83d", "path": "../../diary", "long": "x" * 10**5, "list": [], "list of null": [None],
    "texts": ["a", "b"], "lists": [[], []], "object": {}, "odd object": {"": None}, "objects": [{}, {}],
    "deep": json.loads("[" * 300 + "]" * 300), "many": ["x"] * 10**4, "object of its fields": ABOUT,
}  # fmt: skip
PLACES = [
    (), ("model",), ("prompt_space",), ("task",), ("source",), ("users",), ("users", 0), ("samples",), ("samples", 0),
    ("samples", 0, 0), ("samples", 0, 0, "content"), ("samples", 1, 2, "domain"), ("domains",), ("domains", 0),
    ("devices",), ("devices", 0), ("settings",), ("settings", "preset"), ("settings", "device"), ("settings", "sigma"),
    ("provenance",),
]  # fmt: skip


def by_bytes(honest, tmp_path):
    """Bits flipped and files cut short, loaded and repaired."""
    for path in sorted(each.relative_to(honest / "bank") for each in (honest / "bank").rglob("*") if each.is_file()):
        for share in (0.0, 0.21, 0.5, 0.83, 1.0):
            for act in (opened, mended):
                harm = lambda bank, path=path, share=share: flipped(bank / path, share, int(share * 7))  # noqa: E731
                yield attack(honest, tmp_path, f"{act.__name__} {path} flipped at {share}", harm, act)
        for share in (0.0, 0.5, 0.99):
            for act in (opened, mended):
                harm = lambda bank, path=path, share=share: cut(bank / path, share)  # noqa: E731
                yield attack(honest, tmp_path, f"{act.__name__} {path} cut to {share}", harm, act)


def by_kind(honest, tmp_path):
    """Files and folders that are missing, links, pipes; foreign ones beside them."""
    inside = sorted(each.relative_to(honest / "bank") for each in (honest / "bank").rglob("*"))
    for path in [*inside, Path("000001/uses.json"), Path("000001/state/d/more"), Path("000002"), Path("000001.old")]:
        for kind in KINDS:
            act = mended if len(path.parts) == 1 else opened
            if path.parts[0] == "000001" and path.parts[1:] and ("link" in kind or kind == "pipe"):
                act = not_followed
            harm = lambda bank, path=path, kind=kind: replaced(bank / path, kind)  # noqa: E731
            yield attack(honest, tmp_path, f"{act.__name__} {path} is {kind}", harm, act)
    saved = lambda bank: (store.save(bank, BANK, CODEC, ABOUT, over=1), store.load(bank, version=1))[1]  # noqa: E731
    for kind in KINDS:
        for name in (".lock", "000002", "000002.orbax-checkpoint-tmp", "uses.json"):
            harm = lambda bank, kind=kind, name=name: replaced(bank / name, kind)  # noqa: E731
            yield attack(honest, tmp_path, f"saved while {name} is {kind}", harm, saved)


def by_description(honest, tmp_path):
    """Another value in every place of what a bank says about itself, under right digests."""
    for path in PLACES:
        for name, value in VALUES.items():
            harm = lambda bank, path=path, value=value: forged(bank, at("about", *path, value=value))  # noqa: E731
            yield attack(honest, tmp_path, f"about {'.'.join(map(str, path))} is {name}", harm)
        harm = lambda bank, path=path: forged(bank, without("about", *path))  # noqa: E731
        yield attack(honest, tmp_path, f"about without {'.'.join(map(str, path))}", harm)


def by_table(honest, tmp_path):
    """Schema, arrays and digests that tell of other arrays than there are, under right digests."""
    changes = {f"schema {value!r:.20}": at("schema", value=value) for value in VALUES.values()}
    changes |= {f"schema {value}": at("schema", value=value) for value in (1, 2, 4, 99, 3.0, 10**30)}
    for table in ("shapes", "digests"):
        changes |= {f"{table} are {name}": at(table, value=value) for name, value in VALUES.items()}
        changes |= {f"{table} without {name}": without(table, name) for name in ("keys", "count", "decoder_0_weight")}
        changes |= {f"{table} without all": without(table)}
        for to in ("../diary", "/diary", "", "keys\0", "origin_spy", "encoder_1_weight", "prompts"):
            changes[f"{table}: keys are called {to!r}"] = renamed(table, "keys", to=to)
    changes["no codec"] = lambda metadata: (
        [
            metadata[table].pop(name)
            for table in ("shapes", "digests")
            for name in list(metadata[table])
            if "coder" in name
        ]
        and None
    )
    shapes = [[2, 3, 16, 9], [2, 3, 8, 16], [2, 3, 16], [10**12, 3, 16, 8], [2, 10**7, 16, 8], [2, -3, 16, 8], [0] * 4,
              [2, 3, 16, "8"], [2.0, 3, 16, 8], [True, 3, 16, 8], [], None, 7, [[2, 3], 16, 8], [10**400, 1, 1, 1]]  # fmt: skip
    types = ["float64", "float16", "bfloat16", "int32", "object", "O", "V8", "complex64", "str", "S10**9", "", None, 7,
             "float32, float32", "(1000000000,)float32", "datetime64", "bool"]  # fmt: skip
    for name in ("prompts", "count", "origin_key"):
        for shape in shapes:
            changes[f"{name} of shape {shape!r:.40}"] = at("shapes", name, 0, value=shape)
        for kind in types:
            changes[f"{name} of type {kind}"] = at("shapes", name, 1, value=kind)
    huge = [2, 10**7, 16, 8]
    changes["all arrays are huge"] = lambda metadata: [
        metadata["shapes"].update({name: [huge[: len(shape)], kind]})
        for name, (shape, kind) in metadata["shapes"].items() if "coder" not in name
    ] and None  # fmt: skip
    for name in VALUES:
        changes[f"digests of keys are {name}"] = at("digests", "keys", value=VALUES[name])
        changes[f"a digest of keys is {name}"] = at("digests", "keys", 0, value=VALUES[name])
        changes[f"metadata is {name}"] = lambda metadata, name=name: VALUES[name]
    for name, change in changes.items():
        harm = lambda bank, change=change: forged(bank, change)  # noqa: E731
        yield attack(honest, tmp_path, name, harm)


def by_content(honest, tmp_path):
    """Arrays that no bank has, saved by a program that does not check, so that every digest is right."""
    for field in ("prompts", "keys"):
        for value in (np.nan, np.inf, -np.inf, 3e38):
            bad = BANK._replace(**{field: getattr(BANK, field).at[1, 0, 3, 3].set(value)})
            yield unchecked(honest, tmp_path, f"{field} hold {value}", bad)
    for field in ("user", "sample", "domain", "device"):
        for number in (-(2**31), -2, 7, 2**31 - 1):
            origin = BANK.origin._replace(**{field: getattr(BANK.origin, field).at[1, 1].set(number)})
            yield unchecked(honest, tmp_path, f"{field} {number}", BANK._replace(origin=origin))
    for count in ([-1, 2], [2, 4], [2**31 - 1, 0]):
        yield unchecked(honest, tmp_path, f"count {count}", BANK._replace(count=jnp.array(count, jnp.int32)))


def unchecked(honest, tmp_path, name, bad) -> Attack:
    def harm(folder):
        shutil.rmtree(folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "require_sound", lambda *_: About.from_json(ABOUT))
            store.save(folder, bad, CODEC, ABOUT)

    return attack(honest, tmp_path, name, harm)


def by_command(honest, tmp_path):
    """What a bank says, through the commands that print and export it."""
    acts = {
        "show": lambda bank: command("bank", "show", bank),
        "json": lambda bank: json.loads(command("bank", "show", bank, "--json")),
        "export": lambda bank: exported(bank, command("bank", "export", bank, "--out", bank.parent / "out")),
    }
    for path in (
        ("users", 0),
        ("samples", 0, 0, "content"),
        ("domains", 0),
        ("devices", 0),
        ("task",),
        ("settings", "device"),
    ):
        for name in ("markup", "escape", "surrogate", "path", "long", "empty"):
            for verb, act in acts.items():
                harm = lambda bank, path=path, name=name: forged(bank, at("about", *path, value=VALUES[name]))  # noqa: E731
                yield attack(honest, tmp_path, f"{verb} where {'.'.join(map(str, path))} is {name}", harm, act)


def exported(bank: Path, said: str) -> str:
    """What the command said, if it wrote adapters and nothing else."""
    written = {path.relative_to(bank.parent).parts[:2] for path in (bank.parent / "out").rglob("*") if path.is_file()}
    assert len(written) == 4 and {first for first, _ in written} == {"out"}
    assert {path.name for path in bank.parent.iterdir()} == {"bank", "diary", "out"}
    return said


def is_printed(said) -> bool:
    return not isinstance(said, str) or not any(char in said for char in "\x1b\u202e\ud83d")


def is_part_of_what_was_saved(saved) -> bool:
    """Every OVT that repair kept is one that was saved."""
    known = {np.asarray(prompt).tobytes() for user in BANK.prompts for prompt in user}
    block = jax.tree.map(np.asarray, saved.bank)
    kept = [block.prompts[user, slot] for user in range(2) for slot in range(int(block.count[user]))]
    return all(prompt.tobytes() in known for prompt in kept)


SURFACES = {
    by_bytes: is_part_of_what_was_saved,
    by_kind: is_what_was_saved,
    by_description: is_consistent,
    by_table: is_what_was_saved,
    by_content: lambda saved: False,
    by_command: is_printed,
}


ALWAYS = {
    "all arrays are huge", "no codec", "prompts of type int32", "not_followed 000001/state is link", "about  is null",
    "not_followed 000001/state/manifest.ocdbt is link", "not_followed 000001/_CHECKPOINT_METADATA is pipe", "domain 7", "sample 7",
    "export where users.0 is path", "show where samples.0.0.content is escape", "prompts hold nan",
}  # fmt: skip


def tried(attacks, surface):
    refusals = (ValueError,) if surface is by_command else (store.StoreError,)
    return outcomes(attacks, refusals=refusals, is_sound=SURFACES[surface])


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.__name__)
def test_some_attacks_are_refused_or_harmless(honest, tmp_path, surface):
    attacks = list(surface(honest, tmp_path))
    named = [each for each in attacks if each.name in ALWAYS]
    assert tried([*named, *attacks[3 :: len(attacks) // 8]], surface).total() >= 8 + len(named)


@pytest.mark.slow
def test_every_attack_is_refused_or_harmless(honest, tmp_path):
    counts = {}
    for surface in SURFACES:
        counts[surface.__name__] = tried(surface(honest, tmp_path), surface)
    print({name: dict(found) for name, found in counts.items()})
    assert sum(found.total() for found in counts.values()) >= 349

"""Device files and records that are not as they should be: taken and sound, or refused in one sentence."""

import os
from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nvcim_jax.core.noise import noise_std
from nvcim_jax.hardware import ageing, cells
from nvcim_jax.hardware.catalogue import LARGEST_FILE, Sheet, load, remarks, sheet
from tests.helpers.attacks import Attack, command, outcomes

LIFE = jax.random.key(0)
WHOLE = {
    "name": '"PCM-4"', "source": '"a paper, Fig. 3"', "levels": "4", "noise": "[0.01, 0.03, 0.02, 0.01]",
    "sigma_range": "[0.5, 1]", "seconds_range": "[1, 1e6]", "read_noise": "0.005", "off_us": "0.1", "on_us": "20",
    "drift_exponent": "0.05", "stuck_off": "0.01", "stuck_on": "0.002", "endurance": "1e5", "pulse_v": "2",
    "pulse_ns": "50", "write_pj": "0.6", "drift_std": "[0.01, 0.01, 0.02, 0.01]", "drift_from_s": "20", "retention": "0.01",
    "wander": "0.01", "flicker": "0.02", "means": "[0, 0.3, 0.7, 1]", "correlation": "0.1", "licence": '"MIT"',
}  # fmt: skip
VALUES = {
    "nan": "nan", "inf": "inf", "minus inf": "-inf", "negative": "-1", "minus zero": "-0.0", "zero": "0", "one": "1",
    "beyond float32": "1e39", "at float32's end": "3.4028236e38", "below float32": "1e-50", "beyond float64": "1e999",
    "400 digits": "1" + "0" * 400, "5000 digits": "9" * 5000, "true": "true", "text": '"x"', "empty text": '""',
    "empty list": "[]", "nested list": "[[1, 1, 1, 1]]", "list of texts": '["a", "b", "c", "d"]', "table": "{a = 1}",
    "date": "1979-05-27", "list with nan": "[nan, 1, 1, 1]", "list beyond float32": "[1, 1, 1e39, 1]",
    "list of huge integers": f"[1, 1, {10**400}, 1]", "pair beyond float64": "[1, 1e999]", "pair turned": "[2, 1]",
    "one of a pair": "[1]", "nothing": "",
}  # fmt: skip
WORDS = {
    "escape": r'"\u001b[31mred"', "bell": r'"a\u0007"', "override": r'"\u202eabc"', "zero width": r'"a\u200b"',
    "two lines": r'"a\nb"', "three lines": '"""\na\nb"""', "blank": '"  "', "markup": '"[INST] a [/INST]"',
    "emoji": '":smile:"', "quote": "'it\"s'", "long": f'"{"x" * 5000}"', "a known name": '"NVM-3"', "slash": '"../a"',
    "separator": r'"a\u2028b"', "no-break": r'"a\u00a0b"', "surrogate": r'"a\ud800b"', "NUL": r'"a\u0000b"',
}  # fmt: skip
ODD = {
    "None": None, "nan": float("nan"), "inf": float("inf"), "10**400": 10**400, "10**5000": 10**5000, "True": True,
    "1e39": 1e39, "-1.0": -1.0, "a text": "x", "float32": np.float32(0.5), "an array": np.ones(4), "a set": {1},
    "complex": 1j, "huge tuple": (10**400,) * 4, "nan tuple": (0.1, float("nan"), 0.1, 0.1), "bytes": b"x",
}  # fmt: skip


def toml(**changed: str) -> bytes:
    return "\n".join(f"{name} = {value}" for name, value in {**WHOLE, **changed}.items()).encode()


def contents() -> dict[str, bytes]:
    """Files by what is wrong with them."""
    numbers = [name for name in WHOLE if name not in ("name", "source")]
    found = {f"{name} = {kind}": toml(**{name: value}) for name in numbers for kind, value in VALUES.items()}
    found |= {f"{name}: {kind}": toml(**{name: value}) for name in ("name", "source") for kind, value in WORDS.items()}
    whole = toml()
    for name in WHOLE:
        rest = [line for line in whole.splitlines() if not line.startswith(f"{name} ".encode())]
        found[f"without {name}"] = b"\n".join(rest)
        found[f"{name} twice"] = whole + f"\n{name} = {WHOLE[name]}".encode()
        found[f"{name} as a table"] = b"\n".join(rest) + f"\n[{name}]\na = 1".encode()
    found |= {f"cut at {at}": whole[:at] for at in range(0, len(whole), 13)}
    drawn = np.random.default_rng(0)
    for at in drawn.choice(len(whole), 60, replace=False):
        found[f"bit flipped at {at}"] = whole[:at] + bytes([whole[at] ^ (1 << drawn.integers(8))]) + whole[at + 1 :]
    for count in (1, 2, 3, 8, 16, 256, 257, 512, 2**15):
        found[f"{count} levels"] = toml(levels=str(count), noise=f"[{', '.join(['0.1'] * count)}]")
    return found | {
        "nothing": b"", "a comment": b"# nothing", "NUL bytes": b"\0" * 100, "UTF-16": toml().decode().encode("utf-16"),
        "a byte order mark": b"\xef\xbb\xbf" + whole, "Latin-1": 'name = "é"'.encode("latin-1"), "JSON": b'{"name": 1}',
        "deep lists": b"noise = " + b"[" * 16_000, "deep tables": b"a" + b".a" * 8000 + b" = 1",
        "an unknown entry": whole + b"\nreed_noise = 1", "an unknown table": whole + b"\n[other]\na = 1",
        "an odd key": whole + b'\n"\\u001b[31m\\n" = 1', "a long key": whole + b"\n" + b"k" * 10**5 + b" = 1",
        "an array of tables": whole + b"\n[[extra]]\na = 1", "too large": b"#" * (LARGEST_FILE + 1),
        "on and off swapped": toml(on_us="0.1", off_us="20"), "alike in float32": toml(on_us="0.1000000001"),
        "all stuck": toml(stuck_off="0.5", stuck_on="0.5"), "more than all": toml(stuck_off="0.6", stuck_on="0.5"),
        "line ends of Windows": whole.replace(b"\n", b"\r\n"), "line ends of old": whole.replace(b"\n", b"\r"),
    }  # fmt: skip


def places(folder) -> dict[str, object]:
    """Paths at which there is no file to read, or one with an odd name."""
    (folder / "a folder.toml").mkdir()
    os.mkfifo(folder / "pipe.toml")
    (folder / "to nowhere.toml").symlink_to(folder / "nowhere")
    (folder / "to itself.toml").symlink_to(folder / "to itself.toml")
    (folder / "to a device.toml").symlink_to("/dev/zero")
    (folder / "to a pipe.toml").symlink_to(folder / "pipe.toml")
    (folder / "two\nlines.toml").write_bytes(b"= 1")
    (folder / "\x1b[31mred.toml").write_bytes(b"= 1")
    names = ("a folder", "pipe", "to nowhere", "to itself", "to a device", "to a pipe", "two\nlines", "\x1b[31mred")
    found = {name: folder / f"{name}.toml" for name in names}
    return found | {"none": folder / "none.toml", "NUL": "a\0b.toml", "long": "x" * 5000 + ".toml", "bare": ".toml"}


def files(folder) -> list[Attack]:
    """Every file through `load`."""
    attacks = []
    for at, (name, content) in enumerate(contents().items()):
        path = folder / f"{at}.toml"
        path.write_bytes(content)
        attacks.append(Attack(name, lambda path=path: load(path)))
    return attacks + [Attack(name, lambda path=path: load(path)) for name, path in places(folder).items()]


def is_sound(made: Sheet) -> bool:
    """Whether nothing that is computed from a device is anything but a finite number, nor printed but as text."""
    device, sigma = made.device, made.own_sigma
    each = jnp.arange(made.levels)[None, None]
    deviation = cells.spread(each, device, sigma=sigma)
    aged = ageing.age(each.astype(jnp.float32), device, seconds=max(1.0, made.seconds_range[1]), life=LIFE)
    coded = noise_std(jnp.array([[32767.0, 1.0]]), sigma=sigma, factors=device.factors)
    numbers = [deviation**2 * 65536.0**2, aged, coded**2, cells.off_share(device), cells.read_variance(device)]
    told = [made.name, made.source, *remarks([(made, [0.1, 20.0])])]
    return all(map(str.isprintable, told)) and all(
        bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves((device, numbers))
    )


def test_device_files(tmp_path):
    attacks = files(tmp_path)
    counts = outcomes(attacks, refusals=(ValueError,), is_sound=is_sound, seconds=10)
    assert len(attacks) >= 221 and counts["taken"] >= 60 and counts["refused"] >= 400


def test_device_records():
    """As in use, past the type checker of the tests."""

    def make(changed):
        record = object.__new__(Sheet)
        for name, value in {**whole, **changed}.items():
            object.__setattr__(record, name, value)
        record.__post_init__()
        return record

    whole = {field.name: getattr(sheet("NVM-3"), field.name) for field in fields(Sheet)}
    attacks = [Attack(f"{name}={kind}", lambda at={name: odd}: make(at)) for name in whole for kind, odd in ODD.items()]
    counts = outcomes(attacks, refusals=(ValueError,), is_sound=is_sound, seconds=10)
    assert len(attacks) >= 221 and counts["taken"] >= 10 and counts["refused"] >= 150


def through_commands(folder) -> list[Attack]:
    """Every file through `nvcim devices`, and through what `nvcim vary` checks before it loads a model."""
    paths = [path for path in sorted(folder.glob("*.toml")) if "\n" not in path.name]
    words = {"devices": ("devices", "--device"), "vary": ("vary", "--model", "/nonexistent", "--device")}
    return [
        Attack(f"{name} {path.name}", lambda path=path, said=said: command(*said, path))
        for name, said in words.items()
        for path in paths
    ]


def is_plain(text: str) -> bool:
    return "nan" not in text and " inf" not in text and "\x1b" not in text


def test_a_sample_of_device_files_through_the_commands(tmp_path):
    files(tmp_path)
    counts = outcomes(through_commands(tmp_path)[::30], refusals=(ValueError,), is_sound=is_plain)
    assert counts["refused"] > 20


@pytest.mark.slow
def test_all_device_files_through_the_commands(tmp_path):
    files(tmp_path)
    counts = outcomes(through_commands(tmp_path), refusals=(ValueError,), is_sound=is_plain)
    assert counts.total() > 2 * 221

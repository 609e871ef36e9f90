"""Make every table in docs/results again, each with the command that makes it.

    python experiments/remake.py --out out                  # hours on two cores; finished parts are not made twice
    python experiments/remake.py --out out --only main      # one page

An experiment writes table.md, and some a results.png; a page is its title, its command and that table. What holds of
it all (what_holds.py) comes last.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from nvcim_jax import files

ROOT = Path(__file__).parents[1]
PAGES = {  # name -> (title, what follows `python experiments/`)
    "main": ("Every method on NVM-3", "tables.py main --sigma 0.1"),
    "devices": ("Five devices", "tables.py devices --users 24 --sigma 0.1"),
    "headroom": ("What tuning is worth from poorer starts", "tables.py headroom"),
    "twofold": ("Where one sample does not show the habit", "tables.py twofold --users 16 --task LaMP-2 LaMP-3 LaMP-5"),
    "methods": ("One adapter for all against one OVT for each sample", "methods.py --users 24 --task LaMP-3 LaMP-2"),
    "write-verify": ("Write-verify at a real budget of pulses", "write_verify.py --users 12 --task LaMP-2"),
    "life": ("Lives through domains that come back", "life.py"),
    "keep": ("What a small buffer should keep", "keep.py"),
    "time": ("Some time after programming", "ageing.py --users 12 --draws 100 --answers"),
    "weights": ("The model's matrices in arrays, too", "weights_in_arrays.py --users 12"),
    "converter-bits": ("Retrieval through converters", "converter_bits.py"),
    "rocr": ("Documents found on five devices", "rocr.py"),
}


def page(name: str, out: Path) -> None:
    """Run one experiment and write its page."""
    title, words = PAGES[name]
    command = f"python experiments/{words} --out out/{name}"
    print(f"$ {command}", flush=True)
    script, *options = words.split()
    subprocess.run([sys.executable, ROOT / "experiments" / script, *options, "--out", out / name], check=True)
    table = (out / name / "table.md").read_text(encoding="utf-8")
    made = f"# {title}\n\nMade by `{command}`.\n\n{table.strip()}\n"
    files.write_text(ROOT / "docs" / "results" / f"{name}.md", made)
    picture = out / name / "results.png"
    if picture.is_file():
        shutil.copy(picture, ROOT / "docs" / "results" / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=PAGES, default=list(PAGES))
    args = parser.parse_args()
    for name in args.only:
        page(name, args.out)
    subprocess.run([sys.executable, ROOT / "experiments" / "what_holds.py", "--out", args.out], check=True)


if __name__ == "__main__":
    main()

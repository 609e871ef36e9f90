"""Compiled programs are kept between commands: most of what a short command takes is compiling.

JAX keeps them, in the user's cache folder. What lies there is run, so the folder is private, and another user's is not
trusted. Whoever sets JAX_COMPILATION_CACHE_DIR has their own; JAX_ENABLE_COMPILATION_CACHE=false keeps nothing.
"""

import os
import shutil
import stat
import tempfile
import warnings
import zlib
from pathlib import Path

MOST_BYTES = 1 << 28  # the programs used longest ago make room


def keep_programs() -> None:
    """Let JAX keep what it compiles and find it again. Where that is impossible, a warning says so."""
    import jax
    from platformdirs import user_cache_path

    config = jax.config
    enabled, where = "jax_enable_compilation_cache", "jax_compilation_cache_dir"
    if not getattr(config, enabled) or getattr(config, where):
        return
    folder = user_cache_path("nvcim_jax") / f"programs-{_processor()}"
    try:
        _make_private(folder)
    except OSError as error:
        reason = error.strerror or error
        warnings.warn(f"{folder} cannot keep compiled programs ({reason}): every command compiles anew", stacklevel=2)
        return
    config.update(where, str(folder))
    config.update("jax_compilation_cache_max_size", MOST_BYTES)
    config.update("jax_persistent_cache_min_compile_time_secs", 0)  # a command has many small programs
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")  # then it compiles


def _make_private(folder: Path) -> None:
    """Make `folder`, which nobody else may read or write. OSError says why it cannot be used."""
    if not folder.is_absolute():
        raise OSError("there is no home folder")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise OSError("it is a link, another user's, or open to others")
    with tempfile.TemporaryFile(dir=folder):
        pass
    if shutil.disk_usage(folder).free < MOST_BYTES:
        raise OSError("the disk is nearly full")


def _processor() -> str:
    """A name for this kind of processor: in a home folder that several machines share, each finds its own programs."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    told = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{os.uname().machine}-{zlib.crc32(told.encode()):08x}"

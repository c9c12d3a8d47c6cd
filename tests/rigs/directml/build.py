"""Compile the simulated runtime: one library under the two names that torch_directml loads."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "source"
FLAGS = (
    *("-std=c++17", "-O2", "-fPIC", "-shared", "-pthread", "-Wall", "-Wextra", "-Werror"),
    *("-static-libstdc++", "-static-libgcc"),  # torch brings a C++ runtime of its own
    *("-Wl,-soname,libd3d12.so", f"-Wl,--version-script={SOURCES / 'exports.map'}"),
)


class UnavailableError(Exception):
    """torch_directml cannot be run on this machine; the message says why and what would help."""


class BuildError(Exception):
    """The compiler said no; the message holds what it said."""


def cache() -> Path:
    """Return the per-user folder of what is built and installed for tests."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memory-worker"


def compiler() -> str:
    """Return the path of g++. Raises UnavailableError."""
    if found := shutil.which("g++"):
        return found
    raise UnavailableError("there is no g++ on the path")


def build(folder: Path | None = None) -> Path:
    """Return the folder of libd3d12.so and libdxcore.so, compiled once for each state of the sources.

    It appears by one rename, so builds at the same time do no harm. Raises BuildError, UnavailableError.
    """
    gxx = compiler()
    sources = sorted(SOURCES.iterdir())
    digest = hashlib.sha256(repr((gxx, FLAGS, [one.read_bytes() for one in sources])).encode()).hexdigest()[
        :16
    ]
    base = folder or cache() / "directml-rig"
    built = base / digest
    if built.exists():
        return built
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=base) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        inputs = [str(one) for one in sources if one.suffix == ".cpp"]
        command = [gxx, *FLAGS, "-o", str(new / "libd3d12.so"), *inputs]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            raise BuildError(ran.stderr)
        (new / "libdxcore.so").symlink_to("libd3d12.so")
        try:
            new.rename(built)
        except OSError:
            if not built.exists():  # else another process was first
                raise
    return built

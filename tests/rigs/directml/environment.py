"""Find or make the Python environment that torch_directml is installed in: it wants an old torch and Python."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

if sys.platform != "win32":
    import fcntl

from tests.rigs.directml.build import UnavailableError, cache, compiler

WHEEL = "torch-directml==0.2.5.dev240914"
LAST_WRITTEN = "lib/python3.*/site-packages/torch_directml-0.2.5.dev240914.dist-info/RECORD"
"""pip writes RECORD last in a package, and a package after all that it needs."""
FREE_BYTES = 12 * 10**9
"""Torch 2.4.1 with the CUDA libraries that it insists on: 5 GB, and as much while it is unpacked."""
INSTALL_SECONDS = 600
PYTHONS = ((3, 12), (3, 11), (3, 10), (3, 9), (3, 8))


def interpreter() -> Path:
    """Return a Python that has torch_directml.

    Installs it (5 GB) where CI=true or MEMORY_WORKER_DIRECTML=1. Raises UnavailableError with the reason.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise UnavailableError(
            f"torch_directml runs on a simulated device on Linux x64 only, not {platform.platform()}"
        )
    compiler()
    folder = cache() / "torch-directml"
    python = folder / "bin" / "python"
    if _is_installed(folder):
        return python
    if (
        os.environ.get("CI", "").lower() not in {"1", "true"}
        and os.environ.get("MEMORY_WORKER_DIRECTML") != "1"
    ):
        raise UnavailableError(f"{WHEEL} is not in {folder}; MEMORY_WORKER_DIRECTML=1 installs it (5 GB)")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name("torch-directml.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_installed(folder):  # else by who held the lock
            _install(folder)
    return python


def _is_installed(folder: Path) -> bool:
    return any(folder.glob(LAST_WRITTEN))


def _install(folder: Path) -> None:
    base = _base_python()
    if folder.exists():
        shutil.rmtree(folder)  # an installation that was cut short
    free = shutil.disk_usage(folder.parent).free
    if free < FREE_BYTES:
        raise UnavailableError(f"{WHEEL} wants {FREE_BYTES} bytes free at {folder}, there are {free}")
    _run([base, "-m", "venv", str(folder)])
    with tempfile.TemporaryDirectory(prefix="torch-directml-", dir=folder.parent) as scratch:
        _run(
            [str(folder / "bin" / "python"), "-m", "pip", "install", "--no-cache-dir", WHEEL], TMPDIR=scratch
        )
    if not _is_installed(folder):
        raise UnavailableError(
            f"pip installed {WHEEL} otherwise than expected: no {LAST_WRITTEN} in {folder}"
        )


def _base_python() -> str:
    if sys.version_info[:2] in PYTHONS:
        return sys.executable
    for major, minor in PYTHONS:
        if found := shutil.which(f"python{major}.{minor}"):
            return found
    raise UnavailableError(f"{WHEEL} wants Python 3.8 to 3.12, and there is none on the path")


def _run(command: list[str], **variables: str) -> None:
    """Run one step of the installation; whatever stops it is a reason to go without."""
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **variables},
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{WHEEL} was not installed in {INSTALL_SECONDS} s") from None
    if ran.returncode != 0:
        raise UnavailableError(f"{' '.join(command)} ended with {ran.returncode}: {ran.stderr[-1000:]}")

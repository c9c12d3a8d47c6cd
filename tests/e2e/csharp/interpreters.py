"""Programs that stand for a Python."""

import shutil
import subprocess
from pathlib import Path


def python_3_10(folder: Path) -> str:
    """Return a Python 3.10; where there is none, a program that says that it is one."""
    places = [shutil.which("python3.10"), *Path.home().glob(".pyenv/versions/3.10*/bin/python3.10")]
    for place in filter(None, places):
        asked = subprocess.run([str(place), "--version"], capture_output=True, text=True, check=False)
        if asked.stdout.startswith("Python 3.10"):
            return str(place)
    return str(script(folder / "python3.10", 'echo "memory-worker-python:3.10.13 $0"'))


STANDS_FOR_ONE = '[ "$2" = venv ] && exit 9; echo "memory-worker-python:3.12.1 $0"'
"""What a program does that is taken for an interpreter, and can make no environment."""


def script(path: Path, body: str) -> Path:
    """Write a program that stands for another."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path

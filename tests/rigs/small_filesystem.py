"""A small file system in memory, to be filled to the last byte."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_filesystem(folder: Path, size_bytes: int, *options: str) -> Iterator[Path]:
    """Mount one at a folder. Skips where this user may not mount."""
    folder.mkdir(exist_ok=True)
    settings = ",".join((f"size={size_bytes}", "mode=0777", *options))
    command = ["mount", "-t", "tmpfs", "-o", settings, "none", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a file system in memory takes Linux's mount to make")
    if done.returncode:
        pytest.skip(f"this user may not mount a file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        command = ["umount", "-l", str(folder)]
        subprocess.run(command, check=True)


def make_read_only(folder: Path) -> None:
    """Have one take no writes any more. Nothing may have a file of it open for writing."""
    command = ["mount", "-o", "remount,ro", str(folder)]
    subprocess.run(command, check=True)

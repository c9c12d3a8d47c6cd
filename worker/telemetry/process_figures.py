"""What one other process takes of the machine's memory, by the system's own figures: private, and of named files."""

import os
import re
import sys
from collections.abc import Collection
from pathlib import Path

import psutil

from worker.telemetry.process_groups import text_of

_ROLLUP = {"Anonymous", "Swap"}
_STATUS = {"RssAnon", "VmSwap"}
_COUNTED_SINCE = (6, 17)
"""The Linux since which a process's status has the sums of all cores' counts (torvalds/linux, 82241a83cd15)."""


def _counts_are_exact(release: str) -> bool:
    """Tell whether the kernel of this release counts exactly in a process's status."""
    version = re.match(r"(\d+)\.(\d+)", release)
    return version is not None and (int(version[1]), int(version[2])) >= _COUNTED_SINCE


_EXACT = sys.platform == "linux" and _counts_are_exact(os.uname().release)


def private_bytes(pid: int) -> int | None:
    """Return what would go back to the system with this process, but for files and shared memory.

    Linux: anonymous pages and what of them is swapped, before 6.17 counted page by page (a millisecond and a half for a
    library and a small model). Windows: private usage. None where the system does not say.
    """
    found = None if _EXACT else _sum(f"/proc/{pid}/smaps_rollup", _ROLLUP)
    return private_bytes_quickly(pid) if found is None else found


def private_bytes_quickly(pid: int) -> int | None:
    """Return the same by the kernel's running count, 30 microseconds: before Linux 6.17 off by up to 32 pages a core."""
    found = _sum(f"/proc/{pid}/status", _STATUS)
    return _elsewhere(pid) if found is None else found


def mapped_bytes(pid: int, files: Collection[Path]) -> int:
    """Return what a process has resident of files that it maps: the system can drop it, and would have to read it again.

    Linux alone says so; 0 elsewhere.
    """
    names = {str(each) for each in files}
    total, counted = 0, False
    if not names:
        return 0
    try:
        with open(f"/proc/{pid}/maps", "rb", buffering=0) as maps:  # noqa: PTH123 - /proc
            text = maps.readall()
        if not any(os.fsencode(name) + b"\n" in text for name in names):
            return 0  # as with most: saying what of each mapping is resident takes the kernel thirty times as long
        with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="surrogateescape") as lines:  # noqa: PTH123 - /proc
            for line in lines:
                if not line[0].isupper():  # a mapping's own line, not a figure of it
                    parts = line.rstrip("\n").split(maxsplit=5)
                    counted = len(parts) > 5 and parts[5] in names  # noqa: PLR2004 - the path, after five columns
                elif counted and line.startswith("Rss:"):
                    total += int(line.split()[1]) * 1024
    except OSError:
        return 0
    return total


def _sum(path: str, wanted: Collection[str]) -> int | None:
    """Add figures of a file of the kernel's, in kB; None where it has none of them."""
    found = [
        int(value.split()[0]) * 1024
        for name, _, value in (line.partition(":") for line in text_of(path).splitlines())
        if name in wanted
    ]
    return sum(found) if found else None


def _elsewhere(pid: int) -> int | None:
    """Ask psutil: private usage on Windows, what no other process shares on other systems."""
    try:
        process = psutil.Process(pid)
        private = getattr(process.memory_info(), "private", None)
        return int(process.memory_full_info().uss if private is None else private)
    except (psutil.Error, OSError):
        return None

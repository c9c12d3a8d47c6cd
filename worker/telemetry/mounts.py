"""What is mounted where, by the kernel's word: proc_pid_mountinfo(5)."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from protocol.record import Record

_ESCAPED = re.compile(r"\\([0-7]{3})")
"""A blank, a tab, a newline, a backslash or a hash in a name; all else is as it is, be it a separator of lines elsewhere."""


class Mount(Record):
    """One line."""

    root: str
    """What of the file system is mounted."""
    point: str
    """Where."""
    kind: str
    """Which kind of file system it is; ``fuse`` has its own behind a dot."""
    options: tuple[str, ...]
    """The file system's own: of a control group of version 1, its controllers."""


def mountinfo(root: Path = Path("/")) -> str:
    """Return what the kernel says; empty where it can't be read."""
    with suppress(OSError):
        return os.fsdecode((root / "proc/self/mountinfo").read_bytes())
    return ""


def mounts_in(text: str) -> Iterator[Mount]:
    """Take it apart; what is no such line is left out."""
    for line in text.split("\n"):
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if len(fields) >= 6 and len(kinds) >= 3:  # noqa: PLR2004 - as many as each line has at least
            yield Mount(_named(fields[3]), _named(fields[4]), kinds[0], tuple(kinds[2].split(",")))


def _named(field: str) -> str:
    return _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), field)

"""Ends what a gateway leaves behind that was killed: its Ray's agents outlive their node, and files stay.

Run as a script, in a process of its own whose input ends with the gateway; standard library only.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

_GRACE_SECONDS, _LOOK_SECONDS, _PATIENCE_SECONDS = 5.0, 0.1, 15.0
"""How long processes may take to end by themselves, which workers do in order; and how long they are looked for."""


def main(mark: str, folder: str) -> None:
    """Wait for the end of the input, then for the processes that have ``mark`` in their environment, and insist."""
    while os.read(0, 1):
        pass
    ended_at = time.monotonic()
    while (left := list(marked(mark))) and time.monotonic() < ended_at + _PATIENCE_SECONDS:
        if time.monotonic() > ended_at + _GRACE_SECONDS:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        time.sleep(_LOOK_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


def marked(mark: str) -> Iterator[int]:
    """Return the processes that inherited the mark, but this one."""
    for name in os.listdir("/proc"):  # noqa: PTH208 - many of them
        if name.isdecimal() and int(name) != os.getpid():
            with suppress(OSError), open(f"/proc/{name}/environ", "rb") as environment:  # noqa: PTH123 - many of them
                if mark.encode() in environment.read().split(b"\0"):
                    yield int(name)


if __name__ == "__main__":
    main(*sys.argv[1:])

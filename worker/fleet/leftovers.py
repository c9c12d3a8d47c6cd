"""Ends what a gateway leaves behind that was killed: its Ray's agents outlive their node, and files stay.

Run as a script, in a process of its own whose input ends with the gateway; standard library only.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_KILL = 9  # SIGKILL: a fleet is on Linux, and Windows' ``signal`` lacks the name
_GRACE_SECONDS, _LOOK_SECONDS, _PATIENCE_SECONDS = 5.0, 0.1, 15.0
"""How long processes may take to end by themselves, which workers do in order; and how long they are looked for."""


def main(folder: str) -> None:
    """Wait for the end of the input, then for the processes that use the folder, and insist; then remove it."""
    while os.read(0, 1):
        pass
    ended_at = time.monotonic()
    while (left := list(users(folder))) and time.monotonic() < ended_at + _PATIENCE_SECONDS:
        if time.monotonic() > ended_at + _GRACE_SECONDS:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, _KILL)
        time.sleep(_LOOK_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


def users(folder: str) -> Iterator[int]:
    """Return the processes that have a file of the folder open: all of Ray's have a log or a socket there.

    Their names and environments say nothing reliable: Ray writes titles over both.
    """
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid():
            with suppress(OSError):
                for descriptor in (process / "fd").iterdir():
                    with suppress(OSError):
                        if str(descriptor.readlink()).startswith(folder):
                            yield int(process.name)
                            break


if __name__ == "__main__":
    main(*sys.argv[1:])

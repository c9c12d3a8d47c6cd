"""The protocol's own descriptors, out of everyone else's reach. Standard library only."""

import os
import select
import sys


def claim() -> tuple[int, int]:
    """Move stdin and stdout away and return where to; ``print``, C and child processes get stderr.

    The new descriptors are not inherited by child processes.
    """
    for fd in (0, 1, 2):  # whoever started us may have closed any of them
        if not _is_open(fd):
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)
    read_fd, write_fd = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as we do
    sys.stdout = sys.stderr
    # Whether they block is left as it is: whoever shares them may have said so, and may say otherwise later.
    return read_fd, write_fd


def polled(fd: int, events: int, timeout_ms: int | None) -> int:
    """Return what of these events a descriptor has, after so long at most; 0 where the system cannot say."""
    if sys.platform == "win32":  # there a pipe's other end cannot make ours non-blocking
        return 0
    poller = select.poll()
    poller.register(fd, events)
    return next((found for _, found in poller.poll(timeout_ms)), 0)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True

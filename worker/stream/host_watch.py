"""Noticing that the host is gone, or wants us gone, even while the pipe stays open."""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable

import psutil

_POLL_SECONDS = 0.25
"""Where the system cannot tell of a process's end, it is looked for this often."""


if sys.platform == "linux":

    def _wait_for_pidfd(pid: int) -> None:
        try:
            fd = os.pidfd_open(pid)
        except PermissionError:  # a sandbox that forbids the call
            _wait_by_polling(pid)
            return
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.poll()
        os.close(fd)


def watch_process(pid: int, on_gone: Callable[[], None]) -> None:
    """Call back once a process has ended, at once if it is not there."""
    threading.Thread(target=_watch, args=(pid, on_gone), name="host-watch", daemon=True).start()


def _watch(pid: int, on_gone: Callable[[], None]) -> None:
    try:
        if sys.platform == "linux":
            _wait_for_pidfd(pid)
        elif sys.platform == "win32":
            psutil.Process(pid).wait()  # by a handle: Windows allows it for any process
        else:
            _wait_by_polling(pid)
    except (ProcessLookupError, psutil.NoSuchProcess):
        pass
    on_gone()


def _wait_by_polling(pid: int) -> None:
    # The handle remembers the start time: another process with this id later is not taken for it.
    process = psutil.Process(pid)
    never = threading.Event()
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        never.wait(_POLL_SECONDS)


def watch_signals(on_terminate: Callable[[], None]) -> None:
    """Call back on SIGTERM. For the main thread, once."""
    if sys.platform == "win32":
        return
    # The main thread waits in read(2) and would run a handler only afterwards. The byte that the
    # interpreter writes at the moment of the signal wakes a thread that can act.
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable)
    signal.signal(signal.SIGTERM, lambda *_: None)

    def wait() -> None:
        while signal.SIGTERM not in os.read(readable, 64):
            pass
        on_terminate()

    threading.Thread(target=wait, name="signals", daemon=True).start()

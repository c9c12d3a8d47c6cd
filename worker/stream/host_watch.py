"""Noticing that the host is gone, or wants us gone, even while the pipe stays open."""

import os
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

import psutil

from worker.core.errors import OutOfMemoryError
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureEvent, SureLock
from worker.core.system_calls import WithoutCall

_POLL_SECONDS = 0.25
"""Where the system cannot tell of a process's end, it is looked for this often."""


class HostWatch:
    """Watches one process: the host. Whoever names another has that watched instead. Thread-safe."""

    def __init__(self, on_gone: Callable[[int], None]) -> None:
        self._on_gone = on_gone
        self._lock = SureLock()
        # All mutable state: the process, once there is one, and the one that the thread waits for. The thread is
        # begun with the first.
        self._host: _Host | None = None
        self._awaited: _Host | None = None

    def watch(self, pid: int) -> bool:
        """Call back once that process has ended.

        False, and no process is watched, where no such process can be seen: it may be in another namespace, as the
        host of a container is, and then only the pipe tells of its end.
        """
        with self._lock:
            if self._host is not None and self._host.pid == pid:
                return True
            try:
                host = _Host(pid)
                before, self._host = self._host, host
                if before is None:
                    start_thread(self._run, "host-watch")
            except (psutil.Error, OSError):
                return False
            except OutOfMemoryError:
                self._host = None
                return False
            if before is not None:
                before.forget(awaited=before is self._awaited)
        return True

    def _run(self) -> None:
        while True:
            with self._lock:
                host = self._awaited = self._host
            if host is None:
                return  # there was no thread to be had, and then there was
            if host.wait() and self._host is host:
                self._on_gone(host.pid)


class _Host:
    """A process that was there, whoever has its id later."""

    def __init__(self, pid: int) -> None:
        """Raise OSError or psutil.Error where it cannot be seen."""
        self.pid = pid
        self._forgotten = SureEvent()
        self._fds: tuple[int, int] | None = None
        """The process, and what wakes who waits for it."""
        if sys.platform == "linux":
            with WithoutCall():
                fd = os.pidfd_open(pid)
                try:
                    self._fds = (fd, os.eventfd(0, os.EFD_CLOEXEC))
                except (OSError, AttributeError):
                    os.close(fd)
                    raise
        if self._fds is None:
            # The handle remembers the start time: another process with this id later is not taken for it.
            self._process = psutil.Process(pid)
            if self._process.status() == psutil.STATUS_ZOMBIE:
                raise psutil.NoSuchProcess(pid)

    def forget(self, *, awaited: bool) -> None:
        """Let the thread that waits return, without the process having ended."""
        self._forgotten.set()
        if sys.platform == "linux" and self._fds is not None:
            if awaited:
                os.eventfd_write(self._fds[1], 1)
            else:
                self._close(self._fds)

    def wait(self) -> bool:
        """Wait for its end. False if it was forgotten before."""
        if self._fds is None:
            while not self._forgotten.wait(_POLL_SECONDS):
                with suppress(psutil.AccessDenied):
                    if not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE:
                        return True
            return False
        if sys.platform == "win32":
            raise AssertionError
        poller = select.poll()
        for fd in self._fds:
            poller.register(fd, select.POLLIN)
        poller.poll()
        self._close(self._fds)
        return not self._forgotten.is_set()

    def _close(self, fds: tuple[int, int]) -> None:
        for fd in fds:
            os.close(fd)


_ENDING = (
    "SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGXCPU", "SIGPOLL", "SIGPWR",
)  # fmt: skip
"""What ends a process besides SIGTERM, unless it was said otherwise: a terminal, a limit, a batch system's notice. None that tells of a
fault in the process itself, as SIGSEGV and SIGABRT do."""


def _name_of(number: int) -> str:
    """Return what a signal is called: real-time ones have no names but the first and the last."""
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def watch_signals(on_terminate: Callable[[str], None], *, interruptible: bool) -> None:
    """Call back with the name of a signal that is to end this process. For the main thread, once.

    Those are SIGTERM, where asked for SIGINT, and whatever else would end it: what is ignored (as by ``nohup``), or has
    a handler of somebody's, is left alone. OutOfMemoryError where there is no thread: signals do then what they do by
    themselves.
    """
    if sys.platform == "win32":
        if interruptible:
            signal.signal(signal.SIGINT, lambda *_: on_terminate("SIGINT"))
        return
    ending = [signal.SIGTERM, signal.SIGINT] if interruptible else [signal.SIGTERM]
    found = [getattr(signal, name, None) for name in _ENDING]
    if sys.platform == "linux":
        found += range(
            signal.SIGRTMIN, signal.SIGRTMAX + 1
        )  # those that mean nothing, as what a container is halted by
    ending += [each for each in found if each is not None and signal.getsignal(each) == signal.SIG_DFL]
    # The main thread waits in read(2) and would run a handler only afterwards. The byte that the
    # interpreter writes at the moment of the signal wakes a thread that can act.
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)

    def wait() -> None:
        while True:
            with suppress(MemoryError):
                came = [each for each in os.read(readable, 64) if each in ending]
                if came:
                    on_terminate(_name_of(came[0]))

    start_thread(wait, "signals")
    for each in ending:
        signal.signal(each, lambda *_: None)
    # Whoever started us may have blocked the usual ones in its thread: that survives exec, and they would never come.
    signal.pthread_sigmask(
        signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGHUP, signal.SIGINT}.intersection(ending)
    )

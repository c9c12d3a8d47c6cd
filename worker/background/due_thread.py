"""A thread that does what is due, and sleeps until the next."""

import threading
from typing import Protocol

from worker.core.clock import NS_PER_S, Clock
from worker.core.log import log
from worker.core.shortages import start_thread


class Periodic(Protocol):
    """Something with due times of its own."""

    @property
    def changed(self) -> threading.Condition:
        """Notified when something is due sooner than before; its lock guards the due times."""
        ...

    def next_ns(self) -> int | None:
        """Return when something is due next; None while nothing is."""
        ...

    def run_due(self) -> None:
        """Do what is due now. Does not raise."""
        ...


def start(periodic: Periodic, clock: Clock, name: str) -> None:
    """Run it on a thread of its own until the process ends. OutOfMemoryError where there is no thread."""

    def wait() -> None:
        with periodic.changed:
            due_ns = periodic.next_ns()
            seconds = None
            if due_ns is not None:
                seconds = min((due_ns - clock.now_ns()) / NS_PER_S, threading.TIMEOUT_MAX)
            if seconds is None or seconds > 0:
                periodic.changed.wait(seconds)

    def run() -> None:
        while True:
            try:
                wait()
                periodic.run_due()
            except BaseException as error:  # noqa: BLE001 - a thread must not end: what is due is still there
                if not isinstance(error, MemoryError):
                    log("error", "a bug in what is due", thread=name, error=repr(error))

    start_thread(run, name)

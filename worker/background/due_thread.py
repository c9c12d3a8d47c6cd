"""A thread that does what is due, and sleeps until the next."""

import threading
from typing import Protocol

from worker.core.clock import NS_PER_S, Clock


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
    """Run it on a thread of its own until the process ends."""

    def run() -> None:
        while True:
            with periodic.changed:
                due_ns = periodic.next_ns()
                wait = (
                    None
                    if due_ns is None
                    else min((due_ns - clock.now_ns()) / NS_PER_S, threading.TIMEOUT_MAX)
                )
                if wait is None or wait > 0:
                    periodic.changed.wait(wait)
            periodic.run_due()

    threading.Thread(target=run, name=name, daemon=True).start()

"""Ends reads that wait: a read alone costs less than a wait with a limit of time and a read, but has no such limit.

One thread looks every 10 ms who reads, while anybody does, and has whoever it finds at the same read twice look up.
"""

import time
from contextlib import suppress
from typing import Protocol

from worker.core.shortages import start_thread
from worker.core.sure_lock import SureEvent, SureLock

_TICK_S = 0.01
"""A read is ended after one to two of these."""

_IDLE_TICKS = 100
"""After so many in which it saw nobody the thread sleeps: a process that does nothing wakes no CPU."""


class Reader(Protocol):
    """Who reads."""

    reading: int
    """Which read it is at, by a number that no other has; 0 where it is at none."""

    def look_up(self) -> None:
        """End the read, if it waits."""
        ...


class Alarm:
    """Whoever sets its ``reading`` looks afterwards whether the alarm is ``asleep``, and then rouses it. Thread-safe."""

    def __init__(self) -> None:
        self._lock = SureLock()
        self._roused = SureEvent()
        # All mutable state: who is watched, whether there is a thread, and whether it sleeps.
        self._readers: tuple[Reader, ...] = ()
        self._started = False
        self.asleep = False

    def watch(self, reader: Reader) -> None:
        """Watch a reader from now on. OutOfMemoryError where there is no thread to do so."""
        with self._lock:
            if not self._started:
                start_thread(self._run, "device-alarm")
                self._started = True
            self._readers += (reader,)

    def forget(self, reader: Reader) -> None:
        """Watch a reader no more."""
        with self._lock:
            self._readers = tuple(each for each in self._readers if each is not reader)

    def rouse(self) -> None:
        """Have it look. Called by one who reads: until it has its answer the alarm does not fall asleep again."""
        self._roused.set()
        self.asleep = False  # whoever comes next need not rouse it

    def _run(self) -> None:
        before: dict[Reader, int] = {}
        quiet = _IDLE_TICKS
        while True:
            with suppress(MemoryError):  # then at the next tick
                now = {each: number for each in self._readers if (number := each.reading)}
                for reader, number in now.items():
                    if before.get(reader) == number:
                        reader.look_up()
                before, quiet = now, 0 if now else quiet + 1
                if quiet > _IDLE_TICKS:
                    self._sleep()
                    quiet = 0
            time.sleep(_TICK_S)

    def _sleep(self) -> None:
        """Wait until roused. Who began to read before it could see this is seen here."""
        self._roused.clear()
        self.asleep = True
        if not any(each.reading for each in self._readers):
            self._roused.wait()
        self.asleep = False


ALARM = Alarm()

"""What the host is told by itself, and it may not read just now: whoever tells it does not wait for that."""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from worker.core.shortages import start_thread
from worker.stream.frame_writer import FrameWriter

WAITING_MAX = 4096
"""Events that wait for a host that does not read. Beyond these the oldest are dropped."""


class EventWriter:
    """Writes on a thread of its own what can't be written at once. Before ``start`` everything is written at once."""

    def __init__(self, writer: FrameWriter) -> None:
        self._writer = writer
        self._changed = threading.Condition(threading.Lock())
        # All mutable state: what is to be written, in order, and replies that are to be made and written.
        self._events = deque[Callable[[], bytes]]()
        self._replies = deque[Callable[[], None]]()
        self._started = False

    def start(self) -> None:
        """Begin. OutOfMemoryError where there is no thread."""
        start_thread(self._run, "events")
        self._started = True

    def write(self, make: Callable[[], bytes], size_bytes: int, dropped: Callable[[], None]) -> None:
        """Write an event after those that wait; ``dropped`` is called for one that gives way to it."""
        if not self._started:
            self._writer.write_made(make)
            return
        with self._changed:
            if self._events or not self._writer.write_made_at_once(make, size_bytes):
                if len(self._events) >= WAITING_MAX:
                    del self._events[1]  # the first is being written
                    dropped()
                self._events.append(make)
                self._changed.notify()

    def reply(self, give: Callable[[], None]) -> None:
        """Give a reply from this thread: its request has none that could wait. Before the events that wait."""
        if not self._started:
            give()
            return
        with self._changed:
            self._replies.append(give)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with suppress(BaseException):  # one that cannot be made, or memory that is short: the next
                with self._changed:
                    while not self._events and not self._replies:
                        self._changed.wait()
                    give = self._replies.popleft() if self._replies else None
                    make = None if give else self._events[0]
                if give is not None:
                    give()
                elif make is not None:
                    try:
                        self._writer.write_made(make)
                    finally:
                        with self._changed:
                            self._events.popleft()

"""What the host is told by itself, and it may not read just now: whoever tells it does not wait for that."""

from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from protocol.vocabulary import HealthState
from worker.core.health import PartHealth
from worker.core.log import log
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureLock
from worker.stream.frame_writer import FrameWriter

WAITING_MAX = 4096
"""Events that wait for a host that does not read. Beyond these the oldest are dropped."""


class EventWriter:
    """Writes on a thread of its own what can't be written at once. Before ``start`` everything is written at once."""

    def __init__(self, writer: FrameWriter) -> None:
        self._writer = writer
        self._lock = SureLock()
        self._tokens = SimpleQueue[None]()
        """One for whatever is to be written: waiting for it takes no memory, so that it can't fail."""
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
        with self._lock:
            if self._events or not self._writer.write_made_at_once(make, size_bytes):
                if len(self._events) >= WAITING_MAX:
                    del self._events[1]  # the first is being written
                    dropped()
                self._events.append(make)
                self._tokens.put(None)

    def reply(self, give: Callable[[], None]) -> None:
        """Give a reply from this thread: its request has none that could wait. Before the events that wait."""
        if not self._started:
            give()
            return
        with self._lock:
            self._replies.append(give)
            self._tokens.put(None)

    def health(self) -> Iterator[PartHealth]:
        """Tell whether events wait for the host to read."""
        waiting = len(self._events)
        state = HealthState.DEGRADED if waiting > 1 else HealthState.OK
        said = f"{waiting} wait for the host to read; {WAITING_MAX} may" if waiting > 1 else None
        yield PartHealth("events", state, said)

    def _run(self) -> None:
        while True:
            try:
                if not (self._replies or self._events):
                    self._tokens.get()
                self._write_next()
            except BaseException as error:  # noqa: BLE001 - a thread must not end
                _told(error)

    def _write_next(self) -> None:
        if self._replies:
            try:
                self._replies[0]()
            except MemoryError:
                raise  # it is called again
            except BaseException as error:  # noqa: BLE001 - a bug in making one reply is logged, and the next ones are still written
                _told(error)
            del self._replies[0]
        elif self._events:
            try:
                self._writer.write_made(self._events[0])
            finally:
                self._events.popleft()


def _told(error: BaseException) -> None:
    if not isinstance(error, MemoryError):
        log("error", "an event or a reply could not be written", error=repr(error))

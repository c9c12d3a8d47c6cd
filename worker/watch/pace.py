"""When devices are next sampled unasked: whoever changes something brings that forward."""

from worker.core.clock import Clock
from worker.core.sure_lock import SureCondition


class Pace:
    """One due time. Until it is set for the first time nothing samples unasked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.changed = SureCondition()
        """Notified when the time was brought forward."""
        # All mutable state.
        self._due_ns: int | None = None

    def next_ns(self) -> int | None:
        """Return when devices are to be sampled; None while nothing samples unasked."""
        return self._due_ns

    def set(self, due_ns: int) -> None:
        """Set the time."""
        with self.changed:
            self._due_ns = due_ns
            self.changed.notify_all()

    def hurry(self, within_ns: int) -> None:
        """Bring the time forward, where it is further off than this."""
        due_ns = self._clock.now_ns() + within_ns
        if self._due_ns is None or self._due_ns <= due_ns:
            return
        with self.changed:
            if self._due_ns > due_ns:
                self._due_ns = due_ns
                self.changed.notify_all()

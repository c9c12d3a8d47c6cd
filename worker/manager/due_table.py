"""When leases end and models will have been idle for too long: what the reaper pulls. Pure; under the manager's lock."""

import threading
from collections import defaultdict

from worker.core.due_times import DueTimes
from worker.core.sure_lock import SureCondition


class DueTable:
    """Leases by device and idle models by id, each with the clock's nanoseconds at which it is due."""

    def __init__(self, lock: threading.RLock) -> None:
        self.changed = SureCondition(lock)
        """Notified when something is due sooner than all else."""
        # All mutable state.
        self._leases: defaultdict[str, DueTimes[str]] = defaultdict(DueTimes)
        self._idle = DueTimes[str]()

    def set_lease(self, device_id: str, allocation_id: str, due_ns: int | None) -> None:
        """Set when an allocation's lease ends; None for one that was freed, or never ends."""
        self._set(self._leases[device_id], allocation_id, due_ns)

    def set_idle(self, model_id: str, due_ns: int | None) -> None:
        """Set when a model will have been idle for its keep-alive; None for one that is used, or stays."""
        self._set(self._idle, model_id, due_ns)

    def pop_lease(self, now_ns: int) -> tuple[str, str] | None:
        """Take out a device and an allocation on it whose lease has ended; None where there is none."""
        with self.changed:
            for device_id, leases in self._leases.items():
                allocation_id = leases.pop_due(now_ns)
                if allocation_id is not None:
                    return device_id, allocation_id
            return None

    def pop_idle(self, now_ns: int) -> str | None:
        """Take out a model that has been idle for its keep-alive; None where there is none."""
        with self.changed:
            return self._idle.pop_due(now_ns)

    def next_ns(self) -> int | None:
        """Return when the next is due; None where nothing is."""
        with self.changed:
            times = (each.next_ns() for each in (*self._leases.values(), self._idle))
            return min((each for each in times if each is not None), default=None)

    def __len__(self) -> int:
        with self.changed:
            return len(self._idle) + sum(map(len, self._leases.values()))

    def _set(self, times: DueTimes[str], key: str, due_ns: int | None) -> None:
        with self.changed:
            if due_ns is None:
                times.remove(key)
            elif times.set(key, due_ns):
                self.changed.notify_all()

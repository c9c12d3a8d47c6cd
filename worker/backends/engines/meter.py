"""What an engine's process holds of the memory that its model is counted on, and what each step of giving it back returned."""

from collections.abc import Callable

from protocol.results import ReleaseStep
from worker.core.records import HOST
from worker.telemetry.process_figures import private_bytes, private_bytes_quickly

Held = Callable[[str, int], int | None]
"""Tells what a process holds of a device, by the device's id and the process's: 0 for one that is not listed there, None
where no source says."""


class Meter:
    """Measures processes from outside: by the system for the machine's memory, by its driver for another device."""

    def __init__(self, device_id: str, held: Held) -> None:
        self.device_id = device_id
        self._held = held

    def taken(self, pid: int) -> int | None:
        """Return what a process holds; None where it can't be told."""
        return private_bytes(pid) if self.device_id == HOST else self._held(self.device_id, pid)

    def taken_quickly(self, pid: int) -> int | None:
        """Return about the same, where that is less work."""
        return private_bytes_quickly(pid) if self.device_id == HOST else self._held(self.device_id, pid)

    def grown(self, before: int | None, after: int | None) -> int | None:
        """Return what opening a model took; None where it can't be told.

        Not of a process that a device's driver does not list even now: it may count processes by other ids.
        """
        if self.device_id != HOST:
            before, after = before or 0, after or None
        return None if before is None or after is None else max(0, after - before)


class Steps:
    """What each step returned, from one reading of a process to the next."""

    def __init__(self, taken: Callable[[], int | None]) -> None:
        self._taken = taken
        self._first = self._last = taken()
        self.done: tuple[ReleaseStep, ...] = ()

    def add(self, step: str) -> None:
        """Note what is left after a step."""
        self._note(step, self._taken())

    def end(self, step: str) -> None:
        """Note that the process is gone, and all that it took."""
        self._note(step, 0)

    @property
    def returned(self) -> int | None:
        """All of it; None where it can't be told."""
        return None if self._first is None or self._last is None else max(0, self._first - self._last)

    def kept_share(self, empty_bytes: int | None) -> float:
        """Return which share of what models took is left; all of it where that can't be told."""
        if self._first is None or self._last is None or empty_bytes is None:
            return 1.0
        return (self._last - empty_bytes) / max(1, self._first - empty_bytes)

    def _note(self, step: str, now: int | None) -> None:
        returned = None if self._last is None or now is None else max(0, self._last - now)
        self.done = (*self.done, ReleaseStep(step, returned))
        self._last = now

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
    """What each step returned of what models took, by readings of their process before and after.

    Steps add up to all that was returned: what one gave back and a later one took again counts for neither.
    """

    def __init__(self, taken: Callable[[], int | None], empty_bytes: int | None) -> None:
        """``empty_bytes``: what the process itself takes, of the same memory, which is no model's."""
        self._taken = taken
        self._empty = empty_bytes
        self._first = taken()
        # Mutable: each step, and what was taken after it.
        self._readings: list[tuple[str, int | None]] = []

    def add(self, step: str) -> None:
        """Note what is left after a step."""
        self._readings.append((step, self._taken()))

    def end(self, step: str) -> None:
        """Note that the process is gone, and with it all that models took. What it took itself is none of theirs."""
        self._readings.append((step, self._empty))

    @property
    def taken_bytes(self) -> int | None:
        """What the process takes after the last step."""
        return self._readings[-1][1] if self._readings else self._first

    @property
    def returned(self) -> int | None:
        """All of it; None where it can't be told."""
        last = self.taken_bytes
        return None if self._first is None or last is None else max(0, self._first - last)

    @property
    def done(self) -> tuple[ReleaseStep, ...]:
        """Each step, and what it returned; None where there was no reading."""
        rows, least = list[ReleaseStep](), self._first
        for at, (step, taken) in enumerate(self._readings):
            if least is None or taken is None:
                rows.append(ReleaseStep(step, None))
                continue
            left = min(least, max(each for _, each in self._readings[at:] if each is not None))
            rows.append(ReleaseStep(step, least - left))
            least = left
        return tuple(rows)

    def kept_share(self) -> float:
        """Return which share of what models took is left; all of it where that can't be told."""
        last = self.taken_bytes
        if self._first is None or last is None or self._empty is None:
            return 1.0
        return (last - self._empty) / max(1, self._first - self._empty)

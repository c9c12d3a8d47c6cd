"""Any backend, in a process of its own: a crash, a hang or an exhausted driver there costs one device, not all.

The process is started beside everything else, called through small messages, and started again when it ends.
What was on its devices is gone then, and said so; ``restart`` is the other way: everything is carried over.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from protocol.record import Record
from protocol.vocabulary import DeviceState, Executed
from worker.backends.base import Fill
from worker.backends.isolation import codec
from worker.backends.isolation.child_process import ChildProcess, EndedError, Ending, Launch
from worker.backends.isolation.copying import receive, send
from worker.backends.isolation.launching import Launching
from worker.backends.isolation.slots import Slots
from worker.cancellation import CancelToken
from worker.clock import Clock
from worker.errors import DeviceLostError, DeviceUnavailableError, OutOfMemoryError, WorkerError
from worker.records import AllocationRequest, Block, Defragmented, DeviceInfo, Readings

PATIENCE_S = 30.0
"""A process that has not answered a question within this time hangs."""

OnChange = Callable[[tuple[DeviceInfo, ...]], None]
"""Called with the devices as they are now, whenever that is another than before; not to be waited in."""


class Held(Record):
    """A block in the device's process."""

    request: AllocationRequest
    actual_bytes: int
    weights: bool


class IsolatedBackend:
    """One backend in a process. Its devices are ``expected`` until that has said which there really are."""

    quick_bytes = -1

    def __init__(
        self,
        launch: Launch,
        expected: tuple[DeviceInfo, ...],
        clock: Clock,
        remedies: dict[str, str] | None = None,
        *,
        slots_as_file: bool = False,
    ) -> None:
        self._launch = launch
        self._slots = Slots.create(as_file=slots_as_file)
        self._on_change: OnChange = lambda _: None
        self._changed = threading.Condition()
        # All mutable state: the devices, their process, what is on them, and what went with the last process.
        self.devices = tuple(replace(each, state=DeviceState.PROBING) for each in expected)
        self._child: ChildProcess | None = None
        self._held: dict[str, Held] = {}
        self._gone: frozenset[str] = frozenset()
        self._accepted: dict[tuple[object, ...], int] = {}
        self._in_use = 0
        self._exclusive = False
        self._launching = Launching(launch, self._slots, clock, remedies or {}, self._arrived, self._ended)

    # ---- coming and going ----

    def begin(self, on_change: OnChange) -> None:
        """Start the process and tell of its devices whenever they change."""
        self._on_change = on_change
        self._launching.begin()

    def probe(self) -> tuple[DeviceInfo, ...]:
        """Return the devices, once it is known which there are."""
        self._launching.begin()
        with self._changed:
            self._changed.wait_for(lambda: all(each.state is not DeviceState.PROBING for each in self.devices))
            return self.devices

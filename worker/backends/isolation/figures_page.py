"""Devices' last figures on a page of shared memory, which their process writes and the worker reads: no round trip.

Each device has two halves. The process writes into the older one: its number, one higher than the other's, what the
figures are of, and a checksum of all that. The worker takes the higher number that is whole. So what is read while it
is written is not taken for figures, and a process that ends in the middle of a write leaves those before.
"""

import struct
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice

from protocol.record import Record
from worker.backends.isolation import codec
from worker.core.records import Readings
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureEvent, SureLock

DEVICES = 16
"""More than one process was ever seen to have. Those beyond are asked."""
_DEVICE_BYTES = 2**12
_HALF_BYTES = 2**11 - 32
PAGE_BYTES = DEVICES * _DEVICE_BYTES

PERIOD_S = 0.05
"""How often figures are taken that others change."""
UNREAD_PERIOD_S = 1.0
"""How often while no one reads them."""
_UNREAD_PERIODS = 40
_SHARE = 50
"""Taking figures is to cost the process a fiftieth of its time at most."""

_READS = struct.Struct("<Q")
"""How often a device's figures were read: written by the worker."""
_ALL_READS_AT = PAGE_BYTES - _READS.size
"""Where it says how often those of any device were read."""
_ALL_READS = _ALL_READS_AT // _READS.size
_HALF = struct.Struct("<QQQqI")
"""Which process wrote it, its number, how many changing calls were done by then, when, and how long the figures are."""
_SUM = struct.Struct("<I")
_FIGURES_AT = _HALF.size + _SUM.size


class Dated(Record):
    """A device's figures at a moment."""

    readings: Readings
    changes: int
    """Calls that may have changed them and were done by then."""
    taken_ns: int
    """Of the system's monotonic clock, which both processes see."""


class FiguresReader:
    """The worker's end, for one process. Thread-safe."""

    def __init__(self, page: memoryview, life: int) -> None:
        self._page = page
        self._life = life
        # All mutable state: where each device is, and of each the last figures, their number and the text that they
        # were, as one value.
        self._places: dict[str, int] = {}
        self._last: dict[str, tuple[int, bytes, Dated]] = {}

    def begin(self, device_ids: Iterable[str]) -> None:
        """Read these devices' figures from now on: the process writes them in this order."""
        self._places = _places(device_ids)

    def read(self, device_id: str) -> Dated | None:
        """Return a device's last figures; None where there are none."""
        page, at = self._page, self._places.get(device_id)
        if at is None:
            return None
        for count_at in (at, _ALL_READS_AT):
            _READS.pack_into(page, count_at, (_READS.unpack_from(page, count_at)[0] + 1) % 2**64)
        known = self._last.get(device_id)
        halves = [self._half(at + _READS.size), self._half(at + _READS.size + _HALF_BYTES)]
        for life, number, changes, taken_ns, length, place in sorted(halves, key=_number, reverse=True):
            if life != self._life or length > _HALF_BYTES - _FIGURES_AT:
                continue
            if known is not None and known[0] == number:
                return known[2]
            text = bytes(page[place + _FIGURES_AT : place + _FIGURES_AT + length])
            if _sum(bytes(page[place : place + _HALF.size]), text) != _SUM.unpack_from(
                page, place + _HALF.size
            ):
                continue  # it is being written
            same = known is not None and known[1] == text
            readings = known[2].readings if known is not None and same else codec.readings_in(text)
            found = Dated(readings, changes, taken_ns)
            self._last[device_id] = (number, text, found)
            return found
        return None

    def _half(self, place: int) -> tuple[int, ...]:
        return (*_HALF.unpack_from(self._page, place), place)


def _places(device_ids: Iterable[str]) -> dict[str, int]:
    return {each: n * _DEVICE_BYTES for n, each in enumerate(islice(device_ids, DEVICES))}


def _number(half: tuple[int, ...]) -> int:
    return half[1]


def _sum(head: bytes, text: bytes) -> tuple[int]:
    return (zlib.crc32(text, zlib.crc32(head)),)


class FiguresWriter:
    """The process's end: keeps the figures of its devices recent. Thread-safe."""

    def __init__(
        self, page: memoryview, life: int, take: Callable[[str], Readings], changes: Callable[[], int],
        tell: Callable[[str], None],
    ) -> None:  # fmt: skip
        """``changes`` says how many messages were sent, with which the worker knows of changes; ``tell`` is told of figures that were ``changed`` from outside."""
        self._page = page
        self._counts = page.cast("Q")
        self._life = life
        self._take = take
        self._changes = changes
        self._tell = tell
        self._woken = SureEvent()
        self._writing = SureLock()
        """Held while bytes are written, never while a device is asked: that may hang."""
        # All mutable state: where each device is, the number and the changes of its last figures, and the reads that
        # were counted then; the devices whose figures have changed from outside; and all reads by when that was followed.
        self._places: dict[str, int] = {}
        self._news: set[str] = set()
        self._followed = 0
        self._written: dict[str, tuple[int, int, int]] = {}

    def begin(self, device_ids: Iterable[str]) -> None:
        """Write these devices' figures from now on, in this order."""
        self._places = _places(device_ids)
        self._written = dict.fromkeys(self._places, (0, 0, 0))
        start_thread(self._keep_recent, "device-figures")

    def take(self, device_id: str) -> Readings:
        """Ask a device, and note what it says. Raises what that raises."""
        changes, taken_ns = self._changes(), time.monotonic_ns()
        readings = self._take(device_id)
        if device_id in self._places:
            self._write(device_id, changes, taken_ns, codec.readings_text(readings))
        return readings

    def changed(self, device_id: str) -> None:
        """Have figures taken now that have changed from outside, and be told of. For any thread: never waits for a device."""
        self._news.add(device_id)
        self._woken.set()

    def is_read(self) -> bool:
        """Tell whether any were read since ``follow``."""
        return self._counts[_ALL_READS] != self._followed

    def follow(self) -> None:
        """Take the figures that were read since they were taken: whoever read them will again."""
        self._followed = self._counts[_ALL_READS]
        for device_id, place in self._places.items():
            if self._counts[place // _READS.size] != self._written[device_id][2]:
                with suppress(Exception):  # whoever asks is told
                    self.take(device_id)

    def _write(self, device_id: str, changes: int, taken_ns: int, text: bytes) -> None:
        if len(text) > _HALF_BYTES - _FIGURES_AT:
            return
        page, at = self._page, self._places[device_id]
        with self._writing:
            number, before, _ = self._written[device_id]
            if changes < before:
                return  # they were taken before those that are there
            number += 1
            place = at + _READS.size + number % 2 * _HALF_BYTES
            head = _HALF.pack(self._life, number, changes, taken_ns, len(text))
            whole = head + _SUM.pack(*_sum(head, text)) + text
            page[place : place + len(whole)] = whole
            self._written[device_id] = (number, changes, self._counts[at // _READS.size])

    def _keep_recent(self) -> None:
        unread = dict.fromkeys(self._places, 0)
        while True:
            began = time.monotonic()
            self._woken.clear()
            news, self._news = self._news, set()
            for device_id, place in self._places.items():
                read = self._counts[place // _READS.size] != self._written[device_id][2]
                unread[device_id] = 0 if read else unread[device_id] + 1
                with suppress(Exception):  # whoever asks is told
                    self.take(device_id)
            period = PERIOD_S if min(unread.values(), default=0) < _UNREAD_PERIODS else UNREAD_PERIOD_S
            for device_id in news:
                self._tell(device_id)
            self._woken.wait(max(period, _SHARE * (time.monotonic() - began)))

"""The untiled allocator: one committed resource a buffer, and a cache of freed ones that can be flushed.

The library looks at no budget and gives nothing back by itself; both are done here. Its cache keeps up
to 512 freed resources, each reused for exactly its size only; when there are more, the whole size that
was used least recently goes. 512 tensors of 16 bytes, made and dropped, so push out everything else.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from protocol.record import Record
from worker.backends.directml_adapters import AdapterReading
from worker.backends.directml_device import HIDDEN_BYTES, PIECE_BYTES, DirectMlDevice
from worker.backends.size_churn import KEEP_NS, SizeChurn
from worker.backends.torch_errors import Cause, cause_of
from worker.core.errors import OutOfMemoryError

_CACHED_RESOURCES = 512
_FLUSH_SIZE = 16
_FLUSH_BYTES = _CACHED_RESOURCES * 64 * 2**10
"""What a flush itself takes at most: hardware gives a resource at least 64 KiB."""

FLUSH_AT_BYTES = _FLUSH_BYTES
"""Freed bytes wait until they are worth a flush: below this it could take more than it returns."""

_FLUSH_AT_RESOURCES = _CACHED_RESOURCES - 64
"""Before the cache is full, and chooses for itself what to give up."""


class Headroom(Record):
    """What the allocator could give. Bytes; None where the driver's figures are missing."""

    free_bytes: int | None
    largest_block_bytes: int | None
    cached_bytes: int
    restart_returns_bytes: int | None = None
    """Part of ``cached_bytes`` that goes back only with the process; None where it goes back in place."""


class FreedCache:
    """The library's cache of freed resources, from what went in and out. Exact, as the tests show."""

    def __init__(self) -> None:
        # All mutable state: how many of each size, least recently used first.
        self._counts: OrderedDict[int, int] = OrderedDict()
        self.resources = 0

    @property
    def cached_bytes(self) -> int:
        """Bytes that a flush gives back."""
        return sum(size * count for size, count in self._counts.items() if size != _FLUSH_SIZE)

    @property
    def flushed_bytes(self) -> int:
        """Bytes of what the last flush left there."""
        return self._counts.get(_FLUSH_SIZE, 0) * _FLUSH_SIZE

    def take(self, size: int) -> bool:
        """Reuse one of exactly this size. False if there is none."""
        if size not in self._counts:
            return False
        self._counts[size] -= 1
        self._counts.move_to_end(size)
        if not self._counts[size]:
            del self._counts[size]
        self.resources -= 1
        return True

    def has(self, size: int) -> bool:
        """Tell whether one of exactly this size is there."""
        return size in self._counts

    def give(self, size: int) -> None:
        """Keep a freed one."""
        self._counts[size] = self._counts.get(size, 0) + 1
        self._counts.move_to_end(size)
        self.resources += 1
        while self.resources > _CACHED_RESOURCES:
            self.resources -= self._counts.popitem(last=False)[1]

    def flush(self) -> None:
        """Note that everything was pushed out."""
        self._counts = OrderedDict({_FLUSH_SIZE: _CACHED_RESOURCES})
        self.resources = _CACHED_RESOURCES


class UntiledMemory:
    """One device's memory. Not thread-safe."""

    name = "untiled"
    limit_bytes = 4 * 2**30 - 2**20
    """The largest buffer that the library makes: from 4 GiB on it cuts the size to 32 bits."""

    def __init__(
        self,
        device: DirectMlDevice,
        read: Callable[[], AdapterReading],
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._device = device
        self._read = read
        self._now_ns = now_ns
        # All mutable state: what the library keeps, and what of this process no block explains after a flush.
        self._cache = FreedCache()
        self._churn = SizeChurn(now_ns)
        self._kept_ns = 0
        self._live_bytes = 0
        self._foreign_bytes = 0

    @property
    def held_bytes(self) -> int:
        """What blocks take of the device, live and cached."""
        return self._live_bytes + self._cache.cached_bytes

    def headroom(self, reading: AdapterReading) -> Headroom:
        """Work out what could be had, a flush included, and copies' hidden buffers left aside."""
        cached, headroom = self._cache.cached_bytes, reading.headroom_bytes
        free = None if headroom is None else max(0, headroom + cached - HIDDEN_BYTES - _FLUSH_BYTES)
        largest = None if free is None else min(free, self.limit_bytes) // 256 * 256
        return Headroom(free, largest, cached)

    def allocate(self, size: int, reading: AdapterReading) -> Any:
        """Make a buffer within the budget. OutOfMemoryError; RuntimeError for what is not about memory."""
        self._churn.asked(size)
        if not self._cache.has(size) and not _fits(size, reading):
            self.trim()
            reading = self._read()
            if not _fits(size, reading):
                headroom = max(0, (reading.headroom_bytes or 0) - HIDDEN_BYTES)
                message = (
                    f"{size} bytes are more than the {headroom} that the system's budget leaves this process"
                )
                raise OutOfMemoryError(message, requested_bytes=size, available_bytes=headroom)
        tensor = self._make(size)
        self._cache.take(size)
        self._live_bytes += size
        return tensor

    def dropped(self, size: int) -> int:
        """Note that a buffer's last reference is gone. Returns the bytes that went back to the driver.

        What comes and goes in one size is kept for a moment: a flush costs more than making it (docs/directml.md).
        """
        self._live_bytes -= size
        self._cache.give(size)
        kept = self._churn.freed(size)
        if kept:
            self._kept_ns = self._now_ns()
        full = self._cache.resources >= _FLUSH_AT_RESOURCES
        if full or (not kept and self._cache.cached_bytes >= FLUSH_AT_BYTES):
            return self.trim()
        return 0

    def prepare_copy(self) -> None:
        """Do nothing: what a copy needs beside its block is left free."""

    def copied(self, hidden: dict[int, int]) -> None:
        """Note the hidden buffers that a copy took and dropped."""
        for size, at_once in hidden.items():
            for _ in range(at_once):
                self._cache.take(size)
            for _ in range(at_once):
                self._cache.give(size)

    def trim(self) -> int:
        """Push all that is cached out. Returns the bytes that went back, by the ledger and no more than the driver saw."""
        self._device.synchronize()
        cached, flushed = self._cache.cached_bytes, self._cache.flushed_bytes
        before = self._read().process_used_bytes
        small = [self._device.empty(_FLUSH_SIZE) for _ in range(_CACHED_RESOURCES)]
        small.clear()
        self._cache.flush()
        after = self._read().process_used_bytes
        if before is None or after is None:
            return cached
        self._foreign_bytes = after - self._live_bytes
        return max(0, min(cached, before - after + self._cache.flushed_bytes - flushed))

    def fits_anew(self, sizes: list[int], reading: AdapterReading) -> bool:
        """Tell whether a new process could have blocks of these sizes now, and what copying and a flush take."""
        headroom = reading.headroom_anew_bytes
        return headroom is None or sum(sizes) + HIDDEN_BYTES + _FLUSH_BYTES <= headroom

    def tick(self) -> None:
        """Flush what was kept and not reused, and when others in this process (a plugin's inference) left enough."""
        if self._cache.cached_bytes >= FLUSH_AT_BYTES and self._now_ns() - self._kept_ns >= KEEP_NS:
            self._churn.settle_all()
            self.trim()
        used = self._read().process_used_bytes
        if (
            used is not None
            and used - self._live_bytes - self._foreign_bytes >= FLUSH_AT_BYTES + 4 * PIECE_BYTES
        ):
            self.trim()

    def _make(self, size: int) -> Any:
        """Ask the driver, and again after a flush if it refuses."""
        try:
            return self._device.empty(size)
        except RuntimeError as error:
            if cause_of(error) is Cause.DEVICE_LOST:
                raise
        # Outside the handler: its traceback would hold on to what the first try made.
        self.trim()
        return self._device.empty(size)


def _fits(size: int, reading: AdapterReading) -> bool:
    headroom = reading.headroom_bytes
    return headroom is None or size + HIDDEN_BYTES <= headroom

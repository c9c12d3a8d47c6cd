"""A device that is made up, with bytes that are real: for hosts without a GPU, and for faults on demand.

It has one contiguous range of addresses and so fragments; it can be slow, fail on a given call, hang,
corrupt a copy, or go away. Nothing of it depends on the machine.
"""

import os
from typing import Any

from protocol.record import Record
from protocol.results import Fragmentation
from protocol.vocabulary import DeviceKind, MemoryType, Source
from worker.backends.address_space import AddressSpace
from worker.backends.base import HeldByProcess, LoadsThroughCopies
from worker.backends.demotion import demotion_signal
from worker.backends.host_memory import AnonymousBuffer, copy_between
from worker.core.cancellation import CancelToken
from worker.core.clock import Clock, FixedClock, SystemClock
from worker.core.errors import DeviceLostError, DeviceUnavailableError, OutOfMemoryError, UnsupportedError
from worker.core.records import HOST, AllocationRequest, Block, Defragmented, DeviceInfo, Readings
from worker.core.sure_lock import SureLock

GRANULARITY_BYTES = 256
"""Allocations are rounded up to this, as Direct3D 12 and CUDA do."""


class SimulatedDevice(Record):
    """What a simulated device is like. Counts are from 1; a copy is one chunk of a transfer."""

    total_bytes: int
    bandwidth_bytes_per_second: int | None = None
    latency_ms: float = 0.0
    fail_allocation: int | None = None
    fail_copy: int | None = None
    corrupt_copy: int | None = None
    stall_copy: int | None = None
    lose_at: int | None = None
    """The allocation or copy, counted together, at which the device goes away."""
    pooled: int = 0
    """1 for a pool that keeps what it once took for as long as its process lives, as DirectML's tiles do."""
    local_bytes: int | None = None
    """What of it is its own memory: what is beyond lies in the system's, demoted. None for all of it."""
    integrated: int = 0
    """1 for one whose memory is the machine's own."""


def simulated_in_process(index: int, *, standing: bool = False, **knobs: Any) -> "SimulatedBackend":
    """Make one from plain values; ``standing`` under a clock that stands, so that nothing takes time."""
    clock = FixedClock() if standing else SystemClock()
    return SimulatedBackend(index, SimulatedDevice(**knobs), clock)


class SimulatedBackend(LoadsThroughCopies):
    """One simulated device, ``sim:N``."""

    quick_bytes = -1

    def __init__(self, index: int, device: SimulatedDevice, clock: Clock) -> None:
        self.device_id = f"sim:{index}"
        self._device = device
        self._clock = clock
        self._capacity = device.total_bytes // GRANULARITY_BYTES * GRANULARITY_BYTES
        self._lock = SureLock()
        self._begin, self._end = self._lock.acquire, self._lock.release
        # All mutable state: the blocks and where they lie, and how often what was done.
        self._space = AddressSpace(self._capacity)
        self._buffers: dict[str, AnonymousBuffer] = {}
        self._allocations = 0
        self._copies = 0
        self._pool_bytes = 0
        """The most that was ever in use: what a pool keeps."""
        self._lost = False

    def probe(self) -> tuple[DeviceInfo, ...]:
        """Return the device."""
        name, shared = f"Simulated device {self.device_id[4:]}", HOST if self._device.integrated else None
        return (DeviceInfo(self.device_id, DeviceKind.SIMULATED, name, shared_with=shared),)

    def readings(self, device_id: str) -> Readings:  # noqa: ARG002 - one device a backend
        """Answer from the address space: exact, and the same on every machine."""
        self._check_present()
        with self._lock:
            live, largest = self._space.used_bytes, self._space.largest_free
            used = max(live, self._pool_bytes)
            kept = used - live
        total, free = self._device.total_bytes, self._capacity - live
        demoted = None if self._device.local_bytes is None else max(0, used - self._device.local_bytes)
        used -= demoted or 0
        return Readings(
            total_bytes=total,
            budget_bytes=total,
            budget_source=Source.CONFIG,
            used_bytes=used,
            process_used_bytes=used,
            free_bytes=free,
            largest_block_bytes=largest,
            resident_bytes=live,
            cached_bytes=kept,
            fragmentation=Fragmentation(free, largest, round(100 * (1 - largest / free), 3) if free else 0.0),
            restart_returns_bytes=kept if self._device.pooled else None,
            total_source=Source.CONFIG,
            used_source=Source.LEDGER,
            process_used_source=Source.LEDGER,
            signals=demotion_signal(used, demoted, Source.LEDGER),
            demoted_bytes=demoted,
            process_demoted_bytes=demoted,
        )

    def processes(self, device_id: str, pids: tuple[int, ...]) -> HeldByProcess:  # noqa: ARG002 - every backend is called alike
        """Name the one process that can be there."""
        self._check_present()
        with self._lock:
            return {os.getpid(): max(self._space.used_bytes, self._pool_bytes)}

    def check(self, request: AllocationRequest) -> None:
        """Refuse shared memory: a host cannot map a device's."""
        if request.memory_type is MemoryType.SHARED:
            message = f"{self.device_id} has no memory that a host could map; allocate it on cpu"
            raise UnsupportedError(message, device_id=self.device_id, memory_type=request.memory_type)

    def allocate(self, allocation_id: str, request: AllocationRequest, token: CancelToken) -> Block:
        """Take a range of addresses and real bytes behind it."""
        self._spend(0, token)
        unit = max(GRANULARITY_BYTES, request.alignment or 0)
        actual = -(-request.size_bytes // unit) * unit
        self._begin()
        try:
            self._allocations += 1
            self._lose_if_due()
            if self._allocations == self._device.fail_allocation or not self._space.take(
                allocation_id, actual
            ):
                message = f"{self.device_id} refused {actual} bytes; its largest free block has "
                message += f"{self._space.largest_free}"
                raise OutOfMemoryError(message, device_id=self.device_id, requested_bytes=request.size_bytes)
            try:
                made = Block(actual)
                self._buffers[allocation_id] = AnonymousBuffer(request.size_bytes)
            except BaseException:
                self._space.give_back(allocation_id)
                raise
            if self._device.pooled:
                self._pool_bytes = max(self._pool_bytes, self._space.used_bytes)
        finally:
            self._end()
        return made  # fresh pages read as zero, so there is nothing to initialize

    def free(self, allocation_id: str) -> int | None:
        """Give the range up."""
        self._begin()
        try:
            if self._lost:
                return 0
            buffer = self._buffers.pop(allocation_id)
            returned = self._space.give_back(allocation_id)
            buffer.unmap()
            return 0 if self._device.pooled else returned
        finally:
            self._end()

    def view(self, allocation_id: str, *, writable: bool) -> memoryview | None:  # noqa: ARG002 - every backend is called alike
        """Return None: like a GPU's memory, it can only be copied to and from."""
        return None

    def read(self, allocation_id: str, offset: int, into: memoryview, token: CancelToken) -> None:
        """Copy out of a block."""
        view = self._start_copy(allocation_id, len(into), token)
        copy_between(into, view[offset : offset + len(into)])
        if self._corrupts():
            into[0] ^= 0xFF

    def write(self, allocation_id: str, offset: int, data: memoryview, token: CancelToken) -> None:
        """Copy into a block."""
        view = self._start_copy(allocation_id, len(data), token)
        copy_between(view[offset : offset + len(data)], data)
        if self._corrupts():
            view[offset] ^= 0xFF

    def trim(self, device_id: str) -> int | None:  # noqa: ARG002 - every backend is called alike
        """Do nothing: it keeps no caches, or never gives them up."""
        self._check_present()
        return 0

    def tick(self) -> None:
        """Do nothing: it keeps no caches."""

    def defragment(self, device_id: str) -> Defragmented | None:  # noqa: ARG002 - every backend is called alike
        """Move all blocks to the low end; nothing moves in a pool."""
        self._check_present()
        if self._device.pooled:
            return None
        with self._lock:
            return Defragmented(self._space.compact(), 0)

    def check_restart(self, more: list[int], besides: frozenset[str]) -> None:
        """Raise OutOfMemoryError unless what else is here and these would fit: a new process has the same size."""
        with self._lock:
            needed = self._space.used_bytes - sum(map(self._space.size_of, besides)) + sum(more)
        if needed > self._capacity:
            message = f"{self.device_id} has {self._capacity} bytes, and {needed} would be on it"
            raise OutOfMemoryError(message, device_id=self.device_id, requested_bytes=needed)

    def notes(self) -> tuple[str, ...]:
        """Say what it is."""
        return ("made up for tests: exact figures, real bytes, no hardware behind it",)

    def live(self) -> frozenset[str]:
        """Return the ids of all blocks."""
        with self._lock:
            return frozenset(self._buffers)

    def close(self) -> None:
        """Give everything up."""
        for allocation_id in self.live():
            self.free(allocation_id)

    def _start_copy(self, allocation_id: str, length: int, token: CancelToken) -> memoryview:
        with self._lock:
            self._copies += 1
            copies = self._copies
            self._lose_if_due()
        if copies == self._device.stall_copy:
            self._clock.wait(None, token)
        self._spend(length, token)
        if copies == self._device.fail_copy:
            message = f"{self.device_id} failed copy {copies}, as it was told to"
            raise DeviceUnavailableError(message, device_id=self.device_id)
        return self._buffers[allocation_id].view

    def _corrupts(self) -> bool:
        return self._copies == self._device.corrupt_copy

    def _spend(self, length: int, token: CancelToken) -> None:
        self._check_present()
        token.check()
        seconds = self._device.latency_ms / 1e3
        if self._device.bandwidth_bytes_per_second is not None:
            seconds += length / self._device.bandwidth_bytes_per_second
        if seconds:
            self._clock.wait(seconds, token)

    def _lose_if_due(self) -> None:
        if self._allocations + self._copies == self._device.lose_at:
            self._lost = True
            self._buffers.clear()
            self._space = AddressSpace(self._capacity)
        self._check_present()

    def _check_present(self) -> None:
        if self._lost:
            message = f"{self.device_id} was lost, and what was on it"
            raise DeviceLostError(message, device_id=self.device_id)

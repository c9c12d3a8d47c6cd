"""One DirectML adapter's blocks: its allocator, its figures, and what the library's errors mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from protocol.results import Fragmentation
from protocol.vocabulary import Initialize
from worker.backends.directml_adapters import AdapterReading, Demotion, non_local_bytes, read_adapter
from worker.backends.directml_device import ALIGNMENT_BYTES, DirectMlDevice
from worker.backends.directml_tiled import TiledMemory, usable_bytes
from worker.backends.directml_untiled import UntiledMemory
from worker.backends.torch_errors import as_worker_error
from worker.core.cancellation import CancelToken
from worker.core.errors import (
    DeviceLostError,
    DeviceUnavailableError,
    OutOfMemoryError,
    UnsupportedError,
    WorkerError,
)
from worker.core.records import AllocationRequest, Readings
from worker.core.sure_lock import SureLock
from worker.telemetry.dxcore import Adapter


class AdapterMemory:
    """One adapter's blocks, behind one lock: the library has one queue, and its copies wait for it anyway."""

    def __init__(
        self, torch: Any, directml: Any, index: int, adapter: Adapter | None, allocator: str
    ) -> None:
        self.device_id = f"dml:{index}"
        self.adapter = adapter
        self._demotion = Demotion()
        budget = read_adapter(adapter).budget_bytes  # before the library looks at it, and freezes it
        device = self._device = DirectMlDevice(torch, directml, index)
        self._memory: UntiledMemory | TiledMemory
        # Hardware without tiled resources has the other allocator, whatever was asked for.
        if allocator == TiledMemory.name and device.tiles(1):
            self._memory = TiledMemory(device, self._read, usable_bytes(budget))
        else:
            self._memory = UntiledMemory(device, self._read)
        self.allocator = self._memory.name
        self._lock = SureLock()
        # All mutable state: the buffers, and whether the device is gone, and what it took with it.
        self._tensors: dict[str, tuple[Any, int]] = {}
        self.lost: str | None = None
        self._buried: list[object] = []

    def readings(self) -> Readings:
        """Read everything now."""
        with self._calling():
            reading = self._read()
            headroom = self._memory.headroom(reading)
            live = sum(size for _, size in self._tensors.values())
        free, largest = headroom.free_bytes, headroom.largest_block_bytes
        return Readings(
            total_bytes=reading.total_bytes,
            budget_bytes=reading.budget_bytes,
            budget_source=reading.budget_source,
            used_bytes=reading.used_bytes,
            process_used_bytes=reading.process_used_bytes,
            free_bytes=free,
            largest_block_bytes=largest,
            resident_bytes=live,
            cached_bytes=headroom.cached_bytes,
            restart_returns_bytes=headroom.restart_returns_bytes,
            fragmentation=self._fragmentation(free, largest),
            signals=reading.signals,
            total_source=reading.total_source,
            used_source=reading.used_source,
            process_used_source=reading.process_used_source,
            demoted_bytes=non_local_bytes(self.adapter),
            process_demoted_bytes=reading.process_demoted_bytes,
        )

    def check_size(self, size: int) -> None:
        """Raise UnsupportedError for more than one buffer can have."""
        limit = self._memory.limit_bytes
        if size > limit:
            message = (
                f"{self.device_id} has at most {limit} bytes in one block ({self._memory.name} allocator)"
            )
            raise UnsupportedError(message, device_id=self.device_id, limit_bytes=limit)

    def check_present(self) -> None:
        """Raise DeviceLostError once the device is gone."""
        if self.lost is not None:
            raise DeviceLostError(self.lost, device_id=self.device_id)

    def allocate(self, name: str, request: AllocationRequest, token: CancelToken) -> int:
        """Make a buffer. Returns its size."""
        actual = -(-request.size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        with self._calling(request.size_bytes):
            token.check()
            reading = self._read()
            if request.size_bytes > self._memory.limit_bytes:
                headroom = self._memory.headroom(reading).free_bytes
                if headroom is not None and actual > headroom:
                    message = f"{self.device_id} has {headroom} bytes"
                    raise OutOfMemoryError(
                        message, device_id=self.device_id, requested_bytes=request.size_bytes
                    )
                self.check_size(request.size_bytes)
            tensor = self._memory.allocate(actual, reading)
            try:
                if request.initialize is Initialize.ZERO:
                    token.check()
                    self._device.zero(tensor)
            except BaseException:
                del tensor
                self._memory.dropped(actual)
                raise
            self._tensors[name] = (tensor, actual)
        return actual

    def free(self, name: str, *, at_once: bool = False) -> int:
        """Drop a buffer. Returns what went back to the driver, of this one only if that was to be ``at_once``."""
        with self._lock:
            if name not in self._tensors:  # the device is gone, and it with it
                return 0
            tensor, size = self._tensors.pop(name)
        with self._calling():
            self._device.synchronize()
            del tensor
            returned = self._memory.dropped(size)
            return min(size, returned or self._memory.trim()) if at_once else returned

    def check_restart(self, more: list[int], besides: frozenset[str]) -> None:
        """Raise OutOfMemoryError unless all other buffers, and these, would fit into a new process now."""
        with self._calling():
            reading = self._read()
            sizes = [*more, *(size for name, (_, size) in self._tensors.items() if name not in besides)]
            if self._memory.fits_anew(sizes, reading):
                return
        message = (
            f"{self.device_id}: a new process would get {reading.headroom_anew_bytes} bytes, and {len(sizes)} blocks"
            f" of {sum(sizes)} bytes and what copying them takes have no place in that; nothing was restarted"
        )
        raise OutOfMemoryError(
            message,
            device_id=self.device_id,
            requested_bytes=sum(sizes),
            available_bytes=reading.headroom_anew_bytes,
        )

    def copy(self, how: str, name: str, offset: int, data: memoryview, token: CancelToken) -> None:
        """Copy between a buffer and the process's own memory: ``read`` or ``write``."""
        with self._calling():
            token.check()
            tensor, _ = self._tensors[name]
            self._memory.prepare_copy()
            move = self._device.read if how == "read" else self._device.write
            self._memory.copied(move(tensor, offset, data))

    def trim(self) -> int:
        """Give caches up. Returns what went back."""
        with self._calling():
            return self._memory.trim()

    def tick(self) -> None:
        """Let the allocator tidy up, and see whether the device is there: figures are answered without it.

        One that turns out to be gone is told of when it is next asked for them.
        """
        try:
            with self._calling():
                self._device.synchronize()
                self._memory.tick()
        except DeviceUnavailableError:
            return

    def tensor(self, name: str) -> Any:
        """Return a buffer's tensor. DeviceLostError once the device is gone."""
        self.check_present()
        return self._tensors[name][0]

    def copy_of(self, host: Any) -> Any:
        """Copy a tensor of the host's to the device."""
        with self._calling():
            return self._device.copy_of(host)

    def has(self, name: str) -> bool:
        """Tell whether a block is still there."""
        return name in self._tensors

    def _read(self) -> AdapterReading:
        reading = read_adapter(self.adapter)
        if self.adapter is None or self.adapter.is_integrated:  # all of its memory is the system's
            return reading
        return self._demotion.judge(reading, self._memory.held_bytes)

    def _fragmentation(self, free: int | None, largest: int | None) -> Fragmentation | None:
        """Tell of free memory in pieces, which only the pool has: elsewhere the limit of a block is the library's."""
        if free is None or largest is None or isinstance(self._memory, UntiledMemory):
            return None
        return Fragmentation(free, largest, round(100 * (1 - largest / free), 3) if free else 0.0)

    @contextmanager
    def _calling(self, requested: int | None = None) -> Iterator[None]:
        """Call the library, one at a time, and say what its errors mean."""
        with self._lock:
            self.check_present()
            try:
                yield
            except WorkerError:
                raise
            except RuntimeError as error:
                self._fail(error, requested)

    def _fail(self, error: RuntimeError, requested: int | None) -> NoReturn:
        """Judge by the words, then by whether the device still answers: on Windows they are in any language."""
        judged = as_worker_error(error, self.device_id, requested)
        if judged is None and not self._answers():
            message = f"{self.device_id} was lost, and what was on it: {error}"
            judged = DeviceLostError(message, device_id=self.device_id)
        if judged is None and requested is not None:
            message = f"{self.device_id} refused {requested} bytes: {error}"
            judged = OutOfMemoryError(message, device_id=self.device_id, requested_bytes=requested)
        if judged is None:
            judged = DeviceUnavailableError(f"{self.device_id}: {error}", device_id=self.device_id)
        if isinstance(judged, DeviceLostError):
            self.lost = judged.message
            # Dropping a buffer calls the driver that is gone: they are kept until the process ends.
            self._buried.append(self._tensors)
            self._tensors = {}
        raise judged from error

    def _answers(self) -> bool:
        try:
            self._device.synchronize()
        except RuntimeError:
            return False
        return True

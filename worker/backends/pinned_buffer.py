"""Host memory that a device copies to and from by itself: our own pages, locked by its driver.

Torch's own pinned memory is rounded up to a power of two and kept for ever. These pages are rounded to
pages, and go back to the system when they are freed.
"""

from contextlib import suppress

from worker.backends.host_memory import AnonymousBuffer, address_of
from worker.backends.torch_device import TorchDevice
from worker.core.cancellation import CancelToken
from worker.core.errors import WorkerError
from worker.core.sure_lock import SureLock


class PinnedBuffer:
    """Zeroed and locked. OutOfMemoryError or UnsupportedError if the system or the driver refuses."""

    def __init__(
        self,
        device: TorchDevice,
        size_bytes: int,
        token: CancelToken,
        alignment: int | None = None,
        *,
        required: bool = True,
    ) -> None:
        self._device = device
        self._buffer = AnonymousBuffer(size_bytes, alignment)
        self.actual_bytes = self._buffer.actual_bytes
        self.address = self._buffer.address
        self._locked = False
        try:
            self._buffer.touch(token)
            device.page_lock(self.address, self.actual_bytes)
            self._locked = True
        except BaseException as error:
            if required or not isinstance(error, WorkerError):
                self.close()
                raise

    @property
    def view(self) -> memoryview:
        """The bytes."""
        return self._buffer.view

    def holds(self, address: int, length: int) -> bool:
        """Tell whether a range of addresses lies in it, locked."""
        return self._locked and self.address <= address <= self.address + self.actual_bytes - length

    def close(self) -> int | None:
        """Unlock and unmap. Returns the bytes that went back to the system, None if that can't be told."""
        if self._locked:
            self._device.page_unlock(self.address)
            self._locked = False
        return self._buffer.close()


class LentMemory:
    """Somebody else's memory, locked when a copy first goes through it. Thread-safe.

    Where the driver refuses (some lock no memory that two processes share) copies go through other buffers, as ever.
    """

    def __init__(self, memory: memoryview) -> None:
        self._address = address_of(memory)
        self._length = memory.nbytes
        self._lock = SureLock()
        # All mutable state: the device that locked it, and whether it was tried.
        self._device: TorchDevice | None = None
        self._tried = False

    def holds(self, address: int, length: int, device: TorchDevice) -> bool:
        """Tell whether a range of addresses lies in it, locked for every device. Errors: torch's own."""
        if not self._address <= address <= self._address + self._length - length:
            return False
        with self._lock:
            if not self._tried:
                self._tried = True
                with suppress(WorkerError):
                    device.page_lock(self._address, self._length)
                    self._device = device
            return self._device is not None

    def close(self) -> None:
        """Unlock it."""
        with self._lock:
            device, self._device = self._device, None
        if device is not None:
            device.page_unlock(self._address)

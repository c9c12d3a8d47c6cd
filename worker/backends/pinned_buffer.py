"""Host memory that a device copies to and from by itself: our own pages, locked by its driver.

Torch's own pinned memory is rounded up to a power of two and kept for ever. These pages are rounded to
pages, and go back to the system when they are freed.
"""

from worker.backends.host_memory import AnonymousBuffer
from worker.backends.torch_device import TorchDevice
from worker.core.cancellation import CancelToken
from worker.core.errors import WorkerError


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

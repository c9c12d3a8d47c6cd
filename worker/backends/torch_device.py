"""One device of torch, as far as its memory goes: what is asked of the allocator, the streams and the runtime."""

import contextlib
from typing import TYPE_CHECKING, Any

from protocol.record import Record
from protocol.vocabulary import Source
from worker.core.errors import OutOfMemoryError, UnsupportedError

if TYPE_CHECKING:
    import torch

_REGISTER_PORTABLE = 1
"""cudaHostRegisterPortable: page-locked for every device."""
_OUT_OF_MEMORY = 2
"""cudaErrorMemoryAllocation, and hipErrorOutOfMemory."""


class AllocatorFigures(Record):
    """What torch's allocator says of this process on one device. Bytes."""

    allocated_bytes: int
    """In tensors, rounded as the allocator rounds."""
    reserved_bytes: int
    """Taken from the driver."""
    stuck_bytes: int
    """Free, and beside a live tensor in one segment: reusable, but not to be given back."""


class DeviceMemory(Record):
    """The whole device, every process. Bytes."""

    total_bytes: int
    used_bytes: int
    free_bytes: int
    source: Source


class TorchDevice:
    """A device of torch's own kind ``cuda`` (ROCm's too) or of one whose module has the same functions.

    Errors are torch's own: whoever calls translates them.
    """

    def __init__(self, device_id: str, kind: str, index: int) -> None:
        import torch  # noqa: PLC0415 - seconds, and only once a driver was found

        self.device_id = device_id
        self._torch = torch
        self._place = torch.device(kind, index)
        self._module: Any = getattr(torch, kind)

    def empty(self, size: int) -> "torch.Tensor":
        """Return that many bytes, whatever they hold. torch.OutOfMemoryError if there are none."""
        return self._torch.empty(size, dtype=self._torch.uint8, device=self._place)

    def memory(self) -> DeviceMemory:
        """Ask the driver. The first time it costs what any use of the device does: a context, 200-500 MiB."""
        free, total = self._module.mem_get_info(self._place)
        return DeviceMemory(total, total - free, free, Source.TORCH)

    def process_bytes(self) -> int | None:
        """Return what this process takes on the device, context included. None where no source says."""
        return None

    def allocator(self) -> AllocatorFigures:
        """Ask the allocator: it keeps count, the device is not asked."""
        # The flat form of the same figures sorts some hundred names at each call.
        figures = self._module.memory_stats_as_nested_dict(self._place)

        def current(name: str) -> int:
            return int(figures.get(name, {}).get("all", {}).get("current", 0))

        return AllocatorFigures(
            current("allocated_bytes"), current("reserved_bytes"), current("inactive_split_bytes")
        )

    def empty_cache(self) -> None:
        """Give back every segment that has no live tensor in it. Waits for work that uses the device."""
        self._module.empty_cache()

    def settle(self) -> None:
        """Wait for what this thread's current stream has to do: then memory from the allocator is at rest."""
        self._module.current_stream(self._place).synchronize()

    def new_stream(self) -> Any:
        """Return a stream of work that runs beside others."""
        return self._module.Stream(device=self._place)

    def copy(self, target: "torch.Tensor", source: "torch.Tensor", stream: Any) -> None:
        """Tell a stream to copy. Both must stay until it has: ``mark`` says when."""
        with self._module.device(self._place), self._module.stream(stream):
            target.copy_(source, non_blocking=True)

    def mark(self, stream: Any) -> Any:
        """Return an event that is over when what the stream was told so far is done."""
        event = self._module.Event()
        event.record(stream)
        return event

    def page_lock(self, address: int, length: int) -> None:
        """Lock host pages for copies by the device. OutOfMemoryError or UnsupportedError if they can't be."""
        runtime = self._module.cudart()
        with self._module.device(self._place):
            code = int(runtime.cudaHostRegister(address, length, _REGISTER_PORTABLE))
            if code == 0:
                return
            self._forget_failure()
        message = (
            f"{self.device_id}: the driver does not page-lock {length} bytes of host memory: error {code}"
        )
        kind = OutOfMemoryError if code == _OUT_OF_MEMORY else UnsupportedError
        raise kind(message, device_id=self.device_id, requested_bytes=length)

    def page_unlock(self, address: int) -> None:
        """Undo ``page_lock``. Does nothing on a device that is gone."""
        with contextlib.suppress(RuntimeError), self._module.device(self._place):
            if int(self._module.cudart().cudaHostUnregister(address)) != 0:
                self._forget_failure()

    def _forget_failure(self) -> None:
        # The runtime remembers a failed call, and torch would report it of the next launch, which is
        # innocent: so here is one.
        with contextlib.suppress(RuntimeError):
            self.empty(1).zero_()

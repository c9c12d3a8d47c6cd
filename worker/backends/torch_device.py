"""One device of torch, as far as its memory goes: what is asked of the allocator, the streams and the runtime."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from protocol.record import Record
from protocol.vocabulary import Source
from worker.core.errors import OutOfMemoryError, UnsupportedError

if TYPE_CHECKING:
    import torch

_REGISTER_PORTABLE = 1
"""cudaHostRegisterPortable: page-locked for every device."""
_EXPANDABLE_PAGE_BYTES = 20 * 2**20
"""What an expandable segment of larger blocks grows and shrinks by."""
_UNCACHED = ("PYTORCH_NO_CUDA_MEMORY_CACHING", "PYTORCH_NO_HIP_MEMORY_CACHING")
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


class ProcessMemory(Record):
    """What this process takes on the device. Bytes."""

    used_bytes: int
    """Context included."""
    source: Source
    demoted_bytes: int | None = None
    """What of it is in the system's memory instead, beside ``used_bytes``; None where no source says."""


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
        self._blocks = kind == "cuda"
        self._expandable = _has_expandable_segments(os.environ)
        self.caches = not any(os.environ.get(each, "0") != "0" for each in _UNCACHED)
        """Whether torch's allocator keeps what was freed, and keeps count: where it is told not to, each block is the driver's."""

    @property
    def is_integrated(self) -> bool:
        """Whether its memory is the system's."""
        return bool(getattr(self._module.get_device_properties(self._place), "is_integrated", False))

    def empty(self, size: int) -> "torch.Tensor":
        """Return that many bytes, whatever they hold. torch.OutOfMemoryError if there are none."""
        return self._torch.empty(size, dtype=self._torch.uint8, device=self._place)

    def memory(self) -> DeviceMemory:
        """Ask the driver. The first time it costs what any use of the device does: a context, 200-600 MiB."""
        free, total = self._module.mem_get_info(self._place)
        free = min(
            free, total
        )  # where the memory is the system's, a driver may call more of it free than it has
        return DeviceMemory(total, total - free, free, Source.TORCH)

    def process_memory(self, pinned_bytes: int) -> ProcessMemory | None:  # noqa: ARG002 - where a source counts them
        """Return what this process takes on the device. None where no source says.

        ``pinned_bytes``: of the host, locked for the device, which some sources count as the system's share of it.
        """
        return None

    def processes(self) -> dict[int, int | None] | None:
        """Return what each process takes on the device; None where no source lists them."""
        return None

    def allocator(self) -> AllocatorFigures:
        """Ask the allocator: it keeps count, the device is not asked."""
        # The flat form of the same figures sorts some hundred names at each call.
        figures = self._module.memory_stats_as_nested_dict(self._place)

        def current(name: str, pool: str = "all") -> int:
            return int(figures.get(name, {}).get(pool, {}).get("current", 0))

        allocated, reserved = current("allocated_bytes"), current("reserved_bytes")
        stuck = current("inactive_split_bytes")
        if self._expandable:
            # Pieces of such segments are counted nowhere. Whole pages of them go back, so that at most a page at
            # each end of what is live stays; small blocks have pages of their own.
            live = current("active", "large_pool")
            stuck = current("reserved_bytes", "small_pool") - current("allocated_bytes", "small_pool")
            stuck = min(reserved - allocated, stuck + 2 * live * _EXPANDABLE_PAGE_BYTES)
        return AllocatorFigures(allocated, reserved, stuck)

    def allowed_bytes(self, total_bytes: int) -> int:
        """Return what torch lets this process take of the device: less than all where the operator set a fraction."""
        fraction = getattr(self._module, "get_per_process_memory_fraction", None)
        return total_bytes if fraction is None else int(total_bytes * min(1.0, fraction(self._place)))

    def empty_cache(self) -> None:
        """Give back every segment that has no live tensor in it. Waits for work that uses the device.

        Torch knows no other way than for all of its devices at once, so it is called only where there is something.
        """
        self._module.empty_cache()

    def settle(self) -> None:
        """Wait for what this thread's current stream has to do: then memory from the allocator is at rest."""
        event = self.new_event()
        event.record(self._module.current_stream(self._place))
        event.synchronize()

    def finish(self) -> None:
        """Wait for all that the device has to do, whoever gave it that."""
        self._module.synchronize(self._place)

    def new_stream(self) -> Any:
        """Return a stream of work that runs beside others."""
        return self._module.Stream(device=self._place)

    @contextlib.contextmanager
    def using(self, stream: Any) -> Iterator[None]:
        """Have what this thread copies go to a stream."""
        with self._module.device(self._place), self._module.stream(stream):
            yield

    def copy(self, target: "torch.Tensor", source: "torch.Tensor") -> None:
        """Tell the stream in use to copy. Both must stay until it has: an event says when."""
        target.copy_(source, non_blocking=True)

    def new_event(self) -> Any:
        """Return what is over, once recorded, when all is done that its stream was told until then."""
        # One that is waited for by sleeping: by default a thread spins, and takes a processor from inference.
        return self._module.Event(blocking=True) if self._blocks else self._module.Event()

    def page_lock(self, address: int, length: int) -> None:
        """Lock host pages for copies by the device. OutOfMemoryError or UnsupportedError if they can't be."""
        if not hasattr(self._module, "cudart"):
            message = f"host memory can't be page-locked for {self.device_id}"
            raise UnsupportedError(message, device_id=self.device_id)
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


def _has_expandable_segments(environment: Mapping[str, str]) -> bool:
    """Tell whether torch's allocator was told to use them: it can be only by the environment, or before any use."""
    said = environment.get("PYTORCH_ALLOC_CONF") or environment.get("PYTORCH_CUDA_ALLOC_CONF") or ""
    return "expandable_segments:true" in said.replace(" ", "").lower()

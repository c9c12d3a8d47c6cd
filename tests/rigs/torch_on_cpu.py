"""A device of torch's, played on the CPU: real tensors and bytes, and everything as late as CUDA may do it.

Copies happen when somebody waits for them and not before, so that whoever does not wait, or reuses a buffer
too early, finds wrong bytes. The allocator caches what was freed, as torch's on CUDA does.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from protocol.vocabulary import DeviceKind, Source
from worker.backends.cuda import CudaBackend
from worker.backends.cuda_probe import Found
from worker.backends.host_memory import AnonymousBuffer
from worker.backends.torch_device import AllocatorFigures, DeviceMemory, ProcessMemory, TorchDevice
from worker.core.errors import UnsupportedError
from worker.core.records import DeviceInfo

GRANULARITY_BYTES = 512
_UNCOUNTED = AllocatorFigures(0, 0, 0)
CONTEXT_BYTES = 3_000_000
"""What the process takes beside its blocks."""


class LateStream:
    """Work in order, done when it is waited for."""

    def __init__(self) -> None:
        self.pending: list[Callable[[], object]] = []
        self.done = 0


class LateEvent:
    """Work up to a point."""

    def __init__(self) -> None:
        self._stream = LateStream()
        self._until = 0

    def record(self, stream: LateStream) -> None:
        """Be over when all is done that the stream has now."""
        self._stream = stream
        self._until = stream.done + len(stream.pending)

    def synchronize(self) -> None:
        """Do it now."""
        while self._stream.done < self._until:
            self._stream.pending.pop(0)()
            self._stream.done += 1


class TorchOnCpu(TorchDevice):
    """A device of ``total_bytes``. Set ``failure`` and the next call that works on the device raises it."""

    def __init__(self, total_bytes: int, device_id: str = "cuda:0") -> None:
        super().__init__(device_id, "cpu", 0)
        self.total_bytes = total_bytes
        self.failure: Exception | None = None
        self.refuses_locking = False
        self.locked: dict[int, int] = {}
        self.emptied = 0
        self.keeps = 0
        """Cached blocks that lie between others, so that emptying the cache leaves them."""
        self.most_pending = 0
        self.demoted_bytes = 0
        self.fraction = 1.0
        self.streams: list[LateStream] = []
        self._used = threading.local()
        self._lock = threading.RLock()
        self._cached: list[tuple[int, AnonymousBuffer]] = []
        self._live_bytes = 0

    def empty(self, size: int) -> torch.Tensor:
        """Take a cached buffer of the size, or a new one."""
        self._fail()
        rounded = -(-size // GRANULARITY_BYTES) * GRANULARITY_BYTES
        with self._lock:
            fitting = next((each for each in self._cached if each[0] == rounded), None)
            if fitting is not None:
                self._cached.remove(fitting)
                _, buffer = fitting
            elif self.allocator().reserved_bytes + rounded > self.total_bytes:
                message = f"CUDA out of memory. Tried to allocate {size} bytes.\nMore about it."
                raise torch.OutOfMemoryError(message)
            else:
                buffer = AnonymousBuffer(rounded)
            self._live_bytes += rounded
            view = memoryview(buffer.view)
            weakref.finalize(view, self._dropped, rounded, buffer).atexit = False
            return torch.frombuffer(view, dtype=torch.uint8)[:size]

    def memory(self) -> DeviceMemory:
        """Answer from the books."""
        self._fail()
        used = self._held_bytes() + CONTEXT_BYTES
        free = max(0, self.total_bytes - used)
        return DeviceMemory(self.total_bytes, used, free, Source.TORCH)

    def process_memory(self, pinned_bytes: int) -> ProcessMemory | None:
        """Answer from the books."""
        used = self.allocator().reserved_bytes + CONTEXT_BYTES
        return ProcessMemory(used - self.demoted_bytes, Source.NVML, self.demoted_bytes)

    def allowed_bytes(self, total_bytes: int) -> int:
        """Allow what the operator's fraction leaves."""
        return int(total_bytes * self.fraction)

    def finish(self) -> None:
        """Do all that streams were given."""
        self._fail()
        event = self.new_event()
        for stream in self.streams:
            event.record(stream)
            event.synchronize()

    def allocator(self) -> AllocatorFigures:
        """Answer from the books."""
        with self._lock:
            return AllocatorFigures(self._live_bytes, self._held_bytes(), 0) if self.caches else _UNCOUNTED

    def empty_cache(self) -> None:
        """Unmap what is cached."""
        self._fail()
        self.emptied += 1
        with self._lock:
            for _, buffer in self._cached[self.keeps :]:
                buffer.close()
            del self._cached[self.keeps :]

    def settle(self) -> None:
        """Do nothing: the CPU is done when it returns."""
        self._fail()

    def new_stream(self) -> LateStream:
        """Return a stream."""
        self.streams.append(LateStream())
        return self.streams[-1]

    @contextmanager
    def using(self, stream: LateStream) -> Iterator[None]:
        """Have this thread's copies go to a stream."""
        self._used.stream = stream
        yield
        del self._used.stream

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Copy, later."""
        self._fail()
        stream = self._used.stream
        stream.pending.append(lambda: target.copy_(source))
        self.most_pending = max(self.most_pending, len(stream.pending))

    def new_event(self) -> LateEvent:
        """Return an event."""
        return LateEvent()

    def page_lock(self, address: int, length: int) -> None:
        """Note it."""
        if self.refuses_locking:
            message = "the driver locks nothing"
            raise UnsupportedError(message)
        self.locked[address] = length

    def page_unlock(self, address: int) -> None:
        """Note it."""
        del self.locked[address]

    def _dropped(self, size: int, buffer: AnonymousBuffer) -> None:
        with self._lock:
            self._live_bytes -= size
            if self.caches:
                self._cached.append((size, buffer))
            else:
                buffer.close()

    def _held_bytes(self) -> int:
        with self._lock:
            return self._live_bytes + sum(size for size, _ in self._cached)

    def _fail(self) -> None:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure


def backend_on_cpu(device: TorchOnCpu, now_ns: Callable[[], int]) -> CudaBackend:
    """Return a CUDA backend that finds this device."""
    info = DeviceInfo(device.device_id, DeviceKind.CUDA, "Torch on the CPU")
    found = Found((info,), {device.device_id: device}, (), lambda: None)
    return CudaBackend(now_ns, lambda: found)


class _CutsShort(TorchOnCpu):
    """Cuts a file short as soon as a block is asked for, so that it ends amid its load."""

    def __init__(self, path: str) -> None:
        super().__init__(256 * 2**20, "sim:0")
        self._path = path

    def empty(self, size: int) -> torch.Tensor:
        os.truncate(self._path, 4096)
        return super().empty(size)


def in_process(cut_short: str | None = None) -> CudaBackend:
    """Make it for a device's process; with a file's path one that cuts that short at a load."""
    device = TorchOnCpu(256 * 2**20, "sim:0") if cut_short is None else _CutsShort(cut_short)
    return backend_on_cpu(device, time.monotonic_ns)


def locked(backend: CudaBackend, *_: object) -> tuple[int, ...]:
    """Return how many bytes are locked for the device in each place."""
    device = backend._found.devices["sim:0"]
    return tuple(device.locked.values())

"""The blocks of one torch device, through torch's caching allocator, which is held to give back what is freed.

Not all that the allocator takes from the driver is ours: operators' code in the same process uses it too.
What it holds beyond live tensors is cache; only whole segments (2 MiB for blocks up to 1 MiB, 20 MiB for
those up to 10 MiB, else the block rounded up to 2 MiB) go back, and only once nothing in them is live.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from protocol.vocabulary import Initialize, Source
from worker.backends.demotion import demotion_signal
from worker.backends.size_churn import KEEP_NS, SizeChurn
from worker.backends.torch_device import ProcessMemory, TorchDevice
from worker.backends.torch_errors import as_worker_error
from worker.backends.torch_lanes import Lanes
from worker.core.cancellation import CancelToken
from worker.core.errors import DeviceLostError, OutOfMemoryError, WorkerError
from worker.core.records import AllocationRequest, Block, Readings, Signal
from worker.core.sure_lock import SureLock, SureRLock

if TYPE_CHECKING:
    import torch

GRANULARITY_BYTES = 512
"""The allocator rounds up to this, and every block begins at a multiple of it."""

_UNSPLIT_BYTES = 2 * 2**20
"""How much more than its rounded size a block can be: what is left of its segment and too small to split off."""

_DRIVER_PAGE_BYTES = 2 * 2**20
"""What the driver gives and takes back at a time: blocks below it share one."""


def _nothing() -> None:
    """Tell no caller that the device went away."""


class TorchBlocks:
    """One device's live tensors by id. Thread-safe."""

    def __init__(
        self, device: TorchDevice, now_ns: Callable[[], int], on_lost: Callable[[], None] = _nothing
    ) -> None:
        self.device = device
        self._on_lost = on_lost
        self._now_ns = now_ns
        self._ledger_lock = SureLock()
        self._measuring = SureRLock()
        """Held around one call of the allocator and the figures before and after it."""
        self.lanes = Lanes(device, self.translating, lambda: self.lost)
        """For copies: host memory and streams."""
        # All mutable state: the tensors and what they take, what is kept for reuse and since when, what the last trim
        # left cached, and what is known of the device.
        self._tensors: dict[str, tuple[torch.Tensor, int]] = {}
        self._churn = SizeChurn(now_ns)
        self._kept_ns: int | None = None
        self._left_bytes = 0
        self._total_bytes: int | None = None
        self._lost: str | None = None

    @property
    def live(self) -> frozenset[str]:
        """The ids of all blocks."""
        with self._ledger_lock:
            return frozenset(self._tensors)

    @property
    def lost(self) -> bool:
        """Whether the device went away."""
        return self._lost is not None

    def tensor(self, allocation_id: str) -> "torch.Tensor":
        """Return a block's bytes as torch sees them. Whoever keeps it keeps the memory."""
        self.check_present()
        with self._ledger_lock:
            return self._tensors[allocation_id][0]

    def readings(self, pinned_bytes: int = 0) -> Readings:
        """Ask the driver and the allocator. ``pinned_bytes``: of the host's, locked for blocks."""
        self.check_present()
        with self._ledger_lock:
            ours = sum(actual for _, actual in self._tensors.values())
        with self.translating():
            memory, figures = self.device.memory(), self.device.allocator()
            process = self.device.process_memory(pinned_bytes + self.lanes.staged_bytes)
            allowed = self.device.allowed_bytes(memory.total_bytes)
        cached = max(0, figures.reserved_bytes - figures.allocated_bytes)
        stuck = max(
            figures.stuck_bytes, min(cached, self._left_bytes)
        )  # cudaMallocAsync does not count its pieces
        demoted = None if process is None else process.demoted_bytes
        if process is not None and process.used_bytes + (demoted or 0) < figures.reserved_bytes:
            process = None  # another process's figure: in a container the driver counts pids from outside
        free = memory.free_bytes - (demoted or 0)  # which would take its place again first
        free = min(free, allowed - figures.reserved_bytes) + max(0, cached - stuck)
        return Readings(
            total_bytes=memory.total_bytes,
            budget_bytes=allowed,
            budget_source=memory.source if allowed == memory.total_bytes else Source.TORCH,
            used_bytes=min(memory.used_bytes, memory.total_bytes),
            process_used_bytes=None if process is None else process.used_bytes,
            free_bytes=max(0, min(memory.total_bytes, free)),
            largest_block_bytes=None,
            resident_bytes=ours,
            cached_bytes=cached,
            fragmentation=None,
            total_source=memory.source,
            used_source=memory.source,
            process_used_source=None if process is None else process.source,  # torch does not say
            signals=_demoted(process),
            process_demoted_bytes=demoted,
        )

    def allocate(self, allocation_id: str, request: AllocationRequest, token: CancelToken) -> Block:
        """Take a block, at rest: no work that was queued before uses its memory any more."""
        self.check_present()
        token.check()
        size, alignment = request.size_bytes, request.alignment or 1
        slack = alignment if alignment > GRANULARITY_BYTES else 0
        whole, actual = self._take(size + slack)
        try:
            with self.translating(size):
                start = -whole.data_ptr() % slack if slack else 0
                if request.initialize is Initialize.ZERO:
                    whole.zero_()
                self.device.settle()
            token.check()
        except BaseException:
            del whole
            self._give_back(size + slack, keep=False)
            raise
        with self._ledger_lock:
            self._tensors[allocation_id] = whole[start : start + size], actual
        return Block(actual)

    def free(self, allocation_id: str, *, at_once: bool = False) -> int:
        """Give a block up. Returns what the allocator gave back to the driver.

        That is whole segments: 0 while others share the block's, more than the block when the last one goes.
        Whatever stream still works on it is waited for: the allocator knows of one only, and hands it out again.
        """
        with self._ledger_lock:
            tensor, _ = self._tensors.pop(allocation_id)
        size = tensor.untyped_storage().nbytes()
        with suppress(WorkerError), self.translating():  # a device that is gone works on nothing
            self.device.finish()
        if not self.device.caches and not self.lost:
            with self._measuring, self.translating():
                free = self.device.memory().free_bytes
                del tensor
                return min(max(0, self.device.memory().free_bytes - free), _whole_pages(size))
        del tensor
        return self._give_back(size, keep=not at_once)

    def finish(self) -> None:
        """Wait for all that the device has to do, whoever gave it that."""
        self.check_present()
        with self.translating():
            self.device.finish()

    def trim(self) -> int:
        """Give up the allocator's cache. Returns what went back to the driver."""
        self.check_present()
        with self._measuring, self.translating():
            self._churn.settle_all()
            figures = self.device.allocator()
            self._kept_ns = None
            if figures.reserved_bytes - figures.allocated_bytes <= figures.stuck_bytes:
                return 0  # no segment is free: emptying would wait for all devices, and return nothing
            self.device.empty_cache()
            left = self.device.allocator()
            self._left_bytes = max(0, left.reserved_bytes - left.allocated_bytes)
            return max(0, figures.reserved_bytes - left.reserved_bytes)

    def tick(self) -> None:
        """Give up what was kept for a size that does not come any more."""
        kept_ns = self._kept_ns
        if kept_ns is not None and self._now_ns() - kept_ns > KEEP_NS and not self.lost:
            self.trim()

    def close(self) -> None:
        """Give everything up."""
        with self._ledger_lock:
            self._tensors.clear()
        self.lanes.close()
        with suppress(WorkerError):
            self.trim()

    def check_present(self) -> None:
        """Raise DeviceLostError if the device went away."""
        if self._lost is not None:
            raise DeviceLostError(self._lost, device_id=self.device.device_id)

    @contextmanager
    def translating(self, requested_bytes: int | None = None) -> Iterator[None]:
        """Make torch's errors the worker's; a device that is gone takes its blocks along."""
        try:
            yield
        except WorkerError:
            raise
        except Exception as error:
            made = as_worker_error(error, self.device.device_id, requested_bytes)
            if made is None:
                raise
            if isinstance(made, DeviceLostError):
                self._lose(made.message)
            raise made from error

    def _take(self, size: int) -> "tuple[torch.Tensor, int]":
        """Ask the allocator; if it refuses, give caches up and ask once more."""
        with self._measuring:
            self._churn.asked(size)
            if self._total_bytes is None:
                with self.translating():
                    self._total_bytes = self.device.memory().total_bytes
            if size > self._total_bytes:
                message = f"{self.device.device_id} has {self._total_bytes} bytes in all; {size} asked for"
                raise OutOfMemoryError(message, device_id=self.device.device_id, requested_bytes=size)
            try:
                return self._take_once(size)
            except OutOfMemoryError:
                self.trim()
            try:
                return self._take_once(size)
            except OutOfMemoryError as error:
                raise self._refusal(size, error) from error

    def _take_once(self, size: int) -> "tuple[torch.Tensor, int]":
        with self.translating(size):
            before = self.device.allocator().allocated_bytes
            tensor = self.device.empty(size)
            grown = self.device.allocator().allocated_bytes - before
        rounded = -(-size // GRANULARITY_BYTES) * GRANULARITY_BYTES
        # Operators' code may have allocated at the same moment: a figure that can't be this block's is not.
        return tensor, grown if rounded <= grown < rounded + _UNSPLIT_BYTES else rounded

    def _refusal(self, size: int, error: OutOfMemoryError) -> OutOfMemoryError:
        with self.translating():
            memory, figures = self.device.memory(), self.device.allocator()
        message = (
            f"{error.message} (the device has {memory.free_bytes} of {memory.total_bytes} bytes free; torch"
            f" holds {figures.reserved_bytes} here, {figures.stuck_bytes} of it free in pieces)"
        )
        return OutOfMemoryError(
            message,
            device_id=self.device.device_id,
            requested_bytes=size,
            free_bytes=memory.free_bytes,
            reserved_bytes=figures.reserved_bytes,
            stuck_bytes=figures.stuck_bytes,
        )

    def _give_back(self, size: int, *, keep: bool) -> int:
        """Let the driver have what is free, unless this size churns."""
        with self._measuring:
            churns = self._churn.freed(size)
            if self.lost:
                return 0
            if keep and churns:
                self._kept_ns = self._now_ns()
                return 0
            return self.trim()

    def _lose(self, message: str) -> None:
        with self._ledger_lock:
            if self._lost is not None:
                return
            self._lost = message
            self._tensors.clear()
        self._on_lost()


def _whole_pages(size: int) -> int:
    return -(-size // _DRIVER_PAGE_BYTES) * _DRIVER_PAGE_BYTES


def _demoted(process: ProcessMemory | None) -> tuple[Signal, ...]:
    if process is None:
        return ()
    return demotion_signal(process.used_bytes, process.demoted_bytes, process.source)

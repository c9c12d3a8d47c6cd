"""Buffers for work: lent to one caller at a time, kept for the next, and given up before anything that costs.

Each is an allocation of the ledger, owned by ``buffers``. A block is free again when its last view is gone: whoever
lets go of that only notes it, on whatever thread it is, and the next to use the pool takes it back.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from protocol.record import Record
from protocol.vocabulary import Initialize
from worker.backends.base import OwnProcess, TorchMemory
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_S
from worker.core.consumers import POOL_PREFIX, Consumer, Holding, Offer
from worker.core.errors import (
    AllocationNotFoundError,
    DeviceNotFoundError,
    DeviceUnavailableError,
    LimitExceededError,
    OutOfMemoryError,
    UnsupportedError,
    WorkerError,
)
from worker.core.records import AllocationRequest, sum_if_known
from worker.core.sure_lock import SureLock
from worker.interface.allocations import Allocations
from worker.plugins._buffer_views import Buffer, Shape, bytes_of, form, keeps_storages
from worker.wiring import Core

if TYPE_CHECKING:
    import torch

OWNER = "buffers"
"""Of their allocations, and the kind of the consumers that they are."""

KEEP_NS = 60 * NS_PER_S
"""A block that was not lent again for so long is given back."""

_PAGE_BYTES = 4096
_CLASSES = 8
"""Sizes from one power of two to the next, so that less than an eighth of a block is spare, or less than a page."""

_ELSEWHERE = (
    DeviceNotFoundError,
    DeviceUnavailableError,
    LimitExceededError,
    OutOfMemoryError,
    UnsupportedError,
)
"""What another device may do better."""


def size_class(size_bytes: int) -> int:
    """Return the size of the block for that many bytes."""
    step = max(_PAGE_BYTES, (1 << (size_bytes - 1).bit_length()) // (2 * _CLASSES))
    return -(-size_bytes // step) * step


class Block(Record):
    """An allocation that is lent, or kept to be."""

    allocation_id: str
    device_id: str
    size_bytes: int
    since_ns: int
    """When it came back the last time."""

    def is_of(self, device_id: str, size_bytes: int) -> bool:
        """Tell whether it is on a device, and of a size."""
        return (self.device_id, self.size_bytes) == (device_id, size_bytes)


class Buffers:
    """``host.buffers``. Thread-safe."""

    def __init__(
        self, core: Core, allocations: Allocations, later: Callable[[int, Callable[[], None]], object]
    ) -> None:
        """``later(due_ns, run)`` runs something at a time, on a thread that may wait for a device."""
        self._core = core
        self._allocations = allocations
        self._later = later
        self._ended = deque[Block]()
        """Blocks whose last view is gone: added to without the lock, by whoever lets go of it."""
        self._lock = SureLock()
        # All mutable state besides: what is lent, in bytes a device; what is kept, latest last; the limits; and
        # whether what is idle is looked for later.
        self._lent: dict[str, int] = {}
        self._kept: list[Block] = []
        self._limits: dict[str, int | None] = {}
        self._sweeping = False

    @contextmanager
    def take(
        self, size: int | Shape, dtype: object = "uint8", *, device: str = "cuda:0", fallback: str | None = "cpu",
        make_room: bool = False, token: CancelToken | None = None,
    ) -> Iterator[Buffer]:  # fmt: skip
        """Lend a buffer of so many elements, or of a shape, for the ``with`` block; it holds whatever lay there before.

        ``dtype`` is a name that torch knows, or numpy's or torch's own type. Where the device is not there, has no
        headroom, or can't be addressed from here (one in a process of its own), the buffer is on ``fallback``:
        ``device_id`` tells. ``make_room`` has others give memory back for it first, by plan.

        Raises:
            ValueError: the size or the element type is none.
            OutOfMemoryError, LimitExceededError, DeviceNotFoundError, DeviceUnavailableError, UnsupportedError:
                it is not to be had on the fallback either, or there is none.
        """
        shape, name = form(size, dtype)
        own = token or CancelToken(self._core.clock.now_ns)
        buffer = self._lend(device, fallback, shape, name, own, make_room=make_room)
        collected = False
        try:
            yield buffer
        except (
            GeneratorExit
        ):  # perhaps by the collector, on a thread that has any lock: the next use does the rest
            collected = True
            raise
        finally:
            buffer.close()
            if not collected:
                self._take_back()
                self._keep_to_limit(buffer.device_id)

    def consumers(self, device_id: str | None) -> Iterator[Consumer]:
        """Return what it is to whoever makes headroom on a device, or on all."""
        self._take_back()
        with self._lock:
            there = {each.device_id for each in self._kept}.union(
                name for name, lent in self._lent.items() if lent
            )
        for each in sorted(there):
            if device_id in {None, each}:
                yield _OfDevice(self, each)

    def holding(self, device_id: str) -> Holding:
        """Return what is lent and kept on a device."""
        self._take_back()
        with self._lock:
            lent = self._lent.get(device_id, 0)
            return Holding(lent + self._kept_bytes(device_id), in_use_bytes=lent)

    def idle_bytes(self, device_id: str) -> int:
        """Return what is kept on a device and not lent."""
        return self.holding(device_id).spare_bytes

    def limit(self, device_id: str, limit_bytes: int | None) -> None:
        """Take over the most that it is to hold on a device: what comes back above that is not kept."""
        with self._lock:
            self._limits[device_id] = limit_bytes

    def drop(self, device_id: str) -> int:
        """Give back what is kept on a device. Returns how much that was, in bytes."""
        return self.give_back(device_id)[0]

    def give_back(self, device_id: str) -> tuple[int, int | None]:
        """Do the same, and tell also how many bytes the system has back; None where that is not known."""
        self._take_back()
        with self._lock:
            dropped = [each for each in self._kept if each.device_id == device_id]
            self._kept = [each for each in self._kept if each.device_id != device_id]
        returned = self._free(dropped)
        if dropped:  # what a backend keeps because these sizes come and go would not be back with the system
            returned.append(self._core.backends[device_id].trim(device_id))
        return sum(each.size_bytes for each in dropped), sum_if_known(returned)

    # ---- inside ----

    def _lend(
        self, device_id: str, fallback: str | None, shape: Shape, dtype: str, token: CancelToken, *, make_room: bool
    ) -> Buffer:  # fmt: skip
        try:
            return self._lend_on(device_id, shape, dtype, token, make_room=make_room)
        except _ELSEWHERE:
            if fallback in {None, device_id}:
                raise
        return self._lend_on(str(fallback), shape, dtype, token, make_room=make_room)

    def _lend_on(
        self, device_id: str, shape: Shape, dtype: str, token: CancelToken, *, make_room: bool
    ) -> Buffer:
        token.check()
        self._core.manager.devices.info(device_id)
        if isinstance(self._core.backends[device_id], OwnProcess):
            raise _not_here(device_id)
        size = size_class(bytes_of(shape, dtype))
        block = self._reuse(device_id, size) or self._make(device_id, size, token, make_room=make_room)
        counted = False
        try:
            with self._lock:
                self._lent[device_id] = self._lent.get(device_id, 0) + size
            counted = True
            buffer = Buffer(self._source(block, bytes_of(shape, dtype)), device_id, shape, dtype)
            buffer.when_unseen(lambda: self._ended.append(block))
        except BaseException:
            if counted:
                with self._lock:
                    self._lent[device_id] -= size
            self._free([block])
            raise
        return buffer

    def _reuse(self, device_id: str, size_bytes: int) -> Block | None:
        """Return a kept block, the latest, whose pages are the warmest; None where none is kept."""
        self._take_back()
        with self._lock:
            fit = (each for each in reversed(self._kept) if each.is_of(device_id, size_bytes))
            found = next(fit, None)
            if found is None:
                return None
            self._kept.remove(found)
        backend = self._core.backends[device_id]
        if isinstance(backend, TorchMemory):
            try:
                backend.finish(device_id)  # whoever had it may have left work on it, on any stream
            except BaseException:
                self._free([found])
                raise
        return found

    def _make(self, device_id: str, size_bytes: int, token: CancelToken, *, make_room: bool) -> Block:
        request = AllocationRequest(
            device_id, size_bytes, initialize=Initialize.NONE, owner=OWNER, purpose="work", persistent=True,
            overwritten=True,
        )  # fmt: skip

        def allocate(*, make_room: bool = False) -> Block:
            name = self._allocations.new_id()
            try:
                made = Block(name, device_id, size_bytes, 0)
                self._allocations.allocate(name, request, token, make_room=make_room)
            except BaseException:
                self._allocations.unused_id(name)
                raise
            return made

        try:
            return allocate()
        except (OutOfMemoryError, LimitExceededError):
            if not self.holding(device_id).spare_bytes and not make_room:
                raise
            self.drop(device_id)  # other sizes, which wait for their next use
        return allocate(make_room=make_room)

    def _source(self, block: Block, size_bytes: int) -> "memoryview | torch.Tensor":
        backend = self._core.backends[block.device_id]
        if isinstance(backend, TorchMemory):
            if not keeps_storages():
                message = "this version of torch does not tell when the last view of a buffer is gone"
                raise UnsupportedError(message, device_id=block.device_id)
            return backend.tensor(block.allocation_id)
        view = backend.view(block.allocation_id, writable=True)
        if view is None:
            raise _not_here(block.device_id)
        return view[:size_bytes]

    def _take_back(self) -> None:
        """Keep what is seen by no view any more, and forget what went with its device or was freed by a host."""
        now_ns = self._core.clock.now_ns()
        with self._lock:
            while self._ended:
                self._kept.append(replace(self._ended[0], since_ns=now_ns))
                block = self._ended.popleft()
                self._lent[block.device_id] -= block.size_bytes
            self._kept = [each for each in self._kept if self._allocations.knows(each.allocation_id)]
            sweep = bool(self._kept) and not self._sweeping
            self._sweeping = self._sweeping or sweep
        if sweep:
            self._sweep_at(now_ns + KEEP_NS)

    def _keep_to_limit(self, device_id: str) -> None:
        """Give back what is kept above the limit, the longest idle first."""
        over = list[Block]()
        with self._lock:
            limit = self._limits.get(device_id)
            if limit is None:
                return
            held = self._lent.get(device_id, 0) + self._kept_bytes(device_id)
            for each in self._kept:
                if each.device_id == device_id and held > limit:
                    over.append(each)
                    held -= each.size_bytes
            self._kept = [each for each in self._kept if each not in over]
        self._free(over)

    def _sweep(self) -> None:
        """Give back what was idle for too long, and look again when the next could be."""
        self._take_back()
        now_ns = self._core.clock.now_ns()
        with self._lock:
            idle = [each for each in self._kept if each.since_ns + KEEP_NS <= now_ns]
            self._kept = [each for each in self._kept if each.since_ns + KEEP_NS > now_ns]
        try:
            self._free(idle)
        finally:
            with self._lock:
                next_ns = min((each.since_ns for each in self._kept), default=None)
                self._sweeping = next_ns is not None
            if next_ns is not None:
                self._sweep_at(next_ns + KEEP_NS)

    def _sweep_at(self, due_ns: int) -> None:
        """Look for what is idle at a time; where that can't be arranged, the next use tries to."""
        try:
            self._later(due_ns, self._sweep)
        except BaseException:
            self._sweeping = False
            raise

    def _free(self, blocks: list[Block]) -> list[int | None]:
        """Free blocks. Returns how many bytes of each the system has back; None where that is not known.

        Those that were not freed, where one could not be, are kept as if they had just come back.
        """
        returned, left = list[int | None](), deque(blocks)
        try:
            while left:
                with suppress(AllocationNotFoundError, DeviceUnavailableError):
                    freed = self._allocations.deallocate(left[0].allocation_id, force=True)
                    returned.append(freed.returned_bytes)
                left.popleft()
        finally:
            if left:
                now_ns = self._core.clock.now_ns()
                with self._lock:
                    self._kept += [replace(each, since_ns=now_ns) for each in left]
        return returned

    def _kept_bytes(self, device_id: str) -> int:
        return sum(each.size_bytes for each in self._kept if each.device_id == device_id)


class _OfDevice:
    """What is kept on one device: nothing of it has to be built again, so it goes first."""

    kind = OWNER
    allocated = True
    """Its blocks are in the ledger, and count towards a cap of the worker's own."""

    def __init__(self, buffers: Buffers, device_id: str) -> None:
        self._buffers = buffers
        self.consumer_id, self.device_id = f"{POOL_PREFIX}{OWNER}:{device_id}", device_id

    def holding(self) -> Holding:
        return self._buffers.holding(self.device_id)

    def offers(self, _need_bytes: int) -> tuple[Offer, ...]:
        spare = self.holding().spare_bytes
        return (Offer(spare, 0.0, "kept for the next use, and holds nothing"),) if spare else ()

    def release(self, _offer: Offer, _token: CancelToken) -> int:
        return self._buffers.drop(self.device_id)

    def give_back(self) -> tuple[int, int | None]:
        return self._buffers.give_back(self.device_id)

    def limit_changed(self, limit_bytes: int | None, _reason: str) -> None:
        self._buffers.limit(self.device_id, limit_bytes)


def _not_here(device_id: str) -> WorkerError:
    message = f"{device_id} has its memory where this process can't address it; leave fallback at cpu"
    return UnsupportedError(message, device_id=device_id)

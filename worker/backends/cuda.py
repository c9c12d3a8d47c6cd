"""CUDA devices, and AMD's through torch's ROCm build: ``cuda:0``, ``cuda:1`` ... in the driver's order."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from traceback import clear_frames
from typing import TYPE_CHECKING

from protocol.vocabulary import DeviceKind, DeviceState, Initialize, MemoryType
from worker.backends.base import Fill, HeldByProcess, OnChange, Piecewise
from worker.backends.block_copy import each_piece, from_memory, to_memory
from worker.backends.cuda_probe import Found, find_devices
from worker.backends.host_memory import address_of
from worker.backends.pieces import Done, no_progress
from worker.backends.pinned_buffer import LentMemory, PinnedBuffer
from worker.backends.torch_blocks import TorchBlocks
from worker.backends.torch_copy import CopyEach, Lane, as_tensor
from worker.core.cancellation import CancelToken
from worker.core.errors import DeviceUnavailableError, OutOfMemoryError, UnsupportedError, WorkerError
from worker.core.records import AllocationRequest, Block, Defragmented, DeviceInfo, Readings
from worker.core.shortages import start_thread
from worker.core.sure_lock import SureLock
from worker.telemetry.system import SystemMemory

if TYPE_CHECKING:
    import torch

_HOST_RESERVE_BYTES = 256 * 2**20
"""Locked pages can't be swapped: this much of the system's free memory is left to everyone else."""

_EXPECTED = DeviceInfo("cuda:0", DeviceKind.CUDA, "First CUDA device", DeviceState.PROBING)
_NO_GPU = "its driver is installed, and finds no GPU (as where CUDA_VISIBLE_DEVICES hides them)"

_NOTES = (
    (
        "freed memory goes back to the driver in torch's segments, 2 or 20 MiB for small blocks: what shares"
        " its segment with a live block is told of as cached until that goes"
    ),
    "a size that comes and goes stays in torch's cache for up to 2 s",
    (
        "the context (200-600 MiB from the first use on) is unattributed, and goes back only when the process"
        " that has it ends"
    ),
    "used by this worker is null where the driver does not count by process: on Windows, in some containers",
    "fragmentation is null: torch's allocator moves no blocks; cached after a clear is what lies in pieces",
    "pinned memory is the host's: it is in the ledger of the device that asked, not in that device's figures",
)


class CudaBackend:
    """All CUDA devices of this process. Nothing is looked for before the first ``probe``."""

    quick_bytes = -1

    def __init__(
        self,
        now_ns: Callable[[], int] = time.monotonic_ns,
        find: Callable[[], Found] = find_devices,
        free_host_bytes: Callable[[], int | None] = lambda: SystemMemory().read().free_bytes,
        *,
        expected: DeviceInfo = _EXPECTED,
        no_gpu: str = _NO_GPU,
        notes: tuple[str, ...] = _NOTES,
    ) -> None:
        """``expected`` stands for what ``find`` has not found yet; ``no_gpu`` is why there is none."""
        self._expected = expected
        self._no_gpu = no_gpu
        self._notes = notes
        self._now_ns = now_ns
        self._find = find
        self._free_host_bytes = free_host_bytes
        self._probing = SureLock()
        self._lock = SureLock()
        # All mutable state besides the devices' blocks: what was found, where each block lies, pinned ones, and what
        # copies go through.
        self._found: Found | None = None
        self._devices: dict[str, TorchBlocks] = {}
        self._places: dict[str, TorchBlocks] = {}
        self._pinned: dict[str, PinnedBuffer] = {}
        self._lent: LentMemory | None = None

    def probe(self) -> tuple[DeviceInfo, ...]:
        """Return the devices: looked for once, which takes seconds where there is a driver."""
        with self._probing:
            if self._found is None:
                found = self._find()
                self._devices = {
                    name: TorchBlocks(each, self._now_ns, partial(self._drop_pinned, name))
                    for name, each in found.devices.items()
                }
                self._found = found
            return self._found.infos

    @property
    def devices(self) -> tuple[DeviceInfo, ...]:
        """The devices, as far as is known by now: one that is being looked for, at first."""
        if self._found is None:
            return (self._expected,)
        absent = replace(self._expected, state=DeviceState.UNAVAILABLE, state_reason=self._no_gpu)
        return self._found.infos or (absent,)

    def begin(self, on_change: OnChange) -> None:
        """Look for the devices on a thread of its own, for importing torch takes seconds, and tell of them."""

        def look() -> None:
            self.probe()
            on_change(self.devices)

        start_thread(look, f"{self._expected.kind}-probe")

    def readings(self, device_id: str) -> Readings:
        """Ask the driver, NVML and torch's allocator."""
        with self._lock:
            pinned = sum(
                buffer.actual_bytes
                for name, buffer in self._pinned.items()
                if self._places[name].device.device_id == device_id
            )
        return self._device(device_id).readings(pinned)

    def processes(self, device_id: str, pids: tuple[int, ...]) -> HeldByProcess:  # noqa: ARG002 - NVML lists them
        """Ask NVML, or PDH under Windows."""
        return self._device(device_id).device.processes()

    def check(self, request: AllocationRequest) -> None:
        """Refuse memory that is the CPU's to give."""
        if request.memory_type not in {MemoryType.DEVICE, MemoryType.PINNED}:
            message = f"{request.device_id} has no {request.memory_type} memory; allocate it on cpu"
            raise UnsupportedError(message, device_id=request.device_id, memory_type=request.memory_type)

    def allocate(self, allocation_id: str, request: AllocationRequest, token: CancelToken) -> Block:
        """Make a block on the device, or lock pages of the host for it."""
        device = self._device(request.device_id)
        if request.memory_type is MemoryType.PINNED:
            return self._allocate_pinned(allocation_id, device, request, token)
        block = device.allocate(allocation_id, request, token)
        with self._lock:
            self._places[allocation_id] = device
        return block

    def free(self, allocation_id: str) -> int | None:
        """Give a block up. What is on the device goes back in whole segments, unless its size churns."""
        return self._free(allocation_id, at_once=False)

    def view(self, allocation_id: str, *, writable: bool) -> memoryview | None:  # noqa: ARG002 - every backend is called alike
        """Return a pinned block's bytes; the device's own can only be copied to and from."""
        pinned = self._pinned.get(allocation_id)
        return None if pinned is None else pinned.view

    def tensor(self, allocation_id: str) -> "torch.Tensor":
        """Return a device block's bytes as torch sees them. Whoever keeps it keeps the memory."""
        return self._places[allocation_id].tensor(allocation_id)

    def finish(self, device_id: str) -> None:
        """Wait for all that the device has to do, whoever gave it that. DeviceLostError if it went away."""
        self._device(device_id).finish()

    def read(self, allocation_id: str, offset: int, into: memoryview, token: CancelToken) -> None:
        """Copy out of a block."""
        token.check()
        pinned = self._pinned.get(allocation_id)
        if pinned is not None:
            into[:] = pinned.view[offset : offset + into.nbytes]
            return
        device = self._places[allocation_id]
        block = device.tensor(allocation_id)[offset : offset + into.nbytes]
        with device.lanes.lend(token) as lane:
            if self._is_locked(into, device):
                lane.copy_unstaged(as_tensor(into), block)
            else:
                lane.read_each(block, into.nbytes, to_memory(into), token, no_progress)

    def write(self, allocation_id: str, offset: int, data: memoryview, token: CancelToken) -> None:
        """Copy into a block."""
        token.check()
        pinned = self._pinned.get(allocation_id)
        if pinned is not None:
            pinned.view[offset : offset + data.nbytes] = data
            return
        device = self._places[allocation_id]
        block = device.tensor(allocation_id)[offset : offset + data.nbytes]
        with device.lanes.lend(token) as lane:
            if self._is_locked(data, device):
                lane.copy_unstaged(block, as_tensor(data))
            else:
                lane.write_each(block, data.nbytes, from_memory(data), token, no_progress)

    def read_each(
        self, allocation_id: str, size: int, take: Piecewise, token: CancelToken, done: Done,
        *, in_order: bool = False,
    ) -> None:  # fmt: skip
        """Copy out of a block without a pause: while one piece is taken the next is on its way."""
        self._copy_each(Lane.read_each, allocation_id, size, take, token, done, in_order=in_order)

    def write_each(
        self, allocation_id: str, size: int, fill: Piecewise, token: CancelToken, done: Done
    ) -> None:
        """Copy into a block without a pause: while one piece is on its way the next is filled."""
        self._copy_each(Lane.write_each, allocation_id, size, fill, token, done, in_order=False)

    def copy_within(
        self, source_id: str, destination_id: str, offset: int, length: int, token: CancelToken
    ) -> bool:
        """Have the devices copy by themselves, unless both are memory of the host's."""
        token.check()
        ends = [self._pinned.get(each) for each in (source_id, destination_id)]
        if None not in ends:
            return False
        # The lane is the source's where that is on a device: between two of them torch copies on the source's stream.
        device = self._places[source_id if ends[0] is None else destination_id]
        source, target = (
            (self._places[name].tensor(name) if pinned is None else as_tensor(pinned.view))[
                offset : offset + length
            ]
            for name, pinned in zip((source_id, destination_id), ends, strict=True)
        )
        with device.lanes.lend(token) as lane:
            lane.copy_unstaged(target, source)
        return True

    def lend_memory(self, memory: memoryview) -> None:
        """Have copies that go through this memory be the device's own."""
        self._lent = LentMemory(memory)

    def load(self, handle: str, request: AllocationRequest, fill: Fill, token: CancelToken) -> Block:
        """Make a block and fill it: while a piece is on its way the next is read from its file, by several threads."""
        request = replace(request, initialize=Initialize.NONE, overwritten=True)
        block = self.allocate(handle, request, token)
        try:
            device = self._places[handle]
            with device.lanes.filling(device.tensor(handle), token) as write:
                fill(None, write)
        except BaseException as error:
            clear_frames(error.__traceback__)  # the frames of the copy that failed hold on to the block
            with suppress(WorkerError):  # the first error is the one to tell
                self.unload(handle)
            raise
        return block

    def unload(self, handle: str) -> int | None:
        """Give a model's block up, and the cache with it."""
        return self._free(handle, at_once=True)

    def trim(self, device_id: str) -> int | None:
        """Give torch's cache back to the driver."""
        return self._device(device_id).trim()

    def tick(self) -> None:
        """Give up what was kept for sizes that come no more."""
        for device in self._devices.values():
            with suppress(WorkerError):  # a device that is gone is told of by who asks for it
                device.tick()

    def defragment(self, device_id: str) -> Defragmented | None:
        """Do nothing beyond a trim: operators' code may hold tensors over any block, so none can be moved."""
        self._device(device_id).check_present()
        return None

    def notes(self) -> tuple[str, ...]:
        """Say how memory goes back, and which figures are missing and why."""
        return (*(self._found.notes if self._found is not None else ()), *self._notes)

    def live(self) -> frozenset[str]:
        """Return the ids of all blocks."""
        on_devices = frozenset[str]().union(*(device.live for device in self._devices.values()))
        with self._lock:
            return on_devices | frozenset(self._pinned)

    def close(self) -> None:
        """Give everything up."""
        with self._lock:
            pinned, self._pinned = self._pinned, {}
            self._places.clear()
        for buffer in pinned.values():
            buffer.close()
        if self._lent is not None:
            self._lent.close()
        for device in self._devices.values():
            device.close()
        if self._found is not None:
            self._found.close()

    def _device(self, device_id: str) -> TorchBlocks:
        device = self._devices.get(device_id)
        if device is None:
            infos = self._found.infos if self._found is not None else ()
            reason = next(
                (info.state_reason for info in infos if info.device_id == device_id), "there is none"
            )
            message = f"{device_id} is unavailable: {reason}"
            raise DeviceUnavailableError(message, device_id=device_id, state=DeviceState.UNAVAILABLE)
        return device

    def _copy_each(
        self, copy: CopyEach, allocation_id: str, size: int, work: Piecewise, token: CancelToken, done: Done,
        *, in_order: bool,
    ) -> None:  # fmt: skip
        pinned = self._pinned.get(allocation_id)
        if pinned is not None:
            each_piece(pinned.view, size, work, token, done)
            return
        device = self._places[allocation_id]
        device.lanes.copy_each(copy, device.tensor(allocation_id), size, work, token, done, in_order=in_order)

    def _allocate_pinned(
        self, allocation_id: str, device: TorchBlocks, request: AllocationRequest, token: CancelToken
    ) -> Block:
        device.check_present()
        free = self._free_host_bytes()
        if free is not None and request.size_bytes > free - _HOST_RESERVE_BYTES:
            message = (
                f"{request.size_bytes} bytes of the host can't be locked for {request.device_id}: it has {free}"
                f" free, of which {_HOST_RESERVE_BYTES} are left to others"
            )
            raise OutOfMemoryError(
                message, device_id=request.device_id, requested_bytes=request.size_bytes, free_bytes=free
            )
        with device.translating(request.size_bytes):
            buffer = PinnedBuffer(device.device, request.size_bytes, token, request.alignment)
        with self._lock:
            self._pinned[allocation_id] = buffer
            self._places[allocation_id] = device
        return Block(buffer.actual_bytes)

    def _free(self, allocation_id: str, *, at_once: bool) -> int | None:
        with self._lock:
            device = self._places.pop(allocation_id)
            pinned = self._pinned.pop(allocation_id, None)
        if pinned is not None:
            return pinned.close()
        return 0 if device.lost else device.free(allocation_id, at_once=at_once)

    def _drop_pinned(self, device_id: str) -> None:
        """Give up what a lost device's allocations locked: the ledger has removed them."""
        with self._lock:
            names = [name for name in self._pinned if self._places[name].device.device_id == device_id]
            dropped = [self._pinned.pop(name) for name in names]
        for buffer in dropped:
            buffer.close()

    def _is_locked(self, memory: memoryview, device: TorchBlocks) -> bool:
        """Tell whether memory is in one of our pinned blocks, or lent and locked: the device copies that by itself."""
        if memory.readonly or not memory.nbytes or not (self._pinned or self._lent):
            return False
        address, length = address_of(memory), memory.nbytes
        if self._lent is not None:
            with device.translating():
                if self._lent.holds(address, length, device.device):
                    return True
        with self._lock:
            return any(buffer.holds(address, length) for buffer in self._pinned.values())

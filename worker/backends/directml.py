"""DirectML through torch_directml: every adapter that it lists, ``dml:0`` and on.

Meant for a process of its own (``isolated.py``): importing, probing or exhausting the library can end the process.
Figures come from DXCore, DXGI and PDH, which ``torch_directml`` does not ask; see docs/directml.md.
"""

import importlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from protocol.vocabulary import DeviceKind, DeviceState, MemoryType
from worker.backends.base import HeldByProcess, LoadsThroughCopies
from worker.backends.directml_adapters import join, processes_of
from worker.backends.directml_blocks import AdapterMemory
from worker.backends.directml_device import ALIGNMENT_BYTES
from worker.backends.directml_tiled import TiledMemory
from worker.backends.directml_untiled import FLUSH_AT_BYTES, UntiledMemory
from worker.core.cancellation import CancelToken
from worker.core.errors import UnsupportedError
from worker.core.records import HOST, AllocationRequest, Block, Defragmented, DeviceInfo, Readings
from worker.core.sure_lock import SureLock
from worker.telemetry.dxcore import Adapter, BudgetWatch, compute_adapters, learning_only_names

ALLOCATORS: Final = ("untiled", "tiled")

_NO_ADAPTER = (
    "torch_directml found no adapter that Direct3D 12 can compute on; look for the graphics driver, and at"
    " DML_VISIBLE_DEVICES"
)
_NOT_TOLD = "DXCore tells of no change of the budget: it is looked at up to twenty times a second"
_LEARNING_ONLY = (
    "torch_directml uses adapters that Direct3D 12 can compute on; this one (an NPU, as a rule) runs whole models"
    " alone: use OpenVINO, or ONNX Runtime with its DirectML or Windows ML execution provider"
)
_NOTES = {
    UntiledMemory.name: (
        (
            "untiled: one resource a block: freed memory goes back in place, a block has up to"
            f" {UntiledMemory.limit_bytes} bytes, running out is an error and not the process's end"
        ),
        "the system's budget is held by the worker, which this allocator does not do",
        f"freed blocks are given back from {FLUSH_AT_BYTES} bytes on, and by a clear of caches",
    ),
    TiledMemory.name: (
        (
            "tiled: a pool that never shrinks: what was freed goes back to the system only by a"
            " restart of the device's process (defragment, aggressive)"
        ),
        "its budget is frozen when the process starts; what the system grants later counts against its growth",
        "where the driver runs out, this process ends: it is started again, without what was on the device",
    ),
}


class DirectMlBackend(LoadsThroughCopies):
    """All adapters, or one. ImportError, OSError or RuntimeError where the library can't be used here."""

    quick_bytes = -1

    def __init__(self, allocator: str | None = None, only: int | None = None) -> None:
        """``allocator`` is the one that was asked for; ``only`` one adapter is used, the others are just listed."""
        if allocator not in {None, *ALLOCATORS}:
            message = f"there is no allocator {allocator!r}; there is {', '.join(ALLOCATORS)}"
            raise ValueError(message)
        self._asked = allocator
        allocator = allocator or ALLOCATORS[0]
        torch = importlib.import_module("torch")
        directml = importlib.import_module("torch_directml")
        if allocator == UntiledMemory.name:
            directml.disable_tiled_resources(True)  # noqa: FBT003 - the library's signature
        # With no adapter every other call of the library would end the process.
        count = directml.device_count() if directml.is_available() else 0
        self._adapters, self._missing = _adapters(count, lambda index: _name(directml, index))
        self._names = tuple(
            _name(directml, index) if adapter is None else adapter.name
            for index, adapter in enumerate(self._adapters)
        )
        self._devices = {
            f"dml:{index}": AdapterMemory(torch, directml, index, adapter, allocator)
            for index, adapter in enumerate(self._adapters)
            if only in {None, index}
        }
        self._learning_only = learning_only_names() if only in {None, 0} else ()
        self._lock = SureLock()
        # All mutable state besides the devices': where each block lies, and what tells of new budgets.
        self._places: dict[str, AdapterMemory] = {}
        self._watches: dict[str, BudgetWatch] = {}

    def probe(self) -> tuple[DeviceInfo, ...]:
        """Return the adapters, in the library's order, also those that another process uses; then those for models alone."""
        found = [
            DeviceInfo(
                f"dml:{index}",
                DeviceKind.DIRECTML,
                name,
                shared_with=HOST if adapter is not None and adapter.is_integrated else None,
            )
            for index, (name, adapter) in enumerate(zip(self._names, self._adapters, strict=True))
        ]
        if not found:
            found = [_unavailable(0, "DirectML", _NO_ADAPTER)]
        for name in self._learning_only:
            found.append(_unavailable(len(found), name, _LEARNING_ONLY))
        return tuple(found)

    def readings(self, device_id: str) -> Readings:
        """Read the adapter's figures, and the allocator's."""
        return self._device(device_id).readings()

    def watch_figures(self, changed: Callable[[str], None]) -> None:
        """Have DXCore tell of each change of an adapter's budget, where it can."""
        for device_id, device in self._devices.items():
            if device.adapter is not None:
                with suppress(OSError):
                    self._watches[device_id] = device.adapter.watch_budget(partial(changed, device_id))

    def processes(self, device_id: str, pids: tuple[int, ...]) -> HeldByProcess:
        """Ask DXCore, or PDH."""
        return processes_of(self._device(device_id).adapter, pids)

    def check(self, request: AllocationRequest) -> None:
        """Refuse what the library cannot make: shared and pinned memory, and more than one buffer can have."""
        device, device_id = self._device(request.device_id), request.device_id
        if request.memory_type in {MemoryType.SHARED, MemoryType.PINNED}:
            message = f"{device_id} has no {request.memory_type} memory; allocate it on cpu"
            raise UnsupportedError(message, device_id=device_id, memory_type=request.memory_type)
        if request.alignment is not None and request.alignment > ALIGNMENT_BYTES:
            message = f"{device_id} aligns blocks to {ALIGNMENT_BYTES} bytes; {request.alignment} asked for"
            raise UnsupportedError(message, device_id=device_id, alignment=request.alignment)
        device.check_size(request.size_bytes)

    def allocate(self, allocation_id: str, request: AllocationRequest, token: CancelToken) -> Block:
        """Make a buffer, zeroed if asked."""
        device = self._device(request.device_id)
        actual = device.allocate(allocation_id, request, token)
        with self._lock:
            self._places[allocation_id] = device
        return Block(actual)

    def free(self, allocation_id: str) -> int | None:
        """Drop a buffer. What goes back at once is as the allocator has it."""
        with self._lock:
            device = self._places.pop(allocation_id)
        return device.free(allocation_id)

    def unload(self, handle: str) -> int | None:
        """Drop a model's buffer, and give it back where the allocator can."""
        with self._lock:
            device = self._places.pop(handle)
        return device.free(handle, at_once=True)

    def view(self, allocation_id: str, *, writable: bool) -> memoryview | None:  # noqa: ARG002 - every backend is called alike
        """Return None: the library's storage is opaque."""
        return None

    def tensor(self, allocation_id: str) -> Any:
        """Return a buffer as torch sees it. Whoever keeps it keeps the memory."""
        return self._places[allocation_id].tensor(allocation_id)

    def copy_of(self, allocation_id: str, host: Any) -> Any:
        """Copy a tensor of the host's to where a buffer is. UnsupportedError for a type that has no place there."""
        return self._places[allocation_id].copy_of(host)

    def read(self, allocation_id: str, offset: int, into: memoryview, token: CancelToken) -> None:
        """Copy out of a buffer."""
        self._places[allocation_id].copy("read", allocation_id, offset, into, token)

    def write(self, allocation_id: str, offset: int, data: memoryview, token: CancelToken) -> None:
        """Copy into a buffer."""
        self._places[allocation_id].copy("write", allocation_id, offset, data, token)

    def trim(self, device_id: str) -> int | None:
        """Give back what the allocator can, which for the tiled one is nothing."""
        return self._device(device_id).trim()

    def tick(self) -> None:
        """Give back what others in this process freed."""
        for device in self._devices.values():
            device.tick()

    def defragment(self, device_id: str) -> Defragmented | None:
        """Do nothing: no buffer can be moved within the process."""
        self._device(device_id).check_present()
        return None

    def check_restart(self, more: list[int], besides: frozenset[str]) -> None:
        """Raise OutOfMemoryError unless what is here would fit into a new process by today's figures."""
        for device in self._devices.values():
            device.check_restart(more, besides)

    def notes(self) -> tuple[str, ...]:
        """Say which allocator is on and what that means, and where figures are missing."""
        nothing_asked = "a figure is null where neither DXCore, DXGI nor PDH answers it"
        used = dict.fromkeys(each.allocator for each in self._devices.values())
        why = [self._why(each) for each in self._devices.values()]
        said = [note for allocator in used for note in _NOTES[allocator]]
        told = ", ".join(self._watches)
        watched = f"DXCore tells of each change of the budget of: {told}" if told else _NOT_TOLD
        return (*why, *said, *self._missing, watched, nothing_asked)

    def live(self) -> frozenset[str]:
        """Return the ids of all buffers."""
        with self._lock:
            return frozenset(name for name, device in self._places.items() if device.has(name))

    def close(self) -> None:
        """Give everything up."""
        for allocation_id in self.live():
            self.free(allocation_id)
        for device_id, device in self._devices.items():
            if not device.lost:
                self.trim(device_id)
        while self._watches:
            self._watches.popitem()[1].close()
        for adapter in self._adapters:
            if adapter is not None:
                adapter.close()

    def _why(self, device: "AdapterMemory") -> str:
        if self._asked is None:
            why = "the default: memory that was freed goes back at once, and running out ends no process"
        elif device.allocator == self._asked:
            why = "as --directml-allocator says"
        else:
            why = f"{self._asked} was asked for, but this adapter has no tiled resources"
        return f"allocator of {device.device_id}: {device.allocator}, {why}"

    def _device(self, device_id: str) -> "AdapterMemory":
        return self._devices[device_id]


def _adapters(
    count: int, name_of: Callable[[int], str]
) -> tuple[tuple[Adapter | None, ...], tuple[str, ...]]:
    """Return the adapter behind each device, and what to say where there is none."""
    if not count:
        return (), ()
    try:
        found = join(compute_adapters(), count, name_of)
    except OSError as error:
        return (None,) * count, (f"DXCore can't be asked, so the adapters' figures are null: {error}",)
    unknown = [f"dml:{index}" for index, adapter in enumerate(found) if adapter is None]
    if unknown:
        return found, (
            f"which adapter these are can't be told, so their figures are null: {', '.join(unknown)}",
        )
    return found, ()


def _name(directml: Any, index: int) -> str:
    return str(directml.device_name(index)).rstrip("\0")


def _unavailable(index: int, name: str, why: str) -> DeviceInfo:
    return DeviceInfo(f"dml:{index}", DeviceKind.DIRECTML, name, DeviceState.UNAVAILABLE, state_reason=why)

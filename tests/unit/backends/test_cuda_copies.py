"""Copies to and from CUDA's blocks, over pinned memory and beside it: whole when they return."""

import os

import pytest

from protocol.vocabulary import MemoryType
from tests.conformance.support import CancelledAt
from tests.rigs.torch_on_cpu import TorchOnCpu, backend_on_cpu
from tests.unit.backends.cuda_on_cpu import MIB, TOKEN, ask, backend, contents, device, time
from worker.backends.cuda import CudaBackend
from worker.backends.cuda_probe import Found
from worker.backends.host_memory import PAGE_BYTES
from worker.backends.torch_copy import STAGE_BYTES
from worker.core.errors import CancelledError, OutOfMemoryError, UnsupportedError
from worker.core.records import DeviceInfo

__all__ = ["backend", "device", "time"]


@pytest.mark.parametrize("length", [1, STAGE_BYTES - 1, STAGE_BYTES, STAGE_BYTES + 1, 5 * STAGE_BYTES + 7])
def test_a_copy_is_whole_when_it_returns(backend: CudaBackend, length: int) -> None:
    """At any length and offset the bytes are there, although none moves before somebody waits for it."""
    offset, data = 12_345, os.urandom(length)
    backend.allocate("a", ask(offset + length + 99), TOKEN)
    written = bytearray(data)
    backend.write("a", offset, memoryview(written), TOKEN)
    written[:] = bytes(length)  # the caller's own again
    assert contents(backend, "a", offset, length) == data
    assert contents(backend, "a", 0, offset) == bytes(offset)
    assert contents(backend, "a", offset + length, 99) == bytes(99)
    backend.write("a", 0, memoryview(data), TOKEN)  # read-only memory
    assert contents(backend, "a", 0, length) == data


def test_copies_overlap(backend: CudaBackend, device: TorchOnCpu) -> None:
    """While a piece is on its way the next is made ready, and no more than the two buffers allow."""
    backend.allocate("a", ask(8 * STAGE_BYTES), TOKEN)
    backend.write("a", 0, memoryview(bytearray(8 * STAGE_BYTES)), TOKEN)
    assert device.most_pending == 2
    device.most_pending = 0
    contents(backend, "a", 0, 8 * STAGE_BYTES)
    assert device.most_pending == 2


def test_a_driver_that_locks_nothing(backend: CudaBackend, device: TorchOnCpu) -> None:
    """Copies go through ordinary memory then; only pinned memory is unsupported."""
    device.refuses_locking = True
    data = os.urandom(3 * STAGE_BYTES)
    backend.allocate("a", ask(len(data)), TOKEN)
    backend.write("a", 0, memoryview(data), TOKEN)
    assert contents(backend, "a", 0, len(data)) == data
    with pytest.raises(UnsupportedError):
        backend.allocate("b", ask(1, MemoryType.PINNED), TOKEN)
    assert backend.live() == {"a"}


def test_a_copy_that_is_cancelled(backend: CudaBackend) -> None:
    """It ends between two pieces: what went before is there, what comes after is untouched."""
    size = 4 * STAGE_BYTES
    backend.allocate("a", ask(size), TOKEN)
    with pytest.raises(CancelledError):
        # one check before anything, one for each page-locked buffer that is touched, one for each piece
        backend.write("a", 0, memoryview(b"\1" * size), CancelledAt(5))
    found = contents(backend, "a", 0, size)
    assert found == bytes([1]) * STAGE_BYTES + bytes(3 * STAGE_BYTES)
    assert backend.free("a") == size


def test_pinned_memory(backend: CudaBackend, device: TorchOnCpu) -> None:
    """It is the host's: addressable, zero, locked from first to last page, unlocked and gone when it is freed."""
    block = backend.allocate("p", ask(PAGE_BYTES + 1, MemoryType.PINNED), TOKEN)
    assert block.actual_bytes == 2 * PAGE_BYTES
    assert list(device.locked.values()) == [2 * PAGE_BYTES]
    view = backend.view("p", writable=True)
    assert view is not None
    assert bytes(view) == bytes(PAGE_BYTES + 1)
    view.release()
    backend.write("p", 5, memoryview(b"abc"), TOKEN)
    assert contents(backend, "p", 4, 5) == b"\0abc\0"
    assert backend.readings("cuda:0").resident_bytes == 0
    assert backend.free("p") in {2 * PAGE_BYTES, None}
    assert device.locked == {}


def test_pinned_memory_is_not_staged(backend: CudaBackend, device: TorchOnCpu) -> None:
    """The device copies it by itself, in one go and both ways."""
    size = 4 * STAGE_BYTES
    data = os.urandom(size)
    backend.allocate("p", ask(size, MemoryType.PINNED), TOKEN)
    backend.allocate("a", ask(size), TOKEN)
    backend.write("p", 0, memoryview(data), TOKEN)
    view = backend.view("p", writable=True)
    assert view is not None
    backend.write("a", 0, view, TOKEN)
    assert contents(backend, "a", 0, size) == data
    view[:] = bytes(size)
    device.most_pending = 0
    backend.read("a", 10, view[10:], TOKEN)
    assert device.most_pending == 1
    assert bytes(view) == bytes(10) + data[10:]
    view.release()


def test_pinned_memory_that_the_host_cannot_spare(device: TorchOnCpu) -> None:
    """Locking is refused before the system would have to kill somebody for it."""
    info = DeviceInfo("cuda:0", backend_on_cpu(device, lambda: 0).probe()[0].kind, "n")
    found = Found((info,), {"cuda:0": device}, (), lambda: None)
    backend = CudaBackend(lambda: 0, lambda: found, lambda: 300 * MIB)
    backend.probe()
    backend.allocate("small", ask(MIB, MemoryType.PINNED), TOKEN)
    with pytest.raises(OutOfMemoryError) as refused:
        backend.allocate("large", ask(100 * MIB, MemoryType.PINNED), TOKEN)
    assert refused.value.details["free_bytes"] == 300 * MIB
    assert backend.live() == {"small"}
    backend.close()


@pytest.mark.parametrize("memory_type", [MemoryType.HOST, MemoryType.SHARED])
def test_memory_that_is_the_cpus(backend: CudaBackend, memory_type: MemoryType) -> None:
    """It is refused, with the device that has it."""
    with pytest.raises(UnsupportedError, match="allocate it on cpu"):
        backend.check(ask(1, memory_type))

"""CUDA's blocks and copies over torch's CPU tensors, where copies come as late as a GPU may bring them."""

import os
from collections.abc import Iterator

import pytest
import torch

from protocol.vocabulary import DeviceState, Initialize, MemoryType, Source
from tests.rigs.torch_on_cpu import CONTEXT_BYTES, TorchOnCpu, backend_on_cpu
from worker.backends.base import Write
from worker.backends.cuda import CudaBackend
from worker.backends.cuda_probe import Found
from worker.backends.host_memory import PAGE_BYTES
from worker.backends.size_churn import KEEP_NS
from worker.backends.torch_copy import STAGE_BYTES
from worker.backends.torch_device import DeviceMemory, ProcessMemory, TorchDevice
from worker.core.cancellation import CancelToken
from worker.core.errors import (
    CancelledError,
    DeviceLostError,
    DeviceUnavailableError,
    OutOfMemoryError,
    UnsupportedError,
)
from worker.core.records import AllocationRequest, DeviceInfo

MIB = 2**20
TOTAL_BYTES = 64 * MIB
LOST = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ..."


class Time:
    """A clock that is set."""

    ns = 0

    def now_ns(self) -> int:
        """Return it."""
        return self.ns


class CancelledAt(CancelToken):
    """A token that is cancelled at its nth check."""

    def __init__(self, nth: int) -> None:
        super().__init__(lambda: 0)
        self.left = nth

    def check(self) -> None:
        """Count down."""
        self.left -= 1
        if self.left == 0:
            self.cancel()
        super().check()


TOKEN = CancelToken(lambda: 0)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def device() -> TorchOnCpu:
    return TorchOnCpu(TOTAL_BYTES)


@pytest.fixture
def backend(device: TorchOnCpu, time: Time) -> Iterator[CudaBackend]:
    """Return a backend that found the device; nothing stays locked when it is closed."""
    made = backend_on_cpu(device, time.now_ns)
    made.probe()
    yield made
    made.close()
    assert made.live() == frozenset()
    assert device.locked == {}


def ask(size: int, memory_type: MemoryType = MemoryType.DEVICE, **more: object) -> AllocationRequest:
    return AllocationRequest("cuda:0", size, memory_type, **more)


def contents(backend: CudaBackend, name: str, offset: int, length: int) -> bytes:
    into = bytearray(length)
    backend.read(name, offset, memoryview(into), TOKEN)
    return bytes(into)


# ---- copies ----


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


# ---- pinned ----


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


# ---- allocating, freeing, and what stays ----


def test_out_of_memory_is_tried_again_without_the_cache(backend: CudaBackend, device: TorchOnCpu) -> None:
    """What the allocator holds for reuse is given up before a request is refused."""
    for _ in range(3):
        backend.allocate("a", ask(40 * MIB, initialize=Initialize.NONE), TOKEN)
        backend.free("a")
    assert backend.readings("cuda:0").cached_bytes == 40 * MIB
    backend.allocate("b", ask(50 * MIB, initialize=Initialize.NONE), TOKEN)
    assert backend.readings("cuda:0").cached_bytes == 0


def test_out_of_memory(backend: CudaBackend, device: TorchOnCpu) -> None:
    """What really does not fit is refused with the figures, and everything is as it was."""
    backend.allocate("a", ask(40 * MIB, initialize=Initialize.NONE), TOKEN)
    before = backend.readings("cuda:0")
    with pytest.raises(OutOfMemoryError) as refused:
        backend.allocate("b", ask(30 * MIB), TOKEN)
    assert refused.value.details == {
        "device_id": "cuda:0",
        "requested_bytes": 30 * MIB,
        "free_bytes": 24 * MIB - CONTEXT_BYTES,
        "reserved_bytes": 40 * MIB,
        "stuck_bytes": 0,
    }
    assert "CUDA out of memory" in refused.value.message
    assert backend.readings("cuda:0") == before
    assert backend.live() == {"a"}


def test_more_than_the_device_has_costs_nobody_a_cache(backend: CudaBackend, device: TorchOnCpu) -> None:
    """A request that can never fit is refused without asking, so what is cached stays."""
    emptied = device.emptied
    with pytest.raises(OutOfMemoryError):
        backend.allocate("a", ask(TOTAL_BYTES + 1), TOKEN)
    assert device.emptied == emptied


def test_a_size_that_comes_and_goes(backend: CudaBackend, device: TorchOnCpu, time: Time) -> None:
    """It is kept from its second free on, told of as cached, and given up when it does not come again."""
    returned = []
    for _ in range(3):
        backend.allocate("a", ask(MIB), TOKEN)
        returned.append(backend.free("a"))
    assert returned == [MIB, 0, 0]
    assert backend.readings("cuda:0").cached_bytes == MIB
    time.ns += KEEP_NS
    backend.tick()
    assert backend.readings("cuda:0").cached_bytes == MIB
    time.ns += 1
    backend.tick()
    assert backend.readings("cuda:0").cached_bytes == 0
    assert device.allocator().reserved_bytes == 0


def test_a_model_is_never_kept(backend: CudaBackend) -> None:
    """Unloading gives everything back, also where the size churns."""

    def fill(_view: memoryview | None, write: Write) -> None:
        write(0, memoryview(b"weights"))

    for _ in range(3):
        backend.load("m", ask(MIB), fill, TOKEN)
        assert bytes(backend.tensor("m")[:7].numpy()) == b"weights"
        assert backend.unload("m") == MIB


def test_a_load_that_fails_in_a_copy(backend: CudaBackend, device: TorchOnCpu) -> None:
    """The memory is back although the error, and with it every frame that had a hand on it, is still there."""

    def fill(_view: memoryview | None, write: Write) -> None:
        write(0, memoryview(bytes(8 * MIB)))

    with pytest.raises(CancelledError) as kept:
        backend.load("m", ask(8 * MIB), fill, CancelledAt(7))
    assert device.allocator().reserved_bytes == 0
    assert backend.live() == frozenset()
    assert kept.value.__traceback__ is not None


def test_readings(backend: CudaBackend, device: TorchOnCpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are resident, operators' own tensors and the context are neither that nor cached."""
    backend.allocate("a", ask(1000), TOKEN)
    theirs = device.empty(MIB)
    found = backend.readings("cuda:0")
    assert (found.resident_bytes, found.cached_bytes) == (1024, 0)
    assert found.process_used_bytes == 1024 + MIB + CONTEXT_BYTES
    assert found.total_bytes == found.budget_bytes == TOTAL_BYTES
    assert found.free_bytes == TOTAL_BYTES - 1024 - MIB - CONTEXT_BYTES
    del theirs
    found = backend.readings("cuda:0")
    assert (found.resident_bytes, found.cached_bytes) == (1024, MIB)
    assert found.free_bytes == TOTAL_BYTES - 1024 - CONTEXT_BYTES
    # Less than torch holds here cannot be this process's figure.
    less = ProcessMemory(1024 + MIB - 1, Source.NVML)
    monkeypatch.setattr(device, "process_memory", lambda _pinned: less)
    assert backend.readings("cuda:0").process_used_bytes is None


def test_what_the_system_moved_away(backend: CudaBackend, device: TorchOnCpu) -> None:
    """It is no headroom, though the device calls its place free; and it makes a level."""
    backend.allocate("a", ask(8 * MIB), TOKEN)
    device.demoted_bytes = 4 * MIB
    found = backend.readings("cuda:0")
    assert found.process_demoted_bytes == 4 * MIB
    assert found.process_used_bytes == 4 * MIB + CONTEXT_BYTES
    assert found.free_bytes == TOTAL_BYTES - 8 * MIB - CONTEXT_BYTES - 4 * MIB
    assert [each.name for each in found.signals] == ["demoted_percentage"]


def test_a_share_of_the_device(backend: CudaBackend, device: TorchOnCpu) -> None:
    """Where torch is held to a fraction, the rest is no headroom."""
    device.fraction = 0.5
    backend.allocate("a", ask(8 * MIB), TOKEN)
    found = backend.readings("cuda:0")
    assert found.budget_bytes == TOTAL_BYTES // 2
    assert found.free_bytes == TOTAL_BYTES // 2 - 8 * MIB
    assert found.budget_source is Source.TORCH


def test_a_block_that_is_still_written(backend: CudaBackend, device: TorchOnCpu) -> None:
    """Freed, and kept for its size, it is handed out only once no stream writes it any more."""
    backend.allocate("a", ask(MIB), TOKEN)
    backend.free("a")
    for _ in range(2):
        backend.allocate("a", ask(MIB), TOKEN)
        theirs = device.new_stream()
        device.copy(backend.tensor("a"), torch.full((MIB,), 7, dtype=torch.uint8), theirs)
        backend.free("a")
    backend.allocate("b", ask(MIB), TOKEN)
    assert theirs.pending == []
    assert contents(backend, "b", 0, MIB) == bytes(MIB)


def test_nothing_to_give_back(backend: CudaBackend, device: TorchOnCpu) -> None:
    """Emptying the cache makes every device wait: it is not done where no segment is free."""
    backend.allocate("a", ask(MIB), TOKEN)
    backend.free("a")
    before = device.emptied
    assert backend.trim("cuda:0") == 0
    assert device.emptied == before


class Figures:
    """A torch module that answers what its allocator is told to have."""

    def __init__(self, **pools: int) -> None:
        self.figures = {
            name: {pool: {"current": pools[f"{name}_{pool}"]} for pool in ("all", "large_pool", "small_pool")}
            for name in ("allocated_bytes", "reserved_bytes", "active")
            if f"{name}_all" in pools
        }

    def memory_stats_as_nested_dict(self, _place: object) -> dict[str, dict[str, dict[str, int]]]:
        """Answer."""
        return self.figures

    def mem_get_info(self, _place: object) -> tuple[int, int]:
        """Call more free than there is, as drivers of shared memory may."""
        return 300, 200


def test_segments_that_expand(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is free in pages that hold something else is not called free: torch counts no pieces there."""
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    device = TorchDevice("cuda:0", "cpu", 0)
    figures = Figures(
        allocated_bytes_all=100 * MIB, reserved_bytes_all=300 * MIB, active_all=4,
        allocated_bytes_large_pool=99 * MIB, reserved_bytes_large_pool=298 * MIB, active_large_pool=2,
        allocated_bytes_small_pool=MIB, reserved_bytes_small_pool=2 * MIB, active_small_pool=2,
    )  # fmt: skip
    monkeypatch.setattr(device, "_module", figures)
    assert device.allocator().stuck_bytes == MIB + 2 * 2 * 20 * MIB


def test_more_free_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Used is nothing then, and never below it."""
    device = TorchDevice("cuda:0", "cpu", 0)
    monkeypatch.setattr(device, "_module", Figures())
    assert device.memory() == DeviceMemory(200, 0, 200, Source.TORCH)


# ---- a device that is gone ----


def test_a_lost_device(backend: CudaBackend, device: TorchOnCpu) -> None:
    """Every block is gone with it, every call says so, and what it locked of the host is unlocked."""
    backend.allocate("a", ask(MIB), TOKEN)
    backend.allocate("p", ask(MIB, MemoryType.PINNED), TOKEN)
    backend.write("a", 0, memoryview(b"x"), TOKEN)
    device.failure = RuntimeError(LOST)
    with pytest.raises(DeviceLostError) as lost:
        backend.write("a", 0, memoryview(b"x"), TOKEN)
    assert lost.value.details == {"device_id": "cuda:0"}
    assert "illegal memory access" in lost.value.message
    assert "\n" not in lost.value.message
    assert backend.live() == frozenset()
    for call in (
        lambda: backend.readings("cuda:0"),
        lambda: backend.trim("cuda:0"),
        lambda: backend.allocate("b", ask(1), TOKEN),
        lambda: backend.allocate("b", ask(1, MemoryType.PINNED), TOKEN),
        lambda: backend.read("a", 0, memoryview(bytearray(1)), TOKEN),
    ):
        with pytest.raises(DeviceLostError):
            call()
    assert backend.free("a") == 0
    assert backend.free("p") == 0
    backend.tick()


@pytest.mark.parametrize("step", ["memory", "empty", "settle"])
def test_a_device_that_is_lost_on_the_way(
    backend: CudaBackend, device: TorchOnCpu, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever step of an allocation it goes, that is what the caller hears."""

    def fail(*_: object) -> None:
        raise RuntimeError(LOST)

    monkeypatch.setattr(device, step, fail)
    with pytest.raises(DeviceLostError):
        backend.allocate("a", ask(MIB), TOKEN)
    assert backend.live() == frozenset()


def test_another_error_is_nobodys_loss(backend: CudaBackend, device: TorchOnCpu) -> None:
    """An error that says neither goes on as it is; blocks and device stay."""
    backend.allocate("a", ask(MIB), TOKEN)
    device.failure = RuntimeError("CUDA error: invalid argument")
    with pytest.raises(RuntimeError, match="invalid argument"):
        backend.allocate("b", ask(MIB), TOKEN)
    assert backend.live() == {"a"}
    assert backend.free("a") == MIB


def test_a_device_that_cannot_be_used() -> None:
    """What the probe found unusable is refused with the probe's reason."""
    kind = backend_on_cpu(TorchOnCpu(1), lambda: 0).probe()[0].kind
    info = DeviceInfo("cuda:0", kind, "n", DeviceState.UNAVAILABLE, "torch is not installed")
    backend = CudaBackend(lambda: 0, lambda: Found((info,), {}, (), lambda: None))
    assert backend.probe() == (info,)
    with pytest.raises(DeviceUnavailableError, match="torch is not installed"):
        backend.allocate("a", ask(1), TOKEN)
    backend.close()

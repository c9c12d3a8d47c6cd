"""CUDA's blocks over torch's CPU tensors: allocated, freed, and what stays with the allocator."""

import pytest
import torch

from protocol.vocabulary import Initialize, Source
from tests.conformance.support import CancelledAt
from tests.rigs.torch_on_cpu import CONTEXT_BYTES, TorchOnCpu
from tests.unit.backends.cuda_on_cpu import (
    MIB,
    TOKEN,
    TOTAL_BYTES,
    Time,
    ask,
    backend,
    contents,
    device,
    time,
)
from worker.backends.base import Write
from worker.backends.cuda import CudaBackend
from worker.backends.size_churn import KEEP_NS
from worker.backends.torch_device import DeviceMemory, ProcessMemory, TorchDevice
from worker.core.errors import CancelledError, OutOfMemoryError

__all__ = ["backend", "device", "time"]


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
        with device.using(theirs):
            device.copy(backend.tensor("a"), torch.full((MIB,), 7, dtype=torch.uint8))
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

"""ServiceMemory's ways of making headroom, and what it tells of memory, against the worker itself."""

from typing import Any

from tests.e2e.csharp.host import Make, Watched, make, real, wait
from tests.e2e.csharp.service import DEVICE, MIB, allocate, memory, service_memory

__all__ = ["memory", "real"]


def test_clear(memory: Any) -> None:
    """What is persistent stays, with the reason."""
    from MemoryWorker.Client import PostMemoryClearRequest
    from MemoryWorker.Client.Protocol import ClearType

    kept = allocate(memory, 10, Persistent=True).AllocationId
    allocate(memory, 20)
    done = wait(
        memory.PostMemoryClearAsync(
            make(PostMemoryClearRequest, DeviceId=DEVICE, ClearType=ClearType.Allocations)
        )
    )
    assert (done.Success, done.AllocationsFreed, done.ClearedBytes) == (True, 1, 20)
    assert [one.Id for one in done.Kept] == [kept]
    assert done.Kept[0].Reason


def test_what_a_clear_freed_is_not_lost_with_the_worker(real: Make) -> None:
    """The worker names what it freed: only what stayed is lost when it dies."""
    import psutil
    from MemoryWorker.Client import PostMemoryClearRequest
    from MemoryWorker.Client.Protocol import ClearType

    worker = real("--simulated-device", "64MiB", "--default-device", DEVICE)
    memory = service_memory(worker)
    exited = Watched(worker, "WorkerExited")
    kept = allocate(memory, 10, Persistent=True).AllocationId
    made = [allocate(memory, 10).AllocationId for _ in range(3)]
    done = wait(memory.PostMemoryClearAsync(make(PostMemoryClearRequest, ClearType=ClearType.Allocations)))
    assert list(done.AllocationIds) == made
    psutil.Process(worker.Snapshot.ProcessId).kill()
    assert [one.AllocationId for one in exited.next().LostAllocations] == [kept]


def test_optimize_and_defragment(memory: Any) -> None:
    """Each step says what came back."""
    from MemoryWorker.Client import PostMemoryDefragmentRequest, PostMemoryOptimizeRequest

    optimized = wait(memory.PostMemoryOptimizeAsync(make(PostMemoryOptimizeRequest, DryRun=True)))
    assert (optimized.Success, optimized.PressureBefore.ToString()) == (True, "Low")
    assert wait(memory.PostMemoryOptimizeAsync()).Success
    assert wait(memory.PostMemoryDefragmentAsync(make(PostMemoryDefragmentRequest, DeviceId="cpu"))).Success


def test_models(memory: Any) -> None:
    """With no model configured there is nothing to unload, and it says so."""
    from MemoryWorker.Client import PostTriggerModelMemoryOptimizationRequest
    from MemoryWorker.Client.Protocol import EvictionStrategy

    status = wait(memory.GetModelMemoryStatusAsync())
    assert (status.Models.Count, status.PressureCategory.ToString()) == (0, "Low")
    assert 0 <= status.PressureLevel <= 100
    assert status.LastSynchronized.Year >= 2024
    request = make(
        PostTriggerModelMemoryOptimizationRequest, Strategy=EvictionStrategy.Lru, MinMemoryToFree=MIB
    )
    done = wait(memory.TriggerModelMemoryOptimizationAsync(request))
    assert (done.MemoryFreed, done.ModelsUnloaded.Count, done.OptimizationStrategy.ToString()) == (
        0,
        0,
        "Lru",
    )
    assert done.Message
    assert done.PerformanceImpact.ModelsAffected == 0


def test_pressure(memory: Any) -> None:
    """The figures are those of the device that is worst off, or of the one asked for."""
    allocate(memory, 60 * MIB)
    pressure = wait(memory.GetMemoryPressureAsync())
    assert (pressure.DeviceId, pressure.PressureCategory.ToString()) == (DEVICE, "High")
    assert pressure.PressureLevel == 93.75
    assert (pressure.AvailableMemory, pressure.TotalMemory) == (4 * MIB, 64 * MIB)
    assert (pressure.Thresholds.Moderate, pressure.Thresholds.Critical) == (75, 95)
    assert [one.DeviceId for one in pressure.Devices] == ["cpu", DEVICE]
    assert wait(memory.GetMemoryPressureAsync("cpu")).DeviceId == "cpu"


def test_recommendations_can_be_carried_out(memory: Any) -> None:
    """Each recommendation can be sent as it stands."""
    allocate(memory, 61 * MIB)
    for one in wait(memory.GetMemoryOptimizationAsync()).Recommendations:
        wait(memory.ExecuteRecommendationAsync(one))


def test_analytics(memory: Any) -> None:
    """What was not asked for is null."""
    from MemoryWorker.Client.Protocol import AnalyticsSection
    from System import Array, TimeSpan

    wait(memory.PingAsync())
    report = wait(
        memory.GetMemoryAnalyticsAsync(
            None, TimeSpan.FromMinutes(5), Array[AnalyticsSection]([AnalyticsSection.Actions])
        )
    )
    assert report.TimeRange == TimeSpan.FromMinutes(5)
    assert "worker.hello" in [one.Action for one in report.Actions]
    assert report.Timeline is None
    full = wait(memory.GetMemoryAnalyticsAsync())
    assert (full.TimeRange, full.Timeline is None) == (TimeSpan.FromHours(1), False)


def test_metrics(memory: Any) -> None:
    """A text to be served as it stands."""
    metrics = wait(memory.GetMetricsAsync())
    assert metrics.ContentType.startswith("application/openmetrics-text")
    assert "memory_worker_device_allocated_bytes" in metrics.Text
    assert metrics.Text.endswith("# EOF\n")

"""Every method of ServiceMemory against the worker itself."""

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.csharp.host import (
    Make,
    Watched,
    call,
    gone,
    make,
    progress_into,
    real,
    until,
    wait,
    wait_started,
)
from tests.rigs.dotnet import runtime

__all__ = ["real"]

MIB = 2**20
DEVICE = "sim:0"


@pytest.fixture
def memory(real: Make) -> Any:
    """Return ServiceMemory on a worker with a simulated device of 64 MiB."""
    return service_memory(real("--simulated-device", "64MiB", "--default-device", DEVICE))


def service_memory(worker: Any) -> Any:
    from MemoryWorker.Client import ServiceMemory

    return ServiceMemory(worker)


def allocate(memory: Any, size: int, **fields: Any) -> Any:
    from MemoryWorker.Client import PostMemoryAllocateRequest

    return wait(memory.PostMemoryAllocateAsync(make(PostMemoryAllocateRequest, SizeBytes=size, **fields)))


def refused(code: str) -> Any:
    from MemoryWorker.Client import WorkerRequestException

    return pytest.raises(WorkerRequestException, match=code)


# ---- looking ------------------------------------------------------------------------------------


def test_status(memory: Any) -> None:
    """Status of all devices, or of one; what was not asked for is null."""
    from MemoryWorker.Client import MemoryStatusOptions

    allocate(memory, MIB, Owner="test")
    status = wait(memory.GetMemoryStatusAsync())
    assert [one.DeviceId for one in status.Devices] == ["cpu", DEVICE]
    assert status.Host.TotalBytes > 0
    assert status.Devices[1].Allocations is None
    one = wait(memory.GetMemoryStatusDeviceAsync(DEVICE)).Device
    assert (one.TotalBytes, one.AllocatedBytes, one.AvailableBytes, one.AllocationCount) == (
        64 * MIB,
        MIB,
        63 * MIB,
        1,
    )
    asked = make(
        MemoryStatusOptions,
        IncludeAllocations=True,
        IncludeUsageStats=True,
        IncludeFragmentation=True,
        Refresh=True,
    )
    full = wait(memory.GetMemoryStatusDeviceAsync(DEVICE, asked)).Device
    assert [row.Owner for row in full.Allocations] == ["test"]
    assert [group.Key for group in full.Usage] == ["test"]
    assert full.Fragmentation.FreeBytes == 63 * MIB


def test_a_device_that_is_not_there(memory: Any) -> None:
    """The error names the code, and nothing was executed."""
    with refused("device_not_found") as caught:
        wait(memory.GetMemoryStatusDeviceAsync("cuda:7"))
    assert (caught.value.Code, caught.value.Executed.ToString()) == ("device_not_found", "No")
    with refused("device_not_found"):
        wait(memory.GetMemoryStatusDeviceAsync("all"))


def test_usage(memory: Any) -> None:
    """Usage is added up by owner, purpose or memory type."""
    from MemoryWorker.Client.Protocol import GroupBy

    allocate(memory, 100, Owner="ann", Purpose="cache")
    allocate(memory, 200, Owner="bob", Purpose="cache")
    by_owner = wait(memory.GetMemoryUsageAsync(DEVICE)).Devices[0].Groups
    assert sorted((one.Key, one.AllocatedBytes) for one in by_owner) == [("ann", 100), ("bob", 200)]
    by_purpose = wait(memory.GetMemoryUsageAsync(DEVICE, GroupBy.Purpose)).Devices[0].Groups
    assert [(one.Key, one.AllocatedBytes, one.AllocationCount) for one in by_purpose] == [("cache", 300, 2)]


def test_allocations_page_by_page(memory: Any) -> None:
    """A page says where the next one begins; one allocation can be asked for by its id."""
    from MemoryWorker.Client import GetMemoryAllocationsRequest

    made = [allocate(memory, 10 + number).AllocationId for number in range(5)]
    first = wait(memory.GetMemoryAllocationsAsync(make(GetMemoryAllocationsRequest, Limit=3)))
    second = wait(
        memory.GetMemoryAllocationsAsync(make(GetMemoryAllocationsRequest, Limit=3, After=first.Next))
    )
    assert [one.AllocationId for page in (first, second) for one in page.Allocations] == made
    assert second.Next is None
    assert wait(memory.GetMemoryAllocationAsync(made[2])).Allocation.SizeBytes == 12
    with refused("allocation_not_found"):
        wait(memory.GetMemoryAllocationAsync("alloc-none"))


# ---- allocations --------------------------------------------------------------------------------


def test_allocate_and_deallocate(memory: Any) -> None:
    """An allocation is handed out with its figures and given back."""
    from MemoryWorker.Client import DeleteMemoryDeallocateRequest

    made = allocate(memory, MIB)
    assert (made.Success, made.DeviceId, made.SizeBytes, made.AvailableBytes) == (True, DEVICE, MIB, 63 * MIB)
    freed = wait(memory.DeleteMemoryAllocationAsync(made.AllocationId))
    assert (freed.Success, freed.FreedBytes, freed.AvailableBytes) == (True, MIB, 64 * MIB)
    with refused("allocation_not_found"):
        wait(memory.DeleteMemoryAllocationAsync(made.AllocationId))
    kept = allocate(memory, MIB, Persistent=True)
    wait(
        memory.DeleteMemoryDeallocateAsync(
            make(DeleteMemoryDeallocateRequest, AllocationId=kept.AllocationId, Force=True)
        )
    )


def test_out_of_memory_says_what_was_there(memory: Any) -> None:
    """The details carry the figures, and the figures are as before."""
    import json

    with refused("out_of_memory") as caught:
        allocate(memory, 65 * MIB)
    details = json.loads(caught.value.Details.GetRawText())
    assert (details["requested_bytes"], details["available_bytes"]) == (65 * MIB, 64 * MIB)
    assert (caught.value.Retryable, caught.value.Executed.ToString()) == (False, "No")
    assert wait(memory.GetMemoryStatusDeviceAsync(DEVICE)).Device.AllocatedBytes == 0


def test_unicode_owner(memory: Any) -> None:
    """Names go there and back as they are."""
    owner = 'Zoë 日本 \U0001f9e0 " \\'
    made = allocate(memory, 1, Owner=owner, Purpose="żółć")
    row = wait(memory.GetMemoryAllocationAsync(made.AllocationId)).Allocation
    assert (row.Owner, row.Purpose) == (owner, "żółć")


def test_shared_memory_is_one_memory(memory: Any) -> None:
    """What the host writes into a shared allocation is there for every process that maps it."""
    from MemoryWorker.Client import SharedAllocation
    from MemoryWorker.Client.Protocol import MemoryType

    made = allocate(memory, 10_000, DeviceId="cpu", MemoryType=MemoryType.Shared)
    mapped = SharedAllocation.Open(made)
    view = mapped.CreateViewAccessor(0, made.SizeBytes)
    for place, value in ((0, 1), (9_999, 255)):
        write_byte(view, place, value)
    view.Flush()
    held = Path(made.SharedMemory.Path).read_bytes()
    assert (held[0], held[5_000], held[9_999]) == (1, 0, 255)
    view.Dispose()
    mapped.Dispose()
    wait(memory.DeleteMemoryAllocationAsync(made.AllocationId))
    import System

    with pytest.raises(System.IO.FileNotFoundException):
        SharedAllocation.Open(made)


def write_byte(view: Any, place: int, value: int) -> None:
    from System import Byte, Int64

    view.Write(Int64(place), Byte(value))


def test_a_lease_is_renewed(memory: Any) -> None:
    """It ends that long from now; what has none gets one."""
    import json

    from System import TimeSpan

    made = allocate(memory, MIB, Lease=TimeSpan.FromMinutes(1))
    renewed = wait(memory.RenewLeaseAsync(made.AllocationId, TimeSpan.FromHours(1)))
    assert (renewed.AllocationId, 60_000 < renewed.LeaseExpiresInMs <= 3_600_000) == (made.AllocationId, True)
    with refused("allocation_not_found") as caught:
        wait(memory.RenewLeaseAsync("alloc-none", TimeSpan.FromHours(1)))
    assert json.loads(caught.value.Details.GetRawText())


def test_a_plan_is_carried_out(memory: Any) -> None:
    """Its id has the allocate do what was answered; for other bytes it is refused."""
    from MemoryWorker.Client.Protocol import PlanCandidate, PlanParams
    from System import Array

    candidate = make(PlanCandidate, Name="all", RequiredBytes=MIB, DeviceId=DEVICE)
    plan = wait(memory.PlanAsync(make(PlanParams, Candidates=Array[PlanCandidate]([candidate]))))
    assert allocate(memory, MIB, DeviceId=DEVICE, PlanId=plan.PlanId).SizeBytes == MIB
    with refused("plan_stale|invalid_request"):
        allocate(memory, MIB, DeviceId=DEVICE, PlanId="plan-none")


# ---- transfers ----------------------------------------------------------------------------------


def test_transfer_with_progress(real: Make) -> None:
    """Progress comes in order, up to the last byte, before the call ends; the copy is verified."""
    from MemoryWorker.Client import PostMemoryTransferRequest, TransferProgress

    memory = service_memory(real("--simulated-device", "64MiB,bandwidth_bytes_per_second=128MiB"))
    source = allocate(memory, 32 * MIB, DeviceId="cpu")
    seen: list[Any] = []
    request = make(
        PostMemoryTransferRequest,
        SourceAllocationId=source.AllocationId,
        DestinationDeviceId=DEVICE,
        Verify=True,
    )
    done = wait(memory.PostMemoryTransferAsync(request, progress_into(TransferProgress, seen)))
    assert (done.Success, done.State.ToString(), done.CompletedBytes) == (True, "Completed", 32 * MIB)
    assert done.Checksum.startswith("sha256:")
    figures = [one.CompletedBytes for one in seen]
    assert figures
    assert figures == sorted(figures)
    assert all(one.TotalBytes == 32 * MIB and 0 <= one.Fraction <= 1 for one in seen)
    again = wait(memory.GetMemoryTransferAsync(done.TransferId))
    assert (again.State.ToString(), again.DestinationAllocationId) == (
        "Completed",
        done.DestinationAllocationId,
    )


def test_copy_and_move(memory: Any) -> None:
    """A copy leaves its source; a move does not."""
    from MemoryWorker.Client import PostMemoryCopyRequest, PostMemoryTransferRequest
    from MemoryWorker.Client.Protocol import TransferType

    source = allocate(memory, MIB, DeviceId="cpu").AllocationId
    copied = wait(
        memory.PostMemoryCopyAsync(
            make(PostMemoryCopyRequest, SourceAllocationId=source, DestinationDeviceId=DEVICE)
        )
    )
    assert copied.Success
    assert wait(memory.GetMemoryAllocationAsync(source)).Allocation.DeviceId == "cpu"
    request = make(
        PostMemoryTransferRequest,
        SourceAllocationId=source,
        DestinationDeviceId=DEVICE,
        TransferType=TransferType.Move,
    )
    assert wait(memory.PostMemoryTransferAsync(request)).Success
    with refused("allocation_not_found"):
        wait(memory.GetMemoryAllocationAsync(source))


def test_cancelled_in_the_middle_of_a_transfer(real: Make) -> None:
    """The call ends with its token; both ledgers are as before, and the slot is free."""
    import System
    from MemoryWorker.Client import PostMemoryTransferRequest
    from System.Threading import CancellationTokenSource

    worker = real("--simulated-device", "64MiB,stall_copy=1")
    memory = service_memory(worker)
    source = allocate(memory, 32 * MIB, DeviceId="cpu")
    cancelling = CancellationTokenSource()
    request = make(
        PostMemoryTransferRequest, SourceAllocationId=source.AllocationId, DestinationDeviceId=DEVICE
    )
    task = memory.PostMemoryTransferAsync(request, None, cancelling.Token)
    wait(memory.PingAsync())
    assert not task.IsCompleted
    cancelling.Cancel()
    with pytest.raises(System.OperationCanceledException) as caught:
        wait(task)
    assert caught.value.CancellationToken.Equals(cancelling.Token)
    until(lambda: worker.Snapshot.InFlight == 0)
    assert wait(memory.GetMemoryStatusDeviceAsync(DEVICE)).Device.AllocatedBytes == 0
    assert wait(memory.GetMemoryAllocationAsync(source.AllocationId)).Allocation.SizeBytes == 32 * MIB


def test_a_transfer_that_takes_too_long(real: Make) -> None:
    """The time of the call runs out: typed, and nothing is left behind."""
    from MemoryWorker.Client import PostMemoryTransferRequest, WorkerTimeoutException

    from tests.e2e.csharp.host import milliseconds

    worker = real("--simulated-device", "64MiB,stall_copy=1", RequestTimeout=milliseconds(1500))
    wait_started(worker)  # which the time of a call includes
    memory = service_memory(worker)
    source = allocate(memory, 32 * MIB, DeviceId="cpu")
    request = make(
        PostMemoryTransferRequest, SourceAllocationId=source.AllocationId, DestinationDeviceId=DEVICE
    )
    with pytest.raises(WorkerTimeoutException) as caught:
        wait(memory.PostMemoryTransferAsync(request))
    assert caught.value.Code == "timeout"
    until(lambda: worker.Snapshot.InFlight == 0)
    assert wait(memory.GetMemoryStatusDeviceAsync(DEVICE)).Device.AllocatedBytes == 0


# ---- reclaiming ---------------------------------------------------------------------------------


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


# ---- the others ---------------------------------------------------------------------------------


def test_plan_batches(memory: Any) -> None:
    """The largest batch that fits."""
    from MemoryWorker.Client.Protocol import PlanBatchesParams

    plan = wait(
        memory.PlanBatchesAsync(make(PlanBatchesParams, ItemCount=100, BytesPerItem=MIB, DeviceId=DEVICE))
    )
    assert (plan.BatchSize, plan.BatchCount, plan.UnbatchedBytes) == (57, 2, 100 * MIB)
    rest = wait(memory.PlanBatchesAsync(make(PlanBatchesParams, PlanId=plan.PlanId, DoneItems=57)))
    assert (rest.PlanId, rest.RemainingItems, rest.BatchSize, rest.BatchCount) == (plan.PlanId, 43, 43, 1)


def test_health(memory: Any) -> None:
    """Each part says how it is."""
    health = wait(memory.GetWorkerHealthAsync())
    parts = {part.Name: str(part.State) for part in health.Parts}
    assert (str(health.State), parts[f"device:{DEVICE}"], parts["stores"]) == ("Ok", "Ok", "Off")


def test_devices_come_in_pages(memory: Any) -> None:
    """One after the other, each once; the last page has no next."""
    from MemoryWorker.Client import MemoryStatusOptions

    found: list[str] = []
    after = None
    while after is not None or not found:
        options = make(MemoryStatusOptions, Limit=1, After=after)
        page = wait(memory.GetMemoryStatusAsync(None, options))
        found += [device.DeviceId for device in page.Devices]
        after = page.Next
    assert sorted(found) == ["cpu", "sim:0"]


def test_a_worker_that_is_no_fleet_has_no_nodes(memory: Any) -> None:
    """It says what to ask instead."""
    with refused("unsupported") as problem:
        wait(memory.DrainNodeAsync("node-1"))
    assert "memory_worker fleet" in problem.value.Message


def test_operations(memory: Any) -> None:
    """What the host does is measured by its name, and ends once."""
    begun = wait(memory.BeginOperationAsync("nightly index"))
    ended = wait(memory.EndOperationAsync(begun.OperationId, True))
    assert (ended.Name, ended.DurationUs >= 0, ended.PeakBytes >= 0) == ("nightly index", True, True)
    rows = wait(memory.GetMemoryAnalyticsAsync()).Actions
    assert [(row.Count, row.Errors) for row in rows if row.Action == "operation:nightly index"] == [(1, 1)]
    with refused("operation_not_found"):
        wait(memory.EndOperationAsync(begun.OperationId))


def test_plan(memory: Any) -> None:
    """The first candidate that fits, and why not those before it."""
    from MemoryWorker.Client.Protocol import PlanCandidate, PlanParams
    from System import Array

    candidates = [
        make(PlanCandidate, Name=name, RequiredBytes=size, DeviceId=DEVICE)
        for name, size in (("full", 1024 * MIB), ("small", MIB))
    ]
    plan = wait(memory.PlanAsync(make(PlanParams, Candidates=Array[PlanCandidate](candidates))))
    assert plan.Selected == "small"
    assert [one.Fits for one in plan.Candidates] == [False, True]
    assert str(1024 * MIB) in plan.Reason


def test_models_that_are_not_configured(memory: Any) -> None:
    """Loading and unloading name the code of the worker's refusal."""
    from MemoryWorker.Client.Protocol import LoadModelParams, UnloadModelParams

    with refused("model_not_found"):
        wait(memory.LoadModelAsync(make(LoadModelParams, ModelId="nope")))
    with refused("model_not_found"):
        wait(memory.UnloadModelAsync(make(UnloadModelParams, ModelId="nope")))


def test_a_model_that_the_host_holds_is_asked_for(real: Make, tmp_path: Path) -> None:
    """The host says that it has it, is asked to unload it, keeps it once, and then frees it."""
    from MemoryWorker.Client import ModelUnloadedEvent, UnloadRequestedEvent
    from MemoryWorker.Client.Protocol import EventName, UnloadModelParams
    from System import Array

    models = tmp_path / "models.yaml"
    models.write_text("models: [{id: theirs, external: true, declared_bytes: 4096}]\n")
    memory = service_memory(real("--models", str(models), "--simulated-device", "64MiB"))
    names = Array[EventName]([EventName.MemoryUnloadRequested, EventName.MemoryModelUnloaded])
    stream = runtime.iterate(memory.GetMemoryEventsAsync(names))
    came: list[Any] = []

    def own() -> None:
        came.append(next(stream))
        wait(memory.ConfirmModelLoadedAsync("theirs", None))
        came.append(next(stream))
        wait(memory.ConfirmModelUnloadedAsync("theirs"))
        came.append(next(stream))

    loaded = wait(memory.ConfirmModelLoadedAsync("theirs", DEVICE))
    assert (loaded.DeviceId, loaded.DeclaredBytes) == (DEVICE, 4096)
    owner = threading.Thread(target=own)
    owner.start()
    until(lambda: "worker.subscribe" in actions(memory))
    with refused("model_busy"):
        wait(memory.UnloadModelAsync(make(UnloadModelParams, ModelId="theirs")))
    assert wait(memory.UnloadModelAsync(make(UnloadModelParams, ModelId="theirs"))).FreedBytes == 4096
    owner.join(30)
    stream.close()
    assert [type(one) for one in came] == [UnloadRequestedEvent, UnloadRequestedEvent, ModelUnloadedEvent]
    assert (came[0].Data.SizeBytes, came[0].Data.DeviceId) == (4096, DEVICE)


def test_set_limits(memory: Any) -> None:
    """What is not assigned stays."""
    from MemoryWorker.Client.Protocol import SetLimitsParams

    done = wait(memory.SetLimitsAsync(make(SetLimitsParams, DeviceId=DEVICE, LimitBytes=MIB)))
    assert (done.Previous.LimitBytes, done.Limits.LimitBytes) == (None, MIB)
    with refused("limit_exceeded"):
        allocate(memory, 2 * MIB)
    done = wait(memory.SetLimitsAsync(make(SetLimitsParams, DeviceId=DEVICE, ReserveBytes=1)))
    assert (done.Limits.LimitBytes, done.Limits.ReserveBytes) == (MIB, 1)


def test_the_worker_itself(memory: Any) -> None:
    """It says who it is, and that it answers."""
    hello = wait(memory.GetWorkerAsync())
    assert hello.Protocol == 1
    assert "memory.allocate" in list(hello.Actions)
    assert wait(memory.PingAsync()).UptimeMs >= 0


def test_events_come_as_they_happen(memory: Any) -> None:
    """A subscription brings pressure changes, and goes on with the worker's successor."""
    import System
    from MemoryWorker.Client import PressureChangedEvent
    from System.Threading import CancellationTokenSource

    stopping = CancellationTokenSource()
    stream = runtime.iterate(memory.GetMemoryEventsAsync(None, stopping.Token))
    came: list[Any] = []
    first = threading.Event()
    ended = threading.Event()

    def read() -> None:
        try:
            for one in stream:
                came.append(one)
                first.set()
        except System.OperationCanceledException:
            ended.set()

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: "worker.subscribe" in actions(memory))
    while not first.is_set():  # levels are looked at now and then, not at every change
        wait(memory.DeleteMemoryAllocationAsync(allocate(memory, 63 * MIB).AllocationId))
    stopping.Cancel()
    reader.join(30)
    assert ended.is_set()
    one = next(one for one in came if isinstance(one, PressureChangedEvent))
    assert (one.Sequence, one.Data.DeviceId) == (1, DEVICE)
    assert {one.Data.From.ToString(), one.Data.To.ToString()} == {"Low", "Critical"}


def test_figures_are_a_stream(memory: Any) -> None:
    """The first at once: what each device has, and what would help."""
    from System import TimeSpan

    allocate(memory, 62 * MIB)
    stream = runtime.iterate(memory.GetMemoryFiguresAsync(TimeSpan.FromSeconds(1)))
    first = next(stream)
    second = next(stream)
    stream.close()
    (device,) = [one for one in first.Devices if one.DeviceId == DEVICE]
    assert (device.AllocatedBytes, device.PressureCategory.ToString()) == (62 * MIB, "Critical")
    assert second.UptimeMs > first.UptimeMs
    assert second.Skipped == 0


def test_a_lost_device_is_an_event(real: Make) -> None:
    """What lay on it is named, and is not lost a second time with the worker."""
    import psutil
    from MemoryWorker.Client import DeviceLostEvent

    worker = real("--simulated-device", "64MiB,lose_at=2", "--default-device", DEVICE)
    memory = service_memory(worker)
    exited = Watched(worker, "WorkerExited")
    stream = runtime.iterate(memory.GetMemoryEventsAsync())
    came: list[Any] = []
    reader = threading.Thread(target=lambda: came.append(next(stream)))
    reader.start()
    until(lambda: "worker.subscribe" in actions(memory))
    kept = allocate(memory, 10, DeviceId="cpu").AllocationId
    lost = allocate(memory, 10).AllocationId
    with refused("device_unavailable"):
        allocate(memory, 10)
    reader.join(30)
    stream.close()
    assert isinstance(came[0], DeviceLostEvent)
    assert list(came[0].Data.AllocationIds) == [lost]
    psutil.Process(worker.Snapshot.ProcessId).kill()
    assert [one.AllocationId for one in exited.next().LostAllocations] == [kept]


def actions(memory: Any) -> list[str]:
    return [one.Action for one in wait(memory.GetMemoryAnalyticsAsync()).Actions]


def test_a_thousand_calls_at_once(memory: Any) -> None:
    """More than the worker admits; each gets its own answer."""
    from MemoryWorker.Client import PostMemoryAllocateRequest

    tasks = [
        memory.PostMemoryAllocateAsync(make(PostMemoryAllocateRequest, SizeBytes=1 + n)) for n in range(1000)
    ]
    made = [wait(task) for task in tasks]
    assert [one.SizeBytes for one in made] == list(range(1, 1001))
    assert len({one.AllocationId for one in made}) == 1000


def test_an_action_that_is_not_there(real: Make) -> None:
    """An unknown action is the worker's to refuse."""
    with refused("unknown_action"):
        wait(call(real(), "memory.alocate"))


def test_the_worker_ends_with_its_service(real: Make) -> None:
    """Disposal leaves no process and no shared file."""
    from MemoryWorker.Client.Protocol import MemoryType

    worker = real()
    memory = service_memory(worker)
    made = allocate(memory, 100, DeviceId="cpu", MemoryType=MemoryType.Shared)
    pid = worker.Snapshot.ProcessId
    wait(worker.DisposeAsync())
    assert gone(pid)
    assert not Path(made.SharedMemory.Path).exists()


def test_a_worker_that_is_told_to_end_by_somebody_else(real: Make) -> None:
    """While it drains it refuses, unexecuted: the host asks its successor. Nobody notices but by the process id."""
    import psutil

    worker = real()
    memory = service_memory(worker)
    wait(memory.PingAsync())
    pid = worker.Snapshot.ProcessId
    psutil.Process(pid).terminate()
    for _ in range(20):
        assert wait(memory.GetMemoryUsageAsync()).Devices.Count == 1
    until(lambda: worker.Snapshot.ProcessId not in (pid, None))
    assert gone(pid)


def test_shared_memory_of_a_killed_worker_is_cleared_away(real: Make, tmp_path: Path) -> None:
    """Its successor removes what it left."""
    import psutil
    from MemoryWorker.Client.Protocol import MemoryType

    worker = real("--shared-folder", str(tmp_path))
    memory = service_memory(worker)
    made = allocate(memory, 100, DeviceId="cpu", MemoryType=MemoryType.Shared)
    assert Path(made.SharedMemory.Path).parent == tmp_path
    psutil.Process(worker.Snapshot.ProcessId).kill()
    wait(memory.GetMemoryUsageAsync())
    assert worker.Snapshot.Exits == 1
    until(lambda: not Path(made.SharedMemory.Path).exists())

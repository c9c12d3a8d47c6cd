"""ServiceMemory against the worker itself: what is there, models, plans, and what is refused."""

import threading
from pathlib import Path
from typing import Any

from tests.e2e.csharp.host import Make, call, make, real, until, wait
from tests.e2e.csharp.service import DEVICE, MIB, actions, allocate, memory, refused, service_memory
from tests.rigs.dotnet import runtime

__all__ = ["memory", "real"]


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


def test_an_action_that_is_not_there(real: Make) -> None:
    """An unknown action is the worker's to refuse."""
    with refused("unknown_action"):
        wait(call(real(), "memory.alocate"))

"""What MemoryWorker.Testing gives: an in-memory worker that does as the worker itself does, and faults on demand."""

import threading
from typing import Any

import pytest

from tests.e2e.csharp.clock import standing
from tests.e2e.csharp.host import make, progress_into, real, wait
from tests.e2e.csharp.in_memory import DEVICE, MIB, TESTING, allocate, memory, refusal, worker
from tests.rigs.dotnet import runtime

__all__ = ["memory", "real", "worker"]


# ---- the same on both -----------------------------------------------------------------------------


def test_a_ledger_in_bytes(memory: Any) -> None:
    """What is allocated is missing from the headroom, and back once it is freed; ids are never used again."""
    first, second = allocate(memory, 16 * MIB, Owner="a"), allocate(memory, 8 * MIB, Owner="b")
    assert (first.DeviceId, first.AvailableBytes) == (DEVICE, 48 * MIB)
    assert first.AllocationId.startswith("alloc-1-")
    assert second.AvailableBytes == 40 * MIB
    (device,) = wait(memory.GetMemoryUsageAsync(DEVICE)).Devices
    assert (device.AllocatedBytes, device.PeakAllocatedBytes) == (24 * MIB, 24 * MIB)
    assert [(one.Key, one.AllocatedBytes) for one in device.Groups] == [("a", 16 * MIB), ("b", 8 * MIB)]
    freed = wait(memory.DeleteMemoryAllocationAsync(first.AllocationId))
    assert freed.FreedBytes == 16 * MIB
    assert refusal(memory.DeleteMemoryAllocationAsync(first.AllocationId)) == (
        "allocation_not_found",
        {"allocation_id": first.AllocationId, "reason": "already_freed"},
        False,
    )
    assert allocate(memory, 1).AllocationId.startswith("alloc-3-")


def test_too_much_is_refused_with_its_figures(memory: Any) -> None:
    """Out of memory says what was asked for and what was there; nothing has changed."""
    from MemoryWorker.Client import PostMemoryAllocateRequest

    allocate(memory, 40 * MIB)
    asked = make(PostMemoryAllocateRequest, SizeBytes=32 * MIB)
    figures = {"requested_bytes": 32 * MIB, "available_bytes": 24 * MIB, "evictable_bytes": 0}
    assert refusal(memory.PostMemoryAllocateAsync(asked)) == (
        "out_of_memory",
        {"device_id": DEVICE, **figures},
        True,
    )
    assert allocate(memory, 24 * MIB).AvailableBytes == 0


def test_a_limit_is_no_lack(memory: Any) -> None:
    """Over a configured limit it is the limit that is named; it can be taken away again."""
    from MemoryWorker.Client import PostMemoryAllocateRequest
    from MemoryWorker.Client.Protocol import SetLimitsParams

    wait(memory.SetLimitsAsync(make(SetLimitsParams, DeviceId=DEVICE, LimitBytes=MIB)))
    asked = make(PostMemoryAllocateRequest, SizeBytes=2 * MIB)
    code, details, retryable = refusal(memory.PostMemoryAllocateAsync(asked))
    assert (code, details["available_bytes"], retryable) == ("limit_exceeded", MIB, False)
    allocate(memory, MIB)
    wait(memory.SetLimitsAsync(make(SetLimitsParams, DeviceId=DEVICE, LimitBytes=None)))
    pressure = wait(memory.GetModelMemoryStatusAsync(None, DEVICE))
    assert (pressure.PressureCategory.ToString(), pressure.PressureLevel) == ("Low", 1.562)
    assert allocate(memory, 2 * MIB).AvailableBytes == 61 * MIB


def test_persistent_memory_stays(memory: Any) -> None:
    """It is neither freed nor cleared unless that is forced."""
    made = allocate(memory, MIB, Persistent=True)
    code, details, _ = refusal(memory.DeleteMemoryAllocationAsync(made.AllocationId))
    assert (code, details["errors"][0]["path"]) == ("invalid_request", "data.force")
    from MemoryWorker.Client import PostMemoryClearRequest
    from MemoryWorker.Client.Protocol import ClearType

    asked = make(PostMemoryClearRequest, ClearType=ClearType.Allocations)
    cleared = wait(memory.PostMemoryClearAsync(asked))
    assert (cleared.AllocationsFreed, [one.Id for one in cleared.Kept]) == (0, [made.AllocationId])
    assert wait(memory.DeleteMemoryAllocationAsync(made.AllocationId, True)).FreedBytes == MIB


def test_a_transfer_is_an_allocation_more(memory: Any) -> None:
    """A copy takes its bytes; its progress ends at all of them; moved, the source is gone."""
    from MemoryWorker.Client import PostMemoryTransferRequest, TransferProgress
    from MemoryWorker.Client.Protocol import TransferType

    source = allocate(memory, 4 * MIB)
    asked = make(
        PostMemoryTransferRequest,
        SourceAllocationId=source.AllocationId,
        DestinationDeviceId=DEVICE,
        Verify=True,
    )
    seen: list[Any] = []
    copied = wait(memory.PostMemoryTransferAsync(asked, progress_into(TransferProgress, seen)))
    assert copied.Success
    assert copied.DestinationAllocationId.startswith("alloc-2-")
    assert copied.TransferId.startswith("transfer-1-")
    assert seen[-1].CompletedBytes == 4 * MIB
    asked.TransferType = TransferType.Move
    moved = wait(memory.PostMemoryTransferAsync(asked))
    assert moved.Checksum == copied.Checksum
    assert moved.Checksum.startswith("sha256:")
    (device,) = wait(memory.GetMemoryUsageAsync(DEVICE)).Devices
    assert device.AllocatedBytes == 8 * MIB
    assert wait(memory.GetMemoryTransferAsync(moved.TransferId)).State.ToString() == "Completed"
    code, _, _ = refusal(memory.GetMemoryTransferAsync("transfer-9"))
    assert code == "invalid_request"


def test_what_cannot_be_meant_is_refused(memory: Any) -> None:
    """A device that is not there, and an alignment that is none."""
    from MemoryWorker.Client import PostMemoryAllocateRequest

    asked = make(PostMemoryAllocateRequest, SizeBytes=1, DeviceId="sim:9")
    code, details, _ = refusal(memory.PostMemoryAllocateAsync(asked))
    assert (code, details["device_id"], DEVICE in details["known_devices"]) == (
        "device_not_found",
        "sim:9",
        True,
    )
    asked = make(PostMemoryAllocateRequest, SizeBytes=1, Alignment=3)
    code, details, _ = refusal(memory.PostMemoryAllocateAsync(asked))
    assert (code, details["errors"][0]["path"]) == ("invalid_request", "data.alignment")


def test_pages(memory: Any) -> None:
    """Allocations come oldest first, as many as asked for, and the rest on the next page."""
    from MemoryWorker.Client import GetMemoryAllocationsRequest

    for size in (1, 2, 3):
        allocate(memory, size)
    page = wait(memory.GetMemoryAllocationsAsync(make(GetMemoryAllocationsRequest, Limit=2)))
    assert [one.SizeBytes for one in page.Allocations] == [1, 2]
    rest = wait(memory.GetMemoryAllocationsAsync(make(GetMemoryAllocationsRequest, Limit=2, After=page.Next)))
    assert ([one.SizeBytes for one in rest.Allocations], rest.Next) == ([3], None)


def test_pressure_rises_with_what_is_allocated(memory: Any) -> None:
    """Three quarters of the budget are moderate pressure, nine tenths high."""
    from MemoryWorker.Client.Protocol import PressureCategory

    seen = []
    for size in (32 * MIB, 16 * MIB, 10 * MIB):
        allocate(memory, size)
        seen.append(wait(memory.GetMemoryPressureAsync(DEVICE)).PressureCategory)
    assert seen == [PressureCategory.Low, PressureCategory.Moderate, PressureCategory.High]


def test_shared_memory_can_be_mapped(memory: Any) -> None:
    """Shared memory of the CPU is a map of the same bytes, and gone once it is freed; other devices have none."""
    from MemoryWorker.Client import PostMemoryAllocateRequest, SharedAllocation
    from MemoryWorker.Client.Protocol import MemoryType

    made = allocate(memory, 4096, DeviceId="cpu", MemoryType=MemoryType.Shared)
    asked = make(PostMemoryAllocateRequest, SizeBytes=4096, DeviceId=DEVICE, MemoryType=MemoryType.Shared)
    assert refusal(memory.PostMemoryAllocateAsync(asked))[0] == "unsupported"
    mapped = SharedAllocation.Open(made)
    mapped.Dispose()
    wait(memory.DeleteMemoryAllocationAsync(made.AllocationId))
    with pytest.raises(Exception, match=r"find|exist"):
        SharedAllocation.Open(made)


# ---- what only the one in memory does -----------------------------------------------------------------


def test_models_make_headroom(worker: Any) -> None:
    """A model that does not fit is refused, or the one that was used longest ago goes for it."""
    from MemoryWorker.Client.Protocol import LoadModelParams

    assert (
        wait(worker.Memory.LoadModelAsync(make(LoadModelParams, ModelId="small"))).State.ToString()
        == "Loaded"
    )
    allocate(worker.Memory, 16 * MIB)
    asked = make(LoadModelParams, ModelId="large", MakeRoom=False)
    assert refusal(worker.Memory.LoadModelAsync(asked))[0] == "out_of_memory"
    made = wait(worker.Memory.LoadModelAsync(make(LoadModelParams, ModelId="large", MakeRoom=True)))
    assert [one.ModelId for one in made.ModelsUnloaded] == ["small"]


def test_a_lease_runs_by_the_clock_that_is_given(load: Any) -> None:
    """No test waits for a lease: the clock is the test's own."""
    load(TESTING)
    import System
    from MemoryWorker.Testing import InMemoryWorker

    clock = standing()
    memory = InMemoryWorker(None, None, clock).Memory
    made = allocate(memory, 1, Lease=System.TimeSpan.FromMinutes(1))
    clock.move(System.TimeSpan.FromMinutes(1))
    code, details, _ = refusal(memory.GetMemoryAllocationAsync(made.AllocationId))
    assert (code, details["reason"]) == ("allocation_not_found", "lease_expired")


def test_events_are_raised(worker: Any) -> None:
    """A reader gets what it asked for, numbered for it."""
    from MemoryWorker.Client import PressureChangedEvent
    from MemoryWorker.Client.Protocol import EventName, PressureCategory, PressureChangedData
    from System import Array

    stream = worker.Memory.GetMemoryEventsAsync(Array[EventName]([EventName.MemoryPressureChanged]))
    reading = runtime.iterate(stream)
    data = make(PressureChangedData, DeviceId=DEVICE, From=PressureCategory.Low, To=PressureCategory.High)
    reader = _Ahead(reading)
    reader.until_reading(worker, PressureChangedEvent(0, 0, data))
    one = reader.first()
    assert (one.Sequence, one.Data.To, one.ProcessId) == (1, PressureCategory.High, worker.Snapshot.ProcessId)


class _Ahead:
    """Reads the first event on a thread of its own: a reader counts once it reads."""

    def __init__(self, reading: Any) -> None:
        self._found: list[Any] = []
        self._thread = threading.Thread(target=lambda: self._found.append(next(reading)))
        self._thread.start()

    def until_reading(self, worker: Any, event: Any) -> None:
        while not self._found and self._thread.is_alive():
            worker.Raise(event)
            self._thread.join(0.01)

    def first(self) -> Any:
        self._thread.join(30)
        return self._found[0]


def test_what_has_no_ledger_says_how_it_is_answered(worker: Any) -> None:
    """An action that it does not play is refused with the remedy; told what to answer, it answers."""
    from MemoryWorker.Client.Protocol import WireAction, WireActions
    from System import Func
    from System.Text.Json import JsonDocument, JsonElement

    from tests.e2e.csharp.host import ask

    with pytest.raises(Exception, match="say with Answer what it answers"):
        ask(worker, "store.open", store="s", kind="documents")
    told = JsonDocument.Parse('{"added": ["new"], "changed": [], "removed": [], "kept": [], "refused": []}')
    worker.Answer(WireActions.ReloadModels, Func[JsonElement, JsonElement](lambda _data: told.RootElement))
    assert list(wait(worker.Memory.ReloadModelsAsync()).Added) == ["new"]
    worker.Answer(WireAction.Plain("my.action"), Func[JsonElement, JsonElement](lambda data: data))
    assert ask(worker, "my.action", value=1) == {"value": 1}


def test_a_model_is_idle_past_its_keep_alive(load: Any) -> None:
    """By the clock that is given: ten minutes where nothing else is said, as at the worker."""
    load(TESTING)
    import System
    from MemoryWorker.Client.Protocol import LoadModelParams
    from MemoryWorker.Testing import FakeModel, InMemoryWorker
    from System import Array

    clock = standing()
    memory = InMemoryWorker(None, Array[FakeModel]([FakeModel("m", MIB, None)]), clock).Memory
    wait(memory.LoadModelAsync(make(LoadModelParams, ModelId="m")))
    for minutes, state in ((9, "Loaded"), (2, "Unloaded")):
        clock.move(System.TimeSpan.FromMinutes(minutes))
        (model,) = wait(memory.GetModelMemoryStatusAsync("m")).Models
        assert model.State.ToString() == state

"""ServiceMemory's allocations and transfers against the worker itself."""

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.csharp.host import Make, make, progress_into, real, until, wait, wait_started
from tests.e2e.csharp.service import DEVICE, MIB, allocate, memory, refused, service_memory

__all__ = ["memory", "real"]


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

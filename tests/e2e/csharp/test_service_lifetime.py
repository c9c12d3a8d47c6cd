"""ServiceMemory's events and streams, and what becomes of it with its worker."""

import threading
from pathlib import Path
from typing import Any

from tests.e2e.csharp.host import Make, Watched, gone, make, real, until, wait
from tests.e2e.csharp.service import DEVICE, MIB, actions, allocate, memory, refused, service_memory
from tests.rigs.dotnet import runtime

__all__ = ["memory", "real"]


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


def test_a_thousand_calls_at_once(memory: Any) -> None:
    """More than the worker admits; each gets its own answer."""
    from MemoryWorker.Client import PostMemoryAllocateRequest

    tasks = [
        memory.PostMemoryAllocateAsync(make(PostMemoryAllocateRequest, SizeBytes=1 + n)) for n in range(1000)
    ]
    made = [wait(task) for task in tasks]
    assert [one.SizeBytes for one in made] == list(range(1, 1001))
    assert len({one.AllocationId for one in made}) == 1000


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

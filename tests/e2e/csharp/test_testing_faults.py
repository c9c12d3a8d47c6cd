"""Faults on demand: what MemoryWorker.Testing lets fail has the worker's own details, and a kill takes all along."""

import json
from typing import Any

import psutil
import pytest

from protocol import vocabulary
from tests.contract.golden_files import FOLDER
from tests.e2e.csharp.host import Watched, call, gone, make, options, wait
from tests.e2e.csharp.in_memory import DEVICE, MIB, TESTING, allocate, memory, refusal, worker

__all__ = ["memory", "worker"]


def test_faults_on_demand(worker: Any) -> None:
    """The next call ends as it was told to, the one after it as ever, and the ledger has nothing of it."""
    from MemoryWorker.Client import PostMemoryAllocateRequest, WorkerTimeoutException
    from MemoryWorker.Client.Protocol import ErrorCode, WireActions
    from System import Exception as NetException
    from System import Func, TimeSpan

    worker.Fail(WireActions.Allocate, ErrorCode.OutOfMemory)
    timeout = Func[NetException](lambda: WorkerTimeoutException("told to", TimeSpan.FromSeconds(1)))
    worker.Fail(WireActions.Allocate, timeout)
    asked = make(PostMemoryAllocateRequest, SizeBytes=1)
    assert refusal(worker.Memory.PostMemoryAllocateAsync(asked))[0] == "out_of_memory"
    with pytest.raises(WorkerTimeoutException, match="told to"):
        wait(worker.Memory.PostMemoryAllocateAsync(asked))
    assert allocate(worker.Memory, 1).AllocationId.startswith("alloc-1-")
    assert [one.Action for one in worker.Requests] == ["memory.allocate"] * 3


def test_a_kill_takes_the_memory_along(worker: Any) -> None:
    """Calls under way end, what was lost is told, and an empty successor answers."""
    from MemoryWorker.Client import PostMemoryAllocateRequest, WorkerExitedException
    from MemoryWorker.Client.Protocol import WireActions

    exited = Watched(worker, "WorkerExited")
    made = allocate(worker.Memory, MIB, Owner="a")
    held = worker.Hold(WireActions.Allocate)
    task = worker.Memory.PostMemoryAllocateAsync(make(PostMemoryAllocateRequest, SizeBytes=1))
    assert not task.IsCompleted
    before = worker.Snapshot.ProcessId
    worker.Kill()
    with pytest.raises(WorkerExitedException, match="killed by a test"):
        wait(task)
    held.Dispose()
    assert [one.AllocationId for one in exited.next().LostAllocations] == [made.AllocationId]
    assert worker.Snapshot.ProcessId != before
    assert allocate(worker.Memory, 1).AllocationId.startswith("alloc-1-")


def test_a_fake_worker_process(load: Any) -> None:
    """The script that the assembly carries is a real process, which misbehaves as it is told to."""
    load(TESTING)
    import sys

    from MemoryWorker.Client import PythonWorkerService, WorkerExitedException
    from MemoryWorker.Testing import FakeWorkerProcess

    from tests.e2e.csharp.host import ask

    made = FakeWorkerProcess.Options(sys.executable)
    service = PythonWorkerService(options(list(made.Arguments)))
    assert ask(service, "fake.echo", value=1)["value"] == 1
    pid = service.Snapshot.ProcessId
    assert psutil.pid_exists(pid)
    with pytest.raises(WorkerExitedException, match="exit code 3"):
        ask(service, "fake.exit", code=3)
    wait(service.DisposeAsync())
    assert gone(pid)


@pytest.mark.parametrize(
    ("code", "details", "executed", "retryable"),
    [
        (
            "OutOfMemory",
            {"device_id": DEVICE, "requested_bytes": MIB, "available_bytes": 64 * MIB, "evictable_bytes": 0},
            "No",
            True,
        ),
        ("DeviceUnavailable", {"device_id": DEVICE, "state": "lost"}, "Unknown", True),
        ("PlanStale", {"plan_id": "plan-7"}, "No", True),
        ("InvalidRequest", {"errors": [{"path": "data", "message": "told to by a test"}]}, "No", False),
    ],
)
def test_a_fault_has_the_workers_details(
    worker: Any, code: str, details: dict[str, Any], executed: str, *, retryable: bool
) -> None:
    """What a host reads of an error it reads of a fault, too: figures of the request and the ledger."""
    from MemoryWorker.Client import PostMemoryAllocateRequest, WorkerRequestException
    from MemoryWorker.Client.Protocol import ErrorCode, WireActions

    worker.Fail(WireActions.Allocate, getattr(ErrorCode, code))
    with pytest.raises(WorkerRequestException) as caught:
        wait(
            worker.Memory.PostMemoryAllocateAsync(
                make(PostMemoryAllocateRequest, SizeBytes=MIB, PlanId="plan-7")
            )
        )
    error = caught.value
    assert json.loads(error.Details.GetRawText()) == details
    assert (error.Executed.ToString(), error.Retryable) == (executed, retryable)


def test_every_fault_has_what_the_worker_tells(worker: Any) -> None:
    """Of each code: details that the worker gave with it in a golden conversation, by their names, and the same flags."""
    from MemoryWorker.Client import WorkerRequestException
    from MemoryWorker.Client.Protocol import ErrorCode, WireActions

    told = dict(golden_errors())
    # Of a store's entry, which conformance_stores.py holds to the worker.
    told["limit_exceeded"] |= {(("entry_bytes", "limit_bytes"), "no", False)}
    told["internal_error"] = {
        (("error_id",), "unknown", False)
    }  # of a bug, and of a fleet: no conversation has them
    told["node_not_found"] = {(("known_nodes", "node"), "no", False)}
    assert told.keys() == {code.value for code in vocabulary.ErrorCode}
    for code, golden in told.items():
        name = code.title().replace("_", "")
        for action, data in ASKED:
            row = WireActions.Find(action)
            worker.Fail(row, getattr(ErrorCode, name))
            with pytest.raises(WorkerRequestException) as caught:
                wait(call(worker, action, **data))
            error = caught.value
            details = json.loads(error.Details.GetRawText())
            found = (tuple(sorted(details)), error.Executed.ToString().lower(), error.Retryable)
            assert found in golden, (code, action, golden)


ASKED: list[tuple[str, dict[str, Any]]] = [
    ("memory.allocate", {"size_bytes": 1}),
    ("memory.transfer", {"source_allocation_id": "alloc-1", "destination_device_id": "cpu"}),
    ("store.put", {"store": "s", "key": "k", "value": 1}),
]
"""Requests of each kind of which details are told."""


def golden_errors() -> dict[str, set[tuple[tuple[str, ...], str, bool]]]:
    """Return the names of the details that the worker gave with each code, whether it was done, and whether to repeat it."""
    found: dict[str, set[tuple[tuple[str, ...], str, bool]]] = {}
    for file in FOLDER.glob("*.out.jsonl"):
        for line in file.read_bytes().splitlines():
            error = json.loads(line.decode(errors="replace")).get("error")
            if error is not None:
                told = (tuple(sorted(error["details"])), error["executed"], error["retryable"])
                found.setdefault(error["code"], set()).add(told)
    return found


def test_an_id_from_before_a_kill_is_another_workers(worker: Any) -> None:
    """It frees nothing that the successor made, and the error says why."""
    old = allocate(worker.Memory, 1).AllocationId
    worker.Kill()
    mine = allocate(worker.Memory, 1, Owner="another")
    assert mine.AllocationId != old
    code, details, _ = refusal(worker.Memory.DeleteMemoryAllocationAsync(old, True))
    assert (code, details["reason"]) == ("allocation_not_found", "another_worker_made_it")
    (device,) = wait(worker.Memory.GetMemoryUsageAsync(DEVICE)).Devices
    assert device.AllocatedBytes == 1

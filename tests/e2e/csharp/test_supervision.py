"""What the host does when its worker dies or hangs, and how it ends it."""

from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.csharp.host import (
    Make,
    Watched,
    answer,
    ask,
    call,
    execute,
    fake,
    gone,
    make,
    milliseconds,
    real,
    sent,
    wait,
    wait_started,
)

__all__ = ["fake", "real"]


def usage(service: Any) -> Any:
    """Start a read."""
    return call(service, "memory.get_usage")


def test_death_ends_every_pending_call_at_once(fake: Make) -> None:
    """Each pending change ends with the exit code and its own id; the next call works."""
    from MemoryWorker.Client import WorkerExitedException

    service = fake()
    ask(service, "fake.complain", lines=["the last words"])
    tasks = [call(service, "fake.hang") for _ in range(20)]
    ask(service, "fake.echo")
    pid = service.Snapshot.ProcessId
    psutil.Process(pid).kill()
    ids = set()
    for task in tasks:
        with pytest.raises(
            WorkerExitedException, match=r"exit code 137 \(ended by signal 9, SIGKILL: .*memory runs out"
        ) as caught:
            wait(task)
        error = caught.value
        ids.add(error.RequestId)
        assert (error.Executed.ToString(), error.Retryable, error.ExitCode, error.ProcessId) == (
            "Unknown",
            True,
            137,
            pid,
        )
        assert list(error.StderrTail) == ["the last words"]
    assert len(ids) == 20
    assert ask(service, "fake.echo", value=1)["value"] == 1
    assert service.Snapshot.ProcessId != pid


def test_death_in_the_middle_of_a_frame(fake: Make) -> None:
    """Half an answer is no answer."""
    from MemoryWorker.Client import WorkerExitedException

    service = fake()
    with pytest.raises(WorkerExitedException, match="137"):
        ask(service, "fake.die_mid_frame")
    assert service.Snapshot.JunkLines == 1
    assert ask(service, "fake.echo", value=1)["value"] == 1


def test_a_read_is_sent_again_once(fake: Make, tmp_path: Path) -> None:
    """A read in flight when its worker dies is answered by the next one."""
    journal = tmp_path / "journal"
    service = fake("--journal", str(journal), "--die-on", "memory.get_usage", "--deaths", "1")
    assert answer(usage(service)) == {"devices": []}
    assert sent(journal, "memory.get_usage") == 2


def test_a_read_at_two_deaths_is_not_sent_a_third_time(fake: Make, tmp_path: Path) -> None:
    """What may have killed two workers is not shown to a third."""
    from MemoryWorker.Client import WorkerExitedException

    journal = tmp_path / "journal"
    service = fake("--journal", str(journal), "--die-on", "memory.get_usage", "--deaths", "2")
    with pytest.raises(WorkerExitedException) as caught:
        wait(usage(service))
    assert caught.value.Executed.ToString() == "No"
    assert ask(service, "fake.echo", value=1)["value"] == 1
    assert sent(journal, "memory.get_usage") == 2


def test_a_change_is_not_sent_again(fake: Make, tmp_path: Path) -> None:
    """A change that may have reached the worker ends with its death."""
    from MemoryWorker.Client import WorkerExitedException

    journal = tmp_path / "journal"
    service = fake("--journal", str(journal), "--die-on", "memory.allocate")
    with pytest.raises(WorkerExitedException) as caught:
        ask(service, "memory.allocate", size_bytes=1)
    assert caught.value.Executed.ToString() == "Unknown"
    ask(service, "fake.echo")
    assert sent(journal, "memory.allocate") == 1


def test_a_change_that_was_never_written_is_sent_to_the_next_worker(fake: Make, tmp_path: Path) -> None:
    """256 calls hold every slot; the one that waits behind them was not written, and survives the death."""
    from MemoryWorker.Client import WorkerExitedException

    service = fake()
    tasks = [call(service, "fake.hang") for _ in range(256)]
    waiting = call(service, "fake.echo", value=1)
    ask(service, "worker.ping")
    assert not waiting.IsCompleted
    psutil.Process(service.Snapshot.ProcessId).kill()
    assert answer(waiting)["value"] == 1
    for task in tasks:
        with pytest.raises(WorkerExitedException):
            wait(task)


def test_the_event_lists_what_was_lost(fake: Make) -> None:
    """An allocation counts until its end was seen; a death names those that are left."""
    from MemoryWorker.Client.Protocol import AllocateParams, DeallocateParams, WireActions

    service = fake()
    exited = Watched(service, "WorkerExited")
    made = [
        wait(execute(service, WireActions.Allocate, make(AllocateParams, SizeBytes=100, Owner=owner)))
        for owner in ("a", "b", "c")
    ]
    wait(execute(service, WireActions.Deallocate, make(DeallocateParams, AllocationId=made[1].AllocationId)))
    pid = service.Snapshot.ProcessId
    psutil.Process(pid).kill()
    event = exited.next()
    assert (event.ProcessId, event.ExitCode) == (pid, 137)
    assert event.RestartIn is not None
    assert [(one.AllocationId, one.Owner, one.SizeBytes) for one in event.LostAllocations] == [
        (made[0].AllocationId, "a", 100),
        (made[2].AllocationId, "c", 100),
    ]


def test_what_was_asked_for_as_plain_json_counts_too(real: Make) -> None:
    """By an action's name, as hosts over HTTP do: made, moved, freed and lost as by its types."""
    service = real("--simulated-device", "1MiB")
    exited = Watched(service, "WorkerExited")
    one, two, three, four = (
        answer(call(service, "memory.allocate", size_bytes=100, owner=owner))["allocation_id"]
        for owner in "abcd"
    )
    answer(call(service, "memory.deallocate", allocation_id=two))
    moved = answer(
        call(
            service, "memory.transfer",
            source_allocation_id=three, destination_device_id="cpu", transfer_type="move", wait=True,
        )
    )  # fmt: skip
    answer(call(service, "memory.renew_lease", allocation_id=four, lease_ms=60_000))
    answer(call(service, "memory.clear", owner="a", clear_type="all", force=True))
    assert one not in [
        each["allocation_id"] for each in answer(call(service, "memory.get_allocations"))["allocations"]
    ]
    psutil.Process(service.Snapshot.ProcessId).kill()
    lost = [(one.AllocationId, one.Owner) for one in exited.next().LostAllocations]
    assert sorted(lost) == sorted([(moved["destination_allocation_id"], "c"), (four, "d")])


def test_a_hung_worker_is_replaced(fake: Make) -> None:
    """A worker that does not even answer a ping after a timeout is killed, and its calls end."""
    from MemoryWorker.Client import WorkerExitedException, WorkerTimeoutException

    service = fake(PingTimeout=milliseconds(200))
    exited = Watched(service, "WorkerExited")
    pid = wait_started(service)
    other = call(service, "fake.freeze")
    with pytest.raises(WorkerTimeoutException):
        wait(call(service, "fake.echo", timeout_ms=100))
    with pytest.raises(WorkerExitedException, match="did not answer a ping"):
        wait(other)
    assert "did not answer a ping within 0.2 s" in exited.next().Reason
    assert gone(pid)
    assert ask(service, "fake.echo", value=1)["value"] == 1


def test_a_worker_that_does_not_read(fake: Make) -> None:
    """A full pipe blocks no caller: calls end by their timeouts, and disposal by its own."""
    from MemoryWorker.Client import WorkerTimeoutException

    service = fake(PingTimeout=milliseconds(60_000), ShutdownTimeout=milliseconds(200))
    pid = wait_started(service)
    call(service, "fake.freeze")
    tasks = [call(service, "fake.echo", text="x" * 100_000, timeout_ms=300) for _ in range(10)]
    for task in tasks:
        with pytest.raises(WorkerTimeoutException):
            wait(task)
    wait(service.DisposeAsync())
    assert gone(pid)


def test_a_worker_that_will_not_end_is_killed(fake: Make) -> None:
    """Disposal asks, closes the input, waits, kills: bounded at every step."""
    service = fake("--stay", ShutdownTimeout=milliseconds(200))
    pid = wait_started(service)
    wait(service.DisposeAsync())
    assert gone(pid)


def test_whoever_disposes_waits_for_the_end(fake: Make) -> None:
    """A second disposal, while the first is under way, is over when the process is."""
    service = fake("--stay", ShutdownTimeout=milliseconds(300))
    pid = wait_started(service)
    first, second = service.DisposeAsync().AsTask(), service.DisposeAsync().AsTask()
    wait(second)
    assert not psutil.pid_exists(pid)
    assert first.IsCompleted
    wait(service.DisposeAsync())


def test_disposal_ends_pending_calls(fake: Make) -> None:
    """Calls in flight at disposal end with what the worker answers, or with its exit."""
    from MemoryWorker.Client import WorkerRequestException

    service = fake()
    task = call(service, "fake.hang")
    ask(service, "worker.ping")
    wait(service.DisposeAsync())
    with pytest.raises(WorkerRequestException) as caught:
        wait(task)
    assert caught.value.Code == "shutting_down"


@pytest.mark.parametrize(
    ("code", "windows", "said"),
    [
        (0, False, "exit code 0"),
        (1, False, "exit code 1"),
        (137, False, "exit code 137 (ended by signal 9, SIGKILL: the system does so when memory runs out, "),
        (139, False, "exit code 139 (ended by signal 11, SIGSEGV: a crash in native code)"),
        (128 + 60, False, "exit code 188 (ended by signal 60)"),
        (255, False, "exit code 255"),
        (None, False, "exit code unknown"),
        (1, True, "exit code 1"),
        (137, True, "exit code 137"),
        (0xC0000005 - 2**32, True, "exit code 0xC0000005 (an access violation: a crash in native code)"),
        (0xC0000135 - 2**32, True, "exit code 0xC0000135 (a DLL was not found)"),
        (0xC0000017 - 2**32, True, "exit code 0xC0000017 (not enough memory)"),
        (0xC0FFEE00 - 2**32, True, "exit code 0xC0FFEE00 (an exception in native code)"),
    ],
)
def test_exit_codes_in_words(fake: Make, code: int | None, *, windows: bool, said: str) -> None:
    """What the system or a crash says by a number is said in words, on each system by its own."""
    from MemoryWorker.Client import PythonWorkerOptions
    from System import Array, Boolean, Int32, Nullable, Object, Type
    from System.Reflection import BindingFlags

    codes = Object.GetType(PythonWorkerOptions()).Assembly.GetType("MemoryWorker.Client.Processes.ExitCodes")
    describe = codes.GetMethod(
        "Describe",
        BindingFlags.NonPublic | BindingFlags.Static,
        Array[Type]([Nullable[Int32], Boolean]),
    )
    number = None if code is None else Int32(code)
    told = describe.Invoke(None, Array[Object]([number, Boolean(windows)]))
    assert str(told).startswith(said)

"""What the host does when its worker hangs, dies or never starts."""

import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.csharp.host import (
    FAKE,
    REPOSITORY,
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
    options,
    until,
    wait,
)

__all__ = ["fake"]

_numbers = itertools.count()
"""Each .NET type that Python derives needs a namespace of its own."""


def usage(service: Any) -> Any:
    """Start a read."""
    return call(service, "memory.get_usage")


def sent(journal: Path, action: str) -> int:
    """Count how often the workers received an action."""
    return sum(line.split()[0] == action for line in journal.read_text().splitlines())


# ---- starting -----------------------------------------------------------------------------------


def test_no_such_executable(load: Any, fake: Make) -> None:
    """A start that cannot work says so, with the system's reason."""
    from MemoryWorker.Client import PythonWorkerService, WorkerStartException

    service = PythonWorkerService(options([], FileName="/no/such/python", max_restarts=0))
    with pytest.raises(WorkerStartException, match="/no/such/python"):
        wait(service.StartAsync())
    wait(service.DisposeAsync())


def test_no_such_folder(fake: Make, tmp_path: Path) -> None:
    """A working directory that is not there is named; the interpreter is not blamed."""
    from MemoryWorker.Client import WorkerStartException

    missing = tmp_path / "nowhere"
    service = fake(WorkingDirectory=str(missing), max_restarts=0)
    with pytest.raises(WorkerStartException, match="WorkingDirectory") as caught:
        wait(service.StartAsync())
    assert f"WorkingDirectory '{missing}' is not there" in caught.value.Message
    assert "No such file" not in caught.value.Message


def test_a_python_that_is_too_old(load: Any, fake: Make, tmp_path: Path) -> None:
    """An interpreter without what 3.11 brought: the exception says what is needed, and which one was started."""
    from MemoryWorker.Client import PythonWorkerService, WorkerStartException

    old = tmp_path / "python3.9"
    program = "import enum, runpy; del enum.StrEnum; runpy.run_module('worker', run_name='__main__', alter_sys=True)"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{program}"\n')
    old.chmod(0o755)
    service = PythonWorkerService(options(["-m", "worker"], FileName=str(old), max_restarts=0))
    with pytest.raises(WorkerStartException, match=r"needs Python 3\.11 or newer") as caught:
        wait(service.StartAsync())
    wait(service.DisposeAsync())
    assert f"'{old}' is older" in caught.value.Message
    assert "cannot import name 'StrEnum'" in caught.value.Message


@pytest.mark.parametrize(
    ("file", "is_old"),
    [
        ("/usr/lib/python3.9/runpy.py", True),
        ("C:\\Python310\\lib\\runpy.py", True),
        ("/usr/lib/python3.12/runpy.py", False),
        ("<frozen runpy>", False),
    ],
)
def test_the_traceback_of_a_python_that_is_too_old(
    load: Any, fake: Make, tmp_path: Path, file: str, *, is_old: bool
) -> None:
    """It may not even get to what 3.11 brought: its version is in its traceback."""
    from MemoryWorker.Client import PythonWorkerService, WorkerStartException

    old = tmp_path / "python3"
    old.write_text(
        f"#!/bin/sh\ncat >&2 <<'END'\nTraceback (most recent call last):\n"
        f'  File "{file}", line 197, in _run_module_as_main\nSyntaxError: invalid syntax\nEND\nexit 1\n'
    )
    old.chmod(0o755)
    service = PythonWorkerService(options(["-m", "worker"], FileName=str(old), max_restarts=0))
    with pytest.raises(WorkerStartException) as caught:
        wait(service.StartAsync())
    wait(service.DisposeAsync())
    assert ("needs Python 3.11 or newer" in caught.value.Message) is is_old


def test_what_was_started_is_named(fake: Make) -> None:
    """A start that fails says with which command, and where."""
    from MemoryWorker.Client import WorkerStartException

    service = fake("--traceback", max_restarts=0)
    with pytest.raises(WorkerStartException) as caught:
        wait(service.StartAsync())
    assert f"started was '{sys.executable}' {FAKE} --traceback in '{REPOSITORY}'" in caught.value.Message


def test_a_traceback_at_the_start_reaches_the_caller(fake: Make) -> None:
    """A worker that ends before it answers: exit code and traceback are in the exception."""
    from MemoryWorker.Client import WorkerStartException

    service = fake("--traceback", max_restarts=0)
    with pytest.raises(WorkerStartException, match="exit code 1") as caught:
        ask(service, "fake.echo")
    error = caught.value
    assert "RuntimeError: the fake worker was told to fail" in list(error.StderrTail)[-1]
    assert "RuntimeError: the fake worker was told to fail" in error.Message
    assert (error.Code, error.ExitCode, error.Executed.ToString(), error.Retryable) == (
        "worker_start_failed",
        1,
        "No",
        True,
    )
    assert gone(error.ProcessId)


def test_a_worker_that_never_answers_is_killed(fake: Make) -> None:
    """The start has its time; then the process is gone."""
    from MemoryWorker.Client import WorkerStartException

    service = fake("--mute", StartTimeout=milliseconds(300), max_restarts=0)
    with pytest.raises(WorkerStartException, match="did not answer within 0.3 s") as caught:
        wait(service.StartAsync())
    assert gone(caught.value.ProcessId)


def test_a_slow_start_is_waited_for(fake: Make, tmp_path: Path) -> None:
    """Calls made while the worker starts are answered when it has."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    service = fake("--gate", str(gate))
    tasks = [call(service, "fake.echo", value=number) for number in range(10)]
    assert service.Snapshot.State.ToString() == "Starting"
    assert not any(task.IsCompleted for task in tasks)
    gate.open("w").close()
    assert [answer(task)["value"] for task in tasks] == list(range(10))


def test_disposal_while_the_worker_starts(fake: Make, tmp_path: Path) -> None:
    """Whoever waits for the worker learns that it will not come, and its process is gone."""
    import System

    gate = tmp_path / "gate"
    os.mkfifo(gate)
    service = fake("--gate", str(gate))
    task = call(service, "fake.echo")
    until(lambda: starting(gate))
    [process] = starting(gate)
    wait(service.DisposeAsync())
    with pytest.raises(System.ObjectDisposedException):
        wait(task)
    assert gone(process.pid)


def starting(gate: Path) -> list[psutil.Process]:
    """Return the workers that wait at a gate."""
    children = psutil.Process().children()
    return [one for one in children if one.status() != psutil.STATUS_ZOMBIE and str(gate) in one.cmdline()]


def test_the_breaker_opens_and_closes(fake: Make, tmp_path: Path) -> None:
    """Too many failures: calls fail at once; after the break the next call starts a worker."""
    from MemoryWorker.Client import WorkerStartException

    flag = tmp_path / "works"
    service = fake("--only-if", str(flag), max_restarts=2, break_ms=1500)
    failed = Watched(service, "WorkerStartFailed")
    with pytest.raises(WorkerStartException, match="exit code 7"):
        ask(service, "fake.echo")
    for _ in range(3):
        failed.next()
    with pytest.raises(WorkerStartException, match="failed too often") as caught:
        ask(service, "fake.echo")
    assert service.Snapshot.State.ToString() == "BreakerOpen"
    assert caught.value.RetryAt is not None
    flag.touch()
    assert ask_until(service, WorkerStartException)["value"] == 1
    assert service.Snapshot.State.ToString() == "Running"


def test_the_break_ends_though_the_date_is_set_back(fake: Make, tmp_path: Path) -> None:
    """The breaker measures time; what the system's date says meanwhile is nothing to it."""
    from MemoryWorker.Client import WorkerStartException

    flag, clock = tmp_path / "works", dated()
    service = fake("--only-if", str(flag), max_restarts=0, break_ms=300, TimeProvider=clock)
    with pytest.raises(WorkerStartException, match="exit code 7"):
        ask(service, "fake.echo")
    until(lambda: service.Snapshot.State.ToString() == "BreakerOpen")
    flag.touch()
    clock.hours = -2
    assert ask_until(service, WorkerStartException)["value"] == 1


def test_failures_count_though_the_date_jumps(fake: Make, tmp_path: Path) -> None:
    """Two failures in a row are two, also where the date leaps a day between them."""
    from MemoryWorker.Client import WorkerStartException

    clock = dated()
    never = str(tmp_path / "never")
    service = fake("--only-if", never, max_restarts=1, delay_ms=100, max_delay_ms=100, TimeProvider=clock)
    failed = Watched(service, "WorkerStartFailed")
    with pytest.raises(WorkerStartException):
        ask(service, "fake.echo")
    clock.hours = 24
    for _ in range(2):
        failed.next()
    assert service.Snapshot.State.ToString() == "BreakerOpen"


def test_a_lease_runs_though_the_date_jumps(fake: Make) -> None:
    """An allocation with an hour's lease is still held, and so lost with its worker, whatever the date says."""
    from MemoryWorker.Client.Protocol import AllocateParams, WireActions

    clock = dated()
    service = fake(TimeProvider=clock)
    exited = Watched(service, "WorkerExited")
    wait(execute(service, WireActions.Allocate, make(AllocateParams, SizeBytes=8, LeaseMs=3_600_000)))
    clock.hours = 2
    psutil.Process(service.Snapshot.ProcessId).kill()
    assert exited.next().LostAllocations.Count == 1


def test_a_deadline_is_the_time_that_is_left_though_the_date_jumps(fake: Make, tmp_path: Path) -> None:
    """The date leaps while a call waits for its worker: what is sent as its deadline is what it has."""
    gate, clock = tmp_path / "gate", dated()
    os.mkfifo(gate)
    service = fake("--gate", str(gate), TimeProvider=clock)
    task = call(service, "fake.echo", timeout_ms=60_000)
    clock.hours = 5
    gate.open("w").close()
    assert 20_000 < answer(task)["meta"]["deadline_ms"] <= 60_000


def dated() -> Any:
    """Return a clock that runs like any other but whose date is ``hours`` off."""
    import System

    class Dated(System.TimeProvider):  # type: ignore[misc]
        __namespace__ = f"Tests.Dated{next(_numbers)}"
        hours = 0

        def GetUtcNow(self) -> Any:
            return System.DateTimeOffset.UtcNow.AddHours(self.hours)

    return Dated()


def ask_until(service: Any, refused: Any) -> dict[str, Any]:
    """Ask again while the break lasts, at most 30 s."""
    until = time.monotonic() + 30
    while True:
        try:
            return ask(service, "fake.echo", value=1)
        except refused as problem:
            if problem.RetryAt is None or time.monotonic() > until:
                raise


# ---- dying --------------------------------------------------------------------------------------


def test_death_ends_every_pending_call_at_once(fake: Make) -> None:
    """Each pending change ends with the exit code and its own id; the next call works."""
    from MemoryWorker.Client import WorkerExitedException

    service = fake()
    ask(service, "fake.complain", lines=["the last words"])
    tasks = [call(service, "fake.hang") for _ in range(20)]
    ask(service, "fake.echo")
    pid = service.Snapshot.ProcessId
    start = time.monotonic()
    psutil.Process(pid).kill()
    ids = set()
    for task in tasks:
        with pytest.raises(WorkerExitedException, match="exit code 137") as caught:
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
    assert time.monotonic() - start < 2
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


# ---- time and cancellation ----------------------------------------------------------------------


def test_a_cancelled_call_ends_with_its_token(fake: Make) -> None:
    """The call ends at once; the slot is free when the worker has answered."""
    import System
    from System.Threading import CancellationTokenSource

    service = fake()
    source = CancellationTokenSource()
    task = call(service, "fake.hang", token=source.Token)
    ask(service, "worker.ping")
    assert service.Snapshot.InFlight == 1
    source.Cancel()
    with pytest.raises(System.OperationCanceledException) as caught:
        wait(task)
    assert caught.value.CancellationToken.Equals(source.Token)
    until(lambda: service.Snapshot.InFlight == 0)


def test_cancelled_before_it_began(fake: Make) -> None:
    """A token that is cancelled already keeps the call from being sent."""
    import System
    from System.Threading import CancellationToken

    with pytest.raises(System.OperationCanceledException):
        wait(call(fake(), "fake.echo", token=CancellationToken(True)))


def test_an_ignored_cancel_holds_its_slot(fake: Make, tmp_path: Path) -> None:
    """The worker's terminal reply frees a slot, not the caller's leaving."""
    import System
    from System.Threading import CancellationTokenSource

    journal = tmp_path / "journal"
    service = fake("--journal", str(journal))
    source = CancellationTokenSource()
    task = call(service, "fake.ignore_cancel", token=source.Token)
    ask(service, "worker.ping")
    source.Cancel()
    with pytest.raises(System.OperationCanceledException):
        wait(task)
    until(lambda: sent(journal, "worker.cancel") == 1)
    ask(service, "worker.ping")
    until(lambda: service.Snapshot.InFlight == 1)
    assert ask(service, "fake.echo", value=1)["value"] == 1


def test_cancelling_hundreds_gives_every_slot_back(fake: Make) -> None:
    """600 calls hang, 256 of them at the worker: no thread waits for them, and after the cancel all slots are free."""
    import System
    from System.Threading import CancellationTokenSource, ThreadPool

    service = fake()
    source = CancellationTokenSource()
    tasks = [call(service, "fake.hang", token=source.Token) for _ in range(600)]
    ask(service, "worker.ping")
    assert ThreadPool.ThreadCount < 32
    source.Cancel()
    for task in tasks:
        with pytest.raises(System.OperationCanceledException):
            wait(task)
    until(lambda: service.Snapshot.InFlight == 0)
    tasks = [call(service, "fake.reverse", count=256, value=number) for number in range(256)]
    assert [answer(task)["value"] for task in tasks] == list(range(256))


def test_what_a_cancelled_allocate_made_is_given_back(fake: Make, tmp_path: Path) -> None:
    """A cancel that comes too late leaves no allocation that no caller knows of."""
    import System
    from MemoryWorker.Client.Protocol import AllocateParams, WireActions
    from System.Threading import CancellationTokenSource

    journal = tmp_path / "journal"
    service = fake("--journal", str(journal), "--late-on", "memory.allocate")
    source = CancellationTokenSource()
    task = execute(service, WireActions.Allocate, make(AllocateParams, SizeBytes=64), token=source.Token)
    ask(service, "worker.ping")
    source.Cancel()
    with pytest.raises(System.OperationCanceledException):
        wait(task)
    until(lambda: sent(journal, "memory.deallocate") == 1)


def test_a_timeout_has_its_own_type(fake: Make) -> None:
    """A call that takes too long ends typed; a worker that still answers pings lives on."""
    from MemoryWorker.Client import WorkerTimeoutException

    service = fake()
    pid = wait_started(service)
    with pytest.raises(WorkerTimeoutException, match=r"fake.hang took longer than 0.1 s") as caught:
        wait(call(service, "fake.hang", timeout_ms=100))
    assert (caught.value.Code, caught.value.Executed.ToString(), caught.value.Retryable) == (
        "timeout",
        "Unknown",
        True,
    )
    until(lambda: service.Snapshot.InFlight == 0)
    assert service.Snapshot.ProcessId == pid


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
    start = time.monotonic()
    wait(service.DisposeAsync())
    assert time.monotonic() - start < 5
    assert gone(pid)


def test_a_worker_that_will_not_end_is_killed(fake: Make) -> None:
    """Disposal asks, closes the input, waits, kills: bounded at every step."""
    service = fake("--stay", ShutdownTimeout=milliseconds(200))
    pid = wait_started(service)
    start = time.monotonic()
    wait(service.DisposeAsync())
    assert time.monotonic() - start < 5
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


def wait_started(service: Any) -> int:
    """Start the worker and return its process id."""
    wait(service.StartAsync())
    pid: int = service.Snapshot.ProcessId
    return pid

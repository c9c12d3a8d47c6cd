"""Time is measured: what the system's date says meanwhile changes nothing."""

import os
import time
from pathlib import Path

import psutil
import pytest

from tests.e2e.csharp.clock import dated, standing
from tests.e2e.csharp.host import (
    Make,
    Watched,
    answer,
    ask,
    ask_until,
    call,
    execute,
    fake,
    make,
    until,
    wait,
)
from tests.rigs.dotnet.fixtures import Load

__all__ = ["fake"]


def test_a_timer_that_was_stopped_waits_no_more(load: Load) -> None:
    """The standing clock's timers are those that are still to come: not one that went off, was disposed of or put off."""
    load("csharp_host/src/MemoryWorker.Client/MemoryWorker.Client.csproj")
    import System

    clock, second = standing(), System.TimeSpan.FromSeconds(1)
    went_off, disposed_of, put_off = (
        System.Threading.CancellationTokenSource(second, clock) for _ in range(3)
    )
    disposed_of.Dispose()
    put_off.CancelAfter(2 * second)
    assert len(clock.waiting) == 2
    clock.move(second)
    assert (went_off.IsCancellationRequested, put_off.IsCancellationRequested) == (True, False)
    assert len(clock.waiting) == 1
    clock.move(second)
    assert put_off.IsCancellationRequested
    assert not clock.waiting


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


def test_a_renewed_lease_counts(fake: Make, tmp_path: Path) -> None:
    """An allocation whose lease was renewed before it ran out is still held, and so lost with its worker."""
    from MemoryWorker.Client.Protocol import AllocateParams, RenewLeaseParams, WireActions

    service = fake()
    exited = Watched(service, "WorkerExited")
    made = wait(
        execute(service, WireActions.Allocate, make(AllocateParams, SizeBytes=8, LeaseMs=200))
    ).AllocationId
    longer = make(RenewLeaseParams, AllocationId=made, LeaseMs=3_600_000)
    wait(execute(service, WireActions.RenewLease, longer))
    end = time.monotonic() + 0.2
    until(lambda: time.monotonic() > end)
    psutil.Process(service.Snapshot.ProcessId).kill()
    assert [one.AllocationId for one in exited.next().LostAllocations] == [made]


def test_a_deadline_is_the_time_that_is_left_though_the_date_jumps(fake: Make, tmp_path: Path) -> None:
    """The date leaps while a call waits for its worker: what is sent as its deadline is what it has."""
    gate, clock = tmp_path / "gate", dated()
    os.mkfifo(gate)
    service = fake("--gate", str(gate), TimeProvider=clock)
    task = call(service, "fake.echo", timeout_ms=60_000)
    clock.hours = 5
    gate.open("w").close()
    assert 20_000 < answer(task)["meta"]["deadline_ms"] <= 60_000

"""Calls that are given up: by their token, or when their time is over."""

from pathlib import Path

import pytest

from tests.e2e.csharp.host import (
    Make,
    answer,
    ask,
    call,
    execute,
    fake,
    make,
    sent,
    until,
    wait,
    wait_started,
)

__all__ = ["fake"]


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

"""Handlers of progress: told in order, and never able to hold their call."""

import threading
from typing import Any

import pytest

from tests.e2e.csharp.host import Make, Watched, answer, ask, call, fake, progress_into, until, wait

__all__ = ["fake"]


class Stuck:
    """A handler that waits for the thread that waits for the call, as one that asks a UI thread does."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.called = threading.Event()
        self.released = threading.Event()
        self.returned = threading.Event()

    def append(self, value: Any) -> None:
        self.seen.append(value)
        self.called.set()
        self.released.wait(60)
        self.returned.set()


def stuck_call(service: Any, action: str, stuck: Stuck, **data: Any) -> Any:
    from MemoryWorker.Client.Protocol import ProgressData

    return call(service, action, progress=progress_into(ProgressData, stuck), **data)


def test_a_handler_that_hangs_does_not_hold_the_answer(fake: Make) -> None:
    """The answer comes although the handler waits for whoever waits for the answer; nothing is reported after it."""
    stuck = Stuck()
    assert answer(stuck_call(fake(), "fake.progress", stuck, reports=5)) == {}
    assert stuck.called.is_set()
    stuck.released.set()
    assert stuck.returned.wait(30)
    assert len(stuck.seen) == 1


def test_a_call_with_a_handler_that_hangs_can_be_cancelled(fake: Make) -> None:
    """The token ends the call at once, whatever its handler does."""
    import System
    from MemoryWorker.Client.Protocol import ProgressData
    from System.Threading import CancellationTokenSource

    service, stuck, source = fake(), Stuck(), CancellationTokenSource()
    task = call(
        service,
        "fake.hang_reporting",
        progress=progress_into(ProgressData, stuck),
        token=source.Token,
        reports=2,
    )
    assert stuck.called.wait(30)
    source.Cancel()
    with pytest.raises(System.OperationCanceledException):
        wait(task)
    assert not stuck.released.is_set()
    stuck.released.set()
    until(lambda: service.Snapshot.InFlight == 0)


def test_a_cancel_after_the_answer_keeps_the_answer(fake: Make) -> None:
    """What the worker has done is told of, although the handler of its progress still hangs."""
    from MemoryWorker.Client.Protocol import ProgressData
    from System.Threading import CancellationTokenSource

    service, stuck, source = fake(), Stuck(), CancellationTokenSource()
    progress = progress_into(ProgressData, stuck)
    task = call(service, "fake.progress", progress=progress, token=source.Token, reports=1)
    assert stuck.called.wait(30)
    ask(service, "worker.ping")
    source.Cancel()
    assert answer(task) == {}
    stuck.released.set()


def test_a_handler_that_throws_loses_no_answer(fake: Make) -> None:
    """Its exception is told of, the reports that follow still reach it, and the call has its answer."""
    from MemoryWorker.Client.Protocol import ProgressData

    class Angry(list[Any]):
        def append(self, value: Any) -> None:
            super().append(value)
            message = f"no more {value.CompletedBytes}"
            raise ValueError(message)

    service, angry = fake(), Angry()
    failed = Watched(service, "HandlerFailed")
    assert (
        answer(call(service, "fake.progress", progress=progress_into(ProgressData, angry), reports=3)) == {}
    )
    assert len(angry) == 3
    one = failed.next()
    assert (one.Handler, "no more" in str(one.Exception)) == ("Progress", True)

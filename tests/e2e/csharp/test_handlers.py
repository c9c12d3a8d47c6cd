"""Event handlers of the host that throw: nothing else stops, and somebody is told."""

import threading
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from tests.e2e.csharp.host import Make, Watched, ask, fake, until, wait

__all__ = ["fake"]


def handle(service: Any, event: str, handler: Callable[[Any], None]) -> None:
    """Add a handler of an event."""
    import System

    kind = System.Object.GetType(service).GetEvent(event).EventHandlerType.GetGenericArguments()[0]
    getattr(service, f"add_{event}")(System.EventHandler[kind](lambda _sender, one: handler(one)))


def angry(service: Any, event: str) -> None:
    """Add a handler that throws."""

    def throw(_one: Any) -> None:
        message = "the handler is angry"
        raise ValueError(message)

    handle(service, event, throw)


@pytest.mark.parametrize("event", ["WorkerStarted", "WorkerExited", "LogReceived"])
def test_what_a_handler_throws_is_told(fake: Make, event: str) -> None:
    """The exception and the event it came from; the handlers after it are called all the same."""
    service = fake()
    failed = Watched(service, "HandlerFailed")
    angry(service, event)
    other = Watched(service, event)
    ask(service, "fake.complain", lines=["a line"])
    psutil.Process(service.Snapshot.ProcessId).kill()
    one = failed.next()
    assert (one.Handler, "the handler is angry" in str(one.Exception)) == (event, True)
    other.next()
    assert ask(service, "memory.get_usage") == {"devices": []}


def test_a_log_handler_that_hangs_holds_up_nothing(fake: Make) -> None:
    """It may wait for the thread that waits for the worker: calls go on, stderr is read, disposal ends."""
    called, released = threading.Event(), threading.Event()

    def hang(_one: Any) -> None:
        called.set()
        released.wait(60)

    service = fake("--stdout-junk", "Loading the model, please wait", "--stderr-bytes", str(2**20))
    handle(service, "LogReceived", hang)
    try:
        assert ask(service, "fake.echo", value=1)["value"] == 1
        assert called.wait(30)
        assert ask(service, "fake.echo", value=2)["value"] == 2
        wait(service.DisposeAsync())
    finally:
        released.set()


def test_log_lines_are_told_before_disposal_ends(fake: Make) -> None:
    """What the worker said until its end has been handled, in order."""
    service = fake()
    log = Watched(service, "LogReceived")
    lines = [f"line {number}" for number in range(1000)]
    ask(service, "fake.complain", lines=lines)
    wait(service.DisposeAsync())
    assert [one.Line for one in log.seen] == lines


def test_without_a_handler_it_is_traced(fake: Make) -> None:
    """An exception that no handler is told of goes where a host's diagnostics look."""
    from System.Diagnostics import TextWriterTraceListener, Trace
    from System.IO import StringWriter

    text = StringWriter()
    listener = TextWriterTraceListener(text)
    Trace.Listeners.Add(listener)
    try:
        service = fake()
        angry(service, "LogReceived")
        ask(service, "fake.complain", lines=["a line"])
        until(lambda: "a handler of LogReceived threw" in text.ToString())
        assert "the handler is angry" in text.ToString()
    finally:
        Trace.Listeners.Remove(listener)


def test_a_failure_handler_that_throws_stops_nothing(fake: Make) -> None:
    """There is nobody left to tell: it is traced, and the worker goes on."""
    service = fake()
    angry(service, "HandlerFailed")
    angry(service, "LogReceived")
    log = Watched(service, "LogReceived")
    ask(service, "fake.complain", lines=["a line"])
    log.next()
    assert ask(service, "fake.echo", value=1)["value"] == 1

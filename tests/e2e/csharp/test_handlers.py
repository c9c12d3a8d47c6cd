"""Event handlers of the host that throw: nothing else stops, and somebody is told."""

from typing import Any

import psutil
import pytest

from tests.e2e.csharp.host import Make, Watched, ask, fake, until

__all__ = ["fake"]


def angry(service: Any, event: str) -> None:
    """Add a handler that throws."""
    import System

    kind = System.Object.GetType(service).GetEvent(event).EventHandlerType.GetGenericArguments()[0]

    def handle(_sender: Any, _one: Any) -> None:
        message = "the handler is angry"
        raise ValueError(message)

    getattr(service, f"add_{event}")(System.EventHandler[kind](handle))


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

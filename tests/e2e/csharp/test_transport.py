"""Calls on the wire: any number at a time, any order, whatever else comes through the pipes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.csharp.host import Make, Watched, answer, ask, call, execute, fake, gone, wait

__all__ = ["fake"]


def test_text_comes_back_as_it_was(fake: Make) -> None:
    """Any Unicode goes there and back."""
    text = 'żółć 日本語 \U0001f9e0 \u2028 \x00 " \\ \ufeff é'
    assert ask(fake(), "fake.echo", text=text)["text"] == text


def test_a_thousand_calls_at_once(fake: Make) -> None:
    """More calls than the worker admits wait for a slot; each gets its own answer."""
    service = fake()
    tasks = [call(service, "fake.echo", value=number) for number in range(1000)]
    assert [answer(task)["value"] for task in tasks] == list(range(1000))
    assert service.Snapshot.InFlight == 0


def test_replies_in_any_order(fake: Make) -> None:
    """A reply finds its call by its id, not by its place."""
    service = fake()
    tasks = [call(service, "fake.reverse", count=50, value=number) for number in range(50)]
    assert [answer(task)["value"] for task in tasks] == list(range(50))


def test_a_large_reply(fake: Make) -> None:
    """A reply of 10 MB arrives whole, and the next one too."""
    service = fake()
    assert len(ask(service, "fake.big", bytes=10_000_000)["text"]) == 5_000_000
    assert ask(service, "fake.echo", value=1)["value"] == 1


def test_a_reply_beyond_the_limit_fails_its_call_only(fake: Make) -> None:
    """A line that is too long is skipped; its call ends with a protocol violation, the next one succeeds."""
    from MemoryWorker.Client import WorkerProtocolException

    service = fake(MaxReplyBytes=100_000)
    with pytest.raises(WorkerProtocolException, match="answer has") as caught:
        ask(service, "fake.big", bytes=1_000_000)
    assert caught.value.Code == "protocol_violation"
    assert ask(service, "fake.echo", value=1)["value"] == 1


def test_a_request_beyond_the_limit_is_not_sent(fake: Make) -> None:
    """The worker's max_frame_bytes holds on this side already."""
    from MemoryWorker.Client import WorkerRequestException

    service = fake()
    with pytest.raises(WorkerRequestException) as caught:
        ask(service, "fake.echo", text="x" * 2**24)
    assert caught.value.Code == "frame_too_large"
    assert caught.value.Executed.ToString() == "No"
    assert ask(service, "fake.echo", value=1)["value"] == 1


def test_junk_on_stdout_is_survived(fake: Make) -> None:
    """What is no frame is counted and logged; the calls do not notice."""
    service = fake("--stdout-junk", "Loading the model, please wait")
    junk = [
        "hello",
        "{",
        "[]",
        "null",
        "{}",
        '{"success": true}',
        '{"request_id": "who", "success": true, "data": {}}',
        "7",
    ]
    log = Watched(service, "LogReceived")
    ask(service, "fake.garbage", lines=junk)
    assert service.Snapshot.JunkLines == len(junk) + 2  # and the binary one, and the one at the start
    log.next()
    assert "Loading the model" in log.seen[0].Message
    assert ask(service, "fake.echo", value=1)["value"] == 1


def test_the_second_answer_counts_as_junk(fake: Make) -> None:
    """A call takes the first reply; another one is junk."""
    service = fake()
    assert ask(service, "fake.twice") == {"answer": 1}
    assert ask(service, "fake.echo", value=1)["value"] == 1
    assert service.Snapshot.JunkLines == 1


DEEP = "[" * 70 + "]" * 70
UNREADABLE = {
    "nested too deeply": f'{{"request_id":"ID","success":true,"data":{{"a":{DEEP}}}}}',
    "NaN": '{"request_id":"ID","success":true,"data":{"value":NaN}}',
    "Infinity in an error": '{"request_id":"ID","success":false,"error":{"details":{"a":-Infinity}}}',
    "the id comes last": '{"success":true,"data":{"value":NaN},"request_id": "ID"}',
    "another id comes before it": '{"success":true,"data":{"request_id":"x","a":NaN},"request_id":"ID"}',
    "cut off": '{"request_id":"ID","success":true,"data":{"te',
    "no data": '{"request_id":"ID","success":true}',
    "success is a word": '{"request_id":"ID","success":"yes","data":{}}',
    "something was printed before it": 'Loading... {"request_id" : "ID","success":true,"data":{}}',
    "something was printed after it": '{"request_id":"ID","success":true,"data":{}} done',
    "the error is no object": '{"request_id":"ID","success":false,"error":[]}',
}


@pytest.mark.parametrize("line", UNREADABLE.values(), ids=UNREADABLE)
def test_an_answer_that_is_no_json_fails_its_call_at_once(fake: Make, line: str) -> None:
    """The request id is found in whatever came: the call ends typed, long before its timeout, and others go on."""
    from MemoryWorker.Client import WorkerProtocolException

    service = fake()
    other = call(service, "fake.hang")
    with pytest.raises(WorkerProtocolException, match="the answer could not be read") as caught:
        ask(service, "fake.lines", lines=[line])
    assert (caught.value.Code, caught.value.Executed.ToString()) == ("protocol_violation", "Unknown")
    assert caught.value.RequestId
    assert ask(service, "fake.echo", value=1)["value"] == 1
    assert not other.IsCompleted


def test_progress_that_is_no_json_fails_nothing(fake: Make) -> None:
    """It is not what the call waits for: it is junk, and the answer that follows is taken."""
    service = fake()
    report = '{"event":"progress","request_id":"ID","sequence":1,"data":{"completed_bytes":NaN}}'
    good = '{"request_id":"ID","success":true,"data":{"value":1}}'
    assert ask(service, "fake.lines", lines=[report, good]) == {"value": 1}
    assert service.Snapshot.JunkLines == 1


def test_a_broken_answer_that_quotes_another_id(fake: Make) -> None:
    """Only the request that the line answers is failed, not one whose id stands in its data."""
    from MemoryWorker.Client import WorkerProtocolException

    service = fake()
    first = ask(service, "fake.lines", lines=['{"request_id":"ID","success":true,"data":{"id":"ID"}}'])["id"]
    prefix, number = first.rsplit("-", 1)
    other = call(service, "fake.hang")  # the next number
    quoted = (
        f'{{"request_id":"ID","success":true,"data":{{"request_id":"{prefix}-{int(number) + 1}","x":NaN}}}}'
    )
    with pytest.raises(WorkerProtocolException):
        ask(service, "fake.lines", lines=[quoted])
    assert not other.IsCompleted


def test_an_answer_of_the_wrong_type(fake: Make) -> None:
    """An answer that is not what the action answers is a protocol violation of that call."""
    from MemoryWorker.Client import WorkerProtocolException
    from MemoryWorker.Client.Protocol import PingParams, PingResult, WireAction

    service = fake()
    action = WireAction[PingParams, PingResult]("fake.broken_answer", False, False)
    with pytest.raises(WorkerProtocolException, match="uptime_ms"):
        wait(execute(service, action, PingParams()))
    assert ask(service, "fake.echo", value=1)["value"] == 1


def test_an_error_carries_what_the_worker_said(fake: Make) -> None:
    """Code, executed, retryable and details come through, also for a code that this host does not know."""
    from MemoryWorker.Client import WorkerException, WorkerRequestException

    service = fake()
    with pytest.raises(WorkerRequestException, match="told to: brand_new") as caught:
        ask(service, "fake.refuse", code="brand_new")
    error = caught.value
    assert isinstance(error, WorkerException)
    assert (error.Code, error.Executed.ToString(), error.Retryable) == ("brand_new", "No", False)
    assert error.ProcessId == service.Snapshot.ProcessId
    assert error.RequestId
    assert json.loads(error.Details.GetRawText()) == {"fake": 1}


def test_progress_comes_in_order_and_before_the_end(fake: Make) -> None:
    """Every report is handled, in order, before the call returns."""
    from MemoryWorker.Client.Protocol import ProgressData

    service = fake()
    seen: list[int] = []
    ask_with = call(service, "fake.progress", reports=200, progress=_progress(ProgressData, seen))
    answer(ask_with)
    assert seen == list(range(1, 201))


def _progress(kind: Any, seen: list[int]) -> Any:
    import System

    class Progress(System.IProgress[kind]):
        __namespace__ = f"Tests.P{id(seen)}"

        def Report(self, value: Any) -> None:
            seen.append(value.CompletedBytes)

    return Progress()


def test_stderr_becomes_log_entries(fake: Make) -> None:
    """A JSON line has its level; any other line is a warning."""
    service = fake()
    log = Watched(service, "LogReceived")
    lines = [
        '{"level": "info", "message": "ready", "extra": [1], "time": 1.5, "request_id": "r-1", "traceparent": "00-a-b-01"}',
        '{"level": "ERROR", "event": "bad"}',
        "Traceback!",
        '{"level":',
    ]
    ask(service, "fake.complain", lines=lines)
    log.until(lambda one: one.Line == lines[-1])
    assert [(one.Level.ToString(), one.Message) for one in log.seen] == [
        ("Information", "ready"),
        ("Error", "bad"),
        ("Warning", "Traceback!"),
        ("Warning", '{"level":'),
    ]
    ready, bad = log.seen[:2]
    assert (ready.RequestId, ready.TraceParent) == ("r-1", "00-a-b-01")
    assert [(one.Key, one.Value) for one in ready.Fields] == [("extra", "[1]")]
    assert (bad.RequestId, bad.TraceParent, bad.Fields.Count) == (None, None, 0)


def test_a_flood_on_stderr_stops_nobody(fake: Make) -> None:
    """A worker that writes 1 MiB to stderr before it reads anything does not block."""
    assert ask(fake("--stderr-bytes", str(2**20)), "fake.echo", value=1)["value"] == 1


def test_meta_goes_with_the_request(fake: Make) -> None:
    """The deadline is the time that is left; the trace context is the caller's."""
    from System.Diagnostics import Activity, ActivityIdFormat

    service = fake()
    activity = Activity("test").SetIdFormat(ActivityIdFormat.W3C).Start()
    try:
        meta = ask(service, "fake.echo", timeout_ms=60_000)["meta"]
        assert meta["traceparent"] == activity.Id
    finally:
        activity.Stop()
    assert 0 < meta["deadline_ms"] <= 60_000


def test_a_grandchild_that_holds_the_pipes(fake: Make) -> None:
    """The worker's end is noticed although its pipes stay open, and disposal does not wait for them."""
    import psutil

    service = fake()
    pid = ask(service, "fake.grandchild", die=True)["pid"]
    try:
        assert ask(service, "memory.get_usage") == {"devices": []}
        assert service.Snapshot.Exits == 1
        assert psutil.pid_exists(pid)
    finally:
        psutil.Process(pid).kill()


def test_disposal_ends_the_worker(fake: Make) -> None:
    """After disposal there is no process, and calls are refused."""
    import System

    service = fake()
    ask(service, "fake.echo")
    pid = service.Snapshot.ProcessId
    wait(service.DisposeAsync())
    assert gone(pid)
    assert service.Snapshot.State.ToString() == "Disposed"
    with pytest.raises(System.ObjectDisposedException):
        ask(service, "fake.echo")
    wait(service.DisposeAsync())


@pytest.fixture
def own_threads(fake: Make) -> Iterator[Make]:
    """Read the pipes as on Windows: each on a thread of its own."""
    import clr
    from MemoryWorker.Client import PythonWorkerService
    from System.Reflection import BindingFlags

    pump = clr.GetClrType(PythonWorkerService).Assembly.GetType("MemoryWorker.Client.Transport.Pump")
    switch = pump.GetProperty("UseOwnThreads", BindingFlags.NonPublic | BindingFlags.Static)
    before = switch.GetValue(None)
    switch.SetValue(None, True)
    yield fake
    switch.SetValue(None, before)


def test_pipes_read_as_on_windows(own_threads: Make) -> None:
    """Threads of our own do the same: many calls, a death, a grandchild that holds the pipes, disposal."""
    import psutil

    service = own_threads("--stderr-bytes", "100000")
    tasks = [call(service, "fake.echo", value=number) for number in range(500)]
    assert [answer(task)["value"] for task in tasks] == list(range(500))
    psutil.Process(service.Snapshot.ProcessId).kill()
    assert ask(service, "memory.get_usage") == {"devices": []}
    pid = ask(service, "fake.grandchild", die=True)["pid"]
    try:
        assert ask(service, "memory.get_usage") == {"devices": []}
        wait(service.DisposeAsync())
    finally:
        psutil.Process(pid).kill()

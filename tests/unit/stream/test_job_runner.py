"""What follows a reply: it was promised, so it is begun, or whoever waits for it is told, whatever fails between."""

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from worker.core.cancellation import CancelToken
from worker.core.clock import SystemClock
from worker.core.errors import CancelledError, WorkerError
from worker.metrics.history import History
from worker.stream.alarm import Alarm
from worker.stream.event_writer import EventWriter
from worker.stream.frame_writer import FrameWriter
from worker.stream.frames import Incoming
from worker.stream.job_runner import JobRunner
from worker.stream.lanes import Job, Lanes
from worker.stream.work import Answer, Work

PATIENCE_SECONDS = 20.0


def failing(times: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call that finds no memory so many times, and then does what it did."""
    left = [MemoryError()] * times

    def called(*arguments: Any, **named: Any) -> Any:
        if left:
            raise left.pop()
        return call(*arguments, **named)

    return called


@pytest.fixture
def output() -> Iterator[tuple[int, int]]:
    """A pipe."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


@pytest.fixture
def runner(output: tuple[int, int]) -> JobRunner:
    """A runner that writes there."""
    clock, writer = SystemClock(), FrameWriter(output[1])
    return JobRunner(
        writer, EventWriter(writer), clock, Alarm(clock), History(clock), lambda: (),
        max_inflight=8, max_frame_bytes=1 << 20,
    )  # fmt: skip


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(
    "place",
    [
        "_writer.flush",
        "_writer.write",
        "_writer.batch",
        "_answers.keep",
        "_answers.give",
        "submit",
        "_lanes.admit",
    ],
)
def test_what_a_reply_promised_is_begun_or_told_of(
    runner: JobRunner, output: tuple[int, int], monkeypatch: pytest.MonkeyPatch, place: str, *, quick: bool
) -> None:
    """One reply, and the work after it has its end, wherever memory is short once between the two."""
    ended, told, ran = threading.Event(), list[WorkerError](), list[bool]()
    *owners, name = place.split(".")
    owner = getattr(runner, owners[0]) if owners else runner

    def abandoned(error: WorkerError) -> None:
        told.append(error)
        ended.set()

    def later(_call: Any) -> None:
        ran.append(True)
        ended.set()

    def run(_call: Any) -> Answer:
        monkeypatch.setattr(owner, name, failing(1, getattr(owner, name)))
        return Answer({}, background=Work(action="later", run=later, quick=False, abandoned=abandoned))

    runner.accept(
        Incoming("r1", "first", {}), lambda *_: Work(action="first", run=run, quick=quick, changes=True)
    )
    assert ended.wait(PATIENCE_SECONDS)
    assert runner.wait_for_all(PATIENCE_SECONDS)
    assert len(ran) + len(told) == 1
    monkeypatch.undo()
    runner._writer.flush()
    assert os.read(output[0], 1 << 16).count(b"\n") == 1


class Threads:
    """Never runs anything."""

    def put(self, job: Job) -> None:
        """Take it over."""

    def discard(self, job: Job) -> None:
        """Let go of it."""


def test_a_queued_job_that_was_withdrawn_half_way_is_still_answered() -> None:
    """Where memory was short after a job was taken out, taking it out again says that it is to be answered."""
    lanes, given = Lanes(), list[WorkerError]()
    job = Job("r1", Work("a", lambda _: None), CancelToken(lambda: 0), print, Threads(), given.append)
    lanes.admit(job)
    assert lanes.withdraw(job) and lanes.withdraw(job)
    assert not lanes.unfinished


def test_cancelling_is_done_again_where_memory_was_short(
    runner: JobRunner, output: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that was cancelled while it was queued has its answer, also where its answering failed at first."""
    held, begun = threading.Event(), threading.Event()

    def hold(_call: Any) -> dict[str, Any]:
        begun.set()
        held.wait(PATIENCE_SECONDS)
        return {}

    for number in range(5):  # more than a lane has threads
        work = Work(action="held", run=hold, quick=False)
        runner.accept(Incoming(f"r{number}", "held", {}), lambda *_, work=work: work)
    assert begun.wait(PATIENCE_SECONDS)
    cancel = runner.cancel("r4")
    assert cancel is not None
    writer = runner._early._event_writer
    monkeypatch.setattr(writer, "reply", failing(1, writer.reply))
    with pytest.raises(MemoryError):
        cancel()
    cancel()
    frame = os.read(output[0], 1 << 16)
    assert b'"r4"' in frame and CancelledError.code.value.encode() in frame
    held.set()
    assert runner.wait_for_all(PATIENCE_SECONDS)

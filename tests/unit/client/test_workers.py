"""The worker behind a client while it is being started: only who needs it waits, no longer than there is time."""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from protocol.vocabulary import EventName
from tests.e2e.process import PATIENCE_SECONDS, ROOT, eventually, gone
from worker.client import CallOptions, Client, WorkerExitedError, connect
from worker.core.errors import DeadlineExceededError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the gates are FIFOs")

FAKE = str(ROOT / "tests" / "rigs" / "fake_worker.py")
Background = Callable[..., Future[object]]


@pytest.fixture
def background() -> Iterator[Background]:
    """Return what calls a function on a thread."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit


class Gated:
    """A client whose workers start when a gate is opened. The first one has started, and died: the next call starts another."""

    def __init__(self, folder: Path, background: Background) -> None:
        self._gate, self._journal = folder / "gate", folder / "journal"
        os.mkfifo(self._gate)
        first = background(self.open)
        options = ("--gate", str(self._gate), "--journal", str(self._journal))
        self.client: Client = connect(*options, command=(sys.executable, FAKE))
        first.result()
        self.events = self.client.events(EventName.DEVICE_LOST)
        psutil.Process(self.client.hello.pid).kill()
        eventually(lambda: self.client._workers.running is None, "the worker's end")

    def open(self) -> None:
        """Have the one start that waits at the gate, or the next."""
        self._gate.open("w").close()

    @property
    def starts(self) -> int:
        """How many workers have answered."""
        return self._journal.read_text().count("worker.hello ")

    def at_the_gate(self) -> psutil.Process:
        """Return the process that waits there."""
        eventually(lambda: self._coming is not None, "a process")
        assert self._coming is not None
        return self._coming

    @property
    def _coming(self) -> psutil.Process | None:
        coming = self.client._workers._coming
        return None if coming is None else psutil.Process(coming.pid)


@pytest.fixture
def gated(tmp_path: Path, background: Background) -> Iterator[Gated]:
    """Return one."""
    made = Gated(tmp_path, background)
    yield made
    made.client.close()


def test_a_call_waits_for_a_start_no_longer_than_it_has_time(gated: Gated, background: Background) -> None:
    """It was not sent; the start goes on, and is the one that the next call has."""
    patient = background(gated.client.call, "fake.echo", {"text": "first"})
    coming = gated.at_the_gate()
    with pytest.raises(DeadlineExceededError, match="not sent within its 1 ms: the worker is being started"):
        gated.client.call("fake.echo", {}, CallOptions(deadline_ms=1))
    gated.open()
    assert patient.result(PATIENCE_SECONDS)["text"] == "first"  # type: ignore[index]
    assert (gated.client.hello.pid, gated.starts) == (coming.pid, 2)


def test_closing_ends_what_is_being_started(gated: Gated, background: Background) -> None:
    """It waits for no answer of it, and whoever does hears of the end."""
    waiting = background(gated.client.call, "fake.echo", {})
    coming = gated.at_the_gate()
    coming.terminate()  # as closing does after a time, for it does not see the end of its input there
    background(gated.client.close).result(PATIENCE_SECONDS)
    with pytest.raises(WorkerExitedError):
        waiting.result(PATIENCE_SECONDS)
    assert gone(coming.pid)
    assert (gated.starts, list(gated.events)) == (1, [])


def test_a_reader_of_events_leaves_while_a_worker_starts(gated: Gated, background: Background) -> None:
    """It needs none for that."""
    waiting = background(gated.client.call, "fake.subscribed", {})
    gated.at_the_gate()
    background(gated.events.close).result(PATIENCE_SECONDS)
    gated.open()
    assert waiting.result(PATIENCE_SECONDS)["events"] == []  # type: ignore[index]


def test_calls_go_on_while_a_reader_of_events_is_not_answered(background: Background) -> None:
    """Only other readers wait for that, so that what the worker hears last is what all of them want."""
    with connect("--hang-on", "worker.subscribe", command=(sys.executable, FAKE)) as client:
        subscribing = background(client.events, EventName.DEVICE_LOST)
        eventually(client._workers._subscribing.locked, "the subscription")
        answer = background(client.call, "fake.echo", {"text": "meanwhile"})
        assert wait_for((subscribing, answer), PATIENCE_SECONDS, "FIRST_COMPLETED").done == {answer}
        assert answer.result()["text"] == "meanwhile"  # type: ignore[index]
        psutil.Process(client.hello.pid).kill()
        with pytest.raises(WorkerExitedError):
            subscribing.result(PATIENCE_SECONDS)
        assert client._workers._readers == []


def test_a_worker_that_refuses_its_predecessors_readers_is_none(tmp_path: Path) -> None:
    """They would wait for ever beside one that answers all else: another one is started."""
    journal = tmp_path / "journal"
    refusing = ("--die-on", "worker.subscribe", "--spared", "1", "--refuse-by", "internal_error")
    with connect("--journal", str(journal), *refusing, command=(sys.executable, FAKE)) as client:
        events = client.events(EventName.DEVICE_LOST)
        psutil.Process(client.hello.pid).kill()
        eventually(lambda: client._workers.running is None, "the worker's end")
        with pytest.raises(WorkerExitedError, match="could not be started: told to: internal_error"):
            client.call("fake.echo", {})

        def answered() -> bool:
            with suppress(WorkerExitedError):  # it waits a moment before it tries again
                return client.call("fake.subscribed", {})["events"] == [EventName.DEVICE_LOST]
            return False

        eventually(answered, "a worker that sends events")
        lost = {"device_id": "cpu", "reason": "told to", "allocation_ids": [], "model_ids": []}
        client.call("fake.events", {"events": [{"event": "device.lost", "data": lost}]})
        assert events.get(PATIENCE_SECONDS).name == EventName.DEVICE_LOST

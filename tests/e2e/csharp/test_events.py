"""Events on the host's side: whoever asked gets them, a slow reader delays nobody, a new worker is asked again."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.csharp.host import Make, Watched, ask, fake, gone, milliseconds, sent, until, wait
from tests.rigs.dotnet import runtime

__all__ = ["fake"]

PRESSURE, LOST, EXPIRED = "memory.pressure_changed", "device.lost", "memory.allocation_expired"


def pressure(number: int) -> dict[str, Any]:
    """Return an event that carries a number."""
    data = {
        "device_id": "cpu",
        "from": "low",
        "to": "high",
        "pressure_percentage": None,
        "available_bytes": number,
    }
    return {"event": PRESSURE, "data": data}


def lost() -> dict[str, Any]:
    """Return an event of another kind."""
    return {
        "event": LOST,
        "data": {"device_id": "sim:0", "reason": "told to", "allocation_ids": [], "model_ids": []},
    }


class Reading:
    """Reads a stream of events on a thread of its own until ``stop()``."""

    def __init__(self, service: Any, *names: str) -> None:
        from MemoryWorker.Client.Protocol import EventName
        from System import Array
        from System.Threading import CancellationTokenSource

        self.seen: list[Any] = []
        self.problem: Any = None
        """What it ended with by itself."""
        self._came = threading.Semaphore(0)
        self._stopping = CancellationTokenSource()
        wanted = Array[EventName]([getattr(EventName, name) for name in names])
        self._stream = runtime.iterate(service.ReadEventsAsync(wanted, self._stopping.Token))
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def wait_for(self, count: int) -> list[Any]:
        for _ in range(count):
            assert self._came.acquire(timeout=30), "no event came"
        return self.seen

    def stop(self) -> None:
        self._stopping.Cancel()
        self._thread.join(30)

    def ended(self) -> Any:
        """Wait until it ends by itself, and return what with."""
        self._thread.join(30)
        assert not self._thread.is_alive(), "it goes on"
        return self.problem

    def _read(self) -> None:
        import System

        try:
            for one in self._stream:
                self.seen.append(one)
                self._came.release()
        except System.OperationCanceledException:
            pass
        except System.Exception as problem:
            self.problem = problem


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def subscribed(journal: Path, times: int) -> None:
    """Wait until the workers were asked for events this often."""
    for _ in range(3000):
        if journal.exists() and sent(journal, "worker.subscribe") >= times:
            return
        threading.Event().wait(0.01)
    message = "nobody subscribed"
    raise AssertionError(message)


def test_each_reader_gets_what_it_asked_for(fake: Make, journal: Path) -> None:
    """Two readers with different wishes share one subscription; both see sequence numbers and process ids."""
    service = fake("--journal", str(journal))
    both, one = Reading(service, "MemoryPressureChanged", "DeviceLost"), Reading(service, "DeviceLost")
    subscribed(journal, 2)
    ask(service, "fake.events", events=[pressure(1), lost(), {"event": "brand.new", "data": {}}, pressure(2)])
    assert [type(event).__name__ for event in both.wait_for(3)] == [
        "PressureChangedEvent",
        "DeviceLostEvent",
        "PressureChangedEvent",
    ]
    assert [event.Sequence for event in both.seen] == [1, 2, 3]
    assert [type(event).__name__ for event in one.wait_for(1)] == ["DeviceLostEvent"]
    assert both.seen[0].ProcessId == service.Snapshot.ProcessId
    both.stop()
    one.stop()


def test_a_worker_that_is_shutting_down_refuses_no_reader(fake: Make, journal: Path) -> None:
    """Its successor is asked, as where it died: a reader only waits a little longer."""
    refusing = ("--die-on", "worker.subscribe", "--refuse-by", "shutting_down")
    service = fake("--journal", str(journal), *refusing)
    ask(service, "worker.ping")  # it runs, and so is asked by the reader
    reading = Reading(service, "DeviceLost")
    subscribed(journal, 1)
    ask(service, "worker.ping")  # answered after the refusal
    psutil.Process(service.Snapshot.ProcessId).kill()
    subscribed(journal, 2)
    ask(service, "fake.events", events=[lost()])
    assert len(reading.wait_for(1)) == 1
    reading.stop()


SECOND = ("--die-on", "worker.subscribe", "--spared", "1")
"""Of a worker that fails at the second time that it, or its successor, is asked for events."""


def test_a_successor_that_refuses_events_tells_their_readers(fake: Make, journal: Path) -> None:
    """They would wait for ever; one that asks again, where that may help, has them."""
    service = fake("--journal", str(journal), *SECOND, "--refuse-by", "internal_error")
    ask(service, "worker.ping")  # it runs, and so is asked by the reader alone
    first = Reading(service, "DeviceLost")
    subscribed(journal, 1)
    psutil.Process(service.Snapshot.ProcessId).kill()
    problem = first.ended()
    assert (type(problem).__name__, problem.Retryable) == ("WorkerRequestException", True)
    second = Reading(service, "DeviceLost")
    until(lambda: asked_for(service) == [LOST])
    ask(service, "fake.events", events=[lost()])
    assert len(second.wait_for(1)) == 1
    second.stop()


def test_a_successor_that_lacks_an_event_tells_who_wants_nothing_else(fake: Make, tmp_path: Path) -> None:
    """An older one may: the others have theirs from it."""
    newer = tmp_path / "newer"
    newer.touch()
    service = fake("--older-unless", str(newer), "--events", LOST)
    both, one = (
        Reading(service, "MemoryPressureChanged", "DeviceLost"),
        Reading(service, "MemoryPressureChanged"),
    )
    until(lambda: asked_for(service) == [PRESSURE, LOST])
    newer.unlink()
    psutil.Process(service.Snapshot.ProcessId).kill()
    assert type(one.ended()).__name__ == "WorkerRequestException"
    ask(service, "fake.events", events=[lost()])
    assert len(both.wait_for(1)) == 1
    both.stop()


def test_a_successor_that_ignores_readers_is_replaced(fake: Make, journal: Path) -> None:
    """It hangs: nobody would ever have it, and nobody could dispose of the service."""
    service = fake("--journal", str(journal), *SECOND, "--ignore-it", StartTimeout=milliseconds(3000))
    ask(service, "worker.ping")  # it runs, and so is asked by the reader alone
    reading = Reading(service, "DeviceLost")
    subscribed(journal, 1)
    failed = Watched(service, "WorkerStartFailed")
    psutil.Process(service.Snapshot.ProcessId).kill()
    assert "worker.subscribe took longer than 3 s" in failed.next().Message
    until(lambda: asked_for(service) == [LOST])
    ask(service, "fake.events", events=[lost()])
    assert len(reading.wait_for(1)) == 1
    reading.stop()


def test_disposal_waits_for_no_successor_that_ignores_readers(fake: Make, journal: Path) -> None:
    """Its subscription is given up, and it is ended."""
    service = fake("--journal", str(journal), *SECOND, "--ignore-it", StartTimeout=milliseconds(3_600_000))
    ask(service, "worker.ping")  # it runs, and so is asked by the reader alone
    reading = Reading(service, "DeviceLost")
    subscribed(journal, 1)
    psutil.Process(service.Snapshot.ProcessId).kill()
    subscribed(journal, 2)
    pid = int(journal.read_text().split()[-1])
    wait(service.DisposeAsync())
    assert gone(pid)
    reading.stop()


def test_each_reader_has_numbers_of_its_own(fake: Make) -> None:
    """However many share the subscription, each counts its own events without a gap."""
    service = fake()
    everything, one = Reading(service, "MemoryPressureChanged", "DeviceLost"), Reading(service, "DeviceLost")
    until(lambda: asked_for(service) == [PRESSURE, LOST])
    ask(service, "fake.events", events=[pressure(1), lost(), pressure(2), lost(), lost()])
    assert [event.Sequence for event in everything.wait_for(5)] == [1, 2, 3, 4, 5]
    assert [event.Sequence for event in one.wait_for(3)] == [1, 2, 3]
    everything.stop()
    one.stop()


def test_figures_come_as_often_as_the_reader_wants_that_wants_them_most_often(fake: Make) -> None:
    """How often is said only where figures are asked for: a worker that has none knows no such thing."""
    from MemoryWorker.Client import ServiceMemory
    from System import TimeSpan

    service = fake()
    lost_ones = Reading(service, "DeviceLost")
    until(lambda: asked_for(service) == [LOST])
    assert ask(service, "fake.subscribed")["figures_every_ms"] is None
    stops, threads = [], []
    for seconds, wanted in ((None, 30_000), (60, 30_000), (5, 5_000)):
        every = None if seconds is None else TimeSpan.FromSeconds(seconds)
        stream = figures_of(ServiceMemory(service), every, stops)
        threads.append(threading.Thread(target=lambda stream=stream: list(stream)))
        threads[-1].start()
        until(lambda wanted=wanted: ask(service, "fake.subscribed")["figures_every_ms"] == wanted)
    stops[-1].Cancel()
    until(lambda: ask(service, "fake.subscribed")["figures_every_ms"] == 30_000)
    for stop in stops[:-1]:
        stop.Cancel()
    until(lambda: asked_for(service) == [LOST])
    assert ask(service, "fake.subscribed")["figures_every_ms"] is None
    for thread in threads:
        thread.join(30)
    lost_ones.stop()


def figures_of(memory: Any, every: Any, stops: list[Any]) -> Iterator[Any]:
    """Read figures until told to stop."""
    import System
    from System.Threading import CancellationTokenSource

    stops.append(CancellationTokenSource())
    stream = runtime.iterate(memory.GetMemoryFiguresAsync(every, stops[-1].Token))

    def each() -> Iterator[Any]:
        try:
            yield from stream
        except System.OperationCanceledException:
            pass

    return each()


def asked_for(service: Any) -> list[str]:
    """Return what the worker was asked for last."""
    found: list[str] = ask(service, "fake.subscribed")["events"]
    return found


def test_what_no_reader_wants_is_unsubscribed(fake: Make) -> None:
    """The worker is asked for what is still wanted when a reader leaves, and for nothing after the last."""
    service = fake()
    first, second = Reading(service, "MemoryPressureChanged"), Reading(service, "DeviceLost")
    until(lambda: asked_for(service) == [PRESSURE, LOST])
    first.stop()
    until(lambda: asked_for(service) == [LOST])
    second.stop()
    until(lambda: asked_for(service) == [])


def test_leaving_starts_no_worker(fake: Make, journal: Path) -> None:
    """A reader that leaves while no worker runs leaves it at that."""
    service = fake("--journal", str(journal), "--die-on", "fake.die", max_restarts=0)
    exited = Watched(service, "WorkerExited")
    reading = Reading(service, "DeviceLost")
    until(lambda: asked_for(service) == [LOST])
    psutil.Process(service.Snapshot.ProcessId).kill()
    exited.next()
    reading.stop()
    assert service.Snapshot.State.ToString() == "BreakerOpen"
    assert sent(journal, "worker.hello") == 1


def test_every_event_has_its_type(fake: Make, journal: Path) -> None:
    """What the worker tells of pressure, budgets, leaks and models arrives typed, with its figures."""
    leak = {
        "device_id": "cpu", "kind": "process", "owner": None, "purpose": None, "allocation_count": None,
        "allocated_bytes": 5, "oldest_age_ms": 6, "bytes_per_second": 0.5, "confidence": 0.999, "evidence": "it grows",
    }  # fmt: skip
    forecast = {
        "device_id": "cpu", "bytes_per_second": 2.5, "available_bytes": 5, "seconds_to_exhaustion": 2.0,
        "low_seconds": 1.0, "high_seconds": 3.0,
    }  # fmt: skip
    budget = {
        "device_id": "cpu", "previous_bytes": 1, "budget_bytes": 2, "budget_source": "os", "available_bytes": None,
    }  # fmt: skip
    optimized = {
        "device_id": "cpu", "pressure_level": "high", "steps": [], "returned_bytes": 7, "helped": True,
        "next_in_ms": 8, "reason": "automatic",
    }  # fmt: skip
    gone = {"model_id": "m", "device_id": "cpu", "freed_bytes": 1, "returned_bytes": None, "reason": "idle"}
    told = {
        "memory.exhaustion_forecast": forecast,
        "memory.budget_changed": budget,
        "memory.leak_suspected": leak,
        "memory.optimized": optimized,
        "memory.model_unloaded": gone,
    }
    service = fake("--journal", str(journal))
    names = ("ExhaustionForecast", "BudgetChanged", "LeakSuspected", "Optimized", "ModelUnloaded")
    reading = Reading(service, *(f"Memory{name}" for name in names))
    subscribed(journal, 1)
    ask(service, "fake.events", events=[{"event": event, "data": data} for event, data in told.items()])
    one, two, three, four, five = reading.wait_for(5)
    assert [type(event).__name__ for event in reading.seen] == [f"{name}Event" for name in names]
    assert (one.Data.SecondsToExhaustion, two.Data.BudgetBytes, three.Data.Confidence) == (2.0, 2, 0.999)
    assert (four.Data.Helped, five.Data.ModelId) == (True, "m")
    reading.stop()


def test_a_device_that_is_lost_and_back(fake: Make, journal: Path) -> None:
    """What was lost with a device is named, and its return is told of."""
    service = fake("--journal", str(journal))
    reading = Reading(service, "DeviceLost", "DeviceRecovered")
    subscribed(journal, 1)
    gone = {"device_id": "dml:0", "reason": "r", "allocation_ids": ["alloc-1"], "model_ids": ["m"]}
    back = {"event": "device.recovered", "data": {"device_id": "dml:0", "lost_ms": 412}}
    ask(service, "fake.events", events=[{"event": LOST, "data": gone}, back])
    lost_event, recovered = reading.wait_for(2)
    assert (list(lost_event.Data.AllocationIds), list(lost_event.Data.ModelIds)) == (["alloc-1"], ["m"])
    assert type(recovered).__name__ == "DeviceRecoveredEvent"
    assert (recovered.Data.DeviceId, recovered.Data.LostMs) == ("dml:0", 412)
    reading.stop()


def test_the_next_worker_is_asked_again(fake: Make, journal: Path) -> None:
    """A reader does not notice a restart, except by the process id."""
    service = fake("--journal", str(journal))
    reading = Reading(service, "MemoryPressureChanged")
    subscribed(journal, 1)
    ask(service, "fake.events", events=[pressure(1)])
    reading.wait_for(1)
    psutil.Process(service.Snapshot.ProcessId).kill()
    subscribed(journal, 2)
    ask(service, "memory.get_usage")
    ask(service, "fake.events", events=[pressure(2)])
    first, second = reading.wait_for(1)
    assert (first.Data.AvailableBytes, second.Data.AvailableBytes) == (1, 2)
    assert first.ProcessId != second.ProcessId
    reading.stop()


def test_a_reader_that_does_not_read_delays_nobody(fake: Make, journal: Path) -> None:
    """5,000 events for a reader that takes one and stops: calls go on, the newest 1,024 wait, the gap shows."""
    from MemoryWorker.Client.Protocol import EventName
    from System import Array

    service = fake("--journal", str(journal))
    stream = runtime.iterate(service.ReadEventsAsync(Array[EventName]([EventName.MemoryPressureChanged])))
    first = threading.Thread(target=lambda: seen.append(next(stream).Sequence))
    seen: list[int] = []
    first.start()
    subscribed(journal, 1)
    ask(service, "fake.events", events=[pressure(0)])
    first.join(30)
    ask(service, "fake.events", events=[pressure(number) for number in range(5000)])
    assert ask(service, "fake.echo", value=1)["value"] == 1
    rest = [next(stream).Sequence for _ in range(1024)]
    assert seen == [1]
    assert rest == list(range(5001 - 1023, 5002))
    stream.close()


def test_disposal_ends_the_stream(fake: Make, journal: Path) -> None:
    """A reader of a service that is disposed of learns so."""
    import System
    from MemoryWorker.Client.Protocol import EventName
    from System import Array

    service = fake("--journal", str(journal))
    stream = runtime.iterate(service.ReadEventsAsync(Array[EventName]([EventName.DeviceLost])))
    ended: list[str] = []

    def read() -> None:
        try:
            next(stream)
        except System.ObjectDisposedException as problem:
            ended.append(type(problem).__name__)

    reader = threading.Thread(target=read)
    reader.start()
    subscribed(journal, 1)
    wait(service.DisposeAsync())
    reader.join(30)
    assert ended == ["ObjectDisposedException"]

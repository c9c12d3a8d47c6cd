"""Operations are in the record with their time and memory, however they end; a host's end by their ids."""

import threading
from collections.abc import Callable

import pytest

from worker.backends.host_memory import AnonymousBuffer
from worker.core.cancellation import CancelToken
from worker.core.clock import NS_PER_S, Clock, FixedClock, SystemClock
from worker.core.errors import LimitExceededError, OperationNotFoundError, OutOfMemoryError
from worker.core.health import Health
from worker.core.ids import Ids
from worker.manager.manager_memory import MemoryManager
from worker.metrics.history import History
from worker.telemetry.system import SystemMemory
from worker.wiring import Core, NoEvents
from worker.workers.operations import OperationWorker

MIB = 2**20
HOUR_MS = 3_600_000


class Process:
    """A process whose size the test sets, and that tells when it was looked at."""

    def __init__(self) -> None:
        self.bytes: int | None = 100
        self.looked = threading.Condition()
        self.looks = 0

    def __call__(self) -> int | None:
        with self.looked:
            self.looks += 1
            self.looked.notify_all()
        return self.bytes

    def wait_for_looks(self, more: int) -> None:
        """Wait until somebody looked so many times more, the first of which may have begun before."""
        with self.looked:
            target = self.looks + more
            assert self.looked.wait_for(lambda: self.looks >= target, 20)


def operations_of(history: History, clock: Clock, process: Callable[[], int | None]) -> OperationWorker:
    return OperationWorker(
        Core(clock, history, NoEvents(), MemoryManager(clock, ids=Ids("9f3a")), {}, Health()), process
    )


@pytest.fixture
def process() -> Process:
    """Return a process of 100 bytes."""
    return Process()


def test_time_peak_and_growth(process: Process) -> None:
    """What was there in between is the peak; what is left is the growth."""
    clock = FixedClock()
    history = History(clock)
    operations = operations_of(history, clock, process)
    with operations.operation("embed"):
        clock.wait(2.0, CancelToken(clock.now_ns))
        process.bytes = 900
        process.wait_for_looks(2)
        process.bytes = 150
    (row,) = history.actions(HOUR_MS)
    assert (row.action, row.count, row.errors) == ("operation:embed", 1, 0)
    assert (row.peak_bytes, row.delta_bytes) == (800, 50)
    assert row.p50_us is not None
    assert 2 * NS_PER_S // 1000 <= row.p50_us <= 2.1 * NS_PER_S / 1000


def test_one_that_fails_is_counted_and_its_error_goes_on(process: Process) -> None:
    """The record is not in the way of anything."""
    history = History(FixedClock())
    with pytest.raises(ZeroDivisionError), operations_of(history, FixedClock(), process).operation("a"):
        raise ZeroDivisionError
    (row,) = history.actions(HOUR_MS)
    assert (row.count, row.errors, row.delta_bytes) == (1, 1, 0)


def test_nested_ones_each_see_their_own(process: Process) -> None:
    """The outer one's growth holds the inner one's."""
    history = History(FixedClock())
    operations = operations_of(history, FixedClock(), process)
    with operations.operation("outer"):
        process.bytes = 200
        with operations.operation("inner"):
            process.bytes = 500
        process.bytes = 300
    inner, outer = history.actions(HOUR_MS)
    assert (inner.peak_bytes, inner.delta_bytes) == (300, 300)
    assert outer.delta_bytes == 200


def test_unknown_is_null(process: Process) -> None:
    """Where the system does not say, there is a time and no figure."""
    process.bytes = None
    history = History(FixedClock())
    with operations_of(history, FixedClock(), process).operation("a"):
        pass
    (row,) = history.actions(HOUR_MS)
    assert (row.peak_bytes, row.delta_bytes) == (None, None)


@pytest.mark.parametrize("name", ["", "x" * 129])
def test_names_are_checked(name: str, process: Process) -> None:
    """What cannot be a name is no operation."""
    history = History(FixedClock())
    with (
        pytest.raises(ValueError, match="128"),
        operations_of(history, FixedClock(), process).operation(name),
    ):
        pass
    assert history.actions(HOUR_MS) == ()


def test_real_memory() -> None:
    """What is kept past the end shows as growth, as the system counts it."""
    clock = SystemClock()
    history, system = History(clock), SystemMemory()
    with operations_of(history, clock, lambda: system.read().process_rss_bytes).operation("keep"):
        # A map of its own: malloc may take what others freed, and is there already.
        kept = AnonymousBuffer(64 * MIB)
        kept.touch(CancelToken(clock.now_ns))
    (row,) = history.actions(HOUR_MS)
    kept.close()
    assert row.delta_bytes is not None
    assert row.delta_bytes > 60 * MIB
    assert row.peak_bytes is not None
    assert row.peak_bytes >= row.delta_bytes


def test_a_hosts_operation_ends_by_its_id(process: Process) -> None:
    """Begun and ended by different requests, it is measured as a plugin's is, and in the record with it."""
    clock = FixedClock()
    history = History(clock)
    operations = operations_of(history, clock, process)
    embed = operations.begin("embed")
    clock.wait(0.5, CancelToken(clock.now_ns))
    process.bytes = 700
    index = operations.begin("index")
    process.bytes = 60
    ended = operations.end(embed, failed=False)
    assert (ended.name, ended.duration_us, ended.peak_bytes, ended.delta_bytes) == (
        "embed",
        500_000,
        600,
        -40,
    )
    assert operations.end(index, failed=True).delta_bytes == -640
    rows = {row.action: (row.count, row.errors, row.delta_bytes) for row in history.actions(HOUR_MS)}
    assert rows == {"operation:embed": (1, 0, -40), "operation:index": (1, 1, -640)}


@pytest.mark.parametrize(
    ("operation_id", "why"),
    [
        ("operation-1-9f3a", "over, or never began"),
        ("operation-1-77", "another worker process"),
        ("x", "never began"),
    ],
)
def test_what_is_not_under_way_can_not_end(operation_id: str, why: str, process: Process) -> None:
    """Ended before, never begun, or of a worker before: nothing is recorded."""
    history = History(FixedClock())
    operations = operations_of(history, FixedClock(), process)
    operations.end(operations.begin("a"), failed=False)
    with pytest.raises(OperationNotFoundError, match=why):
        operations.end(operation_id, failed=False)
    assert [row.count for row in history.actions(HOUR_MS)] == [1]


def test_forgotten_ones_are_bounded(process: Process) -> None:
    """At most 1,024 are under way; the refusal names the oldest, and one that ends makes place."""
    operations = operations_of(History(FixedClock()), FixedClock(), process)
    first, *others = [operations.begin("leak") for _ in range(1024)]
    with pytest.raises(LimitExceededError, match=f"the oldest of them {first}"):
        operations.begin("one more")
    operations.end(first, failed=False)
    for each in (*others, operations.begin("one more")):
        operations.end(each, failed=False)


@pytest.mark.parametrize("error", [MemoryError(), OSError("no /proc")])
def test_sampling_goes_on_after_a_failure(error: Exception, process: Process) -> None:
    """A sample that can't be taken is left out; the next ones are."""
    failing = [error]

    def process_bytes() -> int | None:
        if failing and threading.current_thread().name == "operations":
            raise failing.pop()
        return process()

    history = History(FixedClock())
    operations = operations_of(history, FixedClock(), process_bytes)
    with operations.operation("a"):
        process.bytes = 900
        process.wait_for_looks(3)
        process.bytes = 100
    (row,) = history.actions(HOUR_MS)
    assert (failing, row.peak_bytes) == ([], 800)


def test_without_a_thread_to_sample_with_the_work_is_done(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measuring keeps no one from working; the next operation tries again."""
    history = History(FixedClock())
    operations, tried = operations_of(history, FixedClock(), process), []

    def none(_run: Callable[[], object], _name: str) -> None:
        tried.append(1)
        raise OutOfMemoryError("no threads")

    monkeypatch.setattr("worker.workers.operations.start_thread", none)
    with operations.operation("a"):
        process.bytes = 900
    assert operations.end(operations.begin("b"), failed=False).delta_bytes == 0
    (row, _) = history.actions(HOUR_MS)
    assert (row.count, row.delta_bytes, len(tried)) == (1, 800, 2)


def test_one_whose_end_can_not_be_measured_is_over_all_the_same(process: Process) -> None:
    """Nothing is sampled for it any more."""
    operations = operations_of(History(FixedClock()), FixedClock(), process)

    def short() -> int:
        raise MemoryError

    with pytest.raises(MemoryError), operations.operation("a"):
        operations._process_bytes = short
    assert not operations._running
